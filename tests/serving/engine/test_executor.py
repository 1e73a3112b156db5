"""Batches run together, and failing ones apart: everybody gets the answer that they would have got alone (P6)."""

import threading

import numpy as np
import pytest

from serving.engine.batch import Batch, BatchRule, Result, Task
from serving.engine.errors import Code, EngineError, NoMemory, RunFailed, UnknownSignature
from serving.engine.executor import execute
from serving.engine.options import BatchingOptions
from serving.engine.scheduler import Scheduler
from serving.engine.servable import Servable
from tests.serving.engine.servables import KEY, LoadModel, NumpyServable, make_scheduler, make_task

BAD = -1.0


def form_batch(tasks: list[Task], batching: BatchingOptions | None = None, rule: BatchRule | None = None) -> tuple[Scheduler, Batch]:
    scheduler = make_scheduler(batching or BatchingOptions(max_batch_size=128), rule=rule or BatchRule(True, ""))
    for task in tasks:
        scheduler.enqueue(task, 0.0)
    batch = scheduler.next_batch(0.0)
    assert isinstance(batch, Batch)
    return scheduler, batch


def run(tasks: list[Task], servable: Servable, batching: BatchingOptions | None = None, rule: BatchRule | None = None) -> list[Result]:
    return execute(form_batch(tasks, batching, rule)[1], servable, timeout_ms=1000)


def values(result: Result) -> list[float]:
    assert result.outputs is not None, result.error
    found: list[float] = result.outputs["y"][:, 0].tolist()
    return found


def test_each_task_gets_its_own_rows_back() -> None:
    servable = NumpyServable()
    results = run([make_task(rows, value=value) for rows, value in ((1, 1.0), (3, 2.0), (2, 5.0))], servable)
    assert [values(result) for result in results] == [[2.0], [4.0] * 3, [10.0] * 2]
    assert servable.sizes == [6]
    assert [(timing.batch_size, timing.batch_index, timing.num_runs) for timing in (result.timing for result in results)] == [
        (6, 0, 1),
        (6, 1, 1),
        (6, 4, 1),
    ]
    assert len({result.timing.batch_id for result in results}) == 1


def test_padding_repeats_the_first_row_and_is_dropped_again() -> None:
    seen = []

    def body(x: np.ndarray) -> np.ndarray:
        seen.append(x.copy())
        return x * 2

    batching = BatchingOptions(max_batch_size=8, allowed_batch_sizes=(4, 8))
    results = run([make_task(value=3.0), make_task(value=4.0)], NumpyServable(body), batching)
    assert [values(result) for result in results] == [[6.0], [8.0]]
    assert seen[0][:, 0].tolist() == [3.0, 4.0, 3.0, 3.0]
    assert results[0].timing.batch_size == 2


def test_a_lone_task_is_run_without_a_copy() -> None:
    task = make_task(4)
    seen = []

    def body(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return x

    run([task], NumpyServable(body))
    assert seen[0] is task.inputs["x"]


@pytest.mark.parametrize("num_bad", [1, 5])
def test_bad_tasks_fail_alone_among_fifty_good_ones(num_bad: int) -> None:
    places = [7, 8, 23, 40, 54][:num_bad]
    tasks = [make_task(value=BAD if place in places else float(place), caller=str(place)) for place in range(55)]
    servable = NumpyServable(poison=BAD)
    results = run(tasks, servable)
    for place, result in enumerate(results):
        if place in places:
            assert isinstance(result.error, RunFailed)
            assert result.guilty
        else:
            assert values(result) == [2.0 * place]
            assert not result.guilty
    assert len(servable.sizes) <= num_bad * 2 * np.ceil(np.log2(55)) + 1


def test_one_culprit_costs_two_log_n_further_runs_at_most() -> None:
    for culprit in range(64):
        servable = NumpyServable(poison=BAD)
        run([make_task(value=BAD if place == culprit else 1.0) for place in range(64)], servable)
        assert len(servable.sizes) - 1 <= 2 * 6


def test_a_fault_that_is_not_the_inputs_is_not_searched_for() -> None:
    servable = NumpyServable()
    servable.fail_with = RunFailed("out of time", Code.DEADLINE_EXCEEDED)
    results = run([make_task() for _ in range(8)], servable)
    assert [(result.error.code if result.error else None, result.guilty) for result in results] == [(Code.DEADLINE_EXCEEDED, False)] * 8
    assert servable.sizes == [8]


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.ABORTED])
def test_an_input_that_takes_all_memory_fails_alone(code: Code) -> None:
    def body(x: np.ndarray) -> np.ndarray:
        if (x == BAD).any():
            raise RunFailed("OOM when allocating tensor with shape[1000000000000]", code)
        return x * 2

    results = run([make_task(value=BAD if place == 5 else float(place)) for place in range(16)], NumpyServable(body))
    assert [place for place, result in enumerate(results) if result.error is not None] == [5]
    assert [result.guilty for result in results].index(True) == 5
    assert values(results[6]) == [12.0]


def test_a_batch_too_large_for_the_device_is_run_in_parts_and_nobody_is_guilty() -> None:
    def body(x: np.ndarray) -> np.ndarray:
        if len(x) > 4:
            raise RunFailed("OOM", Code.RESOURCE_EXHAUSTED)
        return x * 2

    servable = NumpyServable(body)
    results = run([make_task(value=float(place)) for place in range(16)], servable)
    assert [values(result) for result in results] == [[2.0 * place] for place in range(16)]
    assert not any(result.guilty for result in results)
    assert servable.sizes == [16, 8, 4, 4, 8, 4, 4]


def test_a_refusal_of_ours_is_not_searched_for() -> None:
    servable = NumpyServable()
    servable.fail_with = NoMemory("no room")
    results = run([make_task() for _ in range(8)], servable)
    assert [result.guilty for result in results] == [False] * 8
    assert servable.sizes == [8]


def test_halves_are_padded_to_allowed_sizes() -> None:
    batching = BatchingOptions(max_batch_size=16, allowed_batch_sizes=(4, 16))
    servable = NumpyServable(poison=BAD)
    results = run([make_task(value=BAD if place == 0 else float(place)) for place in range(16)], servable, batching)
    assert set(servable.sizes) == {4, 16}
    assert [result.guilty for result in results] == [True, *[False] * 15]
    assert values(results[1]) == [2.0]


def test_a_lone_task_that_fits_without_padding_is_run_as_it_came() -> None:
    def body(x: np.ndarray) -> np.ndarray:
        if len(x) > 1:
            raise RunFailed("OOM", Code.RESOURCE_EXHAUSTED)
        return x * 2

    batching = BatchingOptions(max_batch_size=4, allowed_batch_sizes=(2, 4))
    results = run([make_task(value=float(place)) for place in range(4)], NumpyServable(body), batching)
    assert [values(result) for result in results] == [[0.0], [2.0], [4.0], [6.0]]


def test_what_may_not_be_run_again_fails_as_a_whole() -> None:
    servable = NumpyServable(poison=BAD)
    results = run([make_task(), make_task(value=BAD)], servable, rule=BatchRule(True, "on", rerun=False))
    assert [type(result.error) for result in results] == [RunFailed, RunFailed]
    assert servable.sizes == [2]


@pytest.mark.parametrize(
    "body",
    [lambda x: x.sum(), lambda x: x[: len(x) // 2], lambda x: np.concatenate([x, x])],
    ids=["scalar", "fewer rows", "more rows"],
)
def test_an_output_that_does_not_keep_the_rows_makes_each_task_run_alone(body) -> None:  # type: ignore[no-untyped-def]
    tasks = [make_task(2, value=float(place)) for place in range(5)]
    servable = NumpyServable(body)
    results = run(tasks, servable)
    for task, result in zip(tasks, results, strict=True):
        assert result.outputs is not None
        np.testing.assert_array_equal(result.outputs["y"], body(task.inputs["x"]))
        assert not result.guilty
    assert servable.sizes == [10, 2, 2, 2, 2, 2]


def test_a_lone_padded_task_whose_rows_change_is_run_as_it_came() -> None:
    batching = BatchingOptions(max_batch_size=8, allowed_batch_sizes=(4, 8))
    (result,) = run([make_task(3)], NumpyServable(lambda x: x[:1]), batching)
    assert values(result) == [1.0]


def test_an_error_of_ours_is_answered_and_named() -> None:
    def body(x: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("oops")

    results = run([make_task(), make_task()], NumpyServable(body))
    assert [(result.error.code, result.error.message) for result in results if result.error] == [
        (Code.INTERNAL, "ZeroDivisionError: oops")
    ] * 2


def test_an_unknown_signature_fails_its_own_task() -> None:
    (result,) = run([make_task(signature="nope")], NumpyServable())
    assert isinstance(result.error, UnknownSignature)


def run_all(scheduler: Scheduler, servable: Servable) -> list[Result]:
    results = []
    while isinstance(batch := scheduler.next_batch(0.0), Batch):
        found = execute(batch, servable, timeout_ms=1000)
        scheduler.finished(batch, 0.0, found)
        results += found
    return results


def test_a_split_task_is_answered_once_with_all_its_rows() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4))
    large = make_task(10, inputs={"x": np.arange(20, dtype=np.float32).reshape(10, 2)})
    small = make_task(value=7.0)
    for task in (large, small):
        scheduler.enqueue(task, 0.0)
    results = run_all(scheduler, NumpyServable())
    assert [result.task for result in results] == [large, small]
    assert results[0].outputs is not None
    np.testing.assert_array_equal(results[0].outputs["y"], large.inputs["x"] * 2)
    assert results[0].timing.num_runs == 3


def test_parts_of_a_split_task_may_end_in_any_order() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4))
    large = make_task(12, inputs={"x": np.arange(24, dtype=np.float32).reshape(12, 2)})
    scheduler.enqueue(large, 0.0)
    batches = [scheduler.next_batch(0.0) for _ in range(3)]
    servable = NumpyServable()
    results = [execute(batches[place], servable, timeout_ms=1) for place in (2, 0, 1) if isinstance(batches[place], Batch)]  # type: ignore[arg-type]
    assert [len(found) for found in results] == [0, 0, 1]
    outputs = results[2][0].outputs
    assert outputs is not None
    np.testing.assert_array_equal(outputs["y"], large.inputs["x"] * 2)


def test_a_split_task_fails_once_and_its_neighbour_does_not() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=4))
    x = np.ones((9, 2), np.float32)
    x[5] = BAD
    large, small = make_task(9, inputs={"x": x}), make_task(value=3.0)
    for task in (large, small):
        scheduler.enqueue(task, 0.0)
    results = run_all(scheduler, NumpyServable(poison=BAD))
    assert [result.task for result in results] == [large, small]
    assert isinstance(results[0].error, RunFailed)
    assert values(results[1]) == [6.0]
    assert len(scheduler) == 0


def test_two_callers_run_batches_of_one_queue_at_the_same_time() -> None:
    scheduler = make_scheduler(BatchingOptions(max_batch_size=3))
    tasks = [make_task(rows, value=float(place)) for place, rows in enumerate([1, 2, 3, 7, 1, 2] * 15)]
    for task in tasks:
        scheduler.enqueue(task, 0.0)
    lock = threading.Lock()
    results: list[Result] = []
    servable = NumpyServable()

    def call() -> None:
        while True:
            with lock:
                batch = scheduler.next_batch(0.0)
            if not isinstance(batch, Batch):
                return
            found = execute(batch, servable, timeout_ms=1000)
            with lock:
                scheduler.finished(batch, 0.0, found)
                results.extend(found)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(tasks)
    for result in results:
        assert values(result) == [2.0 * result.task.inputs["x"][0, 0]] * result.task.rows


def test_fifty_good_and_five_bad_requests_through_tensorflow(load_model: LoadModel) -> None:
    servable = load_model("picky")
    tasks = [make_task(value=float("nan") if place % 11 == 3 else float(place)) for place in range(55)]
    scheduler, batch = form_batch(tasks)
    results = execute(batch, servable, timeout_ms=1000)
    scheduler.finished(batch, 0.0, results)
    bad = [place for place, result in enumerate(results) if result.error is not None]
    assert bad == [3, 14, 25, 36, 47]
    for place, result in enumerate(results):
        if place in bad:
            assert isinstance(result.error, EngineError)
            assert "not a number" in result.error.message
        else:
            assert values(result) == [2.0 * place]


@pytest.mark.parametrize("name", ["batch_norm", "reshapes", "clipped_mix"])
def test_a_model_that_mixes_rows_is_answered_as_unbatched(load_model: LoadModel, name: str) -> None:
    from serving.engine.probe import probe_servable
    from serving.engine.scheduler import QueueOptions

    servable = load_model(name)
    width = servable.signatures["serving_default"].inputs["x"].shape[-1]  # type: ignore[index]
    scheduler = Scheduler()
    scheduler.configure(KEY, QueueOptions(rules=probe_servable(servable, stateful=False)))
    generator = np.random.default_rng(4)
    tasks = [make_task(rows, inputs={"x": generator.normal(0, 20, (rows, width)).astype(np.float32)}) for rows in (1, 2, 3, 2)]
    for task in tasks:
        scheduler.enqueue(task, 0.0)
    for result in run_all(scheduler, servable):
        assert result.outputs is not None
        np.testing.assert_array_equal(result.outputs["y"], servable.run("serving_default", result.task.inputs, timeout_ms=1000)["y"])
