"""A real gateway in a process of its own, behind it a real Redis, the real journal, and a real worker with quick Python servables."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from django.conf import settings

from serving.engine.manager import Manager
from serving.engine.options import BatchingOptions, DesiredModel
from serving.snapshot import Snapshot, encode_snapshot
from serving.worker.loop import WorkerLoop
from serving.worker.options import WorkerOptions
from tests.serving.gateway.servables import SERVABLES, DoorLoader
from tests.serving.gateway.snapshots import KEYS, make_snapshot

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = itertools.count(1)  # of snapshots; all gateways of a run share a prefix


class GatewayProcess:
    """The gateway, as `manage.py up` starts it."""

    def __init__(
        self, port: int, directory: Path, environment: Mapping[str, str], app: str = "config.gateway", wrapper: Sequence[str] = ()
    ) -> None:
        """wrapper: a command that becomes the gateway, such as `strace -D`."""
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.directory = directory
        self._environment = environment
        self._app = app
        self._wrapper = wrapper
        self.process: subprocess.Popen[bytes]

    def start(self, *, ready: bool = True) -> None:
        command = [*self._wrapper, sys.executable, "-m", self._app]
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV")}
        with (self.directory / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env={**kept, **self._environment}, stdout=log, stderr=log)
        wait_until(lambda: self.answers("/readyz" if ready else "/healthz"), "the gateway is ready", explain=self.explain)

    def explain(self) -> str:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0).text + self.log
        except httpx.HTTPError as error:
            return f"{error}\n{self.log}"

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, *, grace_s: float = 20.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @property
    def log(self) -> str:
        return (self.directory / "gateway.log").read_text()


class Door:
    """What tests ask of the running whole."""

    def __init__(self, gateway: GatewayProcess, client: redis.Redis, prefix: str) -> None:
        self.gateway = gateway
        self.redis = client
        self.prefix = prefix
        self.http = httpx.Client(base_url=gateway.url, timeout=20.0, trust_env=False)

    def publish(self, **changes: Any) -> Snapshot:
        """Put a snapshot into Redis as `serving.publication` does, and wait until the gateway routes by it."""
        snapshot = make_snapshot(self.prefix, version=next(VERSIONS), **changes)
        with self.redis.pipeline() as pipe:
            pipe.set(f"{self.prefix}snapshot:current", encode_snapshot(snapshot))
            pipe.set(f"{self.prefix}snapshot:version", snapshot.version)
            pipe.publish(f"{self.prefix}snapshot", snapshot.version)
            pipe.execute()
        return snapshot

    def publish_and_wait(self, **changes: Any) -> None:
        snapshot = self.publish(**changes)
        wait_until(lambda: f"daybook_snapshot_version {snapshot.version}.0" in self.http.get("/metrics").text, "the snapshot is taken")

    def predict(self, model: str, body: Any, *, key: str | None = KEYS["all"], headers: Mapping[str, str] | None = None) -> httpx.Response:
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(f"/v1/models/{model}:predict", content=content, headers=sent)

    def get(self, path: str, *, key: str | None = KEYS["all"]) -> httpx.Response:
        return self.http.get(path, headers={"X-API-Key": key} if key is not None else {})

    def raw(self, data: bytes, *, wait_s: float = 5.0) -> bytes:
        """Send bytes as they are; what comes back until the server closes or one answer is complete."""
        with socket.create_connection(("127.0.0.1", self.gateway.port), timeout=wait_s) as connection:
            connection.sendall(data)
            return read_answer(connection)


def read_answer(connection: socket.socket) -> bytes:
    found = b""
    while not _is_whole(found):
        try:
            chunk = connection.recv(65_536)
        except (TimeoutError, ConnectionResetError):
            break
        if not chunk:
            break
        found += chunk
    return found


def _is_whole(answer: bytes) -> bool:
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return True


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 30.0, explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}\n{explain()}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def door_prefix() -> str:
    """Not below the process's prefix: other tests clear what lies there."""
    return f"door-{settings.REDIS_PREFIX}"


@pytest.fixture(scope="session")
def door_worker(redis_server: str, door_prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerLoop]:
    """A worker in this process that serves every model of `servables`."""
    loop: WorkerLoop
    manager = Manager(on_change=lambda: loop.manager_changed(), loaders=lambda platform: DoorLoader())
    loop = WorkerLoop(WorkerOptions(redis_server, door_prefix, "door-worker"), manager)
    loop.start()
    base = tmp_path_factory.mktemp("models")
    for name in SERVABLES:
        (base / name / "1").mkdir(parents=True)
    manager.set_desired(
        [DesiredModel(name, str(base / name), batching=BatchingOptions(mode="off")) for name in SERVABLES],
    )
    loop.settle()
    assert manager.wait(lambda status: all(status[name].available for name in SERVABLES), 20)
    yield loop
    loop.stop(5.0)
    manager.close()


@pytest.fixture(scope="session")
def start_gateway(
    redis_server: str, door_prefix: str, door_worker: WorkerLoop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Door]]:
    """Start gateways; all are stopped at the end."""
    from config.processes import port_is_free

    started: list[Door] = []
    client = redis.Redis.from_url(redis_server)

    def start(
        *, prefix: str = door_prefix, ready: bool = True, app: str = "config.gateway", wrapper: Sequence[str] = (), **environment: str
    ) -> Door:
        first = 24_000 + 100 * settings.WORKER
        taken = {door.gateway.port for door in started}
        port = next(port for port in range(first, first + 100) if port not in taken and port_is_free("127.0.0.1", port))
        directory = tmp_path_factory.mktemp("gateway")
        given = {
            "VAR_DIR": str(directory / "var"),
            "REDIS_URL": redis_server,
            "REDIS_PREFIX": prefix,
            "GATEWAY_PORT": str(port),
            "LOG_ORIGIN": "daybook.test/log",
            "MAX_BODY_MB": "1",
            "BODY_TIMEOUT_S": "1",
            **environment,
        }
        (directory / "var").mkdir()
        gateway = GatewayProcess(port, directory, given, app, wrapper)
        door = Door(gateway, client, prefix)
        door.publish()
        started.append(door)
        gateway.start(ready=ready)
        return door

    yield start
    for door in started:
        door.http.close()
        door.gateway.stop()
    keys = list(client.scan_iter(match=f"{door_prefix}*", count=1000))
    if keys:
        client.delete(*keys)
    client.close()


@pytest.fixture(scope="session")
def shared_door(start_gateway: Callable[..., Door]) -> Door:
    return start_gateway()


@pytest.fixture
def door(shared_door: Door) -> Door:
    """One gateway for most tests."""
    return shared_door
