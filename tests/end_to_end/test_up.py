"""`manage.py up` as an operator meets it: refuses with a sentence, goes on where it stopped, leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from bench.portal import NOT_INHERITED, ROOT, Portal, descendants, free_port, running
from config import processes, up


def run_up(var_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`up`, which is expected to end by itself."""
    settings = {"VAR_DIR": str(var_dir), "PORT": str(free_port()), "GATEWAY_PORT": str(free_port()), "GRPC_PORT": str(free_port())}
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "up"],
        env={**{name: value for name, value in os.environ.items() if name not in NOT_INHERITED}, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_port_that_is_taken_is_named_with_its_setting_and_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        ended = run_up(tmp_path / "var", GATEWAY_PORT=str(port))
    assert ended.returncode == 1
    assert f"Port {port} is in use by process {os.getpid()}" in ended.stdout
    assert "set GATEWAY_PORT to a free port" in ended.stdout


def test_one_port_for_two_doors_is_refused(tmp_path: Path) -> None:
    port = str(free_port())
    ended = run_up(tmp_path / "var", PORT=port, GATEWAY_PORT=port)
    assert ended.returncode == 1
    assert "PORT, GATEWAY_PORT and GRPC_PORT must differ" in ended.stdout


def test_wrong_setting_is_named(tmp_path: Path) -> None:
    ended = run_up(tmp_path / "var", JOURNAL_MAX_MB="plenty")
    assert ended.returncode != 0
    assert "JOURNAL_MAX_MB must be a whole number, not 'plenty'" in ended.stderr


def test_var_dir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run_up(tmp_path / "file" / "var")
    assert ended.returncode != 0
    assert str(tmp_path / "file") in ended.stderr
    assert "Traceback" not in ended.stderr


def test_full_disk_is_refused_before_anything_starts(tmp_path: Path) -> None:
    class Settings:
        VAR_DIR = tmp_path
        HOST = "127.0.0.1"
        PORT, GATEWAY_PORT, GRPC_PORT = free_port(), free_port(), free_port()

    up.check_machine(Settings)
    message = up.find_shortage((10 << 30, 10 << 30, 100 << 20), tmp_path)
    assert message == f"Only 100 MB are free on the disk of {tmp_path}; Daybook needs 512 MB: free some, or set VAR_DIR"


def predict(portal: Portal) -> str:
    """The record of a call that was answered rightly."""
    url = f"{portal.gateway}/v1/models/half_plus_two:predict"
    answer = httpx.post(url, json={"instances": [1.0]}, headers=portal.headers, timeout=30)
    assert answer.json() == {"predictions": [2.5]}
    return str(answer.headers["Daybook-Record"])


def test_goes_on_after_a_kill_and_after_a_clean_stop(tmp_path: Path) -> None:
    var_dir = tmp_path / "var"
    with running(var_dir) as portal:
        records = [predict(portal)]
        key, people = portal.key, (var_dir / "demo-users.txt").read_text()
        second = run_up(var_dir)
        assert second.returncode != 0
        assert f"Daybook already runs in {var_dir} (process {portal.process.pid})" in second.stderr
        family = descendants(portal.process.pid)
        portal.process.kill()
        wait_until_gone(family[1:])

    with running(var_dir) as portal:  # the same directory, other ports
        assert (portal.key, (var_dir / "demo-users.txt").read_text()) == (key, people)
        records.append(predict(portal))
        family = descendants(portal.process.pid)
        portal.process.send_signal(signal.SIGTERM)
        assert portal.process.wait(120) == 0
        assert [pid for pid in family if processes.start_time(pid)] == []
        assert not (var_dir / "demo.env").exists()

    with running(var_dir) as portal:
        records.append(predict(portal))
        for record in records:
            deadline = time.monotonic() + 30
            url = f"{portal.site}/api/records/{record}/"
            while httpx.get(url, headers=portal.headers, timeout=30).status_code != 200:
                assert time.monotonic() < deadline, f"{record} isn't in the log"
                time.sleep(0.1)
        assert portal.manage("verify_log").startswith("ok")


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if processes.start_time(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)
