"""What all handlers share: the parts of a running gateway, admission, refusals, and answers that are durable before they leave."""

import asyncio
import logging
import time
from binascii import hexlify
from collections.abc import Coroutine
from typing import Any, Final

from audit.errors import LogStalled, LogUnavailable
from audit.recorder import Committed, Recorder
from serving.engine.errors import EngineError
from serving.protocol.tfs_status import encode_error
from serving.queue import RequestQueue

from .auth import Authenticator
from .errors import (
    EXPECTED,
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
from .http import GZIP_ANSWER_FROM, JSON, cors_headers, gzip_answer, takes_gzip
from .limits import Limiter
from .metrics import Metrics
from .options import GatewayOptions
from .predictions import Predictions
from .routing import ModelRoute, Routes
from .server import Headers, make_lines
from .snapshots import SnapshotHolder
from .trace import format_trace

logger = logging.getLogger(__name__)

MEASURE_S: Final = 0.5
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
        metrics: Metrics,
    ) -> None:
        self.options = options
        self.loop = loop
        self.recorder = recorder
        self.queue = queue
        self.snapshots = snapshots
        self.limiter = limiter
        self.metrics = metrics
        self.predictions = Predictions(loop)
        self.routes = Routes()
        self.authenticator = Authenticator()
        self.stopping = False
        self.exchanges: dict[Exchange, None] = {}  # under way, oldest first
        self._measured_s = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on beside the loop's callbacks. It handles its own errors."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        """The call is over: give back all that it took."""
        self.exchanges.pop(exchange, None)
        if exchange.meter is not None:
            Limiter.leave(exchange.meter)
            exchange.meter = None
        exchange.request.state = None
        exchange.request.release()

    def deadline_us(self, exchange: Exchange, timeout_ms: int) -> int:
        """When the answer is too late: the deployment's timeout, or the caller's shorter one; Redis' time."""
        asked = exchange.request.headers.get("daybook-timeout-ms")
        if asked is not None and asked.isdecimal() and len(asked) < 10:
            timeout_ms = min(timeout_ms, int(asked))
        spent_us = (time.monotonic_ns() - exchange.started_ns) // 1000
        return self.queue.server_now_us() + min(timeout_ms, _MAX_TIMEOUT_MS) * 1000 - spent_us

    # Answers

    def answer_at_once(self, exchange: Exchange, committed: Committed, body: bytes) -> bool:
        """Send `body`, whose record is durable, and end the call; False, and nothing is done, when it's to be compressed first."""
        if len(body) >= GZIP_ANSWER_FROM and takes_gzip(exchange.request.headers):
            return False
        exchange.request.answer(200, self._answer_head(exchange, committed), body)
        self.leave(exchange)
        return True

    async def answer(self, exchange: Exchange, committed: Committed, body: bytes) -> None:
        """Send `body`, whose record is durable, compressed where that is worth it, and end the call."""
        if not self.answer_at_once(exchange, committed, body):
            head = self._answer_head(exchange, committed) + b"content-encoding: gzip\r\nvary: Accept-Encoding\r\n"
            exchange.request.answer(200, head, await gzip_answer(body))
            self.leave(exchange)

    def _answer_head(self, exchange: Exchange, committed: Committed) -> bytes:
        head = _ANSWER_HEAD % (
            _record_lines(committed),
            exchange.server_timing(committed.commit_us),
            format_trace(exchange.trace, exchange.flags, exchange.record_id),
        )
        return head if exchange.origin is None else head + make_lines(cors_headers(exchange.origin, self.snapshots.current.site_origin))

    def refuse(self, exchange: Exchange, error: BaseException) -> None:
        """Record what went wrong and say so, once both can be done."""
        if not isinstance(error, (*EXPECTED, LogStalled)):
            logger.error("handler failed", exc_info=error, extra={"path": exchange.request.path[:200], "record": exchange.record_id.hex()})
        self.spawn(self._refuse(exchange, error))

    async def _refuse(self, exchange: Exchange, error: BaseException) -> None:
        """Whatever fails here ends in an answer without a record, or in a closed connection."""
        try:
            await self._record_and_refuse(exchange, error)
        except LogStalled:
            # Nobody knows whether the record is durable, so nothing may be said: the caller sees the connection end.
            logger.error("connection closed unanswered", extra={"record": exchange.record_id.hex()})
            exchange.request.abort()
        finally:
            self.leave(exchange)

    async def _record_and_refuse(self, exchange: Exchange, error: BaseException) -> None:
        """Raises LogStalled."""
        if isinstance(error, LogStalled):
            raise error
        status, code, text = status_of(error), code_of(error), text_of(error)
        self.metrics.refuse(exchange.model if exchange.model in self.routes.models else "unknown", status, code)
        record = b""
        if not isinstance(error, LogUnavailable):
            try:
                committed = await self._record_refusal(exchange, error, status, text)
            except LogUnavailable as unavailable:
                if status < 500:
                    error, status, code, text = unavailable, 503, code_of(unavailable), text_of(unavailable)
            else:
                record = _record_lines(committed) + b"server-timing: %b\r\n" % exchange.server_timing(committed.commit_us)
        headers: Headers = [JSON, ("daybook-error", code)]
        retry_after = self._retry_after(exchange, error, status)
        if retry_after is not None:
            headers.append(("retry-after", str(retry_after)))
        if status == 401:
            headers.append(("www-authenticate", 'Bearer realm="daybook"'))
        if exchange.origin is not None:
            headers += cors_headers(exchange.origin, self.snapshots.current.site_origin)
        trace = b"traceparent: %b\r\n" % format_trace(exchange.trace, exchange.flags, exchange.record_id)
        exchange.request.answer(status, make_lines(headers) + record + trace, encode_error(text))

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

    # Callers who leave, and what takes long

    def lose(self, exchange: Exchange) -> None:
        """The caller has left: what a model has not begun for it, no model will begin."""
        if exchange.waiting is not None:
            exchange.gone = True
            self.queue.cancel(exchange.record_id)

    def measure(self) -> None:
        """Learn how fast models answer. Called every `MEASURE_S`."""
        now = time.monotonic()
        for model in self.routes.models.values():
            model.in_flight.measure(now - self._measured_s, _BUSY_FROM)
        self._measured_s = now

    def end_all(self) -> None:
        """The grace is over: answer 503 to what is still under way."""
        for exchange in list(self.exchanges):
            if (waiting := exchange.waiting) is not None:
                waiting.set_exception(NotReady("The gateway is stopping.", retry_after=2.0))
                self.queue.cancel(exchange.record_id)


_ANSWER_HEAD: Final = b"content-type: application/json\r\n%bserver-timing: %b\r\ntraceparent: %b\r\n"


def _record_lines(committed: Committed) -> bytes:
    record = hexlify(committed.record_id)
    return b"daybook-record: %b-%b-%b-%b-%b\r\ndaybook-leaf: %b\r\ndaybook-receipt: %b\r\n" % (
        record[:8],
        record[8:12],
        record[12:16],
        record[16:20],
        record[20:],
        hexlify(committed.leaf_hash),
        committed.receipt(),
    )
