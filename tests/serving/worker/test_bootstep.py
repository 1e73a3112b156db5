"""The engine in a real Celery worker process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.dataplane import decode_lease
from serving.live import read_workers
from tests.serving.worker.plant import PREFIX, Server, run, wait_until
from tests.serving.worker.test_engine import ask, half_plus_two, models

__all__ = ["models"]
COMMAND = ("-m", "celery", "-A", "config", "worker", "--without-gossip", "--without-mingle", "-l", "WARNING")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_celery(server: Server, tmp_path: Path) -> Iterator[Start]:
    """Starts the worker as the supervisor does, with a PostgreSQL that isn't there."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, code: str = "") -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.dev",
            "REDIS_URL": server.url,
            "REDIS_PREFIX": PREFIX,
            "VAR_DIR": str(tmp_path),
            "NODE": "n1",
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        }
        command = [sys.executable, *((*COMMAND, *arguments) if not code else ("-c", code))]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_pool_other_than_threads_is_refused(start_celery: Start) -> None:
    process = start_celery("-P", "solo", "-Q", "control.n1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode
    assert "needs the thread pool (-P threads)" in output


def test_tensorflow_cannot_be_imported_beside_the_engine(start_celery: Start) -> None:
    code = "import sys; from serving.worker.bootstep import NoTensorflow; sys.meta_path.insert(0, NoTensorflow()); import tensorflow"
    output, _ = start_celery(code=code).communicate(timeout=60)
    assert "can't be imported in a serving worker" in output


def test_it_serves_without_postgresql_survives_its_broker_and_stops_cleanly(
    server: Server, start_celery: Start, models: dict[str, str], tmp_path: Path
) -> None:
    from serving.worker.engine import _pack

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "desired.json").write_text(json.dumps([_pack(half_plus_two(models))]))
    process = start_celery("-P", "threads", "-Q", "control.n1", "--hostname", "worker@n1")
    wait_until(lambda: bool(server.client().smembers(f"{PREFIX}workers")), 60)

    async def main() -> None:
        assert await ask(server, [2.0, 4.0]) == [3.0, 4.0]

    run(main())
    server.kill()
    server.start()
    wait_until(lambda: bool(server.client().smembers(f"{PREFIX}workers")), 20)
    run(main())
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert not server.client().smembers(f"{PREFIX}workers"), "the lease is given back"


def test_a_broadcast_reaches_the_engine(server: Server, start_celery: Start, models: dict[str, str], tmp_path: Path) -> None:
    from serving.worker.engine import _pack

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "desired.json").write_text(json.dumps([_pack(half_plus_two(models))]))
    start_celery("-P", "threads", "-Q", "control.n1", "--hostname", "worker@n1")

    def num_serving() -> int:
        client = server.client()
        leases = [client.get(key) for key in client.scan_iter(f"{PREFIX}worker:*")]
        return sum(len(decode_lease(lease).serving) for lease in leases if isinstance(lease, bytes))

    wait_until(lambda: num_serving() == 1, 60)
    (status,) = read_workers(server.url, PREFIX)
    assert (status.node, status.held) == ("n1", 0)
    send = "from config.celery import app; app.tasks; from serving.tasks import drain; drain.delay('n1')"
    start_celery(code=f"import django; django.setup(); {send}").communicate(timeout=60)
    wait_until(lambda: num_serving() == 0, 20)
