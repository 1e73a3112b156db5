"""What the threads of one worker share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..dataplane import Keys
from ..engine.batch import Task
from ..engine.errors import DeadlinePassed, EngineError, TaskCancelled
from ..engine.manager import Handle
from ..protocol.frames import FrameError, decode_request, split_frames
from ..resp import Address, ServerClock
from .answers import Answers
from .callers import Callers
from .cancelled import CancelledIds
from .options import WorkerOptions
from .received import Backlog, Entry, Received


@dataclass(frozen=True, slots=True)
class Road:
    options: WorkerOptions
    keys: Keys
    address: Address
    clock: ServerClock
    answers: Answers
    callers: Callers
    cancelled: CancelledIds

    @property
    def worker_id(self) -> str:
        return self.options.worker_id


def is_batched(handle: Handle) -> bool:
    """Whether any signature of a servable shares runs."""
    return any(rule.batched for rule in handle.rules.values())


class Opened(NamedTuple):
    """A stream entry as it was read: (offset, request id, deadline) of each frame in `payload`."""

    entry: Entry
    payload: bytes
    frames: list[tuple[int, bytes, int]]


def open_entry(stream: str, entry_id: bytes, fields: Sequence[bytes] | None, *, claimed: bool = False) -> Opened:
    """Raises FrameError when it isn't an entry of requests; nobody can be answered then."""
    named = dict(zip(fields[::2], fields[1::2], strict=False)) if fields else {}
    try:
        gateway, payload = named[b"g"].decode(), named[b"f"]
    except (KeyError, UnicodeDecodeError) as error:
        raise FrameError(f"entry {entry_id.decode()} of {stream} isn't a request entry: {error}") from error
    frames = list(split_frames(payload))
    if not frames:
        raise FrameError(f"entry {entry_id.decode()} of {stream} is empty")
    ids = tuple(request_id for _, request_id, _ in frames)
    return Opened(Entry(stream, entry_id, gateway, len(frames), ids, claimed), payload, frames)


def find_refusal(road: Road, request_id: bytes, deadline_us: int, now_us: int) -> EngineError | None:
    """Why a frame needn't reach a model: its caller has gone, or its deadline has passed."""
    if request_id in road.cancelled:
        return TaskCancelled("the caller has gone")
    if deadline_us <= now_us:
        return DeadlinePassed(f"deadline passed {(now_us - deadline_us) // 1000} ms ago")
    return None


def make_task(
    road: Road, handle: Handle, entry: Entry, payload: bytes, offset: int, deadline_us: int, backlog: Backlog, *, batched: bool
) -> Task:
    """The task of one frame. Raises FrameError."""
    frame = decode_request(payload, offset)
    request = frame.request
    rows = request.rows if batched and request.rows else 1
    return Task(
        id=frame.request_id,
        key=handle.key,
        signature=request.signature,
        inputs=request.inputs,
        rows=request.rows,
        deadline=road.clock.monotonic(deadline_us),
        priority=frame.priority,
        caller=frame.caller,
        output_filter=request.output_filter,
        context=Received(entry, backlog, rows),
    )
