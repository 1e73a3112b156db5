"""Open-loop load: requests leave at a fixed rate whatever the answers do, so a stall shows in the latencies of all that it delayed.

A lean HTTP/1.1 client over asyncio: one request at a time per connection, a new connection when none is idle. Latency counts from
the instant at which the request was due, not from when it was sent.
"""

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import uvloop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was due and how long after that it was answered (s), its status (0 = connection broke), its body."""

    due: float
    latency: float
    status: int
    headers: bytes
    body: bytes


class Connection(asyncio.Protocol):
    """One keep-alive connection; `ask` sends a request and the future gives (status, head, body)."""

    def __init__(self) -> None:
        self.buffer = b""
        self.waiting: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none of its subclasses

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes, bytes]]:
        assert self.transport is not None
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.waiting

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, rest = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        self.buffer = b""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((int(head[9:12]), head, rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((0, b"", b""))


@dataclass(slots=True)
class Client:
    """A pool of connections to one address."""

    host: str
    port: int
    idle: list[Connection] = field(default_factory=list)

    def request(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        return head.encode() + body

    async def send(self, request: bytes, due: float) -> Answer:
        while self.idle and self.idle[-1].transport is None:
            self.idle.pop()
        try:
            if self.idle:
                connection = self.idle.pop()
            else:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
            status, head, body = await connection.ask(request)
        except OSError:
            return Answer(due, time.perf_counter() - due, 0, b"", b"")
        self.idle.append(connection)
        return Answer(due, time.perf_counter() - due, status, head, body)

    async def close(self) -> None:
        for connection in self.idle:
            if connection.transport is not None:
                connection.transport.close()
        while any(connection.transport is not None for connection in self.idle):
            await asyncio.sleep(0)


async def at_rate(client: Client, request: bytes, *, rate: float, seconds: float) -> list[Answer]:
    """Send `request` `rate` times a second for `seconds`; returns when all of them are answered."""
    start = time.perf_counter()
    tasks: list[asyncio.Task[Answer]] = []
    total = int(rate * seconds)
    async with asyncio.TaskGroup() as group:
        while len(tasks) < total:
            now = time.perf_counter()
            due_count = min(total, int((now - start) * rate) + 1)
            tasks.extend(group.create_task(client.send(request, start + i / rate)) for i in range(len(tasks), due_count))
            await asyncio.sleep(max(0.0, start + len(tasks) / rate - time.perf_counter()))
    return [task.result() for task in tasks]


def run_apart(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end in a thread of its own: a browser driver may have a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(uvloop.run, coroutine).result()


def run(client: Client, request: bytes, *, rate: float, seconds: float) -> list[Answer]:
    async def main() -> list[Answer]:
        answers = await at_rate(client, request, rate=rate, seconds=seconds)
        await client.close()
        return answers

    return run_apart(main())


def quantile(answers: list[Answer], share: float) -> float:
    """The `share` quantile of the latencies, in seconds."""
    latencies = sorted(answer.latency for answer in answers)
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))] if latencies else float("nan")
