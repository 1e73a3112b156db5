"""Daybook itself under load: the whole portal, started as an operator starts it, in a directory of its own."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg

from audit.backlog import read_backlog
from config.environment import SERVICES_FILE
from config.files import read_env_file

ROOT = Path(__file__).resolve().parent.parent


# A test run's own settings and servers: the portal brings its own.
NOT_INHERITED = {"DJANGO_SETTINGS_MODULE", "DATABASE_URL", "REDIS_URL"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Portal:
    """A running `manage.py up`. `gateway` is its REST address, `headers` carry the demo key."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in NOT_INHERITED},
            "VAR_DIR": str(directory),
            "PORT": str(free_port()),
            "GATEWAY_PORT": str(free_port()),
            "GRPC_PORT": str(free_port()),
            "DEMO": "1",
            "DJANGO_SETTINGS_MODULE": "config.settings.dev",  # pytest has put its own into the environment
            **environment,
        }
        (directory / "demo.env").unlink(missing_ok=True)  # a killed predecessor's would pass for ours
        self.log = (directory / "up.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "up"], cwd=ROOT, env=self.environment, stdout=self.log, stderr=self.log
        )
        self._wait_ready()

    def _wait_ready(self) -> None:
        env_file = self.directory / "demo.env"
        deadline = time.monotonic() + 300
        while not env_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the portal did not start; see {self.directory / 'up.log'}")
            time.sleep(0.3)
        values = read_env_file(env_file)
        self.site, self.gateway = values["DAYBOOK_URL"], values["DAYBOOK_GATEWAY"]
        self.key, self.operator_key = values["DAYBOOK_API_KEY"], values["DAYBOOK_OPERATOR_KEY"]
        self.headers = {"Authorization": f"Bearer {self.key}"}

    @property
    def database_url(self) -> str:
        return read_env_file(self.directory / SERVICES_FILE)["DATABASE_URL"]

    def num_behind(self) -> int:
        """Records that are durable and not sealed yet: in the journal, as the scribe said within the last half second, or ingested."""
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute("SELECT count(*) FROM audit_outbox").fetchone()
        backlog = read_backlog(self.directory / "journal")
        return (backlog.records if backlog else 0) + (row[0] if row else 0)

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, str(ROOT / "manage.py"), *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True, text=True).stdout

    def register(self, name: str, directory: Path) -> None:
        """Serve a model and wait until it's available."""
        self.manage("register", name, str(directory))
        self.wait_available(name)

    def deploy(self, name: str, directory: Path) -> None:
        """Serve a model below `MODEL_ROOTS` through the API, which costs no process of its own, unless an earlier run has; returns at
        once."""
        if self._ask_api("GET", f"{name}/").status_code == 404:
            self._ask_api("POST", "", {"name": name, "base_path": str(directory), "access": "key"}).raise_for_status()

    def undeploy(self, name: str) -> None:
        self._ask_api("DELETE", f"{name}/").raise_for_status()

    def _ask_api(self, method: str, path: str, content: dict[str, str] | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.operator_key}"}
        return httpx.request(method, f"{self.site}/api/deployments/{path}", json=content, headers=headers, timeout=30)

    def wait_available(self, name: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.gateway}/v1/models/{name}", headers=self.headers)
                if '"AVAILABLE"' in answer.text:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"{name} did not become available; see {self.directory / 'up.log'}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()
        self.log.close()

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds used so far, by process of the portal."""
        used: dict[str, float] = {}
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                used[_role(command)] = used.get(_role(command), 0.0) + cpu_seconds(pid)
        return used


def _role(command: str) -> str:
    for role in ("gateway", "scribe", "sealer", "valkey", "postgres", "web"):
        if re.search(rf"\b{role}", command):
            return role
    if "celery" in command:
        return "jobs" if "jobs" in command else "worker"
    return "supervisor"


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, itself included."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(directory: Path, **environment: str) -> Iterator[Portal]:
    directory.mkdir(parents=True, exist_ok=True)
    portal = Portal(directory, **environment)
    try:
        yield portal
    finally:
        portal.stop()
