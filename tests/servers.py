"""Real PostgreSQL and Valkey for the tests, from the same wheels as `make run`.

Started once per test run, by whoever needs them first: under xdist the controller starts both before its workers and hands the
addresses down in the environment; without xdist the first test that asks for a database does. `DATABASE_URL` and `REDIS_URL`
in the environment are used instead where they are given.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from config import embedded_postgres, embedded_redis

_root: Path | None = None


def postgres_url() -> str:
    """The server's address, started now when there is none."""
    if "DATABASE_URL" not in os.environ:
        place = embedded_postgres.prepare(_scratch(), _scratch() / "s" / "pg", say=lambda line: None)
        # Tests commit a lot and lose nothing that matters: without syncs, they take half the time.
        server = _start(place.command(durable=False), "postgresql", signal.SIGINT, place.user)
        embedded_postgres.wait_until_ready(place, timeout_s=60, is_alive=lambda: server.poll() is None, say=lambda line: None)
        os.environ["DATABASE_URL"] = place.url
    return os.environ["DATABASE_URL"]


def redis_url() -> str:
    if "REDIS_URL" not in os.environ:
        place = embedded_redis.prepare(_scratch() / "s" / "redis")
        server = _start(place.command(), "redis", signal.SIGTERM, None)
        embedded_redis.wait_until_ready(place, timeout_s=30, is_alive=lambda: server.poll() is None)
        os.environ["REDIS_URL"] = place.url
    return os.environ["REDIS_URL"]


def _scratch() -> Path:
    """A directory of this run, removed at its end. Directly below the temporary directory: socket paths must stay short."""
    global _root
    if _root is None:
        _root = Path(tempfile.mkdtemp(prefix="daybook-"))
        _root.chmod(0o755)
        atexit.register(shutil.rmtree, _root, ignore_errors=True)
    return _root


def _start(command: Sequence[str], name: str, stop_signal: int, user: str | None) -> subprocess.Popen[bytes]:
    launch = [sys.executable, str(embedded_postgres.LAUNCH), "--parent", str(os.getpid()), "--signal", str(int(stop_signal))]
    if user:
        launch += ["--user", user]
    with (_scratch() / f"{name}.log").open("wb") as log:
        server = subprocess.Popen([*launch, "--", *command], stdout=log, stderr=log, start_new_session=True)
    atexit.register(_stop, server, stop_signal)
    return server


def _stop(server: subprocess.Popen[bytes], stop_signal: int) -> None:
    server.send_signal(stop_signal)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
