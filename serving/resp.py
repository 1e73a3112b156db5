"""A lean Redis client for the data plane: one for the gateway's loop, one for the worker's threads.

redis-py's asyncio client was measured at 91 µs of CPU for a lone XADD and 19 in a pipeline of 32; hiredis' parser and packer with a
plain `asyncio.Protocol` take 25 and 2 (uvloop, unix socket). A prediction has some 140 µs for everything. What
is left out with it: retries, timeouts, pools, clusters. Both ends of the data plane decide themselves what a lost connection
means (RULES 4.1: nothing is ever sent again), and wait with limits of their own.

    RedisGone    the connection can't be made, was lost or closed; what was sent may or may not have been done
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis.connection import parse_url

Buffer = bytes | memoryview
Argument = bytes | str | int
Command = tuple[Argument, ...]
Reply = Any  # bytes, int, None, list of replies or ReplyError
ReplyError = hiredis.ReplyError
Callback = Callable[[Reply], None]

CONNECT_SECONDS = 5.0
READ_BYTES = 256 * 1024
_NOTHING = object()
_KEEPALIVE = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))  # a peer that vanished is known after 11 s


class RedisGone(ConnectionError):
    """No connection to Redis, or not any more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is. `path` is a unix socket and goes before host and port."""

    host: str
    port: int
    path: str
    username: str
    password: str
    db: int
    tls: ssl.SSLContext | None

    @classmethod
    def parse(cls, url: str) -> "Address":
        """From `redis://`, `rediss://` or `unix://`, as redis-py reads them."""
        parsed: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
        return cls(
            host=parsed.get("host") or "localhost",
            port=parsed.get("port") or 6379,
            path=parsed.get("path") or "",
            username=parsed.get("username") or "",
            password=parsed.get("password") or "",
            db=int(parsed.get("db") or 0),
            tls=ssl.create_default_context() if url.startswith("rediss://") else None,
        )

    def greeting(self, name: str) -> list[Command]:
        """What a new connection says first."""
        commands: list[Command] = []
        if self.password:
            commands.append(("AUTH", self.username, self.password) if self.username else ("AUTH", self.password))
        if self.db:
            commands.append(("SELECT", self.db))
        return [*commands, ("CLIENT", "SETNAME", name.replace(" ", "_"))]


class ServerClock:
    """Redis' clock as seen from here: µs since the epoch, from our monotonic clock and the offset between the two.

    Of the last samples the one with the shortest round trip counts: its error is at most half of that. Independent of this
    machine's wall clock, which may say anything.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=16)
        self._offset_us = time.time() * 1e6 - time.monotonic() * 1e6  # until the first sample

    def add(self, sent: float, received: float, reply: Sequence[bytes]) -> None:
        """Take in a reply to TIME; `sent` and `received` are monotonic seconds."""
        server_us = int(reply[0]) * 1e6 + int(reply[1])
        self._samples.append((received - sent, server_us - (sent + received) / 2 * 1e6))
        self._offset_us = min(self._samples)[1]

    def forget(self) -> None:
        """Another server answers from now on."""
        self._samples.clear()

    def now_us(self) -> int:
        return int(time.monotonic() * 1e6 + self._offset_us)

    def monotonic(self, server_us: int) -> float:
        """The instant of our monotonic clock at which the server's says `server_us`."""
        return (server_us - self._offset_us) / 1e6


def run_id(info: bytes) -> str:
    """The server's run id in its answer to INFO: another one means that everything it held is gone."""
    for line in info.decode().splitlines():
        if line.startswith("run_id:"):
            return line.removeprefix("run_id:").strip()
    raise RedisGone("INFO server names no run_id")


def pack_one(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows only tuples of one
    return packed


def pack(commands: Sequence[Command]) -> bytes:
    return b"".join([pack_one(command) for command in commands])


class LoopConnection(asyncio.Protocol):
    """One connection on the running loop. Commands are pipelined; each gets its reply in a callback, in order.

    When the connection ends, the callbacks that still wait get the RedisGone; then, unless `close` ended it, `on_lost` is called
    once.
    """

    def __init__(self, on_lost: Callable[[RedisGone], None]) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[Callback] = deque()
        self._transport: asyncio.Transport | None = None
        self._on_lost = on_lost

    @classmethod
    async def open(cls, address: Address, name: str, on_lost: Callable[[RedisGone], None]) -> "LoopConnection":
        """Raises RedisGone."""
        loop = asyncio.get_running_loop()
        connection = cls(lambda error: None)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if address.path:
                    await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await loop.create_connection(lambda: connection, address.host, address.port, ssl=address.tls)
                await connection.call_all(address.greeting(name))
        except (OSError, TimeoutError, ReplyError) as error:
            connection.close()
            raise RedisGone(f"can't connect to Redis: {error or type(error).__name__}") from error
        connection._on_lost = on_lost
        return connection

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, parts: list[Buffer], callbacks: Sequence[Callback]) -> None:
        """Write packed commands, one callback each. Raises RedisGone when the connection has ended."""
        if self._transport is None:
            raise RedisGone("the connection to Redis has ended")
        self._waiting.extend(callbacks)
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    async def call_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one write and wait for their replies. Raises RedisGone, or the first ReplyError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        replies: list[Reply] = []

        def take(reply: Reply) -> None:
            replies.append(reply)
            if len(replies) == len(commands) and not done.done():
                done.set_result(None)

        self.send([pack(commands)], [take] * len(commands))
        await done
        return checked(replies)

    def close(self) -> None:
        """End the connection now; what was written may still arrive."""
        self._on_lost = lambda error: None
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOTHING:
                waiting.popleft()(reply)
        except (hiredis.ProtocolError, IndexError) as error:  # not Redis, or an answer to nothing
            self.connection_lost(error)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is None:
            return
        transport, self._transport = self._transport, None
        transport.abort()
        gone = RedisGone(f"the connection to Redis was lost: {error or 'closed'}")
        waiting, self._waiting = self._waiting, deque()
        for callback in waiting:
            callback(gone)
        self._on_lost(gone)


class Connection:
    """One blocking connection, used by one thread at a time; only `interrupt` may be called by another.

    timeout: seconds that a reply may take, None = for ever (then TCP keepalive finds a peer that has vanished).
    """

    def __init__(self, address: Address, name: str, *, timeout: float | None = None) -> None:
        """Raises RedisGone."""
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        try:
            self._connect(address)
            self.call_all(address.greeting(name))
            self._limit(timeout)
        except (OSError, ReplyError) as error:
            self.close()
            raise RedisGone(f"can't connect to Redis: {error}") from error

    def _connect(self, address: Address) -> None:
        if address.path:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(CONNECT_SECONDS)
            self._socket.connect(address.path)
            return
        self._socket = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
        keep_alive(self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls:
            self._socket = address.tls.wrap_socket(self._socket, server_hostname=address.host)

    def _limit(self, timeout: float | None) -> None:
        """Let the kernel keep the time: Python's own timeouts cost a `poll` beside every `send` and `recv`."""
        self._socket.setblocking(True)
        if timeout is not None:
            seconds = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)

    def send(self, data: Buffer) -> None:
        """Write packed commands; their replies must be read, in order. Raises RedisGone."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise RedisGone(f"the connection to Redis was lost: {error}") from error

    def read(self) -> Reply:
        """The next reply, a ReplyError among them. Raises RedisGone."""
        reader = self._reader
        try:
            while (reply := reader.gets()) is _NOTHING:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise RedisGone("the connection to Redis was closed")
                reader.feed(data)
        except OSError as error:
            raise error if isinstance(error, RedisGone) else RedisGone(f"the connection to Redis was lost: {error}") from error
        except hiredis.ProtocolError as error:
            raise RedisGone(f"this isn't Redis: {error}") from error
        return reply

    def read_ready(self) -> list[Reply]:
        """The replies that have come already. Raises RedisGone."""
        try:
            while data := self._receive_now():
                self._reader.feed(data)
            raise RedisGone("the connection to Redis was closed")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            raise error if isinstance(error, RedisGone) else RedisGone(f"the connection to Redis was lost: {error}") from error
        replies = []
        while (reply := self._reader.gets()) is not _NOTHING:
            replies.append(reply)
        return replies

    def _receive_now(self) -> bytes:
        """Raises BlockingIOError or SSLWantReadError when nothing is there."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
        self._socket.setblocking(False)
        try:
            return self._socket.recv(READ_BYTES)
        finally:
            self._socket.setblocking(True)

    def call(self, *command: Argument) -> Reply:
        """Raises RedisGone, or the reply when it's a ReplyError."""
        self.send(pack_one(command))
        return checked([self.read()])[0]

    def call_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one write and read their replies. Raises RedisGone, or the first ReplyError."""
        return checked(self.ask_all(commands))

    def ask_all(self, commands: Sequence[Command]) -> list[Reply]:
        """As `call_all`, with each ReplyError in its place."""
        self.send(pack(commands))
        return [self.read() for _ in commands]

    def interrupt(self) -> None:
        """End the connection under the thread that uses it, which gets RedisGone and closes."""
        with contextlib.suppress(OSError, AttributeError):  # not connected (any more)
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(AttributeError):  # never connected
            self._socket.close()


def checked(replies: list[Reply]) -> list[Reply]:
    """The replies. Raises the first that is a ReplyError, or the RedisGone that stands for one."""
    for reply in replies:
        if isinstance(reply, (ReplyError, RedisGone)):
            raise reply
    return replies


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out that the peer has vanished."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in _KEEPALIVE:
            if hasattr(socket, name):  # macOS names the first differently
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
