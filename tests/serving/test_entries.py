"""What a lane learns of its servable's pace, and what it predicts from that."""

import pytest

from serving.entries import MIN_AHEAD, PREDICTED_FOR_S, Lane

SECOND = 1_000_000


@pytest.fixture
def lane() -> Lane:
    return Lane("q:model@1", "gateway")


def test_nothing_is_predicted_before_anything_was_seen(lane: Lane) -> None:
    lane.rows = 10 * MIN_AHEAD
    assert lane.predict_wait(SECOND) == 0


def test_a_wait_is_predicted_from_how_fast_many_were_answered(lane: Lane) -> None:
    lane.learn(100, 0, 2 * SECOND)
    lane.rows = 150
    assert lane.predict_wait(2 * SECOND) == pytest.approx(3)


def test_a_few_answered_say_nothing_of_batches(lane: Lane) -> None:
    lane.learn(MIN_AHEAD - 1, 0, SECOND)
    lane.rows = 2 * MIN_AHEAD
    assert lane.predict_wait(SECOND) == 0


def test_a_request_that_came_too_late_lowers_the_pace_at_once(lane: Lane) -> None:
    lane.learn(100, 0, SECOND)
    lane.learn_late(100, 0, 2 * SECOND)
    lane.rows = 100
    assert lane.predict_wait(2 * SECOND) == pytest.approx(2)


def test_a_request_in_a_hurry_does_not_raise_the_pace(lane: Lane) -> None:
    lane.learn(100, 0, SECOND)
    lane.learn_late(100, SECOND, SECOND + 200_000)
    lane.rows = 100
    assert lane.predict_wait(2 * SECOND) == pytest.approx(1)


def test_what_was_learned_is_forgotten(lane: Lane) -> None:
    lane.learn(100, 0, SECOND)
    lane.rows = 100
    assert lane.predict_wait(SECOND + int(PREDICTED_FOR_S * SECOND)) == 0
