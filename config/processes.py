"""Processes as the operating system sees them: who lives, since when, who holds a port, how to end a whole group.

A pid alone names nobody, since numbers are used again; pid and start time do. Imports no framework.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .files import write_private

LINUX = sys.platform.startswith("linux")  # a value, so that mypy checks both branches
MARK = "DAYBOOK_SUPERVISED"  # in the environment of every supervised process: the VAR_DIR it belongs to


class AlreadyRunning(RuntimeError):
    """Another supervisor holds this VAR_DIR."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One supervised process as written to `VAR_DIR/run/<name>.pid`."""

    name: str
    pid: int
    started: str  # as `start_time` gives it
    command: tuple[str, ...]


def start_time(pid: int) -> str | None:
    """Something that differs when the number is used again; None when no such process lives (a zombie doesn't)."""
    if LINUX:
        try:
            # The name in parentheses may hold spaces and parentheses, so count from the last one: state is 3, start time 22.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return None if not shown or shown[0].startswith("Z") else " ".join(shown[1:])


def lock(file: Path) -> IO[str]:
    """Hold `file` until the process ends. Raises AlreadyRunning, naming the holder. The kernel frees it however we end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    held = file.open("a+")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with held:
            held.seek(0)
            holder = held.read().strip() or "unknown"
        raise AlreadyRunning(f"Daybook already runs in {file.parent.parent} (process {holder})") from None
    held.truncate(0)
    held.write(f"{os.getpid()}\n")
    held.flush()
    return held


def record(run_dir: Path, name: str, pid: int, command: Sequence[str]) -> None:
    started = start_time(pid)
    if started is not None:
        write_private(run_dir / f"{name}.pid", json.dumps({"pid": pid, "started": started, "command": list(command)}) + "\n")


def forget(run_dir: Path, name: str) -> None:
    (run_dir / f"{name}.pid").unlink(missing_ok=True)


def recorded(run_dir: Path) -> Iterator[Recorded]:
    for file in sorted(run_dir.glob("*.pid")):
        try:
            found = json.loads(file.read_text())
            yield Recorded(file.stem, int(found["pid"]), str(found["started"]), tuple(found["command"]))
        except (ValueError, KeyError, TypeError):
            file.unlink()  # torn by a power cut: after it nothing of ours lives


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    if not LINUX:
        shown = subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True, check=False).stdout
        return [int(pid) for pid in shown.split()]
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def is_ours(pid: int, var_dir: Path) -> bool:
    """Whether a process carries our mark. True where that can't be read (not Linux, or it rewrote its environment)."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return not LINUX
    return f"{MARK}={var_dir}".encode() in environ.split(b"\0")


def end_leftovers(var_dir: Path, *, grace_s: float = 10.0) -> list[str]:
    """End what a killed supervisor left in `var_dir`; returns the names of those that still lived.

    A group is ours when its leader is the recorded process, or when the leader is gone and the members carry our mark: a number
    isn't given to a new process while a group of that number exists. Databases get their fast shutdown signal first.
    """
    run_dir = var_dir / "run"
    found: dict[str, list[int]] = {}
    for process in recorded(run_dir):
        alive = members(process.pid)
        if process.pid in alive:
            if start_time(process.pid) != process.started:
                alive = []
        else:
            alive = [pid for pid in alive if is_ours(pid, var_dir)]
        if alive:
            found[process.name] = alive
            _send(alive, signal.SIGINT if process.name == "postgresql" else signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    waiting = {pid: start_time(pid) for pids in found.values() for pid in pids}
    while waiting and time.monotonic() < deadline:
        waiting = {pid: started for pid, started in waiting.items() if started is not None and start_time(pid) == started}
        time.sleep(0.05)
    _send(list(waiting), signal.SIGKILL)
    for process in list(recorded(run_dir)):
        forget(run_dir, process.name)
    return list(found)


def end_group(group: int, number: int) -> None:
    """Send a signal to all of a group; nothing happens when none is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        os.killpg(group, number)


def signal_process(pid: int, number: int) -> None:
    """Send a signal to one process; nothing happens when it's gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def port_is_free(host: str, port: int) -> bool:
    """Whether we could listen there. Asked without SO_REUSEPORT, which would let two servers share the port unnoticed."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def find_listener(port: int) -> str | None:
    """Who listens on a port, as `pid 17 (nginx -g …)`; None when that can't be seen (other user's process, not Linux)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) not in inodes:
                continue
            command = (descriptor.parent.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        return f"process {descriptor.parent.parent.name} ({command[:80]})"
    return None


def _send(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        signal_process(pid, number)
