"""The journal's writer: one thread that takes all that waits, writes it, syncs it and releases those answers.

Group commit without a database in the way: while one group is being synced the next gathers. What a crash may fall between:

    put          nothing is durable; the call waits
    write        the group is in the page cache: it survives `kill -9`, not a power cut; still nobody is answered
    sync         (of the same call) from here on a crash loses nothing; `on_durable` releases the answers
    announce     the scribe may read it (the next group, or a marker when idle, names the synced offset)

When a write or a sync fails nothing is known about that file any more. It is never synced again; its lock is kept, so that the
scribe goes no further in it than announced, until a fresh segment whose first entry voids the failed range is durable. Only then
are the calls of the failed group, and all that wait, told. A segment is made, zero-filled and synced ahead of time by a thread of
its own, because a sync into blocks that were only reserved takes twice as long, and so that a full disk is met at rotation.
"""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from . import ids, journal
from .files import JournalDirectory, JournalFile
from .receipts import SignedGroup
from .rowformat import CURRENT

logger = logging.getLogger(__name__)

_RETRY_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


class Waiting(NamedTuple):
    """An encoded entry on its way, and what is needed to answer for it."""

    entry: bytes
    leaf_hash: bytes
    record_id: bytes
    future: Any  # the call's asyncio future, touched on the loop only
    put_ns: int


@dataclass(frozen=True, slots=True)
class WriterOptions:
    node: str
    origin: str
    start: bytes  # UUID of this gateway start, 16 bytes
    segment_bytes: int = 64 << 20  # rotate at this size …
    rotate_s: float = 60.0  # … or this age, when something was written
    first_segment_bytes: int = 4 << 20  # then as large as the last minute asks for, up to segment_bytes
    announce_s: float = 0.004  # an idle writer announces its last group after this
    gather_s: float = 0.003  # under load (groups of gather_from or more) start groups no closer than this
    gather_from: int = 8


class Segment:
    """One open segment. Owned by the writer thread."""

    def __init__(self, file: JournalFile, name: str, uuid_: bytes, size: int) -> None:
        self.file = file
        self.name = name
        self.uuid = uuid_
        self.seed = journal.crc_seed(uuid_)
        self.size = size
        self.offset = journal.HEADER_BYTES  # where the next group goes; all before it is synced
        self.announced = journal.HEADER_BYTES
        self.sequence = 1
        self.opened_s = time.monotonic()

    @property
    def is_empty(self) -> bool:
        return self.offset == journal.HEADER_BYTES


class Writer:
    """One lane of the journal: a segment at a time, a thread of its own.

    on_durable(batch, signed) and on_failed(batch, error) are called on the writer's thread, once for every entry put.
    """

    def __init__(
        self,
        directory: JournalDirectory,
        options: WriterOptions,
        *,
        name: str,
        sign: Callable[[list[bytes], int], SignedGroup],
        on_durable: Callable[[list[Waiting], SignedGroup], None],
        on_failed: Callable[[list[Waiting], OSError], None],
    ) -> None:
        self._directory = directory
        self._options = options
        self._sign = sign
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._queue: SimpleQueue[list[Waiting] | None] = SimpleQueue()
        self.put = self._queue.put  # what came together, from any thread; never blocks
        self._held: deque[Waiting] = deque()  # taken from the queue, not in a group yet; popped by whoever is first
        self._ids = ids.IdSource()
        self._segment: Segment | None = None
        self._size = options.first_segment_bytes
        self._maker = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-segments")
        self._next: Future[Segment] | None = None
        self._voids: list[tuple[bytes, int]] = []  # failed ranges that no durable entry voids yet
        self._condemned: list[Segment] = []  # their files, kept locked until then
        self._last_group_s = 0.0
        self._last_count = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Written by the writer's thread, read by any:
        self.is_failing = False
        self.busy_since: float | None = None  # monotonic, while a group is being written and synced
        self.in_flight: list[Waiting] = []
        self.bytes_written = 0
        self.groups_written = 0
        self.sync_s = 0.0  # of the last group

    def start(self) -> None:
        """Open the first segment and start. Raises OSError when the journal directory can't be written."""
        self._segment = self._create(self._size, zero_fill=False)
        self._prepare()
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, end the segment, stop. Blocks until done."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()
        self._maker.shutdown(wait=True)
        if self._next is not None and not self._next.cancelled() and self._next.exception() is None:
            unused = self._next.result()
            unused.file.close()
            with suppress(OSError):
                self._directory.remove(unused.name)

    def withdraw(self) -> list[Waiting]:
        """Take back what waits and is not being written yet. Any thread."""
        stop = self._fetch()
        withdrawn: list[Waiting] = []
        with suppress(IndexError):
            while True:
                withdrawn.append(self._held.popleft())
        if stop:
            self._queue.put(None)
        return withdrawn

    def _fetch(self) -> bool:
        """Take over what has been put; whether we are to stop."""
        stop = False
        with suppress(Empty):
            while True:
                put = self._queue.get_nowait()
                if put is None:
                    stop = True
                else:
                    self._held.extend(put)
        return stop

    @property
    def segments_used(self) -> dict[str, int]:
        """Used bytes of the open segment and of the one made ahead, by name."""
        segment, prepared = self._segment, self._next
        used = {} if segment is None else {segment.name: segment.offset}
        if prepared is not None and prepared.done() and not prepared.cancelled() and prepared.exception() is None:
            used[prepared.result().name] = journal.HEADER_BYTES
        return used

    # The writer's thread from here on.

    def _run(self) -> None:
        batch: list[Waiting] | None = []
        try:
            while (batch := self._take()) is not None:
                try:
                    self._rotate_if_due(batch)
                    if batch:
                        self._write(batch)
                    else:
                        self._announce()
                except OSError as error:
                    self._fail(batch, error)
            self._end()
        except Exception as error:  # a fault of ours: nobody may wait for ever, and nothing more is promised
            logger.critical("journal writer stopped", exc_info=error)
            self.is_failing = True
            self._on_failed(self._all_waiting(batch or []), OSError(f"journal writer stopped: {error}"))

    def _take(self) -> list[Waiting] | None:
        """The next group's entries; empty when idle; None when stopping and nothing is left."""
        held = self._held
        if not held:
            segment = self._segment
            is_announced = segment is None or segment.announced == segment.offset
            try:
                put = self._queue.get(timeout=1.0 if is_announced else self._options.announce_s)
            except Empty:
                return []
            if put is None:
                return None
            held.extend(put)
        if self._last_count >= self._options.gather_from:
            pause = self._last_group_s + self._options.gather_s - time.monotonic()
            if pause > 0:
                time.sleep(pause)
        if self._fetch():
            self._queue.put(None)
        batch: list[Waiting] = []
        size = 0
        with suppress(IndexError):
            while True:
                item = held.popleft()
                size += len(item.entry)
                if batch and size > journal.GROUP_MAX_BYTES:
                    held.appendleft(item)
                    break
                batch.append(item)
        return batch

    def _write(self, batch: list[Waiting]) -> None:
        """Write one group and sync it. Raises OSError, after which the segment is not to be touched again."""
        segment = self._segment
        if segment is None:
            raise OSError("no segment is open")
        self._last_group_s = started = time.monotonic()
        self._last_count = len(batch)
        self.in_flight = batch
        self.busy_since = started
        try:
            size = self._append(segment, [item.entry for item in batch])
        finally:
            self.busy_since = None
        self.sync_s = time.monotonic() - started
        self.bytes_written += size
        self.groups_written += 1
        signed = self._sign([item.leaf_hash for item in batch], time.time_ns() // 1000)
        self.in_flight = []
        self._on_durable(batch, signed)

    def _append(self, segment: Segment, entries: list[bytes], flags: int = 0) -> int:
        buffers = journal.encode_group(segment.seed, segment.sequence, entries, segment.offset, flags)
        size = len(buffers[0]) + len(buffers[1])
        segment.file.write_durably(buffers, segment.offset)
        segment.announced = segment.offset
        segment.offset += size  # from here on a crash loses nothing of this group
        segment.sequence += 1
        return size

    def _announce(self) -> None:
        """Tell the scribe that the last group is synced. The marker itself needs no sync: the next group overwrites it."""
        segment = self._segment
        if segment is None or segment.announced == segment.offset:
            return
        marker = journal.encode_group(segment.seed, segment.sequence, [], segment.offset, journal.FLAG_MARKER)
        segment.file.write_at(marker, segment.offset)
        segment.announced = segment.offset

    def _rotate_if_due(self, batch: list[Waiting]) -> None:
        segment = self._segment
        if segment is None or segment.is_empty:
            return
        room = segment.size - segment.offset - 2 * journal.GROUP_BYTES
        wanted = sum(len(item.entry) for item in batch)
        age = time.monotonic() - segment.opened_s
        is_full = wanted > room and segment.offset > journal.HEADER_BYTES
        if not is_full and age < self._options.rotate_s:
            return
        per_minute = int(segment.offset * 60 / max(age, 1.0))
        self._size = max(self._options.first_segment_bytes, min(self._options.segment_bytes, 2 * per_minute))
        self._segment = self._take_prepared()
        self._close(segment)
        self._prepare()

    def _close(self, segment: Segment) -> None:
        """End a segment that is whole. It is the reader's turn from here: the lock is gone."""
        try:
            self._append(segment, [], journal.FLAG_END)
            segment.file.truncate(segment.offset)
        except OSError as error:  # every answer given is durable: only the end mark is missing
            logger.error("journal segment not ended", extra={"error": str(error)})
        finally:
            segment.file.close()

    def _take_prepared(self) -> Segment:
        """The segment made ahead, or one made now when that isn't ready: late is worse than not zero-filled."""
        prepared = self._next
        if prepared is not None and prepared.done():
            self._next = None
            if prepared.exception() is None:
                segment = prepared.result()
                segment.opened_s = time.monotonic()
                return segment
        return self._create(self._options.first_segment_bytes, zero_fill=False)

    def _prepare(self) -> None:
        if self._next is None and not self._stopping.is_set():
            self._next = self._maker.submit(self._create, self._size, True)

    def _create(self, size: int, zero_fill: bool) -> Segment:
        identifier = uuid.UUID(bytes=ids.IdSource().new())
        header = journal.SegmentHeader(
            segment=identifier.bytes,
            start=self._options.start,
            row_format=CURRENT.number,
            created_us=time.time_ns() // 1000,
            node=self._options.node,
            origin=self._options.origin,
        )
        name = f"{identifier}{journal.SUFFIX}"
        file = self._directory.create(name, journal.encode_header(header), size, zero_fill)
        return Segment(file, name, identifier.bytes, size)

    def _fail(self, batch: list[Waiting], error: OSError) -> None:
        """Condemn the segment, open a fresh one, tell all that wait; keep trying until the journal can be written again."""
        self.is_failing = True
        logger.error("journal write failed", extra={"error": str(error), "waiting": len(batch)})
        segment = self._segment
        self._segment = None
        if segment is not None:
            self._voids.append((segment.uuid, segment.offset))
            self._condemned.append(segment)
            with suppress(OSError):  # a second belt for the case that we die before the void is durable
                segment.file.truncate(segment.offset)
        is_recovered = self._recover()
        self._on_failed(self._all_waiting(batch), error)
        self.in_flight = []
        attempt = 0
        while not is_recovered and not self._stopping.is_set():
            self._stopping.wait(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1
            is_recovered = self._recover()
            if waiting := self._all_waiting([]):
                self._on_failed(waiting, error)
        if is_recovered:
            self.is_failing = False
            logger.warning("journal is written again", extra={"attempts": attempt})
            self._prepare()

    def _all_waiting(self, batch: list[Waiting]) -> list[Waiting]:
        return [*batch, *self.withdraw()]

    def _recover(self) -> bool:
        """Open a fresh segment whose first entries void the failed ranges; False when that failed too."""
        try:
            segment = self._take_prepared()
        except OSError:
            return False
        if self._voids:
            try:
                self._append(segment, [journal.encode_void(*void) for void in self._voids])
                self._segment = segment
                self._announce()
            except OSError:
                self._segment = None
                with suppress(OSError):  # it holds no record: nothing is lost with it
                    self._directory.remove(segment.name)
                    segment.file.close()
                return False
        for condemned in self._condemned:
            with suppress(OSError):
                condemned.file.close()
        self._voids.clear()
        self._condemned.clear()
        self._segment = segment
        return True

    def _end(self) -> None:
        segment = self._segment
        if segment is None:
            return
        self._segment = None
        if segment.is_empty:
            segment.file.close()
            with suppress(OSError):
                self._directory.remove(segment.name)
        else:
            self._close(segment)
