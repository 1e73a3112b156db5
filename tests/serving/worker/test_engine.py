"""The steward: follows what is desired, reports what is loaded, and goes on without its database."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from serving.engine.lifecycle import ModelStatus
from serving.engine.options import BatchingOptions, DesiredModel, Specific
from serving.live import read_workers
from serving.protocol.messages import InferenceRequest
from serving.worker.engine import Engine
from serving.worker.options import WorkerOptions
from tests.models import build_models
from tests.serving.worker.plant import PREFIX, Server, gateway, run, wait_until


class Database:
    """What services would say and take down; can be away."""

    def __init__(self) -> None:
        self.desired: list[DesiredModel] = []
        self.away = False
        self.reports: list[dict[str, str]] = []

    def find_desired(self) -> list[DesiredModel]:
        if self.away:
            raise ConnectionError("the database is away")
        return self.desired

    def report(self, *, worker_id: str, node: str, device: str, statuses: Sequence[ModelStatus]) -> None:
        if self.away:
            raise ConnectionError("the database is away")
        self.reports.append({f"{version.name}@{version.version}": str(version.state) for model in statuses for version in model.versions})


@pytest.fixture(scope="session")
def models(pytestconfig: pytest.Config) -> dict[str, str]:
    assert pytestconfig.cache is not None
    return build_models(Path(pytestconfig.cache.mkdir("models")))


@pytest.fixture
def start_engine(server: Server, tmp_path: Path) -> Iterator[Callable[[Database, str], Engine]]:
    engines: list[Engine] = []

    def start(database: Database, worker_id: str = "w1") -> Engine:
        options = WorkerOptions(server.url, PREFIX, worker_id, node="n1")
        memory = tmp_path / "run" / "desired.json"
        marks = tmp_path / "run" / "loads"
        engines.append(Engine(options, find_desired=database.find_desired, report=database.report, memory=memory, marks=marks))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.stop(10)


def half_plus_two(models: dict[str, str], version: int = 1) -> DesiredModel:
    batching = BatchingOptions(allowed_batch_sizes=(8, 64))
    return DesiredModel("half_plus_two", models["half_plus_two"], policy=Specific((version,)), batching=batching, labels={"stable": 1})


async def ask(server: Server, values: list[float], version: int = 1) -> list[float]:
    """Each value as a request of its own, all in one tick."""
    async with gateway(server.url) as door:
        futures = [
            door.queue.submit(
                InferenceRequest("half_plus_two", version, "serving_default", {"x": np.array([[value]], np.float32)}, 1),
                request_id=n.to_bytes(16, "big"),
                stream=f"{PREFIX}q:half_plus_two@{version}",
                deadline_us=door.queue.server_now_us() + 20_000_000,
            )
            for n, value in enumerate(values)
        ]
        return [float((await future).outputs["y"].item()) for future in futures]


def test_a_saved_model_is_loaded_reported_and_served_in_batches(
    server: Server, models: dict[str, str], start_engine: Callable[[Database], Engine]
) -> None:
    database = Database()
    database.desired = [half_plus_two(models)]
    engine = start_engine(database)
    wait_until(lambda: bool(database.reports) and database.reports[-1] == {"half_plus_two@1": "AVAILABLE"})

    async def main() -> None:
        values = [float(n) for n in range(100)]
        assert await ask(server, values) == [value / 2 + 2 for value in values]

    run(main())
    assert engine.describe()["answered"] == 100
    assert '"AVAILABLE"' in str(server.client().get(f"{PREFIX}status:w1"))


def test_a_change_is_followed_when_nudged(server: Server, models: dict[str, str], start_engine: Callable[[Database], Engine]) -> None:
    database = Database()
    database.desired = [half_plus_two(models)]
    engine = start_engine(database)
    wait_until(lambda: bool(database.reports) and database.reports[-1].get("half_plus_two@1") == "AVAILABLE")
    database.desired = [half_plus_two(models, 2)]
    engine.nudge()
    wait_until(lambda: database.reports[-1] == {"half_plus_two@2": "AVAILABLE", "half_plus_two@1": "END"})

    async def main() -> None:
        assert await ask(server, [2.0], 2) == [4.0]

    run(main())


def test_without_its_database_the_last_desired_state_is_served(
    server: Server, models: dict[str, str], start_engine: Callable[..., Engine]
) -> None:
    database = Database()
    database.desired = [half_plus_two(models)]
    first = start_engine(database, "first")
    wait_until(lambda: bool(database.reports) and "AVAILABLE" in database.reports[-1].values())
    database.away = True
    first.nudge()
    first.stop(10)
    start_engine(database, "second")

    async def main() -> None:
        assert await ask(server, [2.0]) == [3.0]

    run(main())
    num_reports = len(database.reports)
    database.away = False
    wait_until(lambda: len(database.reports) > num_reports)


def test_a_version_whose_load_killed_its_workers_waits_while_others_serve(
    server: Server, models: dict[str, str], start_engine: Callable[[Database], Engine], tmp_path: Path
) -> None:
    die_loading = f"""
import os, sys
from pathlib import Path
from serving.engine.crashes import CrashMarks
from serving.engine.servable import ServableKey
from serving.engine.versions import fingerprint
files = fingerprint(Path({models["half_plus_two"]!r}) / "1")
CrashMarks(Path({str(tmp_path / "run" / "loads")!r})).begin(ServableKey("half_plus_two", 1), files)
os.abort()
"""
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", die_loading], check=False).returncode == -signal.SIGABRT
    database = Database()
    database.desired = [half_plus_two(models), DesiredModel("mlp", models["mlp"])]
    start_engine(database)
    wait_until(lambda: bool(database.reports) and database.reports[-1].get("mlp@1") == "AVAILABLE")
    assert database.reports[-1]["half_plus_two@1"] == "START"


def test_what_failed_for_good_is_loaded_again_when_asked(
    server: Server, start_engine: Callable[[Database], Engine], tmp_path: Path
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    database = Database()
    database.desired = [DesiredModel("broken", str(tmp_path / "broken"), max_retries=0)]
    engine = start_engine(database)
    wait_until(lambda: bool(database.reports) and database.reports[-1] == {"broken@1": "END"})
    tried = engine._manager.generation
    engine.retry("broken")
    wait_until(lambda: engine._manager.generation >= tried + 3)  # START, LOADING, END
    assert read_workers(server.url, PREFIX)[0].versions[0].model == "broken"
