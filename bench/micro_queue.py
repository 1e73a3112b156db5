"""How long the road from gateway to worker and back takes: `python -m bench.micro_queue [--requests N]`.

Starts a Valkey of its own on a unix socket and, in a second process, a worker whose model does nothing but double its input. Then
one gateway keeps 1, 8 and 64 requests under way. Printed per step: requests per second, median and p99 of a round trip, and CPU µs
per request of the gateway's side (this process, the driving loop included) and of the worker's.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import uvloop

from config import embedded_redis
from serving.engine.manager import Manager
from serving.engine.options import BatchingOptions, DesiredModel
from serving.engine.registry import LoadRequest
from serving.engine.servable import Signature, TensorSpec
from serving.protocol.messages import InferenceRequest
from serving.queue import QueueOptions, RequestQueue
from serving.worker.loop import WorkerLoop
from serving.worker.options import WorkerOptions

PREFIX = "bench:"


class Double:
    """y = 2x, in no time: what is measured is the way, not the model."""

    signatures = {"s": Signature("predict", {"x": TensorSpec("x:0", "DT_FLOAT", (-1,))}, {"y": TensorSpec("y:0", "DT_FLOAT", (-1,))})}
    unbatchable: dict[str, str] = {}
    artifact = "0" * 64
    device = "CPU"

    def __init__(self, request: LoadRequest) -> None:
        self.name, self.version = request.name, request.version

    def run(self, signature, inputs, *, output_filter=(), timeout_ms):
        return {"y": inputs["x"] * 2}

    def unload(self) -> None:
        pass


class DoubleLoader:
    def estimate_bytes(self, request: LoadRequest) -> int:
        return 1

    def load(self, request: LoadRequest) -> Double:
        return Double(request)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def serve(url: str, base: str, pipe: Connection) -> None:
    """The worker's process: serves until told, and tells what it has used whenever asked."""
    loop: WorkerLoop
    manager = Manager(on_change=lambda: loop.manager_changed(), loaders=lambda platform: DoubleLoader())
    loop = WorkerLoop(WorkerOptions(url, PREFIX, "w"), manager)
    loop.start()
    manager.set_desired([DesiredModel("m", base, batching=BatchingOptions(mode="on"))])
    loop.settle()
    manager.wait(lambda status: bool(status["m"].available), 20)
    while pipe.recv():
        pipe.send(cpu_seconds())
    loop.stop(5)
    manager.close()


async def drive(url: str, concurrency: int, num_requests: int, pipe: Connection) -> None:
    queue = RequestQueue(QueueOptions(url, PREFIX, f"g{concurrency}"))
    await queue.start()
    while not queue.live_workers:
        await asyncio.sleep(0.05)
    request = InferenceRequest("m", 1, "s", {"x": np.ones(1, np.float32)}, 1)
    times: list[float] = []

    async def one_after_another(count: int) -> None:
        for _ in range(count):
            started = time.perf_counter()
            await queue.submit(request, request_id=os.urandom(16), stream=f"{PREFIX}q:m@1", deadline_us=queue.server_now_us() + 30_000_000)
            times.append(time.perf_counter() - started)

    await one_after_another(200)
    times.clear()
    pipe.send(True)
    worker_before, gateway_before, started = pipe.recv(), cpu_seconds(), time.perf_counter()
    await asyncio.gather(*[one_after_another(num_requests // concurrency) for _ in range(concurrency)])
    seconds, gateway = time.perf_counter() - started, cpu_seconds() - gateway_before
    pipe.send(True)
    worker = pipe.recv() - worker_before
    count = len(times)
    times.sort()
    print(
        f"{concurrency:>4} under way {count / seconds:>8.0f}/s   median {statistics.median(times) * 1e6:>6.0f} µs   "
        f"p99 {times[int(count * 0.99)] * 1e6:>6.0f} µs   CPU per request: gateway {gateway / count * 1e6:>5.1f} µs, "
        f"worker {worker / count * 1e6:>5.1f} µs"
    )
    await queue.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000, help="per step")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as stack:
        place = embedded_redis.prepare(Path(directory) / "r")
        server = subprocess.Popen(place.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        embedded_redis.wait_until_ready(place, timeout_s=20)
        (Path(directory) / "m" / "1").mkdir(parents=True)
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("spawn").Process(target=serve, args=(place.url, f"{directory}/m", theirs))
        worker.start()
        for concurrency in (1, 8, 64):
            uvloop.run(drive(place.url, concurrency, arguments.requests // (4 if concurrency == 1 else 1), ours))
        ours.send(False)
        worker.join()


if __name__ == "__main__":
    main()
