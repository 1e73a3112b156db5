"""What the tests of the data plane are made of: a server that can be killed, workers in threads and processes, gateways."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis

from config import embedded_redis
from serving.engine.manager import Manager
from serving.engine.options import BatchingOptions, DesiredModel
from serving.protocol.messages import InferenceRequest, InferenceResponse
from serving.queue import QueueOptions, RequestQueue
from serving.worker.loop import WorkerLoop
from serving.worker.options import WorkerOptions
from tests.serving.worker.scripted import ScriptedLoader

PREFIX = "daybook-test:"


class Server:
    """A Valkey process that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.place = embedded_redis.prepare(directory)
        self.url = self.place.url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self.place.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        embedded_redis.wait_until_ready(self.place, timeout_s=20)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


class Worker:
    """A worker in this process."""

    def __init__(self, url: str, worker_id: str, *, max_frame_bytes: int = 64 << 20, **loop_options: Any) -> None:
        self.manager = Manager(on_change=lambda: self.loop.manager_changed(), loaders=lambda platform: ScriptedLoader())
        self.loop = WorkerLoop(WorkerOptions(url, PREFIX, worker_id, max_frame_bytes=max_frame_bytes), self.manager, **loop_options)
        self.loop.start()

    def serve(self, *models: DesiredModel) -> None:
        self.manager.set_desired(models)
        self.loop.settle()
        assert self.manager.wait(lambda status: all(status[model.name].available for model in models), 10)

    def close(self) -> None:
        self.loop.stop(10.0)
        self.manager.close()


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, url: str, worker_id: str, models: dict[str, dict[str, object]]) -> None:
        options = json.dumps({"redis_url": url, "prefix": PREFIX, "worker_id": worker_id, "models": models})
        self.process = subprocess.Popen([sys.executable, "-m", "tests.serving.worker.process", options], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def desired(base: Path, **fields: Any) -> DesiredModel:
    batching = fields.pop("batching", BatchingOptions(mode="on"))
    return DesiredModel(fields.pop("name", base.name), str(base), batching=batching, **fields)


def request(*values: float, model: str = "m", version: int = 1) -> InferenceRequest:
    return InferenceRequest(model, version, "serving_default", {"x": np.array(values, np.float32)}, len(values))


class Gateway:
    """A queue with short words for tests."""

    def __init__(self, queue: RequestQueue) -> None:
        self.queue = queue

    def submit(
        self, *values: float, model: str = "m", version: int = 1, timeout: float = 60.0, **fields: Any
    ) -> "asyncio.Future[InferenceResponse]":
        fields.setdefault("request_id", os.urandom(16))
        return self.queue.submit(
            request(*values, model=model, version=version),
            stream=f"{PREFIX}q:{model}@{version}",
            deadline_us=self.queue.server_now_us() + int(timeout * 1e6),
            **fields,
        )

    async def until(self, condition: Callable[[], bool], timeout: float = 45.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(url: str, gateway_id: str = "g1", *, workers: int = 1, **options: Any) -> AsyncIterator[Gateway]:
    queue = RequestQueue(QueueOptions(url, PREFIX, gateway_id, **options))
    await queue.start()
    try:
        found = Gateway(queue)
        await found.until(lambda: queue.live_workers >= workers)
        yield found
    finally:
        await queue.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def doubled(response: InferenceResponse) -> list[float]:
    values: list[float] = response.outputs["y"].tolist()
    return values


def wait_until(condition: Callable[[], bool], timeout: float = 45.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not within the time given"
        time.sleep(0.01)
