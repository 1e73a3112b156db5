"""HTTP/1.1 for the gateway: the connections of callers on the loop, parsed by llhttp (through httptools).

A request becomes an object when its head is complete; the application hears of it then, again when its body is complete, or instead
when it can't become complete. Answers leave in the order in which their requests came, whatever the order in which they are made, so
pipelined requests are served side by side. All that a caller can make us hold or wait for is bounded: heads, bodies, all bodies
together, requests per connection, connections, and the time that each of them takes.

Why no server of the shelf: the gateway ran on Granian's RSGI, whose Rust runtime reads and writes on a thread of its own. On two
cores an echo costs 50 µs of CPU there and 19 here at 64 connections, 175 and 33 at one, where each call crosses threads four times;
beside a busy loop both threads want the GIL, and a prediction cost 380 µs of which the loop itself took 130.
"""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

import httptools

from .errors import BodyTooLarge, BodyTooSlow, CallerGone, GatewayError, HeadTooLarge, MalformedRequest, TooMany

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_TARGET_BYTES: Final = 8 * 1024
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 32  # answers that may be due on one connection before we stop reading it
DRAINED_BYTES: Final = 1 << 20  # read and thrown away after a refusal, so that the caller gets to read why
DRAINED_S: Final = 1.0
LOOK_S: Final = 0.25

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus} | {
    499: b"HTTP/1.1 499 Client Closed Request\r\n"
}
_HEAD_TOO_LARGE: Final = f"The request's head has more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES >> 10} KB."
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"connection: close\r\n"
_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"  # HTTP/1.0 has to be told

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """body_timeout_s: from the first byte of a request to its last, and for a caller to take an answer."""

    max_body_bytes: int
    max_open_bytes: int  # of all bodies held at one time
    body_timeout_s: float
    max_connections: int = 4096
    idle_s: float = 75.0


class Application(Protocol):
    """Who answers. Called on the loop; each request is answered once, with `Request.answer`."""

    def begin(self, request: "Request") -> None:
        """The head is there. An answer now saves reading the body."""

    def complete(self, request: "Request") -> None:
        """The body is there."""

    def fail(self, request: "Request", error: GatewayError) -> None:
        """The request can't be read to its end. It may not have begun."""

    def lost(self, request: "Request") -> None:
        """The caller has gone before the answer, which nobody will read. Only after `complete`."""


class Request:
    """One request. `path` is percent-decoded and without the query; header names are in lower case."""

    __slots__ = (
        "_chunks",
        "_reply",
        "answered",
        "body",
        "client",
        "closes",
        "connection",
        "declared",
        "has_begun",
        "has_body",
        "headers",
        "held",
        "is_unwanted",
        "method",
        "path",
        "started_ns",
        "state",
        "version",
    )

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.client = connection.client
        self.method = ""
        self.path = ""
        self.version = "1.1"
        self.headers: dict[str, str] = {}
        self.declared: int | None = 0  # bytes of the body as the head says; None: it comes in chunks
        self.body = b""
        self.held = 0  # of all bodies' budget
        self.started_ns = time.monotonic_ns()
        self.has_begun = False
        self.has_body = False  # whole
        self.is_unwanted = False  # the body
        self.answered = False
        self.closes = False  # the connection ends with this answer
        self.state: Any = None  # the application's
        self._chunks: list[bytes] = []
        self._reply = b""

    def declares_more_than(self, size: int) -> bool:
        return self.declared is None or self.declared > size

    def refuse_body(self) -> None:
        """Whatever will be answered, the body isn't worth reading. Only while the application begins with the request."""
        self.is_unwanted = True

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """headers: lines, each with its end; `make_lines` makes them. What comes after the first answer is dropped."""
        if not self.answered:
            self.answered = True
            self.connection.answer(self, status, headers, body)

    def abort(self) -> None:
        """End the connection without an answer."""
        self.connection.abort()

    def hold(self, size: int, *, limit: int | None = None) -> None:
        """Take room for so much more that came with this request. Raises BodyTooLarge, TooMany.

        limit: of what the request holds in all, instead of the server's for one body.
        """
        server = self.connection.server
        limits = server.limits
        if self.held + size > (limit or limits.max_body_bytes):
            raise BodyTooLarge(f"The body is larger than {limits.max_body_bytes >> 20} MB.")
        if server.open_bytes + size > limits.max_open_bytes:
            raise TooMany("Too many large bodies at one time.", retry_after=1.0)
        self.held += size
        server.open_bytes += size

    def release(self) -> None:
        """Give the body's room back."""
        self.connection.server.open_bytes -= self.held
        self.held = 0
        self.body = b""


def make_lines(headers: Headers) -> bytes:
    """Header lines. Values are Latin-1; what could end a line is left out."""
    return b"".join(
        b"%b: %b\r\n" % (name.encode("latin-1"), value.encode("latin-1", "replace").translate(None, b"\r\n\0")) for name, value in headers
    )


class Server:
    """Listens, and keeps the connections. Belongs to the loop."""

    def __init__(self, application: Application, limits: ServerLimits) -> None:
        self.application = application
        self.limits = limits
        self.open_bytes = 0
        self.stopping = False
        self.date_line = _date_line()
        self.connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self._looks: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> None:
        """Raises OSError when somebody else has the port."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), host, port, backlog=2048, reuse_port=False)
        self._looks = loop.call_later(LOOK_S, self._look, loop)

    def stop_listening(self) -> None:
        """Take no more connections, end those that have nothing under way, and the others with their answers."""
        self.stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.end_if_idle()

    def end_reading(self, error: GatewayError) -> None:
        """Wait no longer for what has not come in whole."""
        for connection in list(self.connections):
            connection.end_reading(error)

    def close(self) -> None:
        if self._looks is not None:
            self._looks.cancel()
        for connection in list(self.connections):
            connection.close()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what has taken too long: one look at all, because a timer for each would cost as much as reading a small request."""
        self._looks = loop.call_later(LOOK_S, self._look, loop)
        self.date_line = _date_line()
        now_ns = time.monotonic_ns()
        for connection in list(self.connections):
            connection.look(now_ns)


class Connection(asyncio.Protocol):
    """One caller's connection. `_due` are the requests that are not answered yet, or whose answers wait for an earlier one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = ""
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._due: deque[Request] = deque()
        self._reading: Request | None = None  # whose head or body isn't whole yet
        self._target = b""
        self._declined: Request | None = None  # who asks for another protocol, until its body is read as HTTP/1.1's
        self._num_headers = 0
        self._head_bytes = 0
        self._unread_head_bytes = 0
        self._error: GatewayError | None = None  # found within a callback of the parser
        self._is_paused = False
        self._is_over = False  # nothing that still comes is read as a request
        self._drained = 0
        self._closes_ns = 0  # when a connection that is over ends at last
        self._stuck_ns = 0  # since when the caller hasn't taken what we write
        self._idle_ns = time.monotonic_ns()
        self._num_answers = self._num_seen = 0

    # The transport's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        server = self.server
        server.connections.add(self)
        if len(server.connections) > server.limits.max_connections:
            self._fail(TooMany("The gateway has as many connections as it takes.", retry_after=1.0))

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            self._drain(len(data))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data, upgrade.args[0])
            return
        except httptools.HttpParserInvalidMethodError:
            self._error = MalformedRequest(f"Malformed request: {_first_line(data)}")
        except httptools.HttpParserCallbackError as error:
            if self._error is None:  # a fault of ours: nobody may wait for ever
                logger.exception("request not handled", exc_info=error.__context__)
                self._transport.abort()
                return
        except httptools.HttpParserError as error:
            self._error = MalformedRequest(f"Malformed request: {error}")
        if self._error is not None:
            self._fail(self._error)
        elif self._reading is not None and not self._reading.has_begun:
            self._unread_head_bytes += len(data)  # a name or value that isn't whole yet: the parser keeps it
            if self._unread_head_bytes > MAX_HEAD_BYTES:
                self._fail(HeadTooLarge(_HEAD_TOO_LARGE))
        if len(self._due) >= MAX_PIPELINED:
            self._pause()

    def eof_received(self) -> None:
        """A caller who says no more is one who has left."""

    def connection_lost(self, error: Exception | None) -> None:
        server = self.server
        server.connections.discard(self)
        self._is_over = True
        reading, self._reading = self._reading, None
        if reading is not None and reading.has_begun and not reading.answered:
            server.application.fail(reading, CallerGone("The caller left before the body's end."))
        due, self._due = self._due, deque()
        for request in due:
            if request is not reading and not request.answered:
                server.application.lost(request)

    def pause_writing(self) -> None:
        self._stuck_ns = time.monotonic_ns()
        self._pause()

    def resume_writing(self) -> None:
        self._stuck_ns = 0
        self._resume()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused and not self._stuck_ns and len(self._due) < MAX_PIPELINED:
            self._is_paused = False
            self._transport.resume_reading()

    # The parser's

    def on_message_begin(self) -> None:
        self._reading = self._declined or Request(self)
        self._target = b""
        self._num_headers = self._head_bytes = self._unread_head_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > MAX_TARGET_BYTES:
            self._error = HeadTooLarge(f"The request's path is longer than {MAX_TARGET_BYTES >> 10} KB.")
            raise self._error

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        self._head_bytes += len(name) + len(value)
        if self._num_headers > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            self._error = HeadTooLarge(_HEAD_TOO_LARGE)
            raise self._error
        assert self._reading is not None
        if self._declined is None:
            headers, key, text = self._reading.headers, name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = text if key not in headers else f"{headers[key]}, {text}"

    def on_headers_complete(self) -> None:
        request, parser = self._reading, self._parser
        assert request is not None
        if self._declined is None:
            headers = request.headers
            request.method = parser.get_method().decode("latin-1")
            request.version = parser.get_http_version()
            request.path = _path_of(self._target)
            request.closes = self.server.stopping or not parser.should_keep_alive()
            if "transfer-encoding" in headers:
                request.declared = None
            elif "content-length" in headers:
                request.declared = int(headers["content-length"])
            if parser.should_upgrade() and request.declared != 0:
                self._declined = request
                return
        self._declined = None
        self._begin(request)

    def _begin(self, request: Request) -> None:
        request.has_begun = True
        self._due.append(request)
        if request.declared:
            self._hold(request, request.declared)
        self.server.application.begin(request)
        if request.is_unwanted and request.declared != 0:
            self._error = _Unwanted("")
            raise self._error
        if request.declared != 0 and request.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, chunk: bytes) -> None:
        request = self._reading
        assert request is not None
        if request.declared is None:
            self._hold(request, len(chunk))
        request._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._declined is not None:
            return
        request, self._reading = self._reading, None
        assert request is not None
        chunks = request._chunks
        request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        request._chunks = []
        request.has_body = True
        if not request.answered:
            self.server.application.complete(request)

    def _hold(self, request: Request, size: int) -> None:
        try:
            request.hold(size)
        except GatewayError as error:
            self._error = error
            raise

    # Answers

    def answer(self, request: Request, status: int, headers: bytes, body: bytes) -> None:
        if not request.has_body and request.declared != 0:
            request.closes = True
        if request.closes or self.server.stopping:
            request.closes = True
            connection = _CLOSE
        else:
            connection = _KEEP_ALIVE if request.version == "1.0" else b""
        request._reply = b"%b%b%b%bcontent-length: %d\r\n\r\n%b" % (
            _STATUS_LINES[status],
            self.server.date_line,
            headers,
            connection,
            len(body),
            body if request.method != "HEAD" else b"",
        )
        due = self._due
        if self._transport.is_closing():
            return
        while due and due[0]._reply:
            first = due.popleft()
            self._transport.write(first._reply)
            self._num_answers += 1
            if first.closes:
                self._finish(first)
                return
        if self._is_paused:
            self._resume()

    def _finish(self, request: Request) -> None:
        """No more answers on this connection. A caller who is still sending gets the time to read why."""
        self._is_over = True
        self._due.clear()
        if request.has_body or request.declared == 0:
            self._transport.close()
        else:
            self._closes_ns = time.monotonic_ns() + int(DRAINED_S * 1e9)
            self._transport.write_eof()
            self._resume()

    def _drain(self, size: int) -> None:
        """Throw away what comes after the last request: some of it until its answer is written, then so much and no more."""
        self._drained += size
        if self._drained > DRAINED_BYTES:
            if self._closes_ns:
                self._transport.close()
            else:
                self._pause()

    def _fail(self, error: GatewayError) -> None:
        """What was being read can't be gone on with; neither can the connection."""
        self._is_over = True
        request, self._reading = self._reading, None
        if isinstance(error, _Unwanted):
            return
        if request is None:  # between requests: what came isn't even the beginning of one
            request = Request(self)
        if not request.has_begun:
            request.path = _path_of(self._target)
            request.declared = None
            self._due.append(request)
        request.closes = True
        self.server.application.fail(request, error)

    def _decline_upgrade(self, data: bytes, offset: int) -> None:
        """We speak nothing but HTTP/1.1: go on with it, as RFC 9110 (section 7.8) allows.

        The parser takes the body for the other protocol's (Java's client asks for HTTP/2 with each first request), so another one is
        told how long the body is.
        """
        self._parser = httptools.HttpRequestParser(self)
        head = b""
        if (request := self._declined) is not None:
            framing = b"Transfer-Encoding: chunked" if request.declared is None else b"Content-Length: %d" % request.declared
            head = b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing
        if rest := head + data[offset:]:
            self.data_received(rest)

    # Ends

    def look(self, now_ns: int) -> None:
        """Called by the server every `LOOK_S`."""
        limits = self.server.limits
        timeout_ns = int(limits.body_timeout_s * 1e9)
        request = self._reading
        if self._is_over:
            if self._closes_ns and now_ns >= self._closes_ns:
                self._transport.close()
        elif request is not None and now_ns - request.started_ns > timeout_ns:
            what = "body" if request.has_begun else "head"
            self._fail(BodyTooSlow(f"The {what} did not arrive within {limits.body_timeout_s:g} seconds."))
        elif self._due or request is not None or self._num_answers != self._num_seen:
            self._num_seen = self._num_answers
            self._idle_ns = now_ns
        elif now_ns - self._idle_ns > limits.idle_s * 1e9:
            self._transport.close()
        if self._stuck_ns and now_ns - self._stuck_ns > timeout_ns:
            self._transport.abort()

    def end_if_idle(self) -> None:
        if not self._due and self._reading is None:
            self._transport.close()

    def end_reading(self, error: GatewayError) -> None:
        if self._reading is not None:
            self._fail(error)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


def _date_line() -> bytes:
    return f"date: {formatdate(usegmt=True)}\r\n".encode()


class _Unwanted(GatewayError):
    """A body that nobody will read."""


def _first_line(data: bytes) -> str:
    """Method and target of a request that the parser doesn't take, as far as they can be read."""
    return " ".join(data[:500].partition(b"\r\n")[0].decode("latin-1").split(" ")[:2])


def _path_of(target: bytes) -> str:
    """The decoded path of a request target, `*` and absolute forms among them. Bytes that are no UTF-8 come out replaced."""
    text = target.decode("utf-8", "replace")
    if not text.startswith("/") and "://" in text:
        text = "/" + text.partition("://")[2].partition("/")[2]
    path = text.partition("?")[0].partition("#")[0]
    return unquote(path, errors="replace") if "%" in path else path
