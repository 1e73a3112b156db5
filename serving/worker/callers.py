"""The threads that run batches, around the pure scheduler.

Tasks that were taken over from a dead worker run one at a time with nothing beside them (`run_alone`): one of them may have been
what killed that worker, and if it kills this one too, then it must be certain which it was (RULES 4.1). After each, the others get
as much time as it took.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np

from ..engine.batch import Batch, Result, Slice, Task, Timing, claim_answer
from ..engine.errors import DeadlinePassed, EngineError, TaskCancelled, Unavailable, UnknownServable
from ..engine.executor import execute
from ..engine.manager import Handle
from ..engine.scheduler import QueueOptions, Scheduler
from ..engine.servable import Arrays, Servable, ServableKey
from .answers import Answers
from .received import Backlog, Received

logger = logging.getLogger(__name__)

MIN_RUN_MS = 1
QUICK_SECONDS = 0.001


class _Watched:
    """A servable whose runs can be seen from outside while they last."""

    def __init__(self, servable: Servable, watch: "Watch", limit: float) -> None:
        self._servable = servable
        self._watch = watch
        self._limit = limit

    def run(self, signature: str, inputs: Arrays, *, output_filter: Sequence[str] = (), timeout_ms: int) -> dict[str, np.ndarray]:
        thread = threading.get_ident()
        self._watch.begin(thread, f"{self._servable.name}@{self._servable.version}", self._limit)
        try:
            return self._servable.run(signature, inputs, output_filter=output_filter, timeout_ms=timeout_ms)
        finally:
            self._watch.end(thread)

    def __getattr__(self, name: str) -> object:
        return getattr(self._servable, name)


class Watch:
    """Which runs are under way and since when. Dict operations of single keys need no lock."""

    def __init__(self) -> None:
        self._runs: dict[int, tuple[float, str, float]] = {}

    def begin(self, thread: int, name: str, limit: float) -> None:
        self._runs[thread] = (time.monotonic(), name, limit)

    def end(self, thread: int) -> None:
        self._runs.pop(thread, None)

    def find_stuck(self) -> tuple[str, float] | None:
        """A servable with a run past twice its timeout, and the seconds that it has run."""
        now = time.monotonic()
        for started, name, limit in list(self._runs.values()):
            if now - started > 2 * limit:
                return name, now - started
        return None


class Callers:
    """Queues tasks and runs them. Every method may be called from any thread; each task is answered once, through `Answers`."""

    def __init__(self, answers: Answers, num_threads: int) -> None:
        self.watch = Watch()
        self._answers = answers
        self._changed = threading.Condition()
        self._scheduler = Scheduler()  # all below: guarded by _changed
        self._handles: dict[ServableKey, Handle] = {}
        self._num_idle = 0
        self._running: Counter[ServableKey] = Counter()
        self._num_running = 0  # their sum, without what runs alone
        self._num_removers = 0
        self._alone = False
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"caller-{n}", daemon=True) for n in range(num_threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> bool:
        """End the threads after the batches that they run now; what waits is answered Unavailable. Whether they have ended in time."""
        with self._changed:
            self._stopping = True
            keys = list(self._handles)
            self._changed.notify_all()
            tasks = [task for key in keys for task in self._leave(self._scheduler.remove(key))]
        self._refuse(tasks, lambda task: Unavailable("the worker is stopping"))
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    # Servables

    def configure(self, handle: Handle) -> None:
        """Queue for a servable from now on, or follow its changed options."""
        model = handle.model
        with self._changed:
            self._handles[handle.key] = handle
            self._scheduler.configure(handle.key, QueueOptions(model.batching, model.weight, handle.rules))
            self._changed.notify_all()

    def remove(self, key: ServableKey, error: EngineError) -> None:
        """Forget a servable; tasks that wait for it are answered with `error`. Returns when none of its runs is under way."""
        with self._changed:
            self._handles.pop(key, None)
            tasks = self._leave(self._scheduler.remove(key))
        self._refuse(tasks, lambda task: error)
        with self._changed:
            self._num_removers += 1
            self._changed.wait_for(lambda: not self._running[key])
            self._num_removers -= 1
            del self._running[key]

    def drop(self, request_ids: Iterable[bytes]) -> None:
        """Forget tasks that wait, unanswered: nobody is left to hear it."""
        with self._changed:
            self._leave(self._scheduler.cancel(request_ids))

    def is_busy(self) -> bool:
        """Whether anything waits or runs."""
        with self._changed:
            return bool(len(self._scheduler) or self._num_running or self._alone)

    # Tasks

    def enqueue(self, tasks: Sequence[Task]) -> None:
        """Let tasks wait for their batch. Those that can't are answered at once.

        When nothing else is to be done and the model is known to be quick, the batch is run here, on the reader's thread: handing
        it over costs more than the run, and what comes meanwhile gathers in Redis.
        """
        refused: list[tuple[Task, EngineError]] = []
        chosen: tuple[Batch, Handle | None] | None = None
        with self._changed:
            now = time.monotonic()
            unused = not (self._num_running or len(self._scheduler) or self._alone or self._stopping)
            for task in tasks:
                try:
                    self._scheduler.enqueue(task, now)
                except EngineError as error:
                    self._leave([task])
                    refused.append((task, error))
            if unused and self._is_quick(tasks):
                chosen = self._choose(now)[0]
            if self._num_idle and len(self._scheduler):
                self._changed.notify(min(self._num_idle, len(tasks)))
        if chosen is not None:
            self._finish(*chosen)
        if refused:
            errors = dict(refused)
            self._refuse(list(errors), errors.__getitem__)

    def cancel(self, request_ids: Iterable[bytes]) -> None:
        """What waits of these is answered Cancelled and never runs."""
        with self._changed:
            tasks = self._leave(self._scheduler.cancel(request_ids))
        self._refuse(tasks, lambda task: TaskCancelled("the caller has gone"))

    def run_alone(self, task: Task, prepare: Callable[[], None]) -> Result:
        """Run a task with nothing beside it, and give its result.

        prepare: called when nothing else runs any more; when it raises, so does this and nothing is run.
        """
        with self._changed:
            handle = self._handles.get(task.key)
            if handle is None:
                return Result(task, None, UnknownServable(f"Servable not found for request: {task.key}"), Timing())
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._running[task.key] += 1
            self._changed.wait_for(lambda: not self._num_running)
        started = time.monotonic()
        try:
            prepare()
            batch = Batch(
                id=0,
                key=task.key,
                signature=task.signature,
                output_filter=task.output_filter,
                slices=(Slice(task, 0, task.rows),),
                size=task.rows,
                padded_size=0,
                rerun=False,
                started=started,
                cost=0.0,
            )
            return self._execute(batch, handle)[0]
        finally:
            with self._changed:
                self._alone = False
                self._running[task.key] -= 1
                self._changed.notify_all()
                if len(self._scheduler):
                    self._changed.wait_for(lambda: self._stopping, time.monotonic() - started)

    # The threads

    def _work(self) -> None:
        while (found := self._next()) is not None:
            chosen, expired = found
            if expired:
                self._refuse(expired, _late)
            if chosen is not None:
                self._finish(*chosen)

    def _next(self) -> "tuple[tuple[Batch, Handle | None] | None, Sequence[Task]] | None":
        """Wait for a batch, or for tasks whose deadline has passed. None when it's time to end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                expired = self._leave(self._scheduler.expire(now))
                chosen, wake = (None, None) if self._alone else self._choose(now)
                if chosen or expired:
                    return chosen, expired
                self._num_idle += 1
                self._changed.wait(None if wake is None else max(wake - now, 0.0))
                self._num_idle -= 1
        return None

    def _choose(self, now: float) -> "tuple[tuple[Batch, Handle | None] | None, float | None]":
        """The batch to run now, begun, or the instant to ask again at. Under _changed."""
        choice = self._scheduler.next_batch(now)
        if not isinstance(choice, Batch):
            return None, choice
        self._leave([part.task for part in choice.slices])
        self._num_running += 1
        self._running[choice.key] += 1
        return (choice, self._handles.get(choice.key)), None

    def _is_quick(self, tasks: Sequence[Task]) -> bool:
        """Whether a run of these is known to take next to no time. Under _changed."""
        line = self._scheduler.find_line(tasks[0].key, tasks[0].signature)
        return line is not None and line.seconds(sum(task.rows or 1 for task in tasks)) < QUICK_SECONDS

    def _finish(self, batch: Batch, handle: Handle | None) -> None:
        """Run a batch that was begun, and answer it."""
        if handle is None:  # removed after its batch was formed
            error = Unavailable(f"{batch.key} was unloaded")
            results = [Result(part.task, None, error, Timing()) for part in batch.slices if claim_answer(part.task)]
        else:
            results = self._execute(batch, handle)
        ended = time.monotonic()
        self._answers.answer(results, handle.servable.device if handle else "")
        with self._changed:
            self._scheduler.finished(batch, ended, results)
            self._num_running -= 1
            self._running[batch.key] -= 1
            if self._alone or self._num_removers:
                self._changed.notify_all()

    def _execute(self, batch: Batch, handle: Handle) -> list[Result]:
        limit = handle.model.timeout
        now = time.monotonic()
        latest = max(part.task.deadline for part in batch.slices)  # nobody waits longer
        timeout_ms = max(int(min(limit, latest - now) * 1000), MIN_RUN_MS)
        watched = cast(Servable, _Watched(handle.servable, self.watch, limit))
        try:
            return execute(batch, watched, timeout_ms=timeout_ms)
        except Exception as error:  # a fault of ours: its tasks are answered and the thread goes on
            logger.exception("batch not run", extra={"servable": str(batch.key)})
            fault = EngineError(f"{type(error).__name__}: {error}")
            return [Result(part.task, None, fault, Timing()) for part in batch.slices if claim_answer(part.task)]

    def _leave(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """These no longer wait for a batch. Under _changed."""
        rows: dict[Backlog, int] = {}
        for task in tasks:
            received = task.context
            if isinstance(received, Received) and received.waits:
                received.waits = False
                rows[received.backlog] = rows.get(received.backlog, 0) + received.rows
        for backlog, count in rows.items():
            backlog.take(count)
        return tasks

    def _refuse(self, tasks: Sequence[Task], error: Callable[[Task], EngineError]) -> None:
        if tasks:
            self._answers.answer([Result(task, None, error(task), Timing()) for task in tasks])


def _late(task: Task) -> EngineError:
    return DeadlinePassed(f"deadline passed {max(time.monotonic() - task.deadline, 0.0) * 1e3:.0f} ms ago")
