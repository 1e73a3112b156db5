"""The scribe while PostgreSQL itself is killed with `kill -9`, more than once, under load: a server of our own, synced for real."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from audit import leaves
from audit.record import Call
from audit.scribe import Scribe, ScribeOptions
from audit.store import PayloadStore
from config import embedded_postgres
from tests.audit.calls import make_call, make_recorder

ROOT = Path(__file__).parents[2]


class Server:
    """PostgreSQL that can be killed and comes back."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.place = embedded_postgres.prepare(home, home / "s", say=lambda line: None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        user = ["--user", self.place.user] if self.place.user else []
        launch = [sys.executable, str(embedded_postgres.LAUNCH), "--signal", str(int(signal.SIGINT)), *user, "--", *self.place.command()]
        deadline = time.monotonic() + 30
        while True:  # backends of the killed server may hold its shared memory for a moment
            with (self._home / "log").open("ab") as log:
                process = self._process = subprocess.Popen(launch, stdout=log, stderr=log)
            try:
                embedded_postgres.wait_until_ready(self.place, timeout_s=30, is_alive=self._is_alive, say=lambda line: None)
                return
            except embedded_postgres.PostgresFailed:
                process.kill()
                process.wait()
                assert time.monotonic() < deadline, (self._home / "log").read_text()[-2000:]
                time.sleep(0.2)

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.place.url, autocommit=True, connect_timeout=5)


@pytest.fixture
def server() -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="daybook-"))  # directly below the temporary directory: socket paths must stay short
    home.chmod(0o755)
    made = Server(home)
    made.start()
    environment = {
        **os.environ,
        "DATABASE_URL": made.place.url,
        "VAR_DIR": str(home / "var"),
        "DJANGO_SETTINGS_MODULE": "config.settings.dev",
    }
    subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, env=environment, check=True)
    yield made
    made.stop()
    shutil.rmtree(home, ignore_errors=True)


def test_postgresql_killed_under_load_costs_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.mkdir()
    calls: list[Call] = []
    done = threading.Event()
    options = ScribeOptions(directory=path, node="node-1", poll_s=0.01, retry_s=(0.02, 0.1))
    scribe = Scribe(server.connect, PayloadStore(f"file://{tmp_path}/payloads"), options)

    async def write() -> None:
        recorder = make_recorder(path, segment_bytes=300_000, rotate_s=0.5)
        recorder.start(asyncio.get_running_loop())
        while not done.is_set():
            made = [make_call() for _ in range(50)]
            await asyncio.gather(*map(recorder.append, made))  # predictions go on while PostgreSQL is away
            calls.extend(made)
            await asyncio.sleep(0.02)
        await recorder.close()

    threads = [threading.Thread(target=lambda: asyncio.run(write())), threading.Thread(target=scribe.run)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            time.sleep(0.6 + 0.17 * number)
            server.kill()
            time.sleep(0.2)
            server.start()
    finally:
        done.set()
        threads[0].join(30)
    deadline = time.monotonic() + 30
    while list(path.glob("*.seg")):  # drained, shipped and removed
        assert time.monotonic() < deadline
        time.sleep(0.05)
    scribe.stop.set()
    threads[1].join(30)
    with server.connect() as connection:
        rows = connection.execute("SELECT id, leaf_hash FROM audit_record WHERE kind = 'prediction'").fetchall()
        outbox = dict(connection.execute("SELECT record_id, leaf FROM audit_outbox").fetchall())
        assert connection.execute("SELECT count(*) FROM audit_quarantine").fetchall() == [(0,)]
    found = Counter(UUID(str(record_id)) for record_id, _ in rows)
    assert set(found.values()) == {1}
    assert found.keys() == {UUID(bytes=call.record_id) for call in calls}
    for record_id, leaf_hash in rows:
        assert leaves.leaf_hash(outbox[record_id]) == leaf_hash
