"""The gateway as an RSGI application: start, dispatch, stop.

Granian starts one worker process with one event loop, calls `__rsgi_init__` before it listens and `__rsgi_del__` after the last
answer. On SIGTERM it stops listening and waits for what is under way by itself; we end that after the grace, refuse what comes in
on connections that are still open, and close the journal.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import redis.asyncio

from audit.recorder import Recorder, RecorderOptions
from serving.queue import QueueOptions, RequestQueue
from serving.snapshot import Snapshot

from .auth import Authenticator
from .door import WATCH_S, Door
from .errors import EXPECTED
from .exchange import Exchange
from .health import readiness
from .http import JSON, Bodies, BodyLimits, HTTPProtocol, Scope, preflight_headers
from .limits import Limiter
from .metrics import CONTENT_TYPE, Metrics
from .options import GatewayOptions
from .predict import predict
from .reads import read
from .routing import Route, build_routes, parse_route
from .snapshots import SnapshotHolder

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_MALLOPT: Final = {-1: 128 << 20, -2: 16 << 20, -3: 32 << 20}  # trim threshold, top pad, mmap threshold
_TEXT: Final = ("content-type", "text/plain; charset=utf-8")


class Gateway:
    """The application. One per process; everything belongs to the loop that `__rsgi_init__` is given."""

    def __init__(self, options: GatewayOptions, make_recorder: Callable[[RecorderOptions], Recorder] = Recorder) -> None:
        """make_recorder: another one than the daybook's, for measuring what the daybook costs (`bench/unrecorded.py`)."""
        self._options = options
        self._make_recorder = make_recorder
        self._door: Door
        self._redis: redis.asyncio.Redis
        self._watch_handle: asyncio.TimerHandle | None = None

    # Life

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        _die_with_parent()
        _keep_freed_memory()
        loop.run_until_complete(self._start(loop))
        # Beside Granian's own handler, which uvloop keeps: both run.
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # What is alive now stays alive: the collector need not look at it again (190 ms pauses without this). Calls leave few cycles
        # behind, so it may also come less often than after every 700 objects, which are those of ten calls.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self._stop())

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
        limits = BodyLimits(options.max_body_bytes, options.max_open_bytes, options.body_timeout_s)
        self._door = Door(
            options=options,
            loop=loop,
            recorder=recorder,
            queue=queue,
            snapshots=snapshots,
            limiter=Limiter(self._redis, options.prefix, lambda: queue.num_gateways),
            bodies=Bodies(limits, loop),
            metrics=metrics,
        )
        self._name_metrics(metrics)
        await snapshots.start()
        self._watch_handle = loop.call_later(WATCH_S, self._watch, loop)
        logger.info("gateway started", extra={"gateway": options.gateway_id, "snapshot": snapshots.current.version})

    async def _stop(self) -> None:
        door = self._door
        door.stopping = True
        if self._watch_handle is not None:
            self._watch_handle.cancel()
        await door.snapshots.close()
        await door.queue.close()
        await door.recorder.close()  # from here on a crash loses nothing
        await self._redis.aclose()
        logger.info("gateway stopped")

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        self._door.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        door = self._door
        if not door.stopping:
            door.stopping = True
            logger.info("gateway draining", extra={"in_flight": len(door.exchanges), "grace_s": self._options.grace_s})
            door.loop.call_later(self._options.grace_s, door.end_all)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch_handle = loop.call_later(WATCH_S, self._watch, loop)
        self._door.watch()

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        """Prepare a new snapshot whole, then swap to it; what is under way goes on with what it has."""
        door = self._door
        door.routes = build_routes(snapshot, previous=door.routes, make_context=door.recorder.context)
        door.authenticator = Authenticator(snapshot)
        door.queue.report_snapshot(snapshot.version)

    def _name_metrics(self, metrics: Metrics) -> None:
        door = self._door
        figures = door.recorder.figures
        metrics.gauges |= {
            "daybook_in_flight": ("Calls under way.", lambda: len(door.exchanges)),
            "daybook_open_body_bytes": ("Bytes of request bodies held.", lambda: door.bodies.open_bytes),
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

    # Requests

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        door = self._door
        path = scope.path
        if scope.method == "POST" and (model := door.routes.predict.get(path)) is not None:
            await self._answer(Exchange(scope, protocol), model.predict)
        elif path[:4].lower() == "/v1/" or path.lower() == "/v1":
            if scope.proto != "http":
                protocol.close(403)  # type: ignore[attr-defined]  # a WebSocket's protocol has this instead
            elif scope.method == "OPTIONS":
                self._preflight(scope, protocol)
            else:
                await self._answer(Exchange(scope, protocol), None)
        else:
            await self._other(scope, protocol, path)

    async def _answer(self, exchange: Exchange, route: Route | None) -> None:
        """Route, answer or refuse. Every way out of here has a record, or says why there is none."""
        door = self._door
        try:
            door.enter(exchange)
            if route is None:
                route = parse_route(exchange.scope.method, exchange.scope.path, door.routes.models)
            exchange.verb, exchange.model = route.verb, route.model
            model = door.routes.models.get(route.model)
            handler = predict if route.verb in _CALLS else read
            await handler(door, exchange, route, model)
        except EXPECTED as error:
            await door.refuse(exchange, error)
        except Exception as error:
            logger.exception("handler failed", extra={"path": exchange.scope.path[:200], "record": exchange.record_id.hex()})
            await door.refuse(exchange, error)
        finally:
            door.leave(exchange)

    async def _other(self, scope: Scope, protocol: Any, path: str) -> None:
        """Outside `/v1/`: health and metrics, which are not calls and leave no record; all else is refused."""
        if scope.proto != "http":
            protocol.close(403)
            return
        if scope.method in ("GET", "HEAD"):
            door = self._door
            match path:
                case "/healthz":
                    protocol.response_bytes(200, [_TEXT], b"ok\n")
                    return
                case "/readyz":
                    found = readiness(door)
                    protocol.response_bytes(200 if found.is_ready else 503, [JSON, ("cache-control", "no-store")], found.encode())
                    return
                case "/metrics":
                    protocol.response_bytes(200, [("content-type", CONTENT_TYPE)], door.metrics.text())
                    return
                case "/monitoring/prometheus/metrics":
                    protocol.response_bytes(200, [("content-type", CONTENT_TYPE)], door.metrics.tensorflow_serving_text())
                    return
        await self._answer(Exchange(scope, protocol), None)

    def _preflight(self, scope: Scope, protocol: HTTPProtocol) -> None:
        origin = scope.headers.get("origin") or ""
        status = 200 if "http://" in origin or "https://" in origin else 400
        protocol.response_bytes(status, preflight_headers(origin, self._door.snapshots.current.site_origin), b"")


_CALLS: Final = frozenset(("predict", "classify", "regress"))


def _die_with_parent() -> None:
    """Stop when Granian's main process dies: a worker without one would go on answering on a port that somebody else wants."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGTERM)


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
