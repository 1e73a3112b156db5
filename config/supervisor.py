"""Keeps several programs running, each alone: what ends is started again, the others go on.

A `Program` is a command line and how to stop it; a `Child` runs it again and again; the `Supervisor` owns the children. Which
programs Daybook consists of, and in which order they start and stop, is `config/up.py`.

Children are process groups of their own (a Ctrl-C at the terminal reaches only us, and a dead leader's helpers can be ended),
they end with us (`config/launch.py`), and are written down in `VAR_DIR/run/<name>.pid`, so that the next supervisor can end what
this one left if both precautions fail.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import processes
from .launch import __file__ as LAUNCH
from .output import Output

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 15.0
STEADY_S = 30.0  # up for so long, a program's back-off starts anew
LINE_LIMIT = 64 * 1024


class StartFailed(RuntimeError):
    """Something that must work before anything else doesn't; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Program:
    """One thing to keep running.

    died_signal: what it gets when the supervisor dies without stopping it. ports: must be free before it starts; a listener
    left over from its last life would share the port silently (SO_REUSEPORT). muted: lines that hold one of these aren't shown,
    for warnings about what doesn't matter here.
    """

    name: str
    command: tuple[str, ...]
    stop_signal: int = signal.SIGTERM
    died_signal: int = signal.SIGTERM
    stop_grace_s: float = 20.0
    user: str | None = None
    niceness: int = 0
    ports: tuple[int, ...] = ()
    muted: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def back_off(delay_s: float, lived_s: float) -> float:
    """How long to wait before the next start, after a life of `lived_s` that had been preceded by `delay_s`."""
    return FIRST_DELAY_S if lived_s >= STEADY_S or not delay_s else min(delay_s * 2, LONGEST_DELAY_S)


class Child:
    """A program and its current process. All methods run on the supervisor's loop, in the main thread.

    The main thread matters: the kernel ends a child when the *thread* that started it ends.
    """

    def __init__(self, program: Program, run_dir: Path, output: Output, host: str) -> None:
        self.program = program
        self.ended = 0  # how often it ended without being asked
        self._run_dir = run_dir
        self._output = output
        self._host = host
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name=self.program.name)

    async def stop(self) -> None:
        """Ask it to end, wait, insist. Returns when its whole group is gone."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            processes.signal_process(process.pid, self.program.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.program.stop_grace_s)
            except TimeoutError:
                self._say(f"didn't stop within {self.program.stop_grace_s:.0f} s, killing it")
        if process is not None:
            processes.end_group(process.pid, signal.SIGKILL)
        if self._task is not None:
            await self._task

    def kill(self) -> None:
        """End it now, for someone who asked twice."""
        self._stopping.set()
        if self._process is not None:
            processes.end_group(self._process.pid, signal.SIGKILL)

    async def _keep_running(self) -> None:
        delay_s = 0.0
        while not self._stopping.is_set():
            await self._wait_for_ports()
            if self._stopping.is_set():
                break
            started = time.monotonic()
            try:
                status = await self._run_once()
            except OSError as error:  # no memory, no descriptors, no processes left: try again later
                self._say(f"can't be started: {error.strerror}")
                status = -1
            if self._stopping.is_set():
                break
            self.ended += 1
            delay_s = back_off(delay_s, time.monotonic() - started)
            self._say(f"{describe_end(status)}, starting again in {delay_s:g} s")
            await self._pause(delay_s)

    async def _run_once(self) -> int:
        process, printed = await spawn(self.program)
        self._process = process
        processes.record(self._run_dir, self.program.name, process.pid, self.program.command)
        if self._stopping.is_set():  # asked to stop while it was being started
            processes.end_group(process.pid, signal.SIGTERM)
        lines = asyncio.create_task(forward_lines(printed, self._say))
        status = await process.wait()
        # Its helpers (Granian's worker, Celery's) must not outlive it: they would go on answering beside the next one.
        processes.end_group(process.pid, signal.SIGKILL)
        try:
            await asyncio.wait_for(lines, 5.0)
        except TimeoutError:  # somebody outside its group still holds our end of the pipe
            self._say("its output is still held open, not waiting for it")
        processes.forget(self._run_dir, self.program.name)
        return status

    async def _wait_for_ports(self) -> None:
        told = 0.0
        for port in self.program.ports:
            while not processes.port_is_free(self._host, port) and not self._stopping.is_set():
                if time.monotonic() - told > 10:
                    self._say(f"port {port} is held by {processes.find_listener(port) or 'another process'}, waiting")
                    told = time.monotonic()
                await self._pause(0.1)

    async def _pause(self, delay_s: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        except TimeoutError:
            return

    def _say(self, line: str) -> None:
        if not any(part in line for part in self.program.muted):
            self._output.say(self.program.name, line)


class Supervisor:
    """All children, in the order in which they were started."""

    def __init__(self, run_dir: Path, output: Output, *, host: str) -> None:
        self._run_dir = run_dir
        self._output = output
        self._host = host
        self.children: dict[str, Child] = {}
        self._once: asyncio.subprocess.Process | None = None

    def start(self, program: Program) -> Child:
        child = self.children[program.name] = Child(program, self._run_dir, self._output, self._host)
        child.start()
        return child

    async def run_once(self, program: Program) -> None:
        """Run a command to its end. Raises StartFailed when it fails; its own lines above say why."""
        process, printed = await spawn(program)
        self._once = process
        processes.record(self._run_dir, program.name, process.pid, program.command)
        try:
            lines = asyncio.create_task(forward_lines(printed, lambda line: self._output.say(program.name, line)))
            status = await process.wait()
            processes.end_group(process.pid, signal.SIGTERM)
            await lines
        finally:
            processes.end_group(process.pid, signal.SIGTERM)  # does something only when we were cancelled
            await process.wait()
            self._once = None
            processes.forget(self._run_dir, program.name)
        if status:
            raise StartFailed(f"{program.name} {describe_end(status)}; its lines above say why")

    async def stop(self, order: Sequence[str]) -> None:
        """Stop the children named, one after the other, each drained before the next loses what it depends on; then the rest."""
        named = [name for name in order if name in self.children]
        for name in [*named, *(name for name in reversed(self.children) if name not in named)]:
            self._output.say("daybook", f"stopping {name}")
            await self.children[name].stop()

    def kill(self) -> None:
        for child in self.children.values():
            child.kill()
        if self._once is not None:
            processes.end_group(self._once.pid, signal.SIGKILL)


async def spawn(program: Program) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
    """Start a program. Returns its process and what it prints.

    The pipe is our own: with asyncio's, `wait()` would return only when everybody who inherited it has closed it, a dead leader's
    helpers included.
    """
    launch = [sys.executable, str(LAUNCH), "--parent", str(os.getpid()), "--signal", str(int(program.died_signal))]
    if program.user:
        launch += ["--user", program.user]
    if program.niceness:
        launch += ["--nice", str(program.niceness)]
    reading, writing = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *launch,
            "--",
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            env={**os.environ, **program.environment},
            process_group=0,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    lines = asyncio.StreamReader(limit=LINE_LIMIT)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(reading, "rb", buffering=0))
    return process, lines


async def forward_lines(stream: asyncio.StreamReader, say: Callable[[str], None]) -> None:
    """Pass lines on until the stream ends; one that is longer than the buffer comes in pieces."""
    while True:
        try:
            line = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as rest:
            line = rest.partial
            if not line:
                return
        except asyncio.LimitOverrunError as overrun:
            line = await stream.read(max(overrun.consumed, 1))
        shown = line.decode(errors="replace").rstrip()
        if shown:
            say(shown)


def describe_end(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
