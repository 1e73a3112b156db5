"""What all handlers share: the parts of a running gateway, admission, refusals, and answers that are durable before they leave."""

import asyncio
import logging
import time
from typing import Final

from audit.errors import LogStalled, LogUnavailable
from audit.recorder import Committed, Recorder
from serving.engine.errors import EngineError
from serving.protocol.tfs_status import encode_error
from serving.queue import RequestQueue

from .auth import Authenticator
from .errors import (
    CallerGone,
    NotReady,
    TooMany,
    Unauthenticated,
    code_of,
    outcome_of,
    retry_after_of,
    status_of,
    text_of,
)
from .exchange import Exchange
from .http import GZIP_ANSWER_FROM, JSON, Bodies, close_unanswered, cors_headers, gzip_answer, takes_gzip
from .limits import Limiter
from .metrics import Metrics
from .options import GatewayOptions
from .predictions import Predictions
from .routing import ModelRoute, Routes
from .snapshots import SnapshotHolder

logger = logging.getLogger(__name__)

WATCH_S: Final = 0.05  # calls older than this are watched for their caller's leaving
_MEASURE_EVERY: Final = 10  # watches
_BUSY_FROM: Final = 64  # calls of one model under way
_MAX_TIMEOUT_MS: Final = 3_600_000


class Door:
    """One gateway's running parts. Everything belongs to the loop."""

    def __init__(
        self,
        *,
        options: GatewayOptions,
        loop: asyncio.AbstractEventLoop,
        recorder: Recorder,
        queue: RequestQueue,
        snapshots: SnapshotHolder,
        limiter: Limiter,
        bodies: Bodies,
        metrics: Metrics,
    ) -> None:
        self.options = options
        self.loop = loop
        self.recorder = recorder
        self.queue = queue
        self.snapshots = snapshots
        self.limiter = limiter
        self.bodies = bodies
        self.metrics = metrics
        self.predictions = Predictions(loop)
        self.routes = Routes()
        self.authenticator = Authenticator()
        self.stopping = False
        self.exchanges: dict[Exchange, None] = {}  # under way, oldest first
        self._watches = 0
        self._measured_s = time.monotonic()

    # Admission

    def enter(self, exchange: Exchange) -> None:
        """Take a place for a call. Raises NotReady, TooMany."""
        if self.stopping:
            raise NotReady("The gateway is stopping.", retry_after=2.0)
        if not self.snapshots.current.version:
            raise NotReady("The gateway has not been told yet what it serves.", retry_after=1.0)
        if refused := self.recorder.backlog_refused:
            raise NotReady(f"The daybook can't take new records: {refused}", retry_after=5.0)
        if not self.recorder.ready:
            raise NotReady("The daybook can't be written, so no prediction can be given.", retry_after=2.0)
        if len(self.exchanges) >= self.options.max_in_flight:
            raise TooMany("The gateway has as many calls under way as it takes.", retry_after=1.0)
        self.exchanges[exchange] = None

    def find_overload(self, model: ModelRoute) -> TooMany | None:
        """Why one more call of this model is too many: its share of places is taken, or it would wait beyond its timeout.

        The first keeps other models' callers served; the second keeps answers worth having when more is asked than can be done.
        """
        under_way = model.in_flight
        if under_way.count >= self.options.max_in_flight_per_model:
            return TooMany(
                f"The model {model.deployment.name} has as many calls under way as it takes.", retry_after=under_way.wait_s() / 2
            )
        if under_way.count >= _BUSY_FROM and (wait_s := under_way.wait_s()) * 1000 > model.deployment.timeout_ms:
            return TooMany(
                f"The model {model.deployment.name} has more calls waiting than it answers in time.",
                retry_after=wait_s - model.deployment.timeout_ms / 1000,
            )
        return None

    def leave(self, exchange: Exchange) -> None:
        self.exchanges.pop(exchange, None)
        self.bodies.release(exchange.body)
        if exchange.watcher is not None:
            exchange.watcher.cancel()

    def deadline_us(self, exchange: Exchange, timeout_ms: int) -> int:
        """When the answer is too late: the deployment's timeout, or the caller's shorter one; Redis' time."""
        asked = exchange.scope.headers.get("daybook-timeout-ms")
        if asked is not None and asked.isdecimal() and len(asked) < 10:
            timeout_ms = min(timeout_ms, int(asked))
        spent_us = (time.monotonic_ns() - exchange.started_ns) // 1000
        return self.queue.server_now_us() + min(timeout_ms, _MAX_TIMEOUT_MS) * 1000 - spent_us

    # Answers

    def answer_at_once(self, exchange: Exchange, committed: Committed, body: bytes, *, status: int = 200) -> bool:
        """Send `body`, whose record is durable; False, and nothing is sent, when it's to be compressed first."""
        if len(body) >= GZIP_ANSWER_FROM and takes_gzip(exchange.scope.headers):
            return False
        exchange.protocol.response_bytes(status, self._answer_headers(exchange, committed), body)
        return True

    async def answer(self, exchange: Exchange, committed: Committed, body: bytes, *, status: int = 200) -> None:
        """Send `body`, whose record is durable, compressed where that is worth it."""
        if not self.answer_at_once(exchange, committed, body, status=status):
            headers = [*self._answer_headers(exchange, committed), ("content-encoding", "gzip"), ("vary", "Accept-Encoding")]
            exchange.protocol.response_bytes(status, headers, await gzip_answer(body))

    def _answer_headers(self, exchange: Exchange, committed: Committed) -> list[tuple[str, str]]:
        headers = [
            JSON,
            *self._record_headers(committed),
            ("server-timing", exchange.server_timing(committed.commit_us)),
            ("traceparent", exchange.traceparent),
        ]
        if exchange.origin is not None:
            headers += cors_headers(exchange.origin, self.snapshots.current.site_origin)
        return headers

    async def refuse(self, exchange: Exchange, error: BaseException) -> None:
        """Record what went wrong and say so. Whatever fails here ends in an answer without a record, or in a closed connection."""
        if isinstance(error, LogStalled):
            self._close(exchange)
            return
        status, code, text = status_of(error), code_of(error), text_of(error)
        self.metrics.refuse(exchange.model if exchange.model in self.routes.models else "unknown", status, code)
        headers = [JSON, ("daybook-error", code), ("traceparent", exchange.traceparent)]
        if not isinstance(error, LogUnavailable):
            try:
                committed = await self._record_refusal(exchange, error, status, text)
            except LogStalled:
                self._close(exchange)
                return
            except LogUnavailable as unavailable:
                if status < 500:
                    error, status, code, text = unavailable, 503, code_of(unavailable), text_of(unavailable)
                    headers[1] = ("daybook-error", code)
            else:
                headers += self._record_headers(committed)
                headers.append(("server-timing", exchange.server_timing(committed.commit_us)))
        if isinstance(error, CallerGone) or exchange.gone:
            exchange.protocol.response_empty(499, [])  # nobody reads it; the server wants an end
            return
        retry_after = self._retry_after(exchange, error, status)
        if retry_after is not None:
            headers.append(("retry-after", str(retry_after)))
        if status == 401:
            headers.append(("www-authenticate", 'Bearer realm="daybook"'))
        if status in (408, 413) and exchange.scope.http_version.startswith("1"):
            headers.append(("connection", "close"))  # what is left of the body is not worth reading
        if exchange.origin is not None:
            headers += cors_headers(exchange.origin, self.snapshots.current.site_origin)
        exchange.protocol.response_bytes(status, headers, encode_error(text))

    def _record_refusal(self, exchange: Exchange, error: BaseException, status: int, text: str) -> "asyncio.Future[Committed]":
        outcome = "cancelled" if exchange.gone else outcome_of(error, status)
        call = exchange.call(outcome=outcome, status=499 if exchange.gone else status, error=text)
        if isinstance(error, Unauthenticated) or not exchange.has_caller:
            return self.recorder.aggregate_refusal(call)
        return self.recorder.refuse(call)

    def _retry_after(self, exchange: Exchange, error: BaseException, status: int) -> int | None:
        if status in (429, 503) and isinstance(error, EngineError) and exchange.servable is not None:
            seconds = self.queue.retry_after(exchange.servable.stream, error)
            return max(1, int(seconds + 0.999))
        return retry_after_of(error, status)

    @staticmethod
    def _record_headers(committed: Committed) -> list[tuple[str, str]]:
        record = committed.record_id.hex()
        return [
            ("daybook-record", f"{record[:8]}-{record[8:12]}-{record[12:16]}-{record[16:20]}-{record[20:]}"),
            ("daybook-leaf", committed.leaf_hash.hex()),
            ("daybook-receipt", committed.receipt()),
        ]

    def _close(self, exchange: Exchange) -> None:
        """Nobody knows whether the record is durable, so nothing may be said: the caller sees the connection end."""
        logger.error("connection closed unanswered", extra={"record": exchange.record_id.hex()})
        if not close_unanswered(exchange.scope.client):
            logger.error("connection not found", extra={"client": exchange.scope.client})

    # Callers who leave

    def watch(self) -> None:
        """Look after calls that take long. Called every `WATCH_S`; most calls are over before they are looked at once."""
        self._watches += 1
        if self._watches % _MEASURE_EVERY == 0:
            now = time.monotonic()
            for model in self.routes.models.values():
                model.in_flight.measure(now - self._measured_s, _BUSY_FROM)
            self._measured_s = now
        oldest_ns = time.monotonic_ns() - int(WATCH_S * 1e9)
        for exchange in list(self.exchanges):
            if exchange.started_ns > oldest_ns:
                break
            if exchange.watcher is None and exchange.waiting is not None:
                exchange.watcher = self.loop.create_task(self._watch(exchange))

    async def _watch(self, exchange: Exchange) -> None:
        await exchange.protocol.client_disconnect()
        if exchange.waiting is not None:
            exchange.gone = True
            self.queue.cancel(exchange.record_id)

    def end_all(self) -> None:
        """The grace is over: answer 503 to what is still under way."""
        for exchange in list(self.exchanges):
            if (waiting := exchange.waiting) is not None:
                waiting.set_exception(NotReady("The gateway is stopping.", retry_after=2.0))
                self.queue.cancel(exchange.record_id)
