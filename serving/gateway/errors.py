"""What the door itself refuses, and the one table from any error to its HTTP status.

    GatewayError
    ├── Unauthenticated     401  no key where one is needed, or one that is not valid
    ├── Forbidden           403  a valid key that may not do this
    ├── NotFound            404
    ├── MalformedRequest    400  method and path that the protocol doesn't have
    ├── BodyTooLarge        413
    ├── HeadTooLarge        431
    ├── BadEncoding         400  a gzip body that isn't one
    ├── BodyTooSlow         408
    ├── TooMany             429  the caller's own limit, or the door's (`retry_after`)
    ├── NotReady            503  loading, stopping, the daybook can't be written, the snapshot is too old (`retry_after`)
    ├── NotImplementedHere  501
    └── CallerGone          499  nobody is there to answer

`status_of` looks a class up along its method resolution order, first by class, then by the name of its google.rpc code: codecs,
engine and journal know nothing of HTTP.
"""

import math
from collections.abc import Mapping
from typing import Final

from audit.errors import LogStalled, LogUnavailable
from audit.record import Outcome
from serving.engine.errors import DeadlinePassed, EngineError, RunFailed
from serving.protocol.errors import ProtocolError


class GatewayError(Exception):
    """`message` is the answer's text. `retry_after`: seconds until it may be worth trying again, None when it isn't."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class Unauthenticated(GatewayError):
    pass


class Forbidden(GatewayError):
    pass


class NotFound(GatewayError):
    pass


class MalformedRequest(GatewayError):
    pass


class BodyTooLarge(GatewayError):
    pass


class HeadTooLarge(GatewayError):
    pass


class BadEncoding(GatewayError):
    pass


class BodyTooSlow(GatewayError):
    pass


class TooMany(GatewayError):
    pass


class NotReady(GatewayError):
    pass


class NotImplementedHere(GatewayError):
    pass


class CallerGone(GatewayError):
    pass


EXPECTED: Final = (GatewayError, ProtocolError, EngineError, LogUnavailable)

_BY_CLASS: Final[Mapping[type[BaseException], int]] = {
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MalformedRequest: 400,
    BodyTooLarge: 413,
    HeadTooLarge: 431,
    BadEncoding: 400,
    BodyTooSlow: 408,
    TooMany: 429,
    NotReady: 503,
    NotImplementedHere: 501,
    CallerGone: 499,
    LogUnavailable: 503,
}

# TensorFlow Serving, model_servers/http_server.cc.
_BY_CODE: Final[Mapping[str, int]] = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}

_OUTCOMES: Final[Mapping[int, Outcome]] = {429: "too_many", 499: "cancelled", 503: "unavailable", 504: "timeout"}


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for one that nobody foresaw."""
    for kind in type(error).__mro__:
        if (status := _BY_CLASS.get(kind)) is not None:
            return status
    return _BY_CODE.get(code_of(error), 500)


def code_of(error: BaseException) -> str:
    """The name of the error's google.rpc code."""
    code = getattr(error, "code", None)
    if code is None:
        return _CODE_OF_STATUS.get(status_of(error), "UNKNOWN") if isinstance(error, GatewayError | LogUnavailable) else "INTERNAL"
    return code if isinstance(code, str) else str(code.name)


_CODE_OF_STATUS: Final = {status: name for name, status in reversed(tuple(_BY_CODE.items()))} | {
    408: "DEADLINE_EXCEEDED",
    413: "OUT_OF_RANGE",
    431: "OUT_OF_RANGE",
}


def text_of(error: BaseException) -> str:
    """What the caller reads. Of an error that nobody foresaw only that it happened."""
    if isinstance(error, LogStalled):
        return "The daybook doesn't answer."
    if isinstance(error, LogUnavailable):
        return f"The daybook can't be written, so no prediction can be given: {error}"
    if isinstance(error, DeadlinePassed):
        return f"Deadline exceeded: {error.message}"
    if isinstance(error, EXPECTED):
        return str(getattr(error, "message", error))
    return "An error inside the gateway. It has been logged."


def outcome_of(error: BaseException, status: int) -> Outcome:
    """The word for it in the record."""
    if isinstance(error, RunFailed) and status not in _OUTCOMES:
        return "model_error"
    if isinstance(error, EngineError) and status >= 500 and status not in _OUTCOMES:
        return "model_error"
    return _OUTCOMES.get(status, "rejected" if status < 500 or status == 501 else "unavailable")


def retry_after_of(error: BaseException, status: int) -> int | None:
    """Whole seconds for `Retry-After`, on every 429 and 503."""
    if status not in (429, 503):
        return None
    seconds = getattr(error, "retry_after", None)
    return max(1, math.ceil(seconds)) if isinstance(seconds, int | float) else 1
