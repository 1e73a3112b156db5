"""What dead workers have left, and what nobody serves (RULES 4.1, 4.5).

Once a second each worker looks at all request streams. An entry that a worker without a lease had taken is claimed, and its frames
run one at a time with nothing beside them. Before each run its id is marked in Redis. So when a run kills this worker too, the next
one knows which frame it was: a marked frame is answered `worker lost`, the others still get their one further run. A mark goes when
its entry is acknowledged. Frames of stateful deployments aren't run again.

Streams that no live worker serves or is about to serve are answered as not found or not available, by whoever comes first.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..dataplane import GROUP, PRIORITIES, Lease, WorkerLost, decode_lease
from ..engine.batch import Result
from ..engine.errors import EngineError, Unavailable
from ..engine.manager import Handle
from ..protocol.frames import FrameError
from ..resp import Argument, Command, Connection, RedisGone, Reply, ReplyError, run_id
from .received import Backlog
from .road import Opened, Road, find_refusal, make_task, open_entry

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
REPLY_SECONDS = 5.0
CLAIM_ENTRIES = 4  # at once; the rest is for other workers
MIN_IDLE_MS = 500  # an entry that another worker has just claimed isn't claimed again
MAX_DELIVERIES = 8  # of an entry that kills workers before a frame of it is even marked
MARK_SECONDS = 3600
ORPHAN_SWEEPS = 2  # a stream must be seen unserved this often in a row
EMPTY_SWEEPS = 60  # an unserved and empty one is forgotten after that many

_DELETE_IF_EMPTY = """
if redis.call('XLEN', KEYS[1]) + redis.call('XLEN', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('SREM', KEYS[3], ARGV[1])
end
"""


class _Claimed(NamedTuple):
    base: str
    opened: Opened
    frames: deque[tuple[int, bytes, int]]
    marked: frozenset[bytes]


class Claims:
    """find_handle: the servable of a stream that this worker serves. explain: why a stream that nobody serves isn't served, or None
    while that can't be said yet (nothing is known of what is desired, or it's being loaded here)."""

    def __init__(self, road: Road, find_handle: Callable[[str], Handle | None], explain: Callable[[str], EngineError | None]) -> None:
        self._road = road
        self._find_handle = find_handle
        self._explain = explain
        self._consumer = f"{road.worker_id}/claims"  # not the readers' own: what they find pending there was never run
        self._backlog = Backlog()  # claimed frames wait here, not for a batch
        self._claimed: deque[_Claimed] = deque()
        self._may_be_more = False  # the last sweep took as much as it may at once
        self._unserved: dict[str, int] = {}  # base → sweeps in a row
        self._run_id = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the frame that runs now. What was claimed and not run stays pending; another worker claims it."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        connection: Connection | None = None
        due = 0.0
        while not self._stopping.is_set():
            try:
                if connection is None:
                    connection = self._connect()
                if time.monotonic() >= due:
                    due = time.monotonic() + SWEEP_SECONDS
                    self._sweep(connection)
                if not self._run_next(connection):
                    if self._may_be_more:
                        due = 0.0
                    self._stopping.wait(max(due - time.monotonic(), 0.0))
            except (RedisGone, ReplyError) as error:
                logger.warning("claims interrupted", extra={"error": str(error)})
                if connection is not None:
                    connection.close()
                connection = None
                self._stopping.wait(SWEEP_SECONDS / 2)
            except Exception:
                logger.exception("claims failed")
                self._stopping.wait(SWEEP_SECONDS)
        if connection is not None:
            connection.close()

    def _connect(self) -> Connection:
        connection = Connection(self._road.address, f"claims:{self._road.worker_id}", timeout=REPLY_SECONDS)
        found = run_id(connection.call("INFO", "server"))
        if found != self._run_id:
            self._run_id = found
            self._claimed.clear()
        return connection

    # Looking

    def _sweep(self, connection: Connection) -> None:
        keys = self._road.keys
        self._may_be_more = False
        bases, workers = connection.call_all([("SMEMBERS", keys.streams), ("SMEMBERS", keys.workers)])
        leases = self._read_leases(connection, [member.decode() for member in workers])
        taken = frozenset().union(*(lease.serving | lease.loading for lease in leases.values()))
        for base in sorted(member.decode() for member in bases):
            streams = [f"{base}:{priority}" for priority in PRIORITIES]
            replies = connection.ask_all([command for stream in streams for command in _questions(stream)])
            served = self._find_handle(base) is not None
            unserved = 0 if served or base in taken else self._unserved.get(base, 0) + 1
            self._unserved[base] = unserved
            lengths = [0 if isinstance(length, ReplyError) else length for length in replies[::2]]
            for stream, length, consumers in zip(streams, lengths, replies[1::2], strict=True):
                dead = self._find_dead(connection, stream, consumers, leases)
                if served:
                    self._claim_for_run(connection, base, stream, dead)
                elif unserved >= ORPHAN_SWEEPS and length and (reason := self._explain(base)) is not None:
                    self._refuse_all(connection, stream, dead, reason)
            if unserved >= EMPTY_SWEEPS and not any(lengths):
                connection.call("EVAL", _DELETE_IF_EMPTY, 3, *streams, keys.streams, base)
                del self._unserved[base]

    def _read_leases(self, connection: Connection, workers: Sequence[str]) -> dict[str, Lease]:
        """Of live workers. Ids without a lease are taken off the list; a worker that comes back puts itself there again."""
        if not workers:
            return {}
        keys = self._road.keys
        values = connection.call("MGET", *map(keys.worker, workers))
        gone = [worker for worker, value in zip(workers, values, strict=True) if value is None]
        if gone:
            connection.call("SREM", keys.workers, *gone)
        return {worker: decode_lease(value) for worker, value in zip(workers, values, strict=True) if value is not None}

    def _find_dead(self, connection: Connection, stream: str, consumers: Reply, leases: Mapping[str, Lease]) -> list[str]:
        """Consumers of a stream that hold entries and no lease. Those that hold nothing either are deleted."""
        dead = []
        for fields in [] if isinstance(consumers, ReplyError) else consumers:
            consumer = dict(zip(fields[::2], fields[1::2], strict=True))
            name = consumer[b"name"].decode()
            worker = name.partition("/")[0]
            if worker in leases or worker == self._road.worker_id:
                continue
            if consumer[b"pending"]:
                dead.append(name)
            else:
                connection.call("XGROUP", "DELCONSUMER", stream, GROUP, name)
        return dead

    # Taking over

    def _claim(self, connection: Connection, stream: str, worker: str, count: int) -> list[tuple[bytes, Sequence[bytes], int]]:
        """Make entries of a dead worker ours: id, fields, and how often they were delivered, this time included."""
        pending = connection.call("XPENDING", stream, GROUP, "-", "+", count, worker)
        if not pending:
            return []
        deliveries = {entry_id: int(delivered) + 1 for entry_id, _, _, delivered in pending}
        ids: list[Argument] = list(deliveries)
        entries = connection.call("XCLAIM", stream, GROUP, self._consumer, MIN_IDLE_MS, *ids)
        return [(entry[0], entry[1], deliveries[entry[0]]) for entry in entries if entry is not None and entry[1] is not None]

    def _claim_for_run(self, connection: Connection, base: str, stream: str, dead: Sequence[str]) -> None:
        if any(claimed.opened.entry.stream == stream for claimed in self._claimed):
            return  # first things first; another worker may take the rest
        for worker in dead:
            entries = self._claim(connection, stream, worker, CLAIM_ENTRIES)
            self._may_be_more |= len(entries) == CLAIM_ENTRIES
            for entry_id, fields, deliveries in entries:
                opened = self._open(stream, entry_id, fields)
                if opened is None:
                    continue
                ids = opened.entry.request_ids
                logger.warning(
                    "entry claimed", extra={"stream": stream, "requests": len(ids), "dead_worker": worker, "deliveries": deliveries}
                )
                if deliveries > MAX_DELIVERIES:
                    self._road.answers.refuse(opened.entry, ids, WorkerLost(f"{deliveries - 1} workers died with this request in hand"))
                    continue
                marks = connection.call("HMGET", self._road.keys.tried(stream), *ids)
                marked = frozenset(request_id for request_id, mark in zip(ids, marks, strict=True) if mark is not None)
                self._claimed.append(_Claimed(base, opened, deque(opened.frames), marked))

    def _open(self, stream: str, entry_id: bytes, fields: Sequence[bytes]) -> Opened | None:
        try:
            return open_entry(stream, entry_id, fields, claimed=True)
        except FrameError as error:
            logger.error("entry not readable", extra={"stream": stream, "error": str(error)})
            self._road.answers.discard(stream, entry_id)
            return None

    def _run_next(self, connection: Connection) -> bool:
        """Run or refuse one claimed frame, taking turns between entries. Whether there was one."""
        if not self._claimed:
            return False
        claimed = self._claimed.popleft()
        offset, request_id, deadline_us = claimed.frames.popleft()
        entry = claimed.opened.entry
        handle = self._find_handle(claimed.base)
        refusal = find_refusal(self._road, request_id, deadline_us, self._road.clock.now_us())
        if refusal is None and handle is None:
            refusal = Unavailable("the version was unloaded")
        if refusal is None and (request_id in claimed.marked or (handle is not None and handle.model.stateful)):
            refusal = WorkerLost("worker lost: the worker that ran this request died")
        if refusal is None and handle is not None:
            refusal = self._run_alone(connection, handle, claimed, offset, request_id, deadline_us)
        if refusal is not None:
            self._road.answers.refuse(entry, [request_id], refusal)
        if claimed.frames:
            self._claimed.append(claimed)
        return True

    def _run_alone(
        self, connection: Connection, handle: Handle, claimed: _Claimed, offset: int, request_id: bytes, deadline_us: int
    ) -> EngineError | None:
        """Run a frame and answer it; gives the error to answer with when it can't even begin."""
        opened = claimed.opened
        stream = opened.entry.stream

        def mark() -> None:
            tried = self._road.keys.tried(stream)
            commands: list[Command] = [("HSET", tried, request_id, self._road.worker_id), ("EXPIRE", tried, MARK_SECONDS)]
            connection.call_all(commands)  # from here on whoever finds it pending knows that it was run

        try:
            task = make_task(self._road, handle, opened.entry, opened.payload, offset, deadline_us, self._backlog, batched=False)
        except FrameError as error:
            return EngineError(f"the request's frame isn't readable: {error}")
        task.enqueued = time.monotonic()
        try:
            result: Result = self._road.callers.run_alone(task, mark)
        except (RedisGone, ReplyError):
            claimed.frames.appendleft((offset, request_id, deadline_us))
            self._claimed.append(claimed)
            raise
        self._road.answers.answer([result], handle.servable.device)
        return None

    def _refuse_all(self, connection: Connection, stream: str, dead: Sequence[str], reason: EngineError) -> None:
        """Answer whatever is in a stream that nobody serves."""
        made = connection.ask_all([("XGROUP", "CREATE", stream, GROUP, "0")])[0]
        if isinstance(made, ReplyError) and not str(made).startswith("BUSYGROUP"):
            return  # the stream has gone
        entries = [entry[:2] for worker in dead for entry in self._claim(connection, stream, worker, 64)]
        reply = connection.call("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", 64, "STREAMS", stream, ">")
        entries += [(entry_id, fields) for entry_id, fields in (reply[0][1] if reply else ())]
        for entry_id, fields in entries:
            opened = self._open(stream, entry_id, fields)
            if opened is not None:
                self._road.answers.refuse(opened.entry, opened.entry.request_ids, reason)


def _questions(stream: str) -> tuple[Command, Command]:
    return ("XLEN", stream), ("XINFO", "CONSUMERS", stream, GROUP)
