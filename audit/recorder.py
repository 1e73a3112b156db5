"""The gateway's side of the daybook: makes a call durable and says so.

`append` runs on the event loop and costs some 25 µs: it formats the leaf, packs the row, encrypts what is to be stored and hands
one entry to the writer's thread. Its future is done when the record is durable (P1); when that can't be, the future fails with
`LogUnavailable` (answer 503, send no prediction) or `LogStalled` (close the connection, nobody knows). Large payloads are
compressed and encrypted in a thread and take a lane of their own, so that their syncs hold up nobody else.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from . import ids, leaves, payloads
from .backlog import BacklogWatch, Verdict
from .entries import CallEncoder, encode_event
from .errors import LogStalled, LogUnavailable
from .files import DiskDirectory, JournalDirectory
from .keymint import KeyMint
from .keys import KeyJournal
from .payloads import SealingKey
from .receipts import MERGE_DELAY_S, ReceiptSigner, SignedGroup, encode_text
from .record import Call
from .refusals import RefusalCounter
from .writer import Waiting, Writer, WriterOptions

logger = logging.getLogger(__name__)

_LARGE_ENTRY = 64 * 1024
_WATCH_S = 0.1


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """Everything a recorder needs to know; `config/gateway.py` builds it from the environment."""

    directory: Path
    node: str
    origin: str
    master_key: bytes = field(repr=False)
    stall_s: float = 5.0  # JOURNAL_STALL_S: a sync longer than this makes the gateway unready
    max_bytes: int = 4 << 30  # JOURNAL_MAX_MB: how much may wait for the scribe
    merge_delay_s: int = MERGE_DELAY_S
    segment_bytes: int = 64 << 20
    rotate_s: float = 60.0
    # Threads change hands at the GIL this often. At Python's 5 ms the writer waits that long for a busy loop after each sync.
    switch_interval_s: float | None = 0.0005


class Committed:
    """A durable record. Receipts are made when asked for."""

    __slots__ = ("_index", "_signed", "commit_us", "leaf_hash", "record_id")

    def __init__(self, record_id: bytes, leaf_hash: bytes, commit_us: int, signed: SignedGroup, index: int) -> None:
        self.record_id = record_id
        self.leaf_hash = leaf_hash
        self.commit_us = commit_us  # from append to durable
        self._signed = signed
        self._index = index

    def receipt(self) -> bytes:
        """`Daybook-Receipt`, base64."""
        return encode_text(self._signed.receipt(self._index, self.record_id))


class Waits(Protocol):
    """Who waits for a record: a future, or something that takes the end as one does. Called on the loop."""

    def done(self) -> bool: ...
    def set_result(self, committed: Committed, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...


@dataclass(slots=True)
class RecorderFigures:
    """Counters for metrics. Owned by the loop thread."""

    records: int = 0
    failed: int = 0
    stalled: int = 0
    refused: int = 0
    commit_us: int = 0  # sum over records


@dataclass(frozen=True, slots=True)
class JournalFigures:
    bytes: int
    groups: int
    sync_s: float


class Recorder:
    """One per gateway process. All methods are for the loop given to `start`, unless they say otherwise."""

    def __init__(self, options: RecorderOptions, *, directory: JournalDirectory | None = None) -> None:
        """directory: where to write instead of `options.directory`, for fault tests."""
        self.options = options
        self.start_id = ids.new_id()
        self.figures = RecorderFigures()
        self._directory = directory if directory is not None else DiskDirectory(options.directory)
        self._signer = ReceiptSigner(options.origin, options.merge_delay_s)
        self._encoder = CallEncoder(options.node, options.master_key)
        self._keys = KeyMint(KeyJournal(self._directory, self.start_id, options.node), options.master_key)
        self._contexts: set[bytes] = set()
        self._gap: dict[str, int] = {}
        self._gap_from_us = 0
        self._refusals = RefusalCounter(self.append)
        self._small = self._make_writer("journal")
        self._large: Writer | None = None
        self._large_lock = threading.Lock()
        self._crew = ThreadPoolExecutor(2, thread_name_prefix="recorder")
        self._backlog = BacklogWatch(options.directory, self._directory, options.max_bytes, options.merge_delay_s)
        self._backlog.own_segments = lambda: {name: used for writer in self._writers() for name, used in writer.segments_used.items()}
        self._watch_handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._is_open = False
        self._is_stalled = False
        self._tick: list[tuple[Call, Waits]] = []  # appended since the loop came by last
        self._pending_work = 0  # calls that are with the crew or wait for a key

    # Life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the journal and announce the receipt key. Raises OSError when the directory can't be written."""
        self._loop = loop
        self._keys.start(loop)
        if self.options.switch_interval_s is not None:
            sys.setswitchinterval(self.options.switch_interval_s)
        self._small.start()
        self._backlog.start()
        self._is_open = True
        self._announce_receipt_key()
        self._watch_handle = loop.call_later(_WATCH_S, self._watch)

    async def close(self) -> None:
        """Record what is counted, wait for what is under way, end the segments. Later appends fail."""
        self._refusals.flush(ids_time_us=time.time_ns() // 1000, everything=True)
        while self._pending_work or self._tick:
            await asyncio.sleep(0.005)
        self._write_gap()
        self._is_open = False
        if self._watch_handle is not None:
            self._watch_handle.cancel()
        for writer in self._writers():
            await self._loop.run_in_executor(None, writer.stop)
        self._backlog.stop()
        self._crew.shutdown(wait=True)
        self._keys.close()

    @property
    def ready(self) -> bool:
        """Whether a record made now would become durable, as far as one can know."""
        large = self._large
        return self._is_open and not self._is_stalled and not self._small.is_failing and not (large is not None and large.is_failing)

    @property
    def backlog_refused(self) -> str:
        """Why new work is to be refused with 503, empty when it isn't: the backlog or the disk is at its limit.

        Checked at the door. What is in flight already is still recorded: the journal keeps its last tenth for it.
        """
        return self._backlog.verdict.refuse_new

    @property
    def backlog(self) -> Verdict:
        return self._backlog.verdict

    @property
    def journal(self) -> JournalFigures:
        """What the writers did since the start, and how long the last sync took."""
        writers = self._writers()
        return JournalFigures(
            bytes=sum(writer.bytes_written for writer in writers),
            groups=sum(writer.groups_written for writer in writers),
            sync_s=max(writer.sync_s for writer in writers),
        )

    @property
    def receipt_key(self) -> tuple[bytes, bytes]:
        """Key id and public key of this start."""
        return self._signer.key_id, self._signer.public_key

    # Recording

    def append(self, call: Call) -> "asyncio.Future[Committed]":
        """Record a call. The future gives `Committed` once it is durable, else fails with LogUnavailable."""
        future: asyncio.Future[Committed] = self._loop.create_future()
        self.put(call, future)
        return future

    def put(self, call: Call, future: Waits) -> None:
        """Record a call for somebody who waits in another way than with a future of asyncio."""
        if not self._is_open or self._is_stalled or self._small.is_failing or self._backlog.verdict.refuse_all:
            self._refuse(future, call, self._backlog.verdict.refuse_all or "the journal can't be written")
            return
        if not self._tick:
            self._loop.call_soon(self._encode_tick)
        self._tick.append((call, future))

    def refuse(self, call: Call) -> "asyncio.Future[Committed]":
        """Record a refusal of a known caller: by itself, or within a count above ten 429s per caller and second."""
        return self._refusals.refuse(call)

    def aggregate_refusal(self, call: Call) -> "asyncio.Future[Committed]":
        """Record a refusal within the count of its (address or key, status, reason, second).

        The first of a second is durable at once as a record with count 1, and every answer of that second names it; the rest of
        the second follows as one record with their count. So the name in an answer is in the log whatever dies when.
        """
        return self._refusals.aggregate(call)

    def context(self, details: dict[str, Any]) -> bytes:
        """Digest that names `details` (origin, artifact, configuration, policy …) in leaves. Their `context` leaf is written with
        the first use in this start; the digest is SHA-256 of their canonical JSON. Raises ValueError for floats."""
        digest = sha256(leaves.canonical(details)).digest()
        if digest not in self._contexts:
            self._contexts.add(digest)
            self.event("context", {"ctx": leaves.context_name(digest), "is": details})
        return digest

    def event(self, type_: str, details: dict[str, Any]) -> "asyncio.Future[Committed]":
        """Record something that happened to the gateway itself."""
        record_id = ids.new_id()
        future: asyncio.Future[Committed] = self._loop.create_future()
        future.add_done_callback(_retrieve)
        if self.ready:
            self._put(encode_event(type_, record_id, self.options.node, details), record_id, future)
        else:
            future.set_exception(LogUnavailable("the journal can't be written"))
        return future

    def forget_scope(self, scope: str) -> None:
        """Drop a scope's key from memory (erasure). Later records of the scope get a new key."""
        self._keys.forget(scope)

    # Inside

    def _make_writer(self, name: str) -> Writer:
        options = WriterOptions(
            node=self.options.node,
            origin=self.options.origin,
            start=self.start_id,
            segment_bytes=self.options.segment_bytes,
            rotate_s=self.options.rotate_s,
            first_segment_bytes=min(4 << 20, self.options.segment_bytes),
        )
        return Writer(self._directory, options, name=name, sign=self._signer.sign, on_durable=self._on_durable, on_failed=self._on_failed)

    def _writers(self) -> list[Writer]:
        return [self._small] if self._large is None else [self._small, self._large]

    def _encode_tick(self) -> None:
        """Encode the calls of this tick, one step over all of them after the other.

        The same steps call by call, between the steps of the door, cost nearly twice as much: each finds the caches cold
        (measured in process at 64 callers: 250 against 190 µs of loop time per request for everything).
        """
        tick, self._tick = self._tick, []
        encoder, take_random = self._encoder, self._encoder.take_random
        sealed: list[tuple[Call, Waits, bytes, bytes]] = []
        for call, future in tick:
            request, response = call.request, call.response
            if request is None and response is None:
                sealed.append((call, future, b"", b""))
                continue
            key = self._keys.find(encoder.scope(call))
            if key is None or len(request or b"") + len(response or b"") > payloads.COMPRESS_OVER:
                self._seal_elsewhere(call, key, future)
            else:
                attachment, digests = payloads.seal_parts(key, call.record_id, request, response, take_random)
                sealed.append((call, future, attachment, digests))
        encode = encoder.encode
        now_ns = time.monotonic_ns()
        waiting = [
            Waiting(*encode(call, attachment, digests), call.record_id, future, now_ns) for call, future, attachment, digests in sealed
        ]
        if waiting:
            self._small.put(waiting)

    def _seal_elsewhere(self, call: Call, key: SealingKey | None, future: Waits) -> None:
        """What can't be encoded at once: its key has to be minted first, or it's large."""
        self._pending_work += 1
        if key is None:
            size = len(call.request or b"") + len(call.response or b"")
            self._keys.request(self._encoder.scope(call), lambda result: self._with_key(result, call, size, future))
        else:
            self._seal_large(call, key, future)

    def _put(self, encoded: tuple[bytes, bytes], record_id: bytes, future: Waits) -> None:
        entry, leaf_hash = encoded
        self._small.put([Waiting(entry, leaf_hash, record_id, future, time.monotonic_ns())])

    def _announce_receipt_key(self) -> None:
        key_id, public_key = self.receipt_key
        details = {
            "key": leaves.base64url(public_key),
            "key_id": key_id.hex(),
            "origin": self.options.origin,
            "merge_delay_s": self.options.merge_delay_s,
            "start": ids.text(self.start_id),
        }
        self.event("gateway.key", details)

    def _refuse(self, future: Waits, call: Call, why: str) -> None:
        self.figures.refused += 1
        self._count_gap(call.outcome)
        future.set_exception(LogUnavailable(why))

    # Keys and large payloads

    def _with_key(self, result: SealingKey | OSError, call: Call, size: int, future: Waits) -> None:
        if isinstance(result, OSError):
            self._pending_work -= 1
            if not future.done():
                self._refuse(future, call, f"the key journal can't be written: {result}")
        elif size > payloads.COMPRESS_OVER:
            self._seal_large(call, result, future)
        else:
            self._pending_work -= 1
            sealed = payloads.seal_parts(result, call.record_id, call.request, call.response, self._encoder.take_random)
            self._put(self._encoder.encode(call, *sealed), call.record_id, future)

    def _seal_large(self, call: Call, key: SealingKey, future: Waits) -> None:
        self._crew.submit(self._seal_in_thread, call, key, future)

    def _seal_in_thread(self, call: Call, key: SealingKey, future: Waits) -> None:
        try:
            sealed = payloads.seal_parts(key, call.record_id, call.request, call.response, os.urandom, payloads.compress)
            if self._large is None:
                self._open_large_lane()
        except Exception as error:  # no memory, or a fault of ours: the call must not wait for ever
            logger.exception("large payload not recorded")
            self._loop.call_soon_threadsafe(self._give_up_large, call, future, error)
        else:
            self._loop.call_soon_threadsafe(self._put_large, call, sealed, future)

    def _give_up_large(self, call: Call, future: Waits, error: Exception) -> None:
        self._pending_work -= 1
        if not future.done():
            self._refuse(future, call, f"the payload can't be recorded: {type(error).__name__}")

    def _open_large_lane(self) -> None:
        with self._large_lock:
            if self._large is None:
                writer = self._make_writer("journal-large")
                try:
                    writer.start()
                except OSError as error:  # the small lane takes them, or fails for the same reason and says so
                    logger.error("no lane for large payloads", extra={"error": str(error)})
                    return
                self._large = writer

    def _put_large(self, call: Call, sealed: tuple[bytes, bytes], future: Waits) -> None:
        self._pending_work -= 1
        entry, leaf_hash = self._encoder.encode(call, *sealed)
        lane = self._large if self._large is not None and len(entry) > _LARGE_ENTRY else self._small
        lane.put([Waiting(entry, leaf_hash, call.record_id, future, time.monotonic_ns())])

    # What the writer tells

    def _on_durable(self, batch: list[Waiting], signed: SignedGroup) -> None:
        self._loop.call_soon_threadsafe(self._release, batch, signed, time.monotonic_ns())

    def _release(self, batch: list[Waiting], signed: SignedGroup, now_ns: int) -> None:
        total_us = 0
        for index, (_, leaf_hash, record_id, future, put_ns) in enumerate(batch):
            commit_us = (now_ns - put_ns) // 1000
            total_us += commit_us
            if not future.done():
                future.set_result(Committed(record_id, leaf_hash, commit_us, signed, index))
        self.figures.records += len(batch)
        self.figures.commit_us += total_us

    def _on_failed(self, batch: list[Waiting], error: OSError) -> None:
        self._loop.call_soon_threadsafe(self._fail, batch, LogUnavailable(f"the journal can't be written: {error}"))

    def _fail(self, batch: list[Waiting], error: LogUnavailable) -> None:
        for item in batch:
            if not item.future.done():
                item.future.set_exception(error)
                self.figures.failed += 1
                self._count_gap(type(error).__name__)

    # Stalls and gaps

    def _watch(self) -> None:
        self._watch_handle = self._loop.call_later(_WATCH_S, self._watch)
        now = time.monotonic()
        stalled = [w for w in self._writers() if (since := w.busy_since) is not None and now - since > self.options.stall_s]
        if stalled and not self._is_stalled:
            logger.error("journal sync stalls", extra={"stall_s": self.options.stall_s})
        self._is_stalled = bool(stalled)
        for writer in stalled:
            self._give_up(writer)
        self._refusals.flush(ids_time_us=time.time_ns() // 1000)
        if self._gap and self.ready:
            self._write_gap()

    def _give_up(self, writer: Writer) -> None:
        """Close what waits for a sync that doesn't return; take back, and refuse, what it doesn't hold yet."""
        in_flight = [item for item in writer.in_flight if not item.future.done()]
        for item in in_flight:
            item.future.set_exception(LogStalled(f"a journal sync takes longer than {self.options.stall_s:g} s"))
        self.figures.stalled += len(in_flight)
        self._fail(writer.withdraw(), LogUnavailable("the journal stalls"))

    def _count_gap(self, what: str) -> None:
        if not self._gap:
            self._gap_from_us = time.time_ns() // 1000
        self._gap[what] = self._gap.get(what, 0) + 1

    def _write_gap(self) -> None:
        """One `gap` leaf says how many calls were refused while nothing could be recorded."""
        if not self._gap or not self.ready:
            return
        details = {"calls": sum(self._gap.values()), "by": self._gap, "from": self._gap_from_us, "to": time.time_ns() // 1000}
        counted, self._gap = self._gap, {}
        self.event("gap", details).add_done_callback(lambda future: self._restore_gap(future, counted))

    def _restore_gap(self, future: "asyncio.Future[Committed]", counted: dict[str, int]) -> None:
        if not future.cancelled() and future.exception() is not None:
            for what, count in counted.items():
                self._gap[what] = self._gap.get(what, 0) + count

    def __repr__(self) -> str:
        return f"<Recorder {ids.text(self.start_id)} on {self.options.node}>"


def _retrieve(future: "asyncio.Future[Committed]") -> None:
    """Events are nobody's to wait for: mark their failure as seen."""
    if not future.cancelled():
        future.exception()
