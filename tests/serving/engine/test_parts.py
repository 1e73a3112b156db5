"""Small parts: states, options, learned latency, memory."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from serving.engine.crashes import CrashMarks
from serving.engine.errors import InvalidOptions
from serving.engine.latency import MIN_RUNS, LatencyModel
from serving.engine.memory import find_available_bytes, trim
from serving.engine.options import BatchingOptions, DesiredModel, Latest, Specific
from serving.engine.servable import ServableKey
from serving.engine.state import TRANSITIONS, Event, State, next_state


def test_every_state_is_reached_and_left_as_the_table_says() -> None:
    for state, event in product(State, Event):
        if (state, event) in TRANSITIONS:
            assert next_state(state, event) is TRANSITIONS[state, event]
        else:
            with pytest.raises(KeyError):
                next_state(state, event)
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.END}
    assert set(TRANSITIONS.values()) == set(State)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be at least 1, got 0"),
        ({"max_enqueued_batches": 0}, "max_enqueued_batches must be at least 1, got 0"),
        ({"batch_timeout": -1.0}, "batch_timeout can't be negative, got -1.0"),
        ({"max_batch_size": 8.5}, "max_batch_size must be a whole number, got 8.5"),
        ({"max_batch_size": True}, "max_batch_size must be a whole number, got True"),
        ({"max_batch_size": 2**20 + 1}, "max_batch_size must be at most 1048576, got 1048577"),
        ({"batch_timeout": "1"}, "batch_timeout must be a number of seconds, got '1'"),
        ({"max_batch_time": float("nan")}, "max_batch_time must be at most 3600 seconds, got nan"),
        ({"allowed_batch_sizes": (4.0, 64)}, "each of allowed_batch_sizes must be a whole number, got 4.0"),
        ({"mode": "sometimes"}, "batching must be auto, on or off, got 'sometimes'"),
        ({"allowed_batch_sizes": (4, 2)}, "allowed_batch_sizes must be positive and ascending, got [4, 2]"),
        (
            {"allowed_batch_sizes": (2, 4), "max_batch_size": 8},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
    ],
)
def test_batching_options_that_contradict_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidOptions) as refused:
        BatchingOptions(**options)  # type: ignore[arg-type]
    assert refused.value.message == text


@pytest.mark.parametrize(
    "options", [{"base_path": "relative"}, {"name": ""}, {"weight": 0.0}, {"timeout": 0.0}, {"max_retries": -1}, {"retry_delay": -1.0}]
)
def test_models_that_cannot_be_served_so_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOptions):
        DesiredModel(**{"name": "m", "base_path": "/m", **options})  # type: ignore[arg-type]


def test_policies_need_versions() -> None:
    with pytest.raises(InvalidOptions):
        Latest(0)
    with pytest.raises(InvalidOptions):
        Specific(())


def test_latency_is_unknown_until_enough_was_seen() -> None:
    model = LatencyModel()
    for _ in range(MIN_RUNS - 1):
        model.observe(1, 0.1)
    assert model.find_line() is None
    model.observe(1, 0.1)
    assert model.find_line() is not None


def test_runs_of_one_size_tell_nothing_of_the_slope() -> None:
    model = LatencyModel()
    for _ in range(10):
        model.observe(8, 0.2)
    line = model.find_line()
    assert line is not None
    assert [line.per_row, line.fixed] == [0.0, pytest.approx(0.2)]


def test_a_line_is_found_and_followed_when_it_moves() -> None:
    model = LatencyModel()
    for run in range(50):
        model.observe(run % 16 + 1, 0.01 + 0.002 * (run % 16 + 1))
    line = model.find_line()
    assert line is not None
    assert [line.per_row, line.fixed] == [pytest.approx(0.002), pytest.approx(0.01)]
    for run in range(300):
        model.observe(run % 16 + 1, 0.05 + 0.001 * (run % 16 + 1))
    line = model.find_line()
    assert line is not None
    assert [line.per_row, line.fixed] == [pytest.approx(0.001, rel=0.1), pytest.approx(0.05, rel=0.1)]


def test_neither_part_of_a_line_is_negative() -> None:
    model = LatencyModel()
    for run in range(50):
        model.observe(run % 16 + 1, 0.1 - 0.005 * (run % 16 + 1))
    line = model.find_line()
    assert line is not None
    assert line.per_row == 0.0
    assert line.fixed > 0.0


def test_a_machine_that_stood_still_is_not_believed_to_be_a_slow_model() -> None:
    model = LatencyModel()
    for run in range(50):
        model.observe(run % 16 + 1, 0.01 + 0.002 * (run % 16 + 1))
    model.observe(4, 40.0)
    line = model.find_line()
    assert line is not None
    assert line.seconds(4) < 0.05


def test_a_death_counts_against_the_load_that_was_under_way(tmp_path: Path) -> None:
    key, files = ServableKey("m", 1), ("fingerprint",)
    marks = CrashMarks(tmp_path)
    assert marks.num_deaths(key, files) == 0
    for deaths in (1, 2, 3):
        die = f"""
import os
from pathlib import Path
from serving.engine.crashes import CrashMarks
from serving.engine.servable import ServableKey
CrashMarks(Path({str(tmp_path)!r})).begin(ServableKey("m", 1), ("fingerprint",))
os.abort()
"""
        assert subprocess.run([sys.executable, "-c", die], check=False, capture_output=True).returncode < 0
        assert marks.num_deaths(key, files) == deaths
    assert [marks.delay(deaths) for deaths in (0, 1, 2, 3, 20)] == [0.0, 0.0, 4.0, 8.0, 300.0]
    assert marks.num_deaths(key, ("other files",)) == 0
    assert marks.num_deaths(ServableKey("m", 2), files) == 0
    marks.begin(key, files)
    assert marks.num_deaths(key, files) == 3  # this process lives
    marks.end(key)
    assert marks.num_deaths(key, files) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_mark_that_was_cut_off_counts_for_nothing(tmp_path: Path, content: str) -> None:
    marks = CrashMarks(tmp_path)
    marks.begin(ServableKey("m", 1), ())
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert marks.num_deaths(ServableKey("m", 1), ()) == 0


def test_available_memory_is_known_and_trimming_is_harmless() -> None:
    available = find_available_bytes()
    assert available is None or available > 1 << 20
    trim()
