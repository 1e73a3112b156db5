"""The values that travel scheduler → executor → worker: tasks, the rule that lets them share a run, batches, results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np

from .errors import EngineError
from .servable import ServableKey

Form = Mapping[str, tuple[int, ...] | None]  # by input: the dimensions after the first, -1 = any; None = any rank


@dataclass(frozen=True, slots=True)
class BatchRule:
    """Whether requests to one signature may share a run, and why (RULES 5.1).

    forms: the feeds for which it was shown; a task fed otherwise runs alone. Empty = any (an operator said `on`).
    rerun: whether a failed batch may be run again apart. `reason` is a sentence for people, also when `batched`.
    """

    batched: bool
    reason: str
    forms: tuple[Form, ...] = ()
    rerun: bool = True

    def accepts(self, inputs: Mapping[str, np.ndarray]) -> bool:
        """Whether these inputs may share a run with others of the same shapes."""
        return self.batched and (not self.forms or any(_fits(form, inputs) for form in self.forms))


def _fits(form: Form, inputs: Mapping[str, np.ndarray]) -> bool:
    if form.keys() != inputs.keys():
        return False
    for name, pattern in form.items():
        trailing = inputs[name].shape[1:]
        if pattern is None:
            continue
        if len(trailing) != len(pattern) or any(want not in (-1, got) for want, got in zip(pattern, trailing, strict=True)):
            return False
    return True


@dataclass(slots=True, eq=False)
class Task:
    """One request's rows, waiting or running. Compared by identity.

    id: the request's id, unique among what is queued. `rows` is dimension 0 of all inputs, 0 when they share none: such a task
    is never batched. `deadline` and `enqueued` are instants of one monotonic clock, in seconds. priority: 0 normal, 1 low.
    caller: whose input this is (an application or key prefix), for keeping callers that fail apart.

    `context` is the owner's, untouched by the engine. Fields below it belong to the scheduler and the executor.
    """

    id: bytes
    key: ServableKey
    signature: str
    inputs: Mapping[str, np.ndarray]
    rows: int
    deadline: float
    priority: int = 0
    caller: str = ""
    enqueued: float = 0.0
    output_filter: tuple[str, ...] = ()
    context: object = None
    taken: int = field(default=0, init=False)  # scheduler: rows already handed out in batches
    arrival: int = field(default=0, init=False)  # scheduler: its place in the order of arrival; 0 = it doesn't wait
    group: object = field(default=None, init=False)  # scheduler: the group that it waits in
    answered: bool = field(default=False, init=False)  # executor: its result has been given out
    pieces: "list[Piece] | None" = field(default=None, init=False)  # executor: what has come back of a split task


_claims = Lock()


def claim_answer(task: Task) -> bool:
    """Whether the caller of this may answer the task: true once.

    A split task may expire in the queue while another part of it runs; only one of both may answer it.
    """
    with _claims:
        if task.answered:
            return False
        task.answered = True
        return True


class Timing(NamedTuple):
    """Where a task's time went, µs, and the batch it went through."""

    queue_us: int = 0  # from `Task.enqueued` to the start of its (first) run
    model_us: int = 0  # all runs it took part in
    batch_id: int = 0  # 0 = ran alone
    batch_size: int = 0  # rows really run together, padding not counted
    batch_index: int = 0  # first row of this task in it
    num_runs: int = 1  # more than 1 when its batch failed and was run apart, or when it was split


class Piece(NamedTuple):
    """The outputs of rows `start` to `stop` of a split task."""

    start: int
    stop: int
    outputs: dict[str, np.ndarray]
    timing: Timing


class Slice(NamedTuple):
    """Rows `start` to `stop` of a task; all of them unless the task was split."""

    task: Task
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Batch:
    """What one run takes. `padded_size` ≥ `size`; 0 for a task that runs alone with its inputs as they came."""

    id: int
    key: ServableKey
    signature: str
    output_filter: tuple[str, ...]
    slices: Sequence[Slice]
    size: int  # rows
    padded_size: int
    rerun: bool  # whether it may be run apart after a failure
    started: float
    cost: float  # seconds of device time, as estimated when it was formed
    allowed_sizes: Sequence[int] = ()  # what a run of several tasks is padded to, ascending; empty = any size


def find_padded_size(size: int, allowed_sizes: Sequence[int]) -> int:
    """The smallest allowed size that holds `size` rows; `size` itself when there is none."""
    return next((allowed for allowed in allowed_sizes if allowed >= size), size)


class Result(NamedTuple):
    """A task's end: outputs, or the error. `guilty` says that this task's own rows made a run fail."""

    task: Task
    outputs: dict[str, np.ndarray] | None
    error: EngineError | None
    timing: Timing
    guilty: bool = False
