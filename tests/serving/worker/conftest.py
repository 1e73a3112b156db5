"""A Redis server of each test's own, for tests that kill and restart it, and workers in threads and processes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.worker.plant import Server, Worker, WorkerProcess
from tests.serving.worker.scripted import make_version


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Path(tmp_path_factory.mktemp("r")))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def make_worker(server: Server) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def make(worker_id: str = "w1", **loop_options: Any) -> Worker:
        workers.append(Worker(server.url, worker_id, **loop_options))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def start_process(server: Server) -> Iterator[Callable[..., WorkerProcess]]:
    processes: list[WorkerProcess] = []

    def start(worker_id: str, base: Path, **fields: object) -> WorkerProcess:
        processes.append(WorkerProcess(server.url, worker_id, {"m": {"base_path": str(base), **fields}}))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The base path of a model with one version that takes no time."""
    path = tmp_path / "m"
    make_version(path)
    return path
