"""Sealing: what is ingested is in the log exactly once and in order, whatever fails when; and nothing ever forks it."""

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import database, ids, verifier
from audit.checkpoint import Checkpoint, Ed25519Signer, sign
from audit.outside import DirectoryInUse, OutsideLog
from audit.restore import rebuild_directory, roll_forward, take_lock
from audit.sealer import LogRefused, LostHead, OpenLog, Sealer, SealerOptions

from .calls import ORIGIN, make_time_id
from .logs import OPTIONS, SIGNER, growing_roots, hash_leaf, ingest, make_leaf_call, naive_root, open_log, seal_all, seeded

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = [verifier.parse_vkey(SIGNER.vkey)]
LOG_TABLES = ("audit_logleaf", "audit_logtile", "audit_loghead", "audit_checkpoint", "audit_rollup", "audit_sealerstatus", "audit_outbox")

Connection = psycopg.Connection[Any]


@pytest.fixture
def connection() -> Iterator[Connection]:
    with database.connect() as opened:
        yield opened


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "log"


def ingest_many(connection: Connection, count: int, **changes: Any) -> list[bytes]:
    return ingest(connection, [make_leaf_call(**changes) for _ in range(count)])


def check_log(connection: Connection, directory: Path, leaves: list[bytes] | None = None) -> list[bytes]:
    """The whole invariant: database, directory and naive tree are one log; returns its leaves in order."""
    signed = verifier.verify_log(directory, KEYS)
    rows = connection.execute("SELECT index, leaf_hash FROM audit_logleaf ORDER BY index").fetchall()
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert signed.root == naive_root([row[1] for row in rows[: signed.size]])
    assert connection.execute("SELECT size, root, signed_size FROM audit_loghead").fetchall() == [
        (len(rows), naive_root([row[1] for row in rows]), signed.size)
    ]
    ordered: list[bytes] = []
    for n, data in connection.execute("SELECT n, data FROM audit_logtile WHERE level = -1 ORDER BY n"):
        assert n == len(ordered) // 256
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 2], "big")
            ordered.append(data[at + 2 : at + 2 + length])
            at += 2 + length
    assert [hash_leaf(leaf) for leaf in ordered] == [row[1] for row in rows]
    roots = growing_roots([row[1] for row in rows])
    for size, note in connection.execute("SELECT size, note FROM audit_checkpoint"):
        kept = verifier.verify_checkpoint(note, KEYS)
        assert (kept.size, kept.root) == (size, roots[size])
    counted = connection.execute("SELECT COALESCE(SUM(count), 0) FROM audit_rollup").fetchall()
    assert counted == [(len(rows),)]
    if leaves is not None:
        assert sorted(ordered) == sorted(leaves)
    return ordered


def test_records_are_sealed_once_and_oldest_first(connection: Connection, directory: Path) -> None:
    leaves = ingest_many(connection, 300)
    log = open_log(connection, directory)
    seal_all(log)
    assert check_log(connection, directory) == leaves
    more = ingest_many(connection, 5)
    late = ingest(connection, [make_leaf_call(record_id=make_time_id(1_700_000_000_000_000))])
    seal_all(log)
    assert check_log(connection, directory) == leaves + late + more, "a record that came late is sealed late, not lost"
    assert connection.execute("SELECT COUNT(*) FROM audit_outbox").fetchall() == [(0,)]


def test_an_empty_log_has_a_checkpoint_too(connection: Connection, directory: Path) -> None:
    open_log(connection, directory).publish()
    assert verifier.verify_log(directory, KEYS).size == 0
    check_log(connection, directory, [])


def test_the_log_grows_through_tiles_in_random_steps(connection: Connection, directory: Path) -> None:
    rng = seeded()
    options = SealerOptions(origin=ORIGIN, batch_size=400, checkpoint_interval_s=0.0)
    log = open_log(connection, directory, options=options)
    leaves: list[bytes] = []
    published: list[str] = []
    for _ in range(12):
        leaves += ingest_many(connection, rng.choice((1, 7, 200, 256, 500)))
        while log.seal() and rng.random() < 0.7:
            pass
        if rng.random() < 0.6:
            log.publish()
            published.append((directory / "checkpoint").read_text())
        if rng.random() < 0.3:
            log = open_log(connection, directory, options=options)
    seal_all(log)
    check_log(connection, directory, leaves)
    verifier.verify_log(directory, KEYS, saved=published)


class CutLog(OutsideLog):
    """The real directory, failing at one of its steps: before it is done, or after."""

    def __init__(self, directory: Path, cut_at: int, *, is_done: bool) -> None:
        super().__init__(directory)
        self.steps = 0
        self._cut_at = cut_at
        self._is_done = is_done

    def _step(self, action: Any, *args: Any) -> None:
        self.steps += 1
        if self.steps == self._cut_at and not self._is_done:
            raise OSError(28, "cut before")
        action(*args)
        if self.steps == self._cut_at:
            raise OSError(5, "cut after")

    def write_tile(self, level: int, n: int, width: int, data: bytes) -> None:
        self._step(super().write_tile, level, n, width, data)

    def sync(self) -> None:
        self._step(super().sync)

    def write_checkpoint(self, note: str) -> None:
        self._step(super().write_checkpoint, note)


@pytest.mark.parametrize("is_done", [False, True], ids=["failed", "failed but done"])
def test_publishing_may_be_cut_at_any_step(connection: Connection, directory: Path, is_done: bool) -> None:
    leaves = ingest_many(connection, 5)
    log = open_log(connection, directory)
    seal_all(log)
    cut_at = 0
    while True:
        cut_at += 1
        leaves += ingest_many(connection, 258)
        outside = CutLog(directory, cut_at, is_done=is_done)
        log = OpenLog(connection, outside, [SIGNER], OPTIONS)
        log.hold_against_directory()
        log.seal()
        try:
            log.publish()
        except OSError:
            verifier.verify_log(directory, KEYS)  # what was published before still stands
        else:
            break
        # The next sealer finds its way from the directory and the database alone.
        log = open_log(connection, directory)
        if log.unpublished:
            log.publish()
        check_log(connection, directory, leaves)
    assert cut_at > 5
    check_log(connection, directory, leaves)


def test_a_crash_between_commit_and_signature_loses_nothing(connection: Connection, directory: Path) -> None:
    leaves = ingest_many(connection, 700)
    log = open_log(connection, directory)
    log.publish()
    log.seal()
    log = open_log(connection, directory)
    assert (log.size, log.signed_size, log.unpublished) == (700, 0, True)
    log.publish()
    check_log(connection, directory, leaves)


def test_a_failing_transaction_changes_nothing(connection: Connection, directory: Path) -> None:
    leaves = ingest_many(connection, 10)
    log = open_log(connection, directory)
    log.publish()
    with database.connect() as other:
        other.execute("UPDATE audit_loghead SET signed_size = signed_size, size = 1")
    with pytest.raises(LostHead):
        log.seal()
    assert connection.execute("SELECT COUNT(*) FROM audit_outbox").fetchall() == [(10,)]
    connection.execute("UPDATE audit_loghead SET size = 0")
    log = open_log(connection, directory)
    seal_all(log)
    check_log(connection, directory, leaves)


def save_tables(connection: Connection) -> None:
    """A backup of the database's part of the log."""
    for table in LOG_TABLES:
        connection.execute(f"CREATE TABLE backup_{table} AS TABLE {table}".encode())


def restore_tables(connection: Connection) -> None:
    for table in LOG_TABLES:
        connection.execute(f"TRUNCATE {table}".encode())
        connection.execute(f"INSERT INTO {table} TABLE backup_{table}".encode())
        connection.execute(f"DROP TABLE backup_{table}".encode())


def test_a_restored_database_is_refused_until_it_is_rolled_forward(connection: Connection, directory: Path) -> None:
    leaves = ingest_many(connection, 300)
    log = open_log(connection, directory)
    seal_all(log)
    leaves += ingest_many(connection, 20)
    save_tables(connection)
    leaves += ingest_many(connection, 400)
    seal_all(log)
    figures = connection.execute("SELECT model, count, sketch FROM audit_rollup ORDER BY bucket, model").fetchall()
    restore_tables(connection)

    with pytest.raises(LogRefused, match=r"ends at 300 leaves, but a checkpoint for 720 was published.*restore_log"):
        open_log(connection, directory)
    assert connection.execute("SELECT size FROM audit_loghead").fetchall() == [(300,)]
    log = OpenLog(connection, OutsideLog(directory), [SIGNER], OPTIONS)
    assert roll_forward(connection, log, OutsideLog(directory), SIGNER.vkey, lambda month, pseudonym: "", lambda done, total: None) == 420
    check_log(connection, directory, leaves)
    assert connection.execute("SELECT model, count, sketch FROM audit_rollup ORDER BY bucket, model").fetchall() == figures
    assert connection.execute("SELECT COUNT(*) FROM audit_outbox").fetchall() == [(0,)], "what was restored no longer waits"
    log = open_log(connection, directory)
    leaves += ingest_many(connection, 3)
    seal_all(log)
    check_log(connection, directory, leaves)


def test_a_lost_database_is_rebuilt_from_the_directory_alone(connection: Connection, directory: Path) -> None:
    leaves = ingest_many(connection, 600)
    seal_all(open_log(connection, directory))
    for table in LOG_TABLES:
        connection.execute(f"TRUNCATE {table}".encode())
    with pytest.raises(LogRefused, match="ends at 0 leaves"):
        open_log(connection, directory)
    log = OpenLog(connection, OutsideLog(directory), [SIGNER], OPTIONS)
    roll_forward(connection, log, OutsideLog(directory), SIGNER.vkey, lambda month, pseudonym: "", lambda done, total: None)
    assert check_log(connection, directory) == leaves


def test_rolling_forward_refuses_a_directory_that_does_not_hold(connection: Connection, directory: Path) -> None:
    ingest_many(connection, 300)
    seal_all(open_log(connection, directory))
    for table in LOG_TABLES:
        connection.execute(f"TRUNCATE {table}".encode())
    bundle = directory / "tile/entries/000"
    data = bytearray(bundle.read_bytes())
    data[100] ^= 1
    bundle.write_bytes(data)
    log = OpenLog(connection, OutsideLog(directory), [SIGNER], OPTIONS)
    with pytest.raises(LogRefused, match="doesn't hold"):
        roll_forward(connection, log, OutsideLog(directory), SIGNER.vkey, lambda month, pseudonym: "", lambda done, total: None)
    assert connection.execute("SELECT COUNT(*) FROM audit_logleaf").fetchall() == [(0,)]


def test_a_database_that_went_another_way_is_never_sealed_on(connection: Connection, directory: Path, tmp_path: Path) -> None:
    ingest_many(connection, 100)
    log = open_log(connection, directory)
    seal_all(log)
    save_tables(connection)
    shutil.copytree(directory, tmp_path / "copy")
    ingest_many(connection, 50)
    seal_all(log)
    restore_tables(connection)
    # The restored database seals other records, on a restored directory: a second history.
    ingest_many(connection, 80)
    seal_all(open_log(connection, tmp_path / "copy"))
    with pytest.raises(LogRefused, match=r"disagree at 150 leaves.*fork"):
        open_log(connection, directory)
    log = OpenLog(connection, OutsideLog(directory), [SIGNER], OPTIONS)
    with pytest.raises(LogRefused, match="disagree"):
        roll_forward(connection, log, OutsideLog(directory), SIGNER.vkey, lambda month, pseudonym: "", lambda done, total: None)


def test_a_lost_directory_is_refused_and_can_be_written_anew(connection: Connection, directory: Path) -> None:
    leaves = ingest_many(connection, 520)
    seal_all(open_log(connection, directory))
    shutil.rmtree(directory)
    with pytest.raises(LogRefused, match="--rebuild-directory"):
        open_log(connection, directory)
    log = OpenLog(connection, OutsideLog(directory), [SIGNER], OPTIONS)
    assert rebuild_directory(connection, log, OutsideLog(directory), SIGNER.vkey, lambda done, total: None) == 520
    check_log(connection, directory, leaves)
    assert not open_log(connection, directory).unpublished


def test_an_older_directory_is_refused(connection: Connection, directory: Path, tmp_path: Path) -> None:
    ingest_many(connection, 5)
    log = open_log(connection, directory)
    seal_all(log)
    shutil.copytree(directory, tmp_path / "old")
    ingest_many(connection, 5)
    seal_all(log)
    with pytest.raises(LogRefused, match="is older than the database"):
        open_log(connection, tmp_path / "old")


def test_a_forged_or_foreign_checkpoint_outside_is_refused(connection: Connection, directory: Path) -> None:
    ingest_many(connection, 5)
    log = open_log(connection, directory)
    seal_all(log)
    stranger = Ed25519Signer(ORIGIN, Ed25519PrivateKey.generate())
    (directory / "checkpoint").write_text(sign(Checkpoint(ORIGIN, 5, log.root), [stranger], 0))
    with pytest.raises(LogRefused, match="can't be trusted"):
        open_log(connection, directory)
    (directory / "checkpoint").write_text("hello\n")
    with pytest.raises(LogRefused, match="can't be trusted"):
        open_log(connection, directory)


def test_the_log_keeps_its_key_and_its_name(connection: Connection, directory: Path) -> None:
    seal_all(open_log(connection, directory))
    stranger = Ed25519Signer(ORIGIN, Ed25519PrivateKey.generate())
    with pytest.raises(LogRefused, match="is signed with"):
        open_log(connection, directory, signers=[stranger])
    with pytest.raises(LogRefused, match=r"LOG_ORIGIN says 'elsewhere\.test'"):
        open_log(connection, directory, options=SealerOptions(origin="elsewhere.test"))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit_logtile SET data = set_byte(data, 40, get_byte(data, 40) # 1) WHERE level = 0 AND n = 1",
        "UPDATE audit_loghead SET root = set_byte(root, 0, get_byte(root, 0) # 1)",
        "DELETE FROM audit_logtile WHERE level = 1",
    ],
)
def test_a_database_that_contradicts_itself_is_refused(connection: Connection, directory: Path, tampering: str) -> None:
    ingest_many(connection, 300)
    seal_all(open_log(connection, directory))
    connection.execute(tampering.encode())
    with pytest.raises(LogRefused, match=r"tampered|missing"):
        open_log(connection, directory)


def test_a_record_ingested_again_is_dropped_and_a_false_twin_set_aside(connection: Connection, directory: Path) -> None:
    call = make_leaf_call()
    leaves = ingest(connection, [call])
    log = open_log(connection, directory)
    seal_all(log)
    ingest(connection, [call], rows=False)
    leaves += ingest_many(connection, 3)
    seal_all(log)
    seal_all(log)
    check_log(connection, directory, leaves)
    assert connection.execute("SELECT COUNT(*) FROM audit_outbox").fetchall() == [(0,)]

    ingest(connection, [make_leaf_call(record_id=call.record_id, model="another")], rows=False)
    leaves += ingest_many(connection, 3)
    seal_all(log)
    seal_all(log)
    check_log(connection, directory, leaves)
    log.heartbeat()
    ((state,),) = connection.execute("SELECT state FROM audit_sealerstatus").fetchall()
    assert f"sealed before with another leaf: {ids.text(call.record_id)}" in state


def test_a_leaf_that_no_bundle_holds_stops_no_other(connection: Connection, directory: Path) -> None:
    connection.execute(
        "INSERT INTO audit_outbox (record_id, ts, leaf) VALUES ('00000000-0000-7000-8000-000000000000', now(), %s)", [bytes(65_536)]
    )
    leaves = ingest_many(connection, 3)
    log = open_log(connection, directory)
    seal_all(log)
    check_log(connection, directory, leaves)
    log.heartbeat()
    ((state,),) = connection.execute("SELECT state FROM audit_sealerstatus").fetchall()
    assert state == "sealing; leaf above 65535 bytes: 00000000-0000-7000-8000-000000000000"


def test_leaves_that_nobody_can_read_are_sealed_all_the_same(connection: Connection, directory: Path) -> None:
    odd = [b"", b"\xff\xfe", b"{", b'{"t":"prediction","ts":"noon"}', b'{"t":"gateway.key","d":{"key":"*"}}']
    for leaf in odd:
        connection.execute("INSERT INTO audit_outbox (record_id, ts, leaf) VALUES (gen_random_uuid(), now(), %s)", [leaf])
    seal_all(open_log(connection, directory))
    assert verifier.verify_log(directory, KEYS).size == len(odd)


def start(sealer: Sealer) -> threading.Thread:
    thread = threading.Thread(target=sealer.run)
    thread.start()
    return thread


def wait_until_sealed(connection: Connection, size: int, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while connection.execute("SELECT COUNT(*) FROM audit_loghead WHERE signed_size = %s", [size]).fetchall() != [(1,)]:
        assert time.monotonic() < deadline, connection.execute("SELECT * FROM audit_loghead").fetchall()
        time.sleep(0.01)


def test_of_two_sealers_one_works_and_the_other_takes_over(connection: Connection, directory: Path) -> None:
    sealers = [Sealer(database.connect, OutsideLog(directory), [SIGNER], OPTIONS) for _ in range(2)]
    threads = [start(sealer) for sealer in sealers]
    try:
        leaves: list[bytes] = []
        for _ in range(5):
            leaves += ingest_many(connection, 40)
        wait_until_sealed(connection, 200)
        holders = connection.execute("SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchall()
        assert holders == [(1,)]
        sealers[0].stop.set()
        threads[0].join(10)
        leaves += ingest_many(connection, 40)
        wait_until_sealed(connection, 240)
    finally:
        for sealer in sealers:
            sealer.stop.set()
        for thread in threads:
            thread.join(10)
    check_log(connection, directory, leaves)


def test_a_sealer_on_a_copy_of_the_database_can_not_write_the_same_directory(directory: Path) -> None:
    with OutsideLog(directory).lock(), pytest.raises(DirectoryInUse), OutsideLog(directory).lock():
        pass


def test_restoring_needs_the_sealer_to_be_stopped(connection: Connection) -> None:
    with database.connect() as other:
        take_lock(other)
        with pytest.raises(LogRefused, match="stop it first"):
            take_lock(connection)


def test_a_broken_connection_is_opened_again(connection: Connection, directory: Path) -> None:
    sealer = Sealer(database.connect, OutsideLog(directory), [SIGNER], OPTIONS)
    thread = start(sealer)
    try:
        leaves: list[bytes] = []
        for round_ in range(1, 5):
            leaves += ingest_many(connection, 30)
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
            wait_until_sealed(connection, 30 * round_)
    finally:
        sealer.stop.set()
        thread.join(10)
    check_log(connection, directory, leaves)


def test_a_clean_stop_leaves_nothing_unsigned(connection: Connection, directory: Path) -> None:
    sealer = Sealer(database.connect, OutsideLog(directory), [SIGNER], SealerOptions(origin=ORIGIN, checkpoint_interval_s=60, poll_s=0.01))
    thread = start(sealer)
    wait_until_sealed(connection, 0)
    sealer.stop.set()
    thread.join(10)
    check_log(connection, directory, [])


def count_signed(connection: Connection) -> int:
    rows = connection.execute("SELECT signed_size FROM audit_loghead").fetchall()
    return int(rows[0][0]) if rows else 0


def test_kill_nine_at_random_moments_loses_and_doubles_nothing(connection: Connection, directory: Path) -> None:
    rng = seeded()
    conninfo = psycopg.conninfo.make_conninfo(**connection.info.get_parameters(), password=connection.info.password)
    leaves: list[bytes] = []
    published: list[str] = []
    command = [sys.executable, "-m", "tests.audit.sealer_process", conninfo, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        answers = starter.stdout
        assert answers is not None
        assert starter.stdin is not None

        def start_sealer() -> int:
            print(file=starter.stdin, flush=True)
            return int(answers.readline())

        for _ in range(15):
            before = count_signed(connection)
            pid = start_sealer()
            until = math.inf  # until it has published something, then for another moment
            while time.monotonic() < until:
                leaves += ingest_many(connection, rng.randrange(1, 60))
                if until == math.inf and count_signed(connection) > before:
                    until = time.monotonic() + rng.uniform(0, 0.15)
            os.kill(pid, signal.SIGKILL)
            published.append((directory / "checkpoint").read_text())
        pid = start_sealer()
        try:
            wait_until_sealed(connection, len(leaves), timeout_s=30)
        finally:
            os.kill(pid, signal.SIGKILL)
            starter.stdin.close()
    check_log(connection, directory, leaves)
    verifier.verify_log(directory, KEYS, saved=published)
