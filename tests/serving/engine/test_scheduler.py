"""One rule of the scheduler each. `test_scheduler_model.py` compares whole histories with a naive model."""

import time
from typing import Any

import numpy as np
import pytest

from serving.engine.batch import Batch, BatchRule, Result, Task, Timing
from serving.engine.errors import Code, DeadlinePassed, EngineError, InvalidInput, QueueFull, RunFailed, UnknownServable
from serving.engine.options import BatchingOptions
from serving.engine.scheduler import SUSPECT_SECONDS, QueueOptions, Scheduler
from serving.engine.servable import ServableKey
from tests.serving.engine.servables import KEY, RUN_TOGETHER, make_scheduler, make_task

OTHER = ServableKey("other", 1)


def form(scheduler: Scheduler, now: float = 0.0) -> Batch:
    batch = scheduler.next_batch(now)
    assert isinstance(batch, Batch)
    return batch


def tasks_of(batch: Batch) -> list[Task]:
    return [part.task for part in batch.slices]


def test_what_is_queued_is_taken_at_once_in_order() -> None:
    scheduler = make_scheduler()
    tasks = [make_task(rows) for rows in (1, 2, 3)]
    for task in tasks:
        scheduler.enqueue(task, 0.0)
    batch = form(scheduler)
    assert tasks_of(batch) == tasks
    assert (batch.size, batch.padded_size) == (6, 6)
    assert scheduler.next_batch(0.0) is None
    assert len(scheduler) == 0


def test_rows_count_not_requests() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4))
    for rows in (3, 2, 2):
        scheduler.enqueue(make_task(rows), 0.0)
    assert [form(scheduler).size, form(scheduler).size] == [3, 4]


def test_a_batch_waits_for_more_rows_until_its_first_task_has_waited_long_enough() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4, batch_timeout=0.5))
    scheduler.enqueue(make_task(), 1.0)
    assert scheduler.next_batch(1.1) == 1.5
    scheduler.enqueue(make_task(), 1.2)
    assert scheduler.next_batch(1.4) == 1.5
    assert form(scheduler, 1.5).size == 2


def test_a_full_batch_does_not_wait() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2, batch_timeout=9.0))
    scheduler.enqueue(make_task(2), 0.0)
    assert form(scheduler, 0.0).size == 2


def test_a_full_group_goes_before_an_older_one_that_still_waits() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2, batch_timeout=9.0))
    scheduler.enqueue(make_task(inputs={"x": np.zeros((1, 3), np.float32)}), 0.0)
    scheduler.enqueue(make_task(2), 1.0)
    assert form(scheduler, 1.0).size == 2
    assert scheduler.next_batch(1.0) == 9.0


def test_batches_are_padded_to_an_allowed_size() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=8, allowed_batch_sizes=(2, 4, 8)))
    scheduler.enqueue(make_task(3), 0.0)
    batch = form(scheduler)
    assert (batch.size, batch.padded_size) == (3, 4)


def test_a_large_task_is_split_and_its_rest_shares_a_batch() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4))
    large, small = make_task(10), make_task(1)
    scheduler.enqueue(large, 0.0)
    scheduler.enqueue(small, 0.0)
    parts = [[(part.task, part.start, part.stop) for part in form(scheduler).slices] for _ in range(3)]
    assert parts == [[(large, 0, 4)], [(large, 4, 8)], [(large, 8, 10), (small, 0, 1)]]
    assert scheduler.waiting(KEY) == (0, 0)


def test_a_large_task_is_refused_where_tasks_are_not_split() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4, split_large=False))
    with pytest.raises(InvalidInput, match=r"^Task size 5 is larger than maximum input batch size 4$"):
        scheduler.enqueue(make_task(5), 0.0)


def test_a_full_queue_refuses_at_once_in_tensorflow_servings_words() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2, max_enqueued_batches=3))
    for _ in range(6):
        scheduler.enqueue(make_task(), 0.0)
    with pytest.raises(QueueFull) as refused:
        scheduler.enqueue(make_task(), 0.0)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert refused.value.message == (
        "The batch scheduling queue to which this task was submitted is full; currently 3 batches enqueued and max_enqueued_batches is 3"
    )
    form(scheduler)
    scheduler.enqueue(make_task(), 0.0)


def test_a_task_above_the_bound_is_taken_into_an_empty_queue() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2, max_enqueued_batches=2))
    scheduler.enqueue(make_task(9), 0.0)
    with pytest.raises(QueueFull):
        scheduler.enqueue(make_task(), 0.0)


def test_expired_tasks_leave_before_a_batch_is_formed() -> None:
    scheduler = make_scheduler()
    urgent, patient = make_task(deadline=1.0), make_task(deadline=5.0)
    scheduler.enqueue(urgent, 0.0)
    scheduler.enqueue(patient, 0.0)
    assert scheduler.expire(0.9) == []
    assert scheduler.expire(1.0) == [urgent]
    assert tasks_of(form(scheduler, 1.0)) == [patient]


def test_an_expired_task_never_enters_a_batch_even_if_nobody_asked_for_expired_ones() -> None:
    scheduler = make_scheduler()
    urgent = make_task(deadline=1.0)
    scheduler.enqueue(urgent, 0.0)
    assert scheduler.next_batch(2.0) is None
    assert scheduler.expire(2.0) == [urgent]


def test_the_moment_to_ask_again_is_the_next_deadline() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4, batch_timeout=9.0))
    scheduler.enqueue(make_task(deadline=2.0), 0.0)
    assert scheduler.next_batch(0.0) == 2.0


def test_a_passed_deadline_is_refused_at_the_door() -> None:
    with pytest.raises(DeadlinePassed, match=r"^deadline passed 500 ms ago$"):
        make_scheduler().enqueue(make_task(deadline=1.0), 1.5)


def test_cancelled_tasks_leave() -> None:
    scheduler = make_scheduler()
    gone, stays = make_task(), make_task()
    scheduler.enqueue(gone, 0.0)
    scheduler.enqueue(stays, 0.0)
    assert scheduler.cancel([gone.id, b"unknown"]) == [gone]
    assert tasks_of(form(scheduler)) == [stays]


def test_an_id_that_waits_is_not_taken_twice() -> None:
    scheduler = make_scheduler()
    task = make_task()
    scheduler.enqueue(task, 0.0)
    with pytest.raises(EngineError, match="already queued"):
        scheduler.enqueue(make_task(id=task.id), 0.0)


def test_an_unknown_servable_is_refused() -> None:
    with pytest.raises(UnknownServable, match=r"^Servable not found for request: Specific\(other, 1\)$"):
        make_scheduler().enqueue(make_task(key=OTHER), 0.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": {"x": np.zeros((1, 3), np.float32)}},
        {"inputs": {"x": np.zeros((1, 2), np.float64)}},
        {"inputs": {"z": np.zeros((1, 2), np.float32)}},
        {"output_filter": ("y",)},
    ],
)
def test_tasks_that_do_not_fit_together_go_to_separate_batches(fields: dict[str, Any]) -> None:
    scheduler = make_scheduler()
    scheduler.enqueue(make_task(), 0.0)
    scheduler.enqueue(make_task(**fields), 0.0)
    assert [form(scheduler).size, form(scheduler).size] == [1, 1]


def test_signatures_do_not_mix() -> None:
    scheduler = Scheduler()
    scheduler.configure(KEY, QueueOptions(rules={"a": RUN_TOGETHER, "b": RUN_TOGETHER}))
    for signature in ("a", "b", "a"):
        scheduler.enqueue(make_task(signature=signature), 0.0)
    assert [(batch.signature, batch.size) for batch in (form(scheduler), form(scheduler))] == [("a", 2), ("b", 1)]


@pytest.mark.parametrize("rule", [BatchRule(False, "it draws"), BatchRule(True, "", ({"x": (3,)},))])
def test_what_may_not_be_batched_runs_a_request_at_a_time(rule: BatchRule) -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2), rule=rule)
    for rows in (1, 5):
        scheduler.enqueue(make_task(rows), 0.0)
    batches = [form(scheduler), form(scheduler)]
    assert [(batch.size, batch.padded_size, len(batch.slices)) for batch in batches] == [(1, 0, 1), (5, 0, 1)]


def test_inputs_without_a_common_first_dimension_run_alone() -> None:
    scheduler = make_scheduler()
    for _ in range(2):
        scheduler.enqueue(make_task(rows=0, inputs={"x": np.float32(1).reshape(())}), 0.0)
    assert [form(scheduler).padded_size, form(scheduler).padded_size] == [0, 0]


def test_low_priority_fills_the_room_that_normal_tasks_leave() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=3))
    low = [make_task(priority=1) for _ in range(3)]
    normal = [make_task() for _ in range(2)]
    for task in [*low, *normal]:
        scheduler.enqueue(task, 0.0)
    assert tasks_of(form(scheduler)) == [*normal, low[0]]
    assert tasks_of(form(scheduler)) == low[1:]


def test_normal_tasks_of_any_servable_go_before_low_ones() -> None:
    scheduler = make_scheduler()
    scheduler.configure(OTHER, QueueOptions(rules={"serving_default": RUN_TOGETHER}))
    scheduler.enqueue(make_task(priority=1), 0.0)
    scheduler.enqueue(make_task(key=OTHER), 0.0)
    assert [form(scheduler).key, form(scheduler).key] == [OTHER, KEY]


def run_both(weights: tuple[float, float], costs: tuple[float, float], until: float) -> tuple[float, float]:
    """Keep two queues full on one device; the device time that each had."""
    scheduler = Scheduler()
    keys = (KEY, OTHER)
    for key, weight in zip(keys, weights, strict=True):
        scheduler.configure(key, QueueOptions(BatchingOptions(max_batch_size=1), weight, {"serving_default": RUN_TOGETHER}))
    now = 0.0
    used = [0.0, 0.0]
    while now < until:
        for key in keys:
            if not scheduler.waiting(key)[0]:
                scheduler.enqueue(make_task(key=key), now)
        batch = form(scheduler, now)
        which = keys.index(batch.key)
        now += costs[which]
        used[which] += costs[which]
        scheduler.finished(batch, now)
    return used[0], used[1]


@pytest.mark.parametrize("costs", [(1.0, 1.0), (0.01, 1.0)])
def test_busy_servables_share_device_time_by_weight(costs: tuple[float, float]) -> None:
    light, heavy = run_both((3.0, 1.0), costs, 200.0)
    assert light / heavy == pytest.approx(3.0, rel=0.05)


def test_a_light_servable_waits_for_one_batch_of_a_heavy_one_at_most() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=1))
    scheduler.configure(OTHER, QueueOptions(rules={"serving_default": RUN_TOGETHER}))
    now = 0.0
    for _ in range(50):
        scheduler.enqueue(make_task(), now)
    for _ in range(20):
        heavy = form(scheduler, now)
        assert heavy.key == KEY
        scheduler.enqueue(make_task(key=OTHER), now)
        now += 1.0
        scheduler.finished(heavy, now)
        light = form(scheduler, now)
        assert light.key == OTHER
        now += 0.001
        scheduler.finished(light, now)


def test_a_servable_that_was_idle_has_saved_nothing_up() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=1))
    scheduler.configure(OTHER, QueueOptions(BatchingOptions(max_batch_size=1), rules={"serving_default": RUN_TOGETHER}))
    now = 0.0
    for _ in range(100):
        scheduler.enqueue(make_task(), now)
        batch = form(scheduler, now)
        now += 1.0
        scheduler.finished(batch, now)
    order = []
    for _ in range(10):
        scheduler.enqueue(make_task(), now)
        scheduler.enqueue(make_task(key=OTHER), now)
    for _ in range(10):
        batch = form(scheduler, now)
        order.append(batch.key)
        now += 1.0
        scheduler.finished(batch, now)
    assert 4 <= order.count(OTHER) <= 6


def learn(scheduler: Scheduler, *, per_row: float, fixed: float) -> float:
    now = 0.0
    for rows in (1, 2, 3, 4, 5, 6, 7, 8):
        scheduler.enqueue(make_task(rows), now)
        batch = form(scheduler, now)
        now += per_row * rows + fixed
        scheduler.finished(batch, now)
    return now


def test_latency_is_learned_per_signature() -> None:
    scheduler = make_scheduler()
    learn(scheduler, per_row=0.01, fixed=0.1)
    line = scheduler.find_line(KEY, "serving_default")
    assert line is not None
    assert line.seconds(100) == pytest.approx(1.1)
    assert scheduler.find_line(KEY, "other") is None


def test_a_batch_stops_growing_where_its_most_urgent_task_would_be_late() -> None:
    scheduler = make_scheduler()
    now = learn(scheduler, per_row=0.01, fixed=0.1)
    urgent = make_task(deadline=now + 0.145)
    for task in (urgent, *[make_task() for _ in range(20)]):
        scheduler.enqueue(task, now)
    batch = form(scheduler, now)
    assert (batch.size, tasks_of(batch)[0]) == (4, urgent)


def test_a_task_that_cannot_make_it_lets_others_go_first() -> None:
    scheduler = make_scheduler()
    now = learn(scheduler, per_row=0.01, fixed=0.1)
    late, others = make_task(deadline=now + 0.05), [make_task() for _ in range(3)]
    for task in (late, *others):
        scheduler.enqueue(task, now)
    assert tasks_of(form(scheduler, now)) == others
    assert tasks_of(form(scheduler, now)) == [late]  # the estimate may be wrong, and the device is free


def test_max_batch_time_bounds_the_rows() -> None:
    scheduler = make_scheduler()
    now = learn(scheduler, per_row=0.01, fixed=0.1)
    scheduler.configure(KEY, QueueOptions(BatchingOptions(max_batch_time=0.151), rules={"serving_default": RUN_TOGETHER}))
    for _ in range(20):
        scheduler.enqueue(make_task(), now)
    assert form(scheduler, now).size == 5


def failed(task: Task, code: Code = Code.INVALID_ARGUMENT) -> Result:
    return Result(task, None, RunFailed("no", code), Timing(), guilty=True)


def test_a_caller_whose_input_failed_batches_among_its_like_for_a_minute() -> None:
    scheduler = make_scheduler()
    bad = make_task(caller="bad")
    scheduler.enqueue(bad, 0.0)
    scheduler.finished(form(scheduler), 0.0, [failed(bad)])

    def sizes(now: float) -> list[int]:
        for caller in ("good", "bad", "good", "bad", "good"):
            scheduler.enqueue(make_task(caller=caller), now)
        found = []
        while isinstance(batch := scheduler.next_batch(now), Batch):
            found.append(batch.size)
            scheduler.finished(batch, now)
        return found

    assert sizes(1.0) == [3, 2]
    assert sizes(SUSPECT_SECONDS + 1.0) == [5]


def test_what_is_not_the_inputs_fault_makes_nobody_suspect() -> None:
    scheduler = make_scheduler()
    bad = make_task(caller="bad")
    scheduler.enqueue(bad, 0.0)
    scheduler.finished(form(scheduler), 0.0, [failed(bad, Code.DEADLINE_EXCEEDED)])
    for caller in ("good", "bad"):
        scheduler.enqueue(make_task(caller=caller), 1.0)
    assert form(scheduler, 1.0).size == 2


def test_a_part_that_fails_takes_the_rest_of_its_task_out() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2))
    large = make_task(6)
    scheduler.enqueue(large, 0.0)
    batch = form(scheduler)
    large.answered = True
    scheduler.finished(batch, 0.0, [failed(large)])
    assert scheduler.next_batch(0.0) is None
    assert scheduler.waiting(KEY) == (0, 0)


def test_a_split_task_that_expires_is_answered_once() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2))
    large = make_task(6, deadline=1.0)
    scheduler.enqueue(large, 0.0)
    form(scheduler)
    large.answered = True  # a part of it has failed meanwhile
    assert scheduler.expire(2.0) == []
    assert len(scheduler) == 0


def test_options_change_while_tasks_wait() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=2))
    tasks = [make_task() for _ in range(4)]
    for task in tasks:
        scheduler.enqueue(task, 0.0)
    scheduler.configure(KEY, QueueOptions(BatchingOptions(max_batch_size=3), rules={"serving_default": RUN_TOGETHER}))
    assert tasks_of(form(scheduler)) == tasks[:3]
    scheduler.configure(KEY, QueueOptions(rules={"serving_default": BatchRule(False, "batching is off")}))
    assert form(scheduler).padded_size == 0


def test_a_removed_queue_gives_its_tasks_back() -> None:
    scheduler = make_scheduler()
    tasks = [make_task() for _ in range(3)]
    for task in tasks:
        scheduler.enqueue(task, 0.0)
    assert scheduler.remove(KEY) == tasks
    assert scheduler.next_batch(0.0) is None
    assert scheduler.remove(KEY) == []
    assert len(scheduler) == 0


def test_many_shapes_do_not_pile_up() -> None:
    scheduler = make_scheduler()
    for width in range(2000):
        scheduler.enqueue(make_task(inputs={"x": np.zeros((1, width), np.float32)}), 0.0)
        form(scheduler)
    assert len(scheduler._queues[KEY].groups) <= 257


def test_tasks_that_have_left_are_not_kept_until_their_deadline() -> None:
    scheduler = make_scheduler()
    for _ in range(20_000):
        scheduler.enqueue(make_task(), 0.0)
        form(scheduler)
    assert len(scheduler._deadlines) < 5_000
    assert not scheduler._tasks


def test_a_task_costs_a_few_microseconds() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=64))
    tasks = [make_task(caller="caller") for _ in range(6400)]
    best = float("inf")
    for start in range(0, len(tasks), 1280):
        some = tasks[start : start + 1280]
        before = time.thread_time()
        for task in some:
            scheduler.enqueue(task, 0.0)
        while isinstance(batch := scheduler.next_batch(0.0), Batch):
            scheduler.finished(batch, 0.0)
        best = min(best, (time.thread_time() - before) / len(some))
    assert best < 20e-6  # about 4 µs on an idle core
