"""The journal against power cuts, and against the order of real system calls. `kill -9` alone shows neither: the page cache survives it."""

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest

from audit import keys, payloads
from audit.errors import LogUnavailable
from audit.recorder import Recorder
from tests.audit.calls import make_call, make_recorder, read_entries, record_ids
from tests.audit.disks import PowerCutDisk

CUTS = int(os.environ.get("DAYBOOK_POWER_CUTS", "1000"))
BATCHES = 20
ROOT = Path(__file__).parents[2]


class Life:
    """What callers of one gateway life were told."""

    def __init__(self) -> None:
        self.answered: set[bytes] = set()
        self.refused: set[bytes] = set()  # got 503 while the power was still on


async def live(recorder: Recorder, disk: PowerCutDisk, chance: random.Random, life: Life) -> None:
    """Callers come, until the power is gone."""
    recorder.start(asyncio.get_running_loop())

    async def call() -> None:
        made = make_call(request=bytes(chance.choice((20, 500, 9_000))))
        try:
            await recorder.append(made)
        except LogUnavailable:
            if not disk.is_off:
                life.refused.add(made.record_id)
        else:
            life.answered.add(made.record_id)

    while not disk.is_off and len(life.answered) < 200:
        await asyncio.gather(*(call() for _ in range(chance.choice((1, 1, 3, 20)))))
    await recorder.close()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_after_every_power_cut_each_answered_call_is_found_once(tmp_path: Path, batch: int) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(CUTS // BATCHES):
        seed = batch * 100_000 + number
        chance = random.Random(seed)
        path = tmp_path / str(number)
        path.mkdir()
        failing = {chance.randrange(4, 60): chance.choice(("fails", "fails but done")) for _ in range(chance.choice((0, 0, 1, 2)))}
        disk = PowerCutDisk(cut_at=chance.randrange(4, 60), failing=failing, chance=chance)
        life = Life()
        recorder = make_recorder(path, directory=disk, segment_bytes=40_000)
        with suppress(OSError):  # the power may go before the first segment is made
            asyncio.run(live(recorder, disk, chance, life))
        disk.write_survivors(path, chance)
        entries = read_entries(path)
        found = Counter(record_ids(entries))
        context = f"seed {seed}, {len(life.answered)} answered, cut at {disk._cut_at}, failing {failing}"
        assert not life.answered - found.keys(), f"an answered call is lost: {context}"
        assert all(count == 1 for count in found.values()), f"a record is there twice: {context}"
        assert not life.refused & found.keys(), f"a call that got 503 is in the journal: {context}"
        known = {key.key_id for file in path.glob("*.keys") for key in keys.iterate_keys(file.read_bytes())}
        needed = {
            part.key_id for entry in entries if b'"c":' in bytes(entry.leaf) for part in payloads.decode_parts(bytes(entry.attachment))
        }
        assert needed <= known, f"a payload's key is lost: {context}"
        outcomes["answered"] += len(life.answered)
        outcomes["refused"] += len(life.refused)
        shutil.rmtree(path)
    assert outcomes["answered"] > CUTS // BATCHES


@contextmanager
def served(directory: Path, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    command = [*prefix, sys.executable, "-m", "tests.audit.journal_server", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            yield process, connection
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_killed_process_leaves_every_answered_call(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    answered: list[bytes] = []
    for number in range(5):
        with served(directory) as (process, connection):
            stream = connection.makefile("rw")
            for request in range(30 + 11 * number):
                stream.write(f"request {request}\n" * 3)
                stream.flush()
                answered += [UUID(stream.readline().split()[1]).bytes for _ in range(3)]
            process.send_signal(signal.SIGKILL)
            process.wait(30)
    found = Counter(record_ids(read_entries(directory)))
    assert set(answered) <= found.keys()
    assert set(found.values()) == {1}
