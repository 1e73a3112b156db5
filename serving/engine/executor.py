"""Runs a batch: lays its rows together, pads, runs, checks, splits; and finds the guilty when a run fails (P6).

Called by several threads at once, each with its own batch. Blocking; time is read from the monotonic clock.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np

from .batch import Batch, Piece, Result, Slice, Timing, claim_answer, find_padded_size
from .errors import Code, EngineError, RunFailed
from .servable import Servable

logger = logging.getLogger(__name__)

_NOT_THE_INPUT = frozenset({Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNAVAILABLE})
_MAYBE_THE_INPUT = frozenset({Code.RESOURCE_EXHAUSTED, Code.ABORTED})  # an op that wants a terabyte, or a device that is full
_pieces = Lock()  # guards `Task.pieces`: parts of one split task may run at the same time


class _RowsChanged(RunFailed):
    """An output's dimension 0 isn't the rows fed: this feed can't share a run."""

    code = Code.INVALID_ARGUMENT


def _is_searched(error: EngineError) -> bool:
    """Whether some task's input may have caused it, so that the others deserve a run without it."""
    if error.code in _MAYBE_THE_INPUT:
        return isinstance(error, RunFailed)
    return error.code not in _NOT_THE_INPUT


def execute(batch: Batch, servable: Servable, *, timeout_ms: int) -> list[Result]:
    """Run a batch and give the result of every task that ended with it, in the batch's order.

    A split task ends with its last part, or with the first part that fails. A failed run of several tasks is halved until the
    guilty one is alone: at most 2·log2(n) further runs for one culprit; halves are padded as whole batches are. When an output
    doesn't keep the rows, every task runs alone at once. Batches with `rerun` unset fail as a whole. Results are given once per
    task, whatever else answers it.
    """
    run = _Run(batch, servable, timeout_ms)
    run.together(batch.slices, batch.padded_size)
    batched = batch.padded_size > 0
    return [result for outcome in run.outcomes if (result := _settle(outcome, batched)) is not None]


class _Outcome(NamedTuple):
    """What became of a slice."""

    part: Slice
    outputs: dict[str, np.ndarray] | None
    error: EngineError | None
    timing: Timing
    guilty: bool


class _Run:
    """The runs of one batch. `outcomes` has one for each slice, in the batch's order: halves are run one after the other."""

    __slots__ = ("batch", "num_runs", "outcomes", "servable", "started", "timeout_ms")

    def __init__(self, batch: Batch, servable: Servable, timeout_ms: int) -> None:
        self.batch = batch
        self.servable = servable
        self.timeout_ms = timeout_ms
        self.started = time.monotonic()
        self.num_runs = 0
        self.outcomes: list[_Outcome] = []

    def together(self, slices: Sequence[Slice], padded_size: int) -> None:
        """Run these slices as one; on failure as halves."""
        before = time.monotonic()
        self.num_runs += 1
        batch = self.batch
        try:
            outputs = self.servable.run(
                batch.signature, _lay_together(slices, padded_size), output_filter=batch.output_filter, timeout_ms=self.timeout_ms
            )
            shares = _split(outputs, slices, padded_size)
        except EngineError as error:
            if len(slices) == 1 and batch.rerun and _may_be_padding(error, slices, padded_size):
                self.together(slices, 0)
            elif len(slices) == 1 or not batch.rerun or not _is_searched(error):
                self._end(slices, None, error, before)
            elif isinstance(error, _RowsChanged):
                for part in slices:
                    self.together((part,), 0)
            else:
                middle = len(slices) // 2
                for half in (slices[:middle], slices[middle:]):
                    self.together(half, find_padded_size(_size(half), batch.allowed_sizes) if batch.allowed_sizes else 0)
        except Exception as error:  # ours or the servable's fault: the tasks are answered, the loop goes on
            logger.exception("run failed", extra={"servable": str(batch.key), "signature": batch.signature})
            self._end(slices, None, EngineError(f"{type(error).__name__}: {error}"), before)
        else:
            self._end(slices, shares, None, before)

    def _end(self, slices: Sequence[Slice], shares: list[dict[str, np.ndarray]] | None, error: EngineError | None, before: float) -> None:
        started, num_runs = self.started, self.num_runs
        model_us = int((time.monotonic() - before) * 1e6)
        batch_id = self.batch.id if len(slices) > 1 or self.batch.padded_size else 0
        guilty = error is not None and len(slices) == 1 and _is_searched(error)
        size = _size(slices)
        index = 0
        for place, part in enumerate(slices):
            queue_us = int((started - part.task.enqueued) * 1e6)
            timing = Timing(max(queue_us, 0), model_us, batch_id, size, index, num_runs)
            self.outcomes.append(_Outcome(part, shares[place] if shares is not None else None, error, timing, guilty))
            index += part.stop - part.start


def _may_be_padding(error: EngineError, slices: Sequence[Slice], padded_size: int) -> bool:
    """Whether a lone task may have failed only because it was padded."""
    if isinstance(error, _RowsChanged):
        return padded_size > 0
    return padded_size > _size(slices) and error.code in _MAYBE_THE_INPUT and isinstance(error, RunFailed)


def _size(slices: Sequence[Slice]) -> int:
    if len(slices) == 1:
        _, start, stop = slices[0]
        return stop - start
    return sum([stop - start for _, start, stop in slices])


def _lay_together(slices: Sequence[Slice], padded_size: int) -> Mapping[str, np.ndarray]:
    """The rows of all slices, then the first row again up to `padded_size` (0 = none, inputs as they came).

    A real row, because zeros may be outside what the model accepts (a lookup key, a divisor).
    Source: TensorFlow Serving, batching/batching_session.cc.
    """
    task, start, stop = slices[0]
    if len(slices) == 1 and stop - start == task.rows and padded_size <= task.rows:
        return task.inputs
    size = _size(slices)
    missing = max(padded_size - size, 0)
    inputs = {}
    for name, first in task.inputs.items():
        parts = [part.inputs[name][start:stop] for part, start, stop in slices]
        if missing:
            parts.append(np.broadcast_to(first[start : start + 1], (missing, *first.shape[1:])))
        inputs[name] = np.concatenate(parts)
    return inputs


def _split(outputs: dict[str, np.ndarray], slices: Sequence[Slice], padded_size: int) -> list[dict[str, np.ndarray]]:
    """Each slice's rows of every output, padding dropped. A task alone and unpadded keeps its outputs, whatever their shape."""
    task, start, stop = slices[0]
    if len(slices) == 1 and stop - start == task.rows and padded_size <= task.rows:
        return [outputs]
    ran = max(padded_size, _size(slices))
    for name, output in outputs.items():
        if not output.ndim:
            raise _RowsChanged(f"Batched output tensor has 0 dimensions: {name}")
        if output.shape[0] != ran:
            raise _RowsChanged(f"Batched output tensor {name} has 0th dimension {output.shape[0]}, which does not equal the {ran} rows fed")
    shares = []
    index = 0
    for _, start, stop in slices:
        end = index + stop - start
        shares.append({name: output[index:end] for name, output in outputs.items()})
        index = end
    return shares


def _settle(outcome: _Outcome, batched: bool) -> Result | None:
    """The result that this outcome completes, if any."""
    (task, start, stop), outputs, error, timing, guilty = outcome
    if outputs is None or stop - start == task.rows or not batched:
        return Result(task, outputs, error, timing, guilty) if claim_answer(task) else None
    with _pieces:
        task.pieces = [*(task.pieces or ()), Piece(start, stop, outputs, timing)]
        complete = sum(piece.stop - piece.start for piece in task.pieces) == task.rows
    if not complete or not claim_answer(task):
        return None
    pieces = sorted(task.pieces)
    task.pieces = None
    outputs = {name: np.concatenate([piece.outputs[name] for piece in pieces]) for name in pieces[0].outputs}
    timing = Timing(
        min(piece.timing.queue_us for piece in pieces),
        sum(piece.timing.model_us for piece in pieces),
        pieces[0].timing.batch_id,
        max(piece.timing.batch_size for piece in pieces),
        pieces[0].timing.batch_index,
        sum(piece.timing.num_runs for piece in pieces),
    )
    return Result(task, outputs, None, timing)
