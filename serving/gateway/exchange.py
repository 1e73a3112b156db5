"""One call from its head to its answer: what the door learns of it on the way, and the record made of that."""

import time
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from audit import ids
from audit.record import Call, Outcome
from serving.protocol.messages import Timing
from serving.snapshot import Deployment

from .auth import NO_LIMITS, Caller, address_of, truncate_address
from .server import Request
from .trace import parse_trace

if TYPE_CHECKING:
    from .limits import Meter
    from .predictions import Prediction
    from .routing import ModelRoute, Route, ServableRoute

NO_TIMING: Final = Timing()
ANONYMOUS: Final = Caller("anonymous", "", NO_LIMITS)  # until somebody was asked
_NO_BODY: Final = b""
_MAX_ADDRESSES: Final = 10_000


class Exchange:
    """A call under way. Owned by the loop."""

    __slots__ = (
        "body_sha256",
        "caller",
        "data",
        "fault",
        "flags",
        "gone",
        "has_caller",
        "meter",
        "model",
        "origin",
        "record_id",
        "request",
        "route",
        "rows",
        "servable",
        "signature",
        "started_ns",
        "target",
        "timing",
        "trace",
        "verb",
        "version",
        "waiting",
    )

    route: "Route"

    def __init__(self, request: Request) -> None:
        self.started_ns = request.started_ns
        self.record_id = ids.new_id()
        self.request = request
        headers = request.headers
        found = parse_trace(headers["traceparent"]) if "traceparent" in headers else None
        self.trace, self.flags = found if found is not None else (self.record_id, b"00")
        self.origin = headers.get("origin")
        self.data = b""  # the body, decompressed
        self.body_sha256 = _NO_BODY
        self.caller = ANONYMOUS
        self.has_caller = False
        self.verb = ""
        self.model = ""
        self.target: ModelRoute | None = None  # the model that exists by that name
        self.version: int | None = None
        self.signature = ""
        self.servable: ServableRoute | None = None
        self.rows = 0
        self.timing = NO_TIMING
        self.meter: Meter | None = None  # of a caller with limits: the place that this call takes
        self.fault: BaseException | None = None  # found at the head, to be told once the body is read
        self.gone = False  # the caller has left
        self.waiting: Prediction | None = None  # while the model's reply is awaited

    @property
    def lacks_lease(self) -> bool:
        """Whether the caller's limits could not be told at once."""
        return self.meter is None and self.caller.has_limits

    def digest(self) -> None:
        """What the record says of the body as it was received."""
        self.body_sha256 = sha256(self.request.body).digest()

    def call(
        self,
        *,
        outcome: Outcome,
        status: int,
        error: str = "",
        request: bytes | None = None,
        response: bytes | None = None,
        response_bytes: int = 0,
        answer: str = "",
    ) -> Call:
        """The record. Its time is taken now: what follows is the journal's."""
        caller, timing, servable = self.caller, self.timing, self.servable
        return Call(
            record_id=self.record_id,
            received_us=ids.time_us(self.record_id),
            protocol="try_it" if caller.actor_type == "try-it" else "tfs_rest",
            verb=self.verb,
            # Callers invent names, and figures are kept by name: what isn't served here stands in the error's text only.
            model=self.model if self.target is not None else "",
            version=self.version,
            signature=self.signature,
            context=servable.context if servable is not None else None,
            artifact=servable.artifact if servable is not None else None,
            outcome=outcome,
            status=status,
            error=error,
            actor_type=caller.actor_type,
            key_prefix=caller.key_prefix,
            application=caller.application,
            user=caller.user,
            address=truncated(self.request.client),
            trace=self.trace if self.trace is not self.record_id else None,  # a trace that begins here is named by its record
            request=request,
            response=response,
            body_sha256=self.body_sha256,
            request_bytes=len(self.request.body),
            response_bytes=response_bytes,
            rows=self.rows,
            total_us=(time.monotonic_ns() - self.started_ns) // 1000,
            queue_us=timing.queue_us,
            model_us=timing.model_us,
            batch_id=timing.batch_id,
            batch_size=timing.batch_size,
            batch_index=timing.batch_index,
            worker=timing.worker,
            device=timing.device,
            answer=answer,
        )

    def server_timing(self, commit_us: int) -> bytes:
        """`Server-Timing`, milliseconds. What the batch took is the model's time."""
        timing = self.timing
        total_us = (time.monotonic_ns() - self.started_ns) // 1000
        if timing is NO_TIMING:
            return b"commit;dur=%.3f, total;dur=%.3f" % (commit_us / 1000, total_us / 1000)
        return b'queue;dur=%.3f, batch;desc="%d rows", model;dur=%.3f, commit;dur=%.3f, total;dur=%.3f' % (
            timing.queue_us / 1000,
            timing.batch_size,
            timing.model_us / 1000,
            commit_us / 1000,
            total_us / 1000,
        )


_addresses: dict[str, str] = {}  # host → truncated; owned by the loop


def truncated(client: str) -> str:
    host = client.rpartition(":")[0]
    found = _addresses.get(host)
    if found is None:
        if len(_addresses) >= _MAX_ADDRESSES:
            _addresses.clear()
        found = _addresses[host] = truncate_address(address_of(client))
    return found


def answer_in_words(deployment: Deployment, outputs: Mapping[str, "np.ndarray[Any, Any]"], rows: int) -> str:
    """What the model said, for the record list; empty unless the deployment declares which output is the answer.

    Scores with a label each give the likeliest label, one value a row gives that value; of several rows the first, and how many
    more there are.
    """
    name = deployment.answer_output
    array = outputs.get(name) if name else None
    if array is None or array.size == 0:
        return ""
    first = array[0] if array.ndim else array
    text = _row_in_words(first, deployment.answer_labels)
    more = (array.shape[0] if array.ndim else 1) - 1
    return f"{text} (+{more})" if text and more and rows != 1 else text


def _row_in_words(row: Any, labels: tuple[str, ...]) -> str:
    values = np.asarray(row, object if isinstance(row, bytes) else None).reshape(-1)
    if values.dtype.kind == "O":
        return values[0].decode("utf-8", "replace")[:100] if len(values) == 1 and isinstance(values[0], bytes) else ""
    if labels and len(values) == len(labels) and len(values) > 1:
        place = int(np.argmax(values))
        return f"{labels[place]} {float(values[place]):.2f}" if values.dtype.kind == "f" else labels[place]
    if len(values) != 1:
        return f"class {int(np.argmax(values))}" if len(values) <= 1000 and values.dtype.kind == "f" else ""
    value = values[0]
    if labels and values.dtype.kind in "iu" and 0 <= int(value) < len(labels):
        return labels[int(value)]
    return _number_in_words(value)


def _number_in_words(value: Any) -> str:
    """The shortest text that gives the same value in its own precision."""
    if isinstance(value, np.floating) and 1e-4 <= abs(value) < 1e16:
        return np.format_float_positional(value, unique=True, trim="-")
    return str(value).removesuffix(".0")
