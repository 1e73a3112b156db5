"""Whole histories of the scheduler, compared step by step with a naive model: every short one, and long random ones."""

import random
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from serving.engine.batch import Batch, Task
from serving.engine.errors import DeadlinePassed, QueueFull
from serving.engine.options import BatchingOptions
from serving.engine.scheduler import Scheduler
from tests.serving.engine.servables import KEY, make_scheduler, make_task

OPTIONS = (
    BatchingOptions(max_batch_size=3, max_enqueued_batches=3),
    BatchingOptions(max_batch_size=3, max_enqueued_batches=3, batch_timeout=1.5, allowed_batch_sizes=(2, 3)),
)
STEPS = ("one", "two", "five", "low", "wide", "urgent", "form", "tick", "cancel")


@dataclass
class Waiting:
    task: Task
    rest: int


class NaiveScheduler:
    """The rules as one would say them, over one list in the order of arrival. No latency is known."""

    def __init__(self, options: BatchingOptions) -> None:
        self.options = options
        self.waiting: list[Waiting] = []

    def rows(self) -> int:
        return sum(entry.rest for entry in self.waiting)

    def enqueue(self, task: Task, now: float) -> str:
        if task.deadline <= now:
            return "late"
        if self.waiting and self.rows() + task.rows > self.options.max_batch_size * self.options.max_enqueued_batches:
            return "full"
        self.waiting.append(Waiting(task, task.rows))
        return "ok"

    def expire(self, now: float) -> list[Task]:
        gone = [entry.task for entry in self.waiting if entry.task.deadline <= now]
        self.waiting = [entry for entry in self.waiting if entry.task.deadline > now]
        return gone

    def cancel(self, task: Task) -> None:
        self.waiting = [entry for entry in self.waiting if entry.task is not task]

    def next_batch(self, now: float) -> list[tuple[Task, int, int]] | float | None:
        groups: dict[int, list[Waiting]] = {}
        for entry in self.waiting:
            groups.setdefault(entry.task.inputs["x"].shape[1], []).append(entry)
        ready, wake = [], [entry.task.deadline for entry in self.waiting]
        for entries in groups.values():
            entries.sort(key=lambda entry: entry.task.priority)  # stable: by arrival within a priority
            full = sum(entry.rest for entry in entries) >= self.options.max_batch_size
            ready_at = entries[0].task.enqueued + self.options.batch_timeout
            if full or ready_at <= now:
                ready.append(entries)
            else:
                wake.append(ready_at)
        if not ready:
            return min(wake) if wake else None
        entries = min(ready, key=lambda entries: (entries[0].task.priority, self.waiting.index(entries[0])))
        return self.take(entries)

    def take(self, entries: list[Waiting]) -> list[tuple[Task, int, int]]:
        taken = []
        room = self.options.max_batch_size
        for entry in entries:
            if not room or (entry.rest > room and entry.task.rows <= self.options.max_batch_size):
                break
            rows = min(entry.rest, room)
            start = entry.task.rows - entry.rest
            taken.append((entry.task, start, start + rows))
            room -= rows
            entry.rest -= rows
            if not entry.rest:
                self.waiting.remove(entry)
        return taken


class Pair:
    """Both, taken through the same steps; after each, everything they tell must be equal."""

    def __init__(self, options: BatchingOptions) -> None:
        self.naive = NaiveScheduler(options)
        self.scheduler: Scheduler = make_scheduler(options)
        self.now = 0.0

    def step(self, step: str) -> None:
        match step:
            case "tick":
                self.now += 1.0
                assert sorted(map(id, self.scheduler.expire(self.now))) == sorted(map(id, self.naive.expire(self.now)))
            case "form":
                self.form()
            case "cancel":
                if self.naive.waiting:
                    task = self.naive.waiting[len(self.naive.waiting) // 2].task
                    self.naive.cancel(task)
                    assert self.scheduler.cancel([task.id]) == [task]
            case _:
                self.enqueue(step)
        assert self.scheduler.waiting(KEY) == (len(self.naive.waiting), self.naive.rows())

    def enqueue(self, step: str) -> None:
        rows = {"two": 2, "five": 5}.get(step, 1)
        task = make_task(
            rows,
            priority=int(step == "low"),
            deadline=self.now + (1.0 if step == "urgent" else 100.0),
            inputs={"x": np.zeros((rows, 3 if step == "wide" else 2), np.float32)},
        )
        try:
            self.scheduler.enqueue(task, self.now)
            outcome = "ok"
        except QueueFull:
            outcome = "full"
        except DeadlinePassed:
            outcome = "late"
        assert outcome == self.naive.enqueue(task, self.now)

    def form(self) -> None:
        expected, found = self.naive.next_batch(self.now), self.scheduler.next_batch(self.now)
        if isinstance(found, Batch):
            assert [tuple(part) for part in found.slices] == expected
            assert found.size == sum(part.stop - part.start for part in found.slices)
            sizes = self.naive.options.allowed_batch_sizes
            assert found.padded_size == min((size for size in sizes if size >= found.size), default=found.size)
        else:
            assert found == expected

    def drain(self) -> None:
        for _ in range(100):
            self.now += 10.0
            self.step("tick")
            self.step("form")
        assert len(self.scheduler) == 0


@pytest.mark.parametrize("options", OPTIONS)
def test_every_short_history_goes_as_the_naive_model_says(options: BatchingOptions) -> None:
    for history in product(STEPS, repeat=4):
        pair = Pair(options)
        for step in history:
            pair.step(step)
        pair.step("form")
        pair.step("form")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(20))
def test_long_random_histories_go_as_the_naive_model_says(options: BatchingOptions, seed: int) -> None:
    generator = random.Random(seed)
    pair = Pair(options)
    for _ in range(300):
        pair.step(generator.choice((*STEPS, "form", "form")))
    pair.drain()
