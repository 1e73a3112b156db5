"""The gateway as a process: start, dispatch, stop.

One process, one event loop, no framework. On SIGTERM it stops listening, finishes what is under way within the grace, answers 503 to
the rest, and closes the journal.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final

import redis.asyncio
import uvloop

from audit.recorder import Recorder, RecorderOptions
from serving.queue import QueueOptions, RequestQueue
from serving.snapshot import Snapshot

from . import predict, reads
from .auth import Authenticator
from .door import MEASURE_S, Door
from .errors import GatewayError, NotReady
from .exchange import Exchange
from .health import Health
from .http import JSON, preflight_headers
from .limits import Limiter
from .metrics import CONTENT_TYPE, Metrics
from .options import GatewayOptions
from .routing import Route, build_routes, parse_route
from .server import Request, Server, ServerLimits, make_lines
from .snapshots import SnapshotHolder

logger = logging.getLogger(__name__)

_MALLOPT: Final = {-1: 128 << 20, -2: 16 << 20, -3: 32 << 20}  # trim threshold, top pad, mmap threshold
_TEXT: Final = make_lines([("content-type", "text/plain; charset=utf-8")])
_METRICS: Final = make_lines([("content-type", CONTENT_TYPE)])
_READINESS: Final = make_lines([JSON, ("cache-control", "no-store")])
_CALLS: Final = frozenset(("predict", "classify", "regress"))
_DRAIN_LOOK_S: Final = 0.02
_LAST_ANSWERS_S: Final = 2.0  # for the records of what is refused when the grace is over


class Gateway:
    """The application. One per process; everything belongs to the loop that `run` starts."""

    def __init__(self, options: GatewayOptions, make_recorder: Callable[[RecorderOptions], Recorder] = Recorder) -> None:
        """make_recorder: another one than the daybook's, for measuring what the daybook costs (`bench/unrecorded.py`)."""
        self._options = options
        self._make_recorder = make_recorder
        self._server = Server(
            self,
            ServerLimits(
                max_body_bytes=options.max_body_bytes,
                max_open_bytes=options.max_open_bytes,
                body_timeout_s=options.body_timeout_s,
                max_connections=options.max_connections,
            ),
        )
        self._door: Door
        self._redis: redis.asyncio.Redis
        self._measuring: asyncio.TimerHandle

    # Life

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises OSError when somebody else has the port or the journal can't be written."""
        _keep_freed_memory()
        _allow_connections(self._options.max_connections)
        uvloop.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)
        await self._start(loop)
        try:
            await self._server.listen(self._options.host, self._options.port)
            # What is alive now stays alive: the collector need not look at it again (190 ms pauses without this). Calls leave few
            # cycles behind, so it may also come less often than after every 700 objects, which are those of ten calls.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)
            await told.wait()
            await self._drain(loop)
        finally:
            await self._stop()

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        options = self._options
        if options.core >= 0 and sys.platform == "linux":
            _keep_to_core(options.core)
        recorder = self._make_recorder(options.recorder)
        recorder.start(loop)
        queue = RequestQueue(
            QueueOptions(
                redis_url=options.redis_url,
                prefix=options.prefix,
                gateway_id=options.gateway_id,
                max_frame_bytes=options.max_frame_bytes,
            )
        )
        await queue.start()
        self._redis = redis.asyncio.Redis.from_url(options.redis_url, socket_connect_timeout=2.0, socket_timeout=5.0)
        metrics = Metrics()
        snapshots = SnapshotHolder(
            self._redis, options.prefix, options.snapshot_file, self._take_snapshot, stale_after_s=options.stale_after_s
        )
        self._door = Door(
            options=options,
            loop=loop,
            recorder=recorder,
            queue=queue,
            snapshots=snapshots,
            limiter=Limiter(self._redis, options.prefix, lambda: queue.num_gateways),
            metrics=metrics,
        )
        self._health = Health(self._door)
        self._name_metrics(metrics)
        await snapshots.start()
        self._measure(loop)
        logger.info("gateway started", extra={"gateway": options.gateway_id, "snapshot": snapshots.current.version})

    async def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Finish what is under way, within the grace."""
        door = self._door
        door.stopping = True
        self._server.stop_listening()
        logger.info("gateway draining", extra={"in_flight": len(door.exchanges), "grace_s": self._options.grace_s})
        await _until(lambda: not door.exchanges, self._options.grace_s)
        self._server.end_reading(NotReady("The gateway is stopping.", retry_after=2.0))
        door.end_all()
        await _until(lambda: not door.exchanges, _LAST_ANSWERS_S)

    async def _stop(self) -> None:
        door = self._door
        self._server.close()
        self._measuring.cancel()
        await door.snapshots.close()
        await door.queue.close()
        await door.recorder.close()  # from here on a crash loses nothing
        await self._redis.aclose()
        logger.info("gateway stopped")

    def _measure(self, loop: asyncio.AbstractEventLoop) -> None:
        self._measuring = loop.call_later(MEASURE_S, self._measure, loop)
        self._door.measure()

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        """Prepare a new snapshot whole, then swap to it; what is under way goes on with what it has."""
        door = self._door
        door.routes = build_routes(snapshot, previous=door.routes, make_context=door.recorder.context)
        door.authenticator = Authenticator(snapshot)
        door.queue.report_snapshot(snapshot.version)

    def _name_metrics(self, metrics: Metrics) -> None:
        door, server = self._door, self._server
        figures = door.recorder.figures
        metrics.gauges |= {
            "daybook_in_flight": ("Calls under way.", lambda: len(door.exchanges)),
            "daybook_connections": ("Open connections of callers.", lambda: len(server.connections)),
            "daybook_open_body_bytes": ("Bytes of request bodies held.", lambda: server.open_bytes),
            "daybook_snapshot_age_seconds": ("Since the snapshot was last confirmed.", lambda: door.snapshots.age_s),
            "daybook_snapshot_version": ("The snapshot that this gateway routes by.", lambda: door.snapshots.current.version),
            "daybook_workers": ("Live workers.", lambda: door.queue.live_workers),
            "daybook_journal_ready": ("Whether records become durable.", lambda: int(door.recorder.ready)),
        }
        metrics.counters |= {
            "daybook_records": ("Records made durable.", lambda: figures.records),
            "daybook_records_failed": ("Calls whose record could not be made durable.", lambda: figures.failed + figures.refused),
            "daybook_records_stalled": ("Connections closed because a sync took too long.", lambda: figures.stalled),
        }

    # Requests, as the server tells of them

    def begin(self, request: Request) -> None:
        """Route a call and let it in, or keep why not. Every way from here has a record, or says why there is none."""
        path = request.path
        if request.method == "POST" and (model := self._door.routes.predict.get(path)) is not None:
            self._admit(Exchange(request), model.predict)
        elif not (is_open(request) if path[:3].lower() != "/v1" else request.method == "OPTIONS"):
            self._admit(Exchange(request), None)

    def _admit(self, exchange: Exchange, route: Route | None) -> None:
        door, request = self._door, exchange.request
        request.state = exchange
        try:
            door.enter(exchange)
            if route is None:
                route = parse_route(request.method, request.path, door.routes.models)
            exchange.route, exchange.verb, exchange.model = route, route.verb, route.model
            exchange.target = door.routes.models.get(route.model)
            (predict if route.verb in _CALLS else reads).admit(door, exchange)
        except Exception as error:
            exchange.fault = error
            if request.declares_more_than(predict.READ_ANYWAY):
                request.refuse_body()
                door.refuse(exchange, error)

    def complete(self, request: Request) -> None:
        """Answer a call whose body is there."""
        exchange: Exchange | None = request.state
        if exchange is None:
            self._answer_openly(request)
        elif exchange.fault is not None:
            exchange.digest()
            self._door.refuse(exchange, exchange.fault)
        elif exchange.verb in _CALLS:
            predict.predict(self._door, exchange)
        else:
            self._door.spawn(reads.read(self._door, exchange))

    def fail(self, request: Request, error: GatewayError) -> None:
        exchange: Exchange = request.state or Exchange(request)
        self._door.refuse(exchange, error)

    def lost(self, request: Request) -> None:
        if request.state is not None:
            self._door.lose(request.state)

    def _answer_openly(self, request: Request) -> None:
        """Health, metrics and what browsers ask beforehand: these are not calls and leave no record."""
        door = self._door
        match request.path:
            case "/healthz":
                request.answer(200, _TEXT, b"ok\n")
            case "/readyz":
                found = self._health.look()
                request.answer(200 if found.is_ready else 503, _READINESS, found.encode())
            case "/metrics":
                request.answer(200, _METRICS, door.metrics.text())
            case "/monitoring/prometheus/metrics":
                request.answer(200, _METRICS, door.metrics.tensorflow_serving_text())
            case _:
                origin = request.headers.get("origin") or ""
                status = 200 if "http://" in origin or "https://" in origin else 400
                request.answer(status, make_lines(preflight_headers(origin, door.snapshots.current.site_origin)), b"")
        request.release()


_OPEN: Final = frozenset(("/healthz", "/readyz", "/metrics", "/monitoring/prometheus/metrics"))


def is_open(request: Request) -> bool:
    return request.path in _OPEN and request.method in ("GET", "HEAD")


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for it, so long and no longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(_DRAIN_LOOK_S)


def _allow_connections(number: int) -> None:
    """Raise the limit of open files to what is allowed us, where it is lower than what that many connections take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _keep_to_core(core: int) -> None:
    """Run all threads on one core. They take turns under the GIL anyway, and a core of one's own keeps its caches warm: at 64
    connections on two cores, half-plus-two went from 1,608 and 1,729 to 2,042 and 2,170 requests/s, a convolutional net (whose
    worker wants both cores) from 171 and 178 to 157 and 220."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended, or the core isn't ours
            os.sched_setaffinity(int(thread), {core})


def _keep_freed_memory() -> None:
    """Reuse the buffers of large bodies instead of giving them back to the kernel after each: page faults cost a third of decoding
    290 KB of JSON (1.5 ms with them, 1.06 without). What is kept is bounded by the trim threshold. Only glibc has this."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)
