"""The gateway's end of the road to the workers: requests go into Redis Streams, replies come back by request id.

Runs on one asyncio loop and knows no Django. What is submitted within one tick of the loop travels together: one stream entry per
(servable, priority) unless several workers share it, all entries in one write. The way back is one reply stream, read on a
connection of its own that waits without a timeout.

A request ends once: with its reply, at its deadline, when it's cancelled, or when Redis or the last worker is gone. It is never
sent a second time (RULES 4.1). The room it takes (rows and bytes of its servable's share) is given back when its frame is known to
be out of the stream, that is when a worker has replied, to an expired or cancelled one too: a caller who no longer waits must not
make room for others while what he asked for is still queued.

Redis is spoken to through `resp`, not redis-py: its docstring says what that saves.
"""

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from functools import partial

from .dataplane import BEAT_S, CANCELLED_KEPT_MS, Keys, NoWorker, RedisLost, error_from
from .engine.errors import Code, DeadlinePassed, EngineError, InvalidInput, QueueFull, Unavailable
from .entries import Frame, Lane, join_small, make_entries
from .pending import Pending, PendingRequests, Waits
from .presence import Presence
from .protocol.frames import Buffer, FrameError, decode_reply, encode_request, split_frames
from .protocol.messages import InferenceRequest, InferenceResponse
from .replies import ReplyStream
from .resp import Address, LoopConnection, RedisGone, Reply, ReplyError, pack_one, run_id

logger = logging.getLogger(__name__)

LATEST = 0.75  # of the time to its deadline that a request may be predicted to take; more is refused now instead of missed later
BEAT_TIMEOUT = 2.0
_NOT_RUN = frozenset({Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNAVAILABLE, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED})
MAX_ABANDONED = 100_000
RETRY_AFTER_LEASE = 2.0


class FrameTooLarge(InvalidInput):
    """A request that no worker would take, for its size."""


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """max_queued_bytes and max_queued_rows bound what waits for one servable, shared between the live gateways.

    worker_grace_s: how long requests under way outlive the last worker's lease. A worker that died comes back within seconds and
    claims them (RULES 4.1); new requests are refused meanwhile.
    """

    redis_url: str
    prefix: str
    gateway_id: str
    max_frame_bytes: int = 64 << 20
    max_queued_bytes: int = 256 << 20
    max_queued_rows: int = 8192
    worker_grace_s: float = 10.0


class RequestQueue:
    """Requests out, replies in. Every method belongs to the loop that `start` ran on."""

    def __init__(self, options: QueueOptions) -> None:
        self._options = options
        self._keys = Keys(options.prefix)
        self._address = Address.parse(options.redis_url)
        self._presence = Presence(options.prefix, options.gateway_id)
        self._commands: LoopConnection | None = None
        self._replies = ReplyStream(
            self._keys.reply(options.gateway_id),
            is_waiting=lambda request_id: self._pending.find(request_id) is not None,
            take=self._take_entry,
            max_bytes=options.max_frame_bytes,
        )
        self._lost = asyncio.Event()
        self._run_id = ""
        self._num_connections = 0
        self._pending = PendingRequests(self._presence.clock.now_us)
        self._lanes: dict[str, Lane] = {}
        self._tick: dict[tuple[Lane, int], list[Frame]] = {}
        self._cancelled: list[bytes] = []
        self._flush_due = False
        self._beaten = self._workers_seen = time.monotonic()
        self._runner: asyncio.Task[None] | None = None

    # What gateways ask

    @property
    def connected(self) -> bool:
        return self._commands is not None

    @property
    def live_workers(self) -> int:
        return len(self._presence.workers)

    @property
    def num_gateways(self) -> int:
        """Live gateways, this one among them, as last known."""
        return self._presence.num_gateways

    @property
    def in_flight(self) -> int:
        """Requests whose callers wait."""
        return sum(pending.future is not None for _, pending in self._pending)

    def room_taken(self, stream: str) -> int:
        """Rows of a servable's share that are in use, those of expired and cancelled requests that are still queued among them."""
        lane = self._lanes.get(stream)
        return lane.rows if lane else 0

    def server_now_us(self) -> int:
        """Redis' time, µs: what deadlines are made of."""
        return self._presence.clock.now_us()

    def report_snapshot(self, version: int) -> None:
        """Let workers know by which snapshot this gateway routes from now on."""
        self._presence.snapshot_version = version
        if self._commands is not None:
            commands = self._presence.lease()
            self._commands.send([b"".join(map(pack_one, commands))], [_ignore] * len(commands))

    # Life

    async def start(self) -> None:
        """Connect, or begin to try: a gateway starts without Redis too, and refuses with NoWorker until it's there."""
        self._loop = asyncio.get_running_loop()
        with contextlib.suppress(RedisGone, ReplyError, TimeoutError):
            await self._connect()
        self._runner = asyncio.create_task(self._run(), name="queue")

    async def close(self) -> None:
        """Fail what is under way with Unavailable and leave Redis as if this gateway had never been."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        self._abandon(Unavailable, "the gateway is stopping")
        self._pending.close()
        if self._commands is not None:
            keys, gateway_id = self._keys, self._options.gateway_id
            with contextlib.suppress(RedisGone, ReplyError, TimeoutError):
                async with asyncio.timeout(BEAT_TIMEOUT):
                    self._flush()
                    farewell = ("DEL", keys.reply(gateway_id), keys.gateway(gateway_id))
                    await self._commands.call_all([farewell, ("SREM", keys.gateways, gateway_id)])
        self._close_connections()

    async def _run(self) -> None:
        delay = BEAT_S / 10
        while True:
            try:
                if self._commands is None:
                    await self._connect()
                delay = BEAT_S / 10
                await self._watch()
            except (RedisGone, ReplyError, TimeoutError) as error:
                self._lose(error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, 2.0)

    async def _connect(self) -> None:
        """Both connections, our reply stream, and a first look round. Raises RedisGone, ReplyError, TimeoutError."""
        self._lost.clear()
        name = f"gateway:{self._options.gateway_id}"
        commands = await LoopConnection.open(self._address, name, self._lose)
        try:
            async with asyncio.timeout(BEAT_TIMEOUT):
                found = run_id((await commands.call_all([("INFO", "server")]))[0])
                if found != self._run_id:
                    self._run_id = found
                    self._presence.clock.forget()
                    self._cancelled.clear()  # what they named went with the old server
                await self._replies.make(commands)
                await self._presence.beat(commands)
            replies = await LoopConnection.open(self._address, name, self._lose)
        except BaseException:
            commands.close()
            raise
        self._commands = commands
        self._num_connections += 1
        self._beaten = self._workers_seen = time.monotonic()
        self._replies.read(replies)
        self._schedule_flush()

    async def _watch(self) -> None:
        """Beat until the connection is lost. Raises what ended it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._lost.wait()
            if self._commands is None:
                raise RedisGone("the connection to Redis was lost")
            async with asyncio.timeout(BEAT_TIMEOUT):
                if not await self._presence.beat(self._commands):
                    await self._replies.make(self._commands)
            self._measure()
            if self._presence.workers:
                self._workers_seen = time.monotonic()
            elif len(self._pending) and time.monotonic() - self._workers_seen >= self._options.worker_grace_s:
                self._abandon(NoWorker, "no worker is live any more")

    def _lose(self, error: Exception) -> None:
        """Redis is gone for now: everybody who waits hears it at once."""
        if self._commands is not None:
            logger.warning("redis lost", extra={"error": str(error), "in_flight": len(self._pending)})
        self._close_connections()
        self._presence.forget()
        self._abandon(RedisLost, "Redis was lost while the request was under way")
        self._lost.set()

    def _close_connections(self) -> None:
        commands, self._commands = self._commands, None
        if commands is not None:
            commands.close()
        self._replies.close()

    # Requests

    def submit(
        self,
        request: InferenceRequest,
        *,
        request_id: bytes,
        stream: str,
        deadline_us: int,
        priority: int = 0,
        trace: bytes | None = None,
        caller: str = "",
    ) -> "asyncio.Future[InferenceResponse]":
        """`send` with a new future."""
        future: asyncio.Future[InferenceResponse] = self._loop.create_future()
        self.send(
            request, future, request_id=request_id, stream=stream, deadline_us=deadline_us, priority=priority, trace=trace, caller=caller
        )
        return future

    def send(
        self,
        request: InferenceRequest,
        future: Waits,
        *,
        request_id: bytes,
        stream: str,
        deadline_us: int,
        priority: int = 0,
        trace: bytes | None = None,
        caller: str = "",
    ) -> None:
        """Send a request with this tick's others; the future takes its response.

        stream: the version's, without priority. deadline_us: Redis time (`server_now_us`). Arrays of `request` must not change.
        Raises NoWorker, QueueFull (both with `retry_after`, see `retry_after`), FrameTooLarge, DeadlinePassed at once; the future
        fails with DeadlinePassed, WorkerLost, RedisLost, NoWorker, Unavailable, or what the worker answered.
        """
        if self._commands is None:
            raise NoWorker("Redis can't be reached")
        if not self._presence.workers:
            raise NoWorker("no worker is live")
        lane = self._lanes.get(stream)
        if lane is None:
            lane = self._lanes[stream] = Lane(stream, self._options.gateway_id)
        rows = request.rows or 1
        if lane.rows and lane.rows + rows > self._options.max_queued_rows // self._presence.num_gateways:
            raise QueueFull(f"{lane.rows} rows wait for {request.model}, {rows} more are too many")
        now_us = self._presence.clock.now_us()
        left_us = deadline_us - now_us
        if left_us <= 0:
            raise DeadlinePassed(f"deadline passed {-left_us // 1000} ms ago")
        if (wait := lane.predict_wait(now_us)) * 1e6 > left_us * LATEST:
            raise QueueFull(f"{lane.rows} rows wait for {request.model} and take {wait:.1f} s, the deadline is in {left_us / 1e6:.1f} s")
        try:
            parts, size = encode_request(
                request, request_id=request_id, deadline_us=deadline_us, priority=priority, trace=trace, caller=caller
            )
        except FrameError as error:
            raise InvalidInput(str(error)) from error
        if size > self._options.max_frame_bytes:
            raise FrameTooLarge(f"the request takes {size} bytes, at most {self._options.max_frame_bytes} are taken")
        if lane.bytes and lane.bytes + size > self._options.max_queued_bytes // self._presence.num_gateways:
            raise QueueFull(f"{lane.bytes} bytes wait for {request.model}, {size} more are too many")
        if self._pending.find(request_id) is not None:
            raise EngineError(f"request {request_id.hex()} is under way already", Code.ALREADY_EXISTS)
        self._pending.add(request_id, Pending(future, lane, rows, size, now_us), deadline_us)
        frame = Frame(request_id, parts, size, rows)
        frames = self._tick.get((lane, priority))
        if frames is None:
            self._tick[lane, priority] = [frame]
            self._schedule_flush()
        else:
            frames.append(frame)

    def cancel(self, request_id: bytes) -> None:
        """The caller has gone: its future is cancelled, and workers that haven't begun won't."""
        pending = self._pending.find(request_id)
        if pending is None or pending.future is None:
            return
        pending.future.cancel()
        pending.future = None
        if not pending.sent:
            self._pending.release(request_id)
            return
        self._cancelled.append(request_id)
        self._schedule_flush()

    def retry_after(self, stream: str, error: EngineError) -> float:
        """Seconds after which a refused caller may hope: until what waits has drained, or a worker can have taken over."""
        lane = self._lanes.get(stream)
        if not isinstance(error, QueueFull) or lane is None or lane.rate <= 0:
            return RETRY_AFTER_LEASE
        return min(max(lane.rows / lane.rate, 0.05), 30.0)

    def _schedule_flush(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what this tick has gathered."""
        self._flush_due = False
        if self._commands is None:
            return
        parts: list[Buffer] = []
        callbacks = []
        total = 0
        tick, self._tick = self._tick, {}
        for (lane, priority), frames in tick.items():
            if lane.registered != self._num_connections:
                lane.registered = self._num_connections
                parts.append(pack_one(("SADD", self._keys.streams, lane.stream)))
                callbacks.append(_ignore)
            for ids, body, size in make_entries(self._mark_sent(frames), self._presence.num_serving(lane.stream)):
                parts.append(lane.head(priority) + b"$%d\r\n" % size)
                parts += body
                parts.append(b"\r\n")
                callbacks.append(partial(self._sent, ids))
                total += size
        if self._cancelled:
            ids, self._cancelled = self._cancelled, []
            oldest_ms = self._presence.clock.now_us() // 1000 - CANCELLED_KEPT_MS
            parts.append(pack_one(("XADD", self._keys.cancelled, "MINID", "~", oldest_ms, "*", "i", b"".join(ids))))
            callbacks.append(_ignore)
        if parts:
            self._commands.send(join_small(parts, total), callbacks)

    def _mark_sent(self, frames: list[Frame]) -> list[Frame]:
        """The frames to send: not those that were cancelled within their tick."""
        sent = []
        for frame in frames:
            pending = self._pending.find(frame.request_id)
            if pending is not None:
                pending.sent = True
                sent.append(frame)
        return sent

    def _sent(self, ids: list[bytes], reply: Reply) -> None:
        """Redis has taken an entry, or says why not."""
        if not isinstance(reply, ReplyError):
            return
        logger.warning("entry refused", extra={"error": str(reply), "requests": len(ids)})
        full = str(reply).startswith("OOM")
        for request_id in ids:
            if (pending := self._pending.release(request_id)) is not None:
                pending.fail(QueueFull("Redis is full") if full else Unavailable(f"Redis refused the request: {reply}"))

    # Replies

    def _take_entry(self, entry: bytes) -> None:
        """Hand replies to those who wait for them. Raises FrameError."""
        now_us = self._presence.clock.now_us()
        for offset, request_id, code in split_frames(entry):
            pending = self._pending.release(request_id)
            if pending is None:
                continue  # a duplicate, or from before a loss
            if code not in _NOT_RUN:
                pending.lane.answered += pending.rows
                pending.lane.learn(pending.ahead, pending.submitted_us, now_us)
            future = pending.future
            if future is None or future.done():
                continue
            try:
                frame = decode_reply(entry, offset)
            except FrameError as error:
                future.set_exception(EngineError(f"the worker's reply isn't readable: {error}"))
                continue
            if frame.code:
                future.set_exception(error_from(frame.subject, frame.code, frame.error, frame.response.timing))
            else:
                future.set_result(frame.response)

    # Ends

    def _abandon(self, kind: type[EngineError], text: str) -> None:
        """End everything under way; what workers may still find of it is cancelled."""
        for request_id, pending in self._pending:
            if pending.sent and len(self._cancelled) < MAX_ABANDONED:
                self._cancelled.append(request_id)
            pending.fail(kind(text))
            self._pending.release(request_id)
        self._tick.clear()
        if self._cancelled and self._commands is not None:
            self._schedule_flush()

    def _measure(self) -> None:
        """How fast each servable answers, for `retry_after`; forget those that are no longer used."""
        now = time.monotonic()
        seconds, self._beaten = now - self._beaten, now
        for stream, lane in list(self._lanes.items()):
            lane.measure(max(seconds, 1e-3))
            if not lane.rows and lane.rate < 0.01:
                del self._lanes[stream]
        self._pending.tidy()


def _ignore(reply: Reply) -> None:
    pass
