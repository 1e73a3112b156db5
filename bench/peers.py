"""The servers that Daybook is compared with, each in a virtual environment of its own below `var/bench/`.

All of them stay up during a run; those that aren't being measured are stopped with SIGSTOP, so that they cost nothing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from config import embedded_redis

from .portal import ROOT, cpu_seconds, descendants, free_port


@dataclass(frozen=True, slots=True)
class Peer:
    """How to install and start one peer. `{port}` and `{bin}` are filled in; several commands are several processes."""

    name: str
    requirements: tuple[str, ...]
    commands: tuple[str, ...]
    path: str = "/v1/models/{model}:predict"
    health: str = "/healthz"
    needs_redis: bool = False


TENSORFLOW = "tensorflow-cpu==2.21.0"
FASTAPI = ("fastapi==0.121.2", "uvicorn[standard]==0.38.0")
PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "fastapi",
            (TENSORFLOW, *FASTAPI),
            ("{bin}/uvicorn bench.apps.fastapi_app:app --workers 2 --port {port} --no-access-log --log-level warning",),
        ),
        Peer(
            "fastapi-lean",
            (TENSORFLOW, *FASTAPI),
            ("{bin}/uvicorn bench.apps.fastapi_app:app --workers 2 --port {port} --no-access-log --log-level warning",),
            path="/lean/{model}",
        ),
        Peer(
            "celery",
            (TENSORFLOW, "django==5.2.19", "djangorestframework==3.18.3", "celery==5.7.0", "redis[hiredis]==8.1.0", "granian==2.8.7"),
            (
                "{bin}/celery -A bench.apps.celery_app:celery worker -c 2 --loglevel warning --without-gossip --without-mingle",
                "{bin}/granian --interface wsgi --port {port} --blocking-threads 64 --no-access-log bench.apps.celery_app:application",
            ),
            needs_redis=True,
        ),
        Peer(
            "mosec",
            (TENSORFLOW, "mosec==0.9.8", "orjson==3.13.0"),
            ("{bin}/python -m bench.apps.mosec_app --port {port} --timeout 30000",),
            path="/v1/models/{model}",
            health="/metrics",
        ),
        Peer(
            "triton",
            (TENSORFLOW, "nvidia-pytriton==0.7.0"),
            ("{bin}/python -m bench.apps.triton_app {port}",),
            path="/v2/models/{model}/infer",
            health="/v2/health/ready",
        ),
    )
}


@dataclass(slots=True)
class Running:
    peer: Peer
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def url(self, model: str) -> str:
        return self.address + self.peer.path.format(model=model)

    def signal(self, number: int) -> None:
        for process in self.processes:
            for pid in descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def cpu_seconds(self) -> float:
        """CPU seconds used so far by all its processes."""
        return sum(cpu_seconds(pid) for process in self.processes for pid in descendants(process.pid))

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)


def install(peer: Peer, directory: Path) -> Path:
    """The `bin` directory of the peer's environment, made on first use."""
    environment = directory / f"venv-{peer.name}"
    stamp = environment / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(peer.requirements):
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(environment / "bin" / "pip"), "install", "-q", *peer.requirements], check=True)
        stamp.write_text("\n".join(peer.requirements))
    return environment / "bin"


@contextlib.contextmanager
def own_redis(directory: Path) -> Iterator[str]:
    """A Valkey of the peers' own, as a Celery broker address."""
    place = embedded_redis.prepare(directory / "redis")
    server = subprocess.Popen(place.command())
    try:
        embedded_redis.wait_until_ready(place, timeout_s=30, is_alive=lambda: server.poll() is None)
        yield place.url.replace("unix://", "redis+socket://")
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def started(peer: Peer, directory: Path, models: Path, redis_url: str) -> Iterator[Running]:
    binaries = install(peer, directory)
    port = free_port()
    environment = {
        **os.environ,
        "BENCH_MODELS": str(models),
        "BENCH_REDIS": redis_url,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    running = Running(peer, f"http://127.0.0.1:{port}")
    log = (directory / f"{peer.name}.log").open("wb")
    try:
        for command in peer.commands:
            words = command.format(bin=binaries, port=port).split()
            running.processes.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True))
        _wait(running, directory / f"{peer.name}.log")
        yield running
    finally:
        running.resume()
        running.signal(signal.SIGTERM)
        for process in running.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        running.signal(signal.SIGKILL)
        log.close()


def _wait(running: Running, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(running.address + running.peer.health).status_code == 200:
                return
        if any(process.poll() is not None for process in running.processes):
            break
        time.sleep(0.5)
    raise RuntimeError(f"{running.peer.name} did not start; see {log}")
