"""The supervisor restarts each program alone, stops in order and leaves nothing behind. Programs are small real processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from config import processes
from config.launch import __file__ as LAUNCH
from config.output import Output
from config.supervisor import FIRST_DELAY_S, LONGEST_DELAY_S, Program, StartFailed, Supervisor, back_off

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")


class Lines(Output):
    """The real output with a list beside it."""

    def __init__(self, file: Path) -> None:
        self.lines: list[tuple[str, str]] = []
        super().__init__(file, stream=2)

    def say(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        super().say(name, line)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


def make_supervisor(run_dir: Path) -> tuple[Supervisor, Lines]:
    output = Lines(run_dir / "daybook.log")
    return Supervisor(run_dir, output, host="127.0.0.1"), output


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


def pids(run_dir: Path) -> dict[str, int]:
    return {found.name: found.pid for found in processes.recorded(run_dir)}


def test_killed_program_is_started_again_and_the_other_goes_on(run_dir: Path) -> None:
    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        supervisor.start(Program("one", SLEEPER))
        supervisor.start(Program("two", SLEEPER))
        await until(lambda: sorted(output.lines) == [("one", "up"), ("two", "up")])
        before = pids(run_dir)
        os.kill(before["one"], signal.SIGKILL)
        await until(lambda: output.lines.count(("one", "up")) == 2)
        after = pids(run_dir)
        assert after["one"] != before["one"]
        assert after["two"] == before["two"]
        assert ("one", f"was ended by SIGKILL, starting again in {FIRST_DELAY_S:g} s") in output.lines
        await supervisor.stop(["one", "two"])
        assert pids(run_dir) == {}
        assert all(processes.start_time(pid) is None for pid in (*before.values(), *after.values()))

    asyncio.run(run())


def test_programs_stop_in_the_given_order_and_unnamed_ones_last(run_dir: Path) -> None:
    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        for name in ("database", "cache", "door"):
            supervisor.start(Program(name, SLEEPER))
        await until(lambda: len(output.lines) == 3)
        await supervisor.stop(["door", "database"])
        stops = [line for name, line in output.lines if name == "daybook"]
        assert stops == ["stopping door", "stopping database", "stopping cache"]

    asyncio.run(run())


def test_program_that_ignores_sigterm_is_killed_after_its_grace(run_dir: Path) -> None:
    deaf = (sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)")

    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        child = supervisor.start(Program("deaf", deaf, stop_grace_s=0.2))
        await until(lambda: bool(output.lines))
        await supervisor.stop([])
        assert not child.is_alive

    asyncio.run(run())


def test_helpers_of_a_dead_leader_are_ended_before_it_starts_again(run_dir: Path) -> None:
    leader = (
        sys.executable,
        "-c",
        "import subprocess, time; helper = subprocess.Popen(['sleep', '600']); print(helper.pid, flush=True); time.sleep(600)",
    )

    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        supervisor.start(Program("leader", leader))
        await until(lambda: bool(output.lines))
        helper = int(output.lines[0][1])
        os.kill(pids(run_dir)["leader"], signal.SIGKILL)
        await until(lambda: processes.start_time(helper) is None)
        await supervisor.stop([])

    asyncio.run(run())


def test_program_waits_while_its_port_is_held(run_dir: Path) -> None:
    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            supervisor.start(Program("door", SLEEPER, ports=(port,)))
            await until(lambda: any(f"port {port} is held by" in line for _, line in output.lines))
            assert f"process {os.getpid()}" in output.lines[0][1]
        await until(lambda: ("door", "up") in output.lines)
        await supervisor.stop([])

    asyncio.run(run())


def test_failing_command_names_itself(run_dir: Path) -> None:
    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        with pytest.raises(StartFailed, match="prepare ended with status 3"):
            await supervisor.run_once(Program("prepare", (sys.executable, "-c", "print('no database'); raise SystemExit(3)")))
        assert output.lines == [("prepare", "no database")]

    asyncio.run(run())


def test_missing_program_is_said(run_dir: Path) -> None:
    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        with pytest.raises(StartFailed):
            await supervisor.run_once(Program("absent", ("/no/such/program",)))
        assert output.lines == [("absent", "/no/such/program: No such file or directory")]

    asyncio.run(run())


def test_line_longer_than_the_buffer_comes_whole_in_pieces(run_dir: Path) -> None:
    async def run() -> None:
        supervisor, output = make_supervisor(run_dir)
        await supervisor.run_once(Program("wide", (sys.executable, "-c", "print('x' * 200_000); print('end')")))
        assert sum(len(line) for _, line in output.lines) == 200_003
        assert output.lines[-1][1].endswith("end")

    asyncio.run(run())


def test_back_off_doubles_to_its_bound_and_starts_anew_after_a_steady_life() -> None:
    delays = [0.0]
    for _ in range(10):
        delays.append(back_off(delays[-1], lived_s=0.1))
    assert delays[1:4] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays[-1] == LONGEST_DELAY_S
    assert back_off(LONGEST_DELAY_S, lived_s=31) == FIRST_DELAY_S


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's")
def test_child_ends_when_its_parent_is_killed() -> None:
    parent_code = (
        "import os, subprocess, sys, time\n"
        f"c = subprocess.Popen([sys.executable, {LAUNCH!r}, '--parent', str(os.getpid()), '--', 'sleep', '600'])\n"
        "time.sleep(0.5)\n"
        "print(c.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert processes.start_time(child) is not None
        parent.kill()
    asyncio.run(until(lambda: processes.start_time(child) is None))


def test_second_supervisor_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with processes.lock(tmp_path / "run" / "up.lock"), pytest.raises(processes.AlreadyRunning, match=f"process {os.getpid()}"):
        processes.lock(tmp_path / "run" / "up.lock")


def start_marked(var_dir: Path, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env={**os.environ, processes.MARK: str(var_dir)}, process_group=0)


def test_leftovers_of_a_killed_supervisor_are_ended(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    left = start_marked(tmp_path, "sleep", "600")
    processes.record(tmp_path / "run", "scribe", left.pid, ["sleep", "600"])
    assert processes.end_leftovers(tmp_path) == ["scribe"]
    assert left.wait(5) == -signal.SIGTERM
    assert list((tmp_path / "run").iterdir()) == []


def test_helper_whose_leader_is_gone_is_a_leftover(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code = "import subprocess, time; h = subprocess.Popen(['sleep', '600']); print(h.pid, flush=True); time.sleep(600)"
    leader = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, processes.MARK: str(tmp_path)}, process_group=0
    )
    assert leader.stdout is not None
    helper = int(leader.stdout.readline())
    processes.record(tmp_path / "run", "gateway", leader.pid, [])
    leader.kill()
    leader.wait()
    leader.stdout.close()
    assert processes.start_time(helper) is not None
    assert processes.end_leftovers(tmp_path) == ["gateway"]
    assert processes.start_time(helper) is None


def test_other_process_with_a_recorded_number_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    other = subprocess.Popen(["sleep", "600"], process_group=0)
    try:
        processes.record(tmp_path / "run", "web", other.pid, [])
        file = tmp_path / "run" / "web.pid"
        file.write_text(file.read_text().replace(f'"{processes.start_time(other.pid)}"', '"1"'))
        assert processes.end_leftovers(tmp_path) == []
        assert other.poll() is None
        assert not file.exists()
    finally:
        other.kill()
        other.wait()


def test_output_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    output = Output(tmp_path / "daybook.log", stream=writer)
    started = time.monotonic()
    for number in range(20_000):
        output.say("chatty", f"line {number} " + "x" * 100)
    assert time.monotonic() - started < 5
    os.close(reader)  # the reader goes: writing to the pipe fails, the file goes on
    output.close()
    os.close(writer)
    assert "line 0 " in (tmp_path / "daybook.log").read_text()
