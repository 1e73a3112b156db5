"""One call from its head to its answer: what the door learns of it on the way, and the record made of that."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from audit import ids
from audit.record import Call, Outcome
from serving.protocol.messages import Timing
from serving.snapshot import Deployment

from .auth import NO_LIMITS, Caller, address_of, truncate_address
from .http import Body, HTTPProtocol, Scope, content_length
from .trace import format_trace, parse_trace

if TYPE_CHECKING:
    from .predictions import Prediction
    from .routing import ServableRoute

NO_TIMING: Final = Timing()
ANONYMOUS: Final = Caller("anonymous", "", NO_LIMITS)  # until somebody was asked
_NO_BODY: Final = b""
_MAX_ADDRESSES: Final = 10_000


class Exchange:
    """A call under way. Owned by the task that answers it."""

    __slots__ = (
        "body",
        "body_sha256",
        "caller",
        "flags",
        "gone",
        "has_caller",
        "model",
        "origin",
        "protocol",
        "record_id",
        "rows",
        "scope",
        "servable",
        "signature",
        "started_ns",
        "timing",
        "trace",
        "verb",
        "version",
        "waiting",
        "watcher",
    )

    def __init__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        self.started_ns = time.monotonic_ns()
        self.record_id = ids.new_id()
        self.scope = scope
        self.protocol = protocol
        headers = scope.headers
        found = parse_trace(headers.get("traceparent"))
        self.trace, self.flags = found if found is not None else (self.record_id, "00")
        self.origin = headers.get("origin")
        self.body = Body()
        self.body_sha256 = _NO_BODY
        self.caller = ANONYMOUS
        self.has_caller = False
        self.verb = ""
        self.model = ""
        self.version: int | None = None
        self.signature = ""
        self.servable: ServableRoute | None = None
        self.rows = 0
        self.timing = NO_TIMING
        self.gone = False  # the caller has left
        self.waiting: Prediction | None = None  # while the model's reply is awaited
        self.watcher: Any = None  # the task that waits for the caller to leave

    def declares_more_than(self, size: int) -> bool:
        declared = content_length(self.scope.headers)
        return declared is None or declared > size

    @property
    def traceparent(self) -> str:
        return format_trace(self.trace, self.flags, self.record_id)

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
            model=self.model,
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
            address=truncated(self.scope.client),
            trace=self.trace,
            request=request,
            response=response,
            body_sha256=self.body_sha256,
            request_bytes=len(self.body.received),
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

    def server_timing(self, commit_us: int) -> str:
        """`Server-Timing`, milliseconds. What the batch took is the model's time."""
        timing = self.timing
        total_us = (time.monotonic_ns() - self.started_ns) // 1000
        if timing is NO_TIMING:
            return f"commit;dur={commit_us / 1000:.3f}, total;dur={total_us / 1000:.3f}"
        return (
            f'queue;dur={timing.queue_us / 1000:.3f}, batch;desc="{timing.batch_size} rows", model;dur={timing.model_us / 1000:.3f}, '
            f"commit;dur={commit_us / 1000:.3f}, total;dur={total_us / 1000:.3f}"
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
    return f"{float(value):.4g}" if values.dtype.kind == "f" else str(value)
