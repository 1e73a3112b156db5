"""HTTP as RSGI gives it: the request's body within bounds, the answer's headers, and closing a connection without an answer."""

import asyncio
import contextlib
import gzip
import os
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .auth import Headers
from .errors import BadEncoding, BodyTooLarge, BodyTooSlow, CallerGone, TooMany

JSON: Final = ("content-type", "application/json")

GZIP_ANSWER_FROM: Final = 2048
_INFLATE_IN_THREAD: Final = 8 * 1024  # which may hold a thousand times as much
_DEFLATE_IN_THREAD: Final = 128 * 1024


class Scope(Protocol):
    """One request's head. Granian's class; `path` is percent-decoded and without the query."""

    proto: str
    http_version: str  # "1", "1.1", "2"
    method: str
    path: str
    query_string: str
    client: str

    @property
    def headers(self) -> Headers: ...


class HTTPProtocol(Protocol):
    """One request's body and answer. Granian's class."""

    def __call__(self) -> Awaitable[bytes]: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def client_disconnect(self) -> Awaitable[None]: ...
    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None: ...
    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class BodyLimits:
    max_body_bytes: int
    max_open_bytes: int
    timeout_s: float


class Body:
    """One body while it is held: `received` as it came, `data` after decompression."""

    __slots__ = ("data", "held", "received")

    def __init__(self) -> None:
        self.received = b""
        self.data = b""
        self.held = 0


class Bodies:
    """Reads bodies, in chunks, within limits on each and on all of them together. Owned by the loop.

    A body is given up by cancelling the task that reads it: one timer for all, because a timer for each would cost as much as
    reading a small one.
    """

    def __init__(self, limits: BodyLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self.open_bytes = 0
        self._reading: dict[asyncio.Task[Any], float] = {}  # by task, when it is late; in that order
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, headers: Headers, protocol: HTTPProtocol, body: Body) -> None:
        """Fill `body`; `release` it in any case. Raises BodyTooLarge, BodyTooSlow, TooMany, BadEncoding, CallerGone."""
        declared = content_length(headers)
        if declared is not None:
            self._hold(body, declared)
        task = asyncio.current_task()
        assert task is not None
        self._reading[task] = self._loop.time() + self._limits.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.timeout_s, self._give_up)
        try:
            body.received = await protocol() if declared is not None else await self._read_chunks(protocol, body)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            self._late.discard(task)
            raise BodyTooSlow(f"The body did not arrive within {self._limits.timeout_s:g} seconds.") from None
        except RuntimeError:  # RSGIProtocolClosed, RSGIProtocolError
            raise CallerGone("The caller left before the body's end.") from None
        finally:
            self._reading.pop(task, None)
        body.data = body.received
        encoding = headers.get("content-encoding")
        if encoding is not None and "gzip" in encoding.lower():
            await self._inflate(body)

    def release(self, body: Body) -> None:
        self.open_bytes -= body.held
        body.held = 0

    async def _read_chunks(self, protocol: HTTPProtocol, body: Body) -> bytes:
        chunks = []
        async for chunk in protocol:
            self._hold(body, len(chunk))
            chunks.append(chunk)
        return b"".join(chunks)

    async def _inflate(self, body: Body) -> None:
        room = self._limits.max_body_bytes
        if len(body.received) > _INFLATE_IN_THREAD:
            body.data = await self._loop.run_in_executor(None, inflate, body.received, room)
        else:
            body.data = inflate(body.received, room)
        self._hold(body, len(body.data), sum_limit=2 * room)

    def _hold(self, body: Body, size: int, sum_limit: int | None = None) -> None:
        if body.held + size > (sum_limit or self._limits.max_body_bytes):
            raise BodyTooLarge(f"The body is larger than {self._limits.max_body_bytes >> 20} MB.")
        if self.open_bytes + size > self._limits.max_open_bytes:
            raise TooMany("Too many large bodies at one time.", retry_after=1.0)
        body.held += size
        self.open_bytes += size

    def _give_up(self) -> None:
        """Cancel the tasks whose bodies are late; look again when the next one is."""
        self._timer = None
        now = self._loop.time()
        while self._reading:
            task, late_at = next(iter(self._reading.items()))
            if late_at > now:
                self._timer = self._loop.call_at(late_at, self._give_up)
                return
            del self._reading[task]
            self._late.add(task)
            task.cancel()


def content_length(headers: Headers) -> int | None:
    """What the head declares. None: chunked, or an HTTP/2 body without it. The server has refused what is no number."""
    text = headers.get("content-length")
    return int(text) if text is not None and text.isdecimal() and len(text) < 19 else None


def inflate(data: bytes, max_bytes: int) -> bytes:
    """The content of a gzip body of one or more members. Raises BadEncoding, BodyTooLarge (before more than that is held)."""
    parts: list[bytes] = []
    room = max_bytes
    while data:
        stream = zlib.decompressobj(wbits=31)
        try:
            part = stream.decompress(data, room + 1)
        except zlib.error as error:
            if parts:
                break  # whatever follows a member that isn't another one is padding
            raise BadEncoding(f"The body is not gzip: {error}") from None
        if len(part) > room:
            raise BodyTooLarge(f"The decompressed body is larger than {max_bytes >> 20} MB.")
        if not stream.eof:
            raise BadEncoding("The gzip body is cut off.")
        parts.append(part)
        room -= len(part)
        data = stream.unused_data
    return b"".join(parts)


async def gzip_answer(body: bytes) -> bytes:
    """The compressed answer."""
    if len(body) > _DEFLATE_IN_THREAD:
        return await asyncio.get_running_loop().run_in_executor(None, _deflate, body)
    return _deflate(body)


def takes_gzip(headers: Headers) -> bool:
    """Whether the caller accepts a compressed answer."""
    accepted = headers.get("accept-encoding")
    return accepted is not None and _accepts_gzip(accepted)


def _deflate(body: bytes) -> bytes:
    return gzip.compress(body, 1, mtime=0)


def _accepts_gzip(accepted: str) -> bool:
    for offer in accepted.lower().split(","):
        coding, _, quality = offer.partition(";")
        if coding.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def cors_headers(origin: str | None, site_origin: str) -> list[tuple[str, str]]:
    """Headers that let the site's pages, and no other site's, read the answer."""
    if not origin or origin != site_origin:
        return [("vary", "Origin")] if origin else []
    return [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", EXPOSED),
        ("vary", "Origin"),
    ]


EXPOSED: Final = "Daybook-Record, Daybook-Leaf, Daybook-Receipt, Daybook-Error, Server-Timing, traceparent, Retry-After"


def preflight_headers(origin: str, site_origin: str) -> list[tuple[str, str]]:
    headers = cors_headers(origin, site_origin)
    if origin == site_origin:
        headers += [
            ("access-control-allow-methods", "GET, POST, OPTIONS"),
            (
                "access-control-allow-headers",
                "Authorization, Content-Type, Daybook-Subject, Daybook-Timeout-Ms, Daybook-Try-It, X-API-Key, traceparent",
            ),
            ("access-control-max-age", "600"),
        ]
    return headers


def close_unanswered(client: str) -> bool:
    """Shut the connection to this peer, so that it sees an end and no answer. RSGI has no way to do that: find the socket.

    client: `host:port` as the server gives it. Takes some 10 µs per open connection; only for a journal that stalls.
    """
    host, _, port = client.rpartition(":")
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            connection = socket.socket(fileno=os.dup(int(name)))
            try:
                peer = connection.getpeername()
                if isinstance(peer, tuple) and str(peer[1]) == port and peer[0] == host.strip("[]"):
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
            finally:
                connection.close()
    return False
