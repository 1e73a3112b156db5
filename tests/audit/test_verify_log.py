"""`manage.py verify_log` finds what was changed behind the log's back; `restore_log` and `sealer` as commands."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections

from audit import acts, database, figures, leaves, verifier
from audit.checkpoint import Checkpoint, Ed25519Signer, parse, sign
from audit.ids import new_id, text, time_us
from audit.logkeys import ED25519_FILE, load_signers

from .calls import MASTER_KEY, ORIGIN, make_refusal
from .logs import encode, ingest, make_leaf_call, open_log, seal_all

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, settings: Any) -> None:
    settings.VAR_DIR = tmp_path
    settings.LOG_DIR = tmp_path / "log"
    settings.NODE = "node-1"
    settings.MASTER_KEY_FILE = tmp_path / "keys" / "master.key"
    settings.MASTER_KEY_FILE.parent.mkdir(mode=0o700)
    settings.MASTER_KEY_FILE.write_bytes(MASTER_KEY)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator["psycopg.Connection[Any]"]:
    """A connection to a sealed log of calls, refusals, acts and events."""
    signers = load_signers(tmp_path / "keys", ORIGIN, post_quantum=False, may_create=lambda: True)
    with database.connect() as opened:
        log = open_log(opened, tmp_path / "log", signers)
        calls = [make_leaf_call() for _ in range(270)]
        calls += [make_refusal(count=12), make_leaf_call(actor_type="anonymous", key_prefix="", application="", user="", trace=None)]
        calls += [make_leaf_call(outcome="timeout", status=504, error="e" * 300, version=None, batch_size=0, signature="other")]
        ingest(opened, calls)
        seal_all(log)
        acts.record_act(kind="key.revoked", actor="ada", subject="dbk_1", details={"n": 1})
        ingest_event(opened, "gap", {"calls": 7, "by": {"ok": 7}})
        seal_all(log)
        yield opened


def ingest_event(connection: "psycopg.Connection[Any]", type_: str, details: dict[str, Any]) -> None:
    record_id = new_id()
    leaf = leaves.event_leaf(type_, record_id=text(record_id), ts_us=time_us(record_id), node="node-1", details=details)
    values = [time_us(record_id), UUID(bytes=record_id), leaves.leaf_hash(leaf), type_]
    connection.execute(
        "INSERT INTO audit_record (ts, id, leaf_hash, kind, verb, node)"
        " VALUES ('epoch'::timestamptz + %s * interval '1 microsecond', %s, %s, 'system', %s, 'node-1')",
        values,
    )
    connection.execute("INSERT INTO audit_outbox (record_id, ts, leaf) VALUES (%s, now(), %s)", [UUID(bytes=record_id), leaf])


def verify(**options: Any) -> str:
    output = io.StringIO()
    call_command("verify_log", stdout=output, **options)
    return output.getvalue()


def verify_broken() -> str:
    """All that verify_log says about a log that doesn't hold."""
    output = io.StringIO()
    with pytest.raises(CommandError, match="BROKEN") as caught:
        call_command("verify_log", stdout=output)
    return output.getvalue() + str(caught.value)


def test_a_whole_log_holds_and_says_what_it_has(connection: "psycopg.Connection[Any]") -> None:
    ingest(connection, [make_leaf_call()])
    said = verify()
    assert said.startswith("ok: 275 leaves (1 act, 1 gap, 272 prediction, 1 refusal), 275 rows, 3 checkpoints")
    assert "7 calls refused unrecorded" in said
    assert "1 waiting to be sealed" in said


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("UPDATE audit_record SET status = 200 WHERE outcome = 'timeout'", "was changed: status differ"),
        ("UPDATE audit_record SET outcome = 'ok' WHERE kind = 'refusal'", "outcome differ"),
        ("UPDATE audit_record SET total_us = 1 WHERE outcome = 'timeout'", "total_us differ"),
        ("UPDATE audit_record SET application = 'other' WHERE outcome = 'timeout'", "caller differ"),
        ("UPDATE audit_record SET user_name = 'bo' WHERE kind = 'act'", "caller differ"),
        ("UPDATE audit_record SET verb = 'key.made' WHERE kind = 'act'", "verb differ"),
        ("UPDATE audit_record SET verb = 'other' WHERE kind = 'system'", "verb differ"),
        ("UPDATE audit_record SET trace = '\\x00' WHERE outcome = 'timeout'", "trace differ"),
        ("UPDATE audit_record SET error = 'x' WHERE outcome = 'timeout'", "error differ"),
        ("UPDATE audit_record SET leaf_hash = '\\x00' WHERE kind = 'refusal'", "leaf_hash differ"),
        ("DELETE FROM audit_record WHERE kind = 'refusal'", "is gone, and no leaf explains why"),
        ("DELETE FROM audit_logleaf WHERE index = 5", "the places 0 to 255 are not all filled once"),
        ("UPDATE audit_logleaf SET leaf_hash = '\\x00' WHERE index = 5", "has another leaf hash than place 5"),
        ("UPDATE audit_logtile SET data = set_byte(data, 9000, 65) WHERE level = -1 AND n = 0", "doesn't hash to its place"),
        ("UPDATE audit_logtile SET data = set_byte(data, 33, 1) WHERE level = 0 AND n = 1", "another root than the 275 leaves"),
        ("UPDATE audit_logtile SET data = set_byte(data, 0, get_byte(data, 0) # 1) WHERE level = 1", "1/000.p/1 doesn't hold the roots"),
        ("DELETE FROM audit_logtile WHERE level = 0 AND n = 0", "tile/0/000 is missing"),
        ("UPDATE audit_loghead SET root = set_byte(root, 0, get_byte(root, 0) # 1)", "the head says another root"),
        ("UPDATE audit_checkpoint SET note = replace(note, '273', '272')", "doesn't hold: the signature"),
        ("DELETE FROM audit_checkpoint WHERE size = 275", "275 leaves are published, but there is no such checkpoint"),
        ("UPDATE audit_sealerstatus SET vkeys = 'other+00000000+AAAA'", "the database says that the log's key is other+00000000+AAAA"),
        ("INSERT INTO audit_logleaf VALUES (900, gen_random_uuid(), '\\x00')", "place 900 is filled beyond the head"),
        ("INSERT INTO audit_record (ts, id, leaf_hash) VALUES (now(), gen_random_uuid(), '\\x00')", "came in behind the log's back"),
        ("UPDATE audit_rollup SET count = count + 1 WHERE outcome = 'timeout'", "aren't the fold of the log"),
        ("DELETE FROM audit_rollup WHERE outcome = 'timeout'", "are missing"),
        ("INSERT INTO audit_rollup (bucket, model, version, outcome, caller, count, total_us, queue_us, model_us, sketch, tree_size)"
         " VALUES ('2020-01-01', 'made up', 1, 'ok', '', 5, 5, 5, 5, '', 1)", "made up at 2020-01-01"),
    ],
)  # fmt: skip
def test_what_was_changed_is_named(connection: "psycopg.Connection[Any]", tampering: str, finding: str) -> None:
    connection.execute(tampering.encode())
    said = verify_broken()
    assert finding in said


def test_reads_hold_and_change_no_figure(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    """A client that polls a model's status hasn't called it."""
    since = datetime.now(UTC) - timedelta(hours=1)
    before = replace(figures.summary(None, since), until=since, tree_size=0)
    polls = [make_leaf_call(verb=verb, signature="", total_us=5) for verb in ("status", "metadata", "openapi", "list") for _ in range(20)]
    polls.append(make_refusal(verb="status", signature="", count=50))
    ingest(connection, polls)
    signers = load_signers(tmp_path / "keys", ORIGIN, post_quantum=False, may_create=lambda: False)
    seal_all(open_log(connection, tmp_path / "log", signers))
    assert replace(figures.summary(None, since), until=since, tree_size=0) == before
    assert "81 read" in verify()
    connection.execute("UPDATE audit_record SET kind = 'prediction' WHERE verb = 'list'")
    assert "kind differ" in verify_broken()


def test_a_quarantined_record_counts_as_present(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    call = make_leaf_call()
    ((row, leaf),) = encode([call])
    ingest(connection, [call], rows=False)
    connection.execute(
        "INSERT INTO audit_quarantine (record_id, row_format, row, leaf, error, segment, segment_offset, segment_length, created_at)"
        " VALUES (%s, 1, %s, %s, 'refused', gen_random_uuid(), 0, 0, now())",
        [UUID(bytes=call.record_id), row, leaf],
    )
    signers = load_signers(tmp_path / "keys", ORIGIN, post_quantum=False, may_create=lambda: False)
    seal_all(open_log(connection, tmp_path / "log", signers))
    assert "1 in quarantine" in verify()
    connection.execute("UPDATE audit_quarantine SET leaf = '\\x00'")
    assert "the quarantined record" in verify_broken()


def test_the_directory_must_be_of_the_same_tree(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    signers = load_signers(tmp_path / "keys", ORIGIN, post_quantum=False, may_create=lambda: False)
    path = tmp_path / "log" / "checkpoint"
    note = path.read_text()
    path.write_text(sign(Checkpoint(ORIGIN, 275, bytes(32)), signers, 0))
    assert "signs another tree" in verify_broken()
    path.write_text(sign(Checkpoint(ORIGIN, 276, bytes(32)), signers, 0))
    assert "it is older than the log" in verify_broken()
    path.unlink()
    assert "holds no checkpoint" in verify_broken()
    path.write_text(note)
    assert verify(no_figures=True).startswith("ok: ")


def forge(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    """Sign every checkpoint anew with another key, and say in the database and in LOG_DIR that it is the log's."""
    other = Ed25519Signer(ORIGIN, Ed25519PrivateKey.generate())
    for size, note in connection.execute("SELECT size, note FROM audit_checkpoint").fetchall():
        connection.execute("UPDATE audit_checkpoint SET note = %s WHERE size = %s", [sign(parse(note), [other], 0), size])
    connection.execute("UPDATE audit_sealerstatus SET vkeys = %s", [other.vkey])
    path = tmp_path / "log" / "checkpoint"
    path.write_text(sign(parse(path.read_text()), [other], 0))
    (tmp_path / "log" / "vkey").write_text(other.vkey + "\n")


def test_a_log_signed_anew_with_another_key_is_found(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    forge(connection, tmp_path)
    said = verify_broken()
    assert "the database says that the log's key is" in said
    assert f"{tmp_path / 'log' / 'vkey'} says that the log's key is" in said
    assert "the published checkpoint doesn't hold: the note isn't signed with the key" in said


def test_a_key_kept_elsewhere_is_believed_before_any_other(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    kept = tmp_path / "kept.vkey"
    shutil.copy(tmp_path / "log" / "vkey", kept)
    assert verify(vkey=kept).startswith("ok: ")
    forge(connection, tmp_path)
    (tmp_path / "keys" / ED25519_FILE).unlink()
    assert verify().startswith("ok: ")  # nothing is left that knows the first key
    with pytest.raises(CommandError, match="BROKEN"):
        call_command("verify_log", vkey=kept, stdout=io.StringIO())
    (tmp_path / "log" / "vkey").unlink()
    assert "no place outside the database says what the log's key is" in verify_broken()
    with pytest.raises(CommandError, match="the log's key can't be read"):
        call_command("verify_log", vkey=tmp_path / "none", stdout=io.StringIO())


def test_restore_log_rolls_forward_and_gives_acts_their_rows_back(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    User.objects.create_user("ada")
    for table in ("audit_logleaf", "audit_logtile", "audit_loghead", "audit_checkpoint", "audit_rollup", "audit_sealerstatus"):
        connection.execute(f"TRUNCATE {table}".encode())
    connection.execute("DELETE FROM audit_record WHERE kind = 'act'")
    output = io.StringIO()
    call_command("restore_log", stdout=output)
    assert output.getvalue() == "275 leaves restored; the database's log has 275\n"
    assert connection.execute("SELECT user_name, verb FROM audit_record WHERE kind = 'act'").fetchall() == [("ada", "key.revoked")]
    output = io.StringIO()
    call_command("restore_log", stdout=output)
    assert output.getvalue() == "nothing to restore\n"
    assert verify().startswith("ok: 275 leaves")


def test_restore_log_writes_a_lost_directory_anew(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(CommandError, match="nothing to restore from"):
        call_command("restore_log")
    call_command("restore_log", rebuild_directory=True, stdout=io.StringIO())
    key = verifier.parse_vkey((tmp_path / "log" / "vkey").read_text())
    assert verifier.verify_log(tmp_path / "log", [key]).size == 275
    assert verify().startswith("ok: 275 leaves")


def test_restore_log_waits_for_no_sealer(connection: "psycopg.Connection[Any]") -> None:
    connection.execute("SELECT pg_advisory_lock(%s)", [int.from_bytes(b"daybook1", "big")])
    with pytest.raises(CommandError, match="stop it first"):
        call_command("restore_log")


def run_sealer(tmp_path: Path) -> "subprocess.Popen[bytes]":
    """The command as the supervisor starts it."""
    database_settings = connections["default"].settings_dict
    host, port = database_settings["HOST"], database_settings["PORT"]
    url = f"postgresql://{database_settings['USER']}:{database_settings['PASSWORD']}@"
    url += f"/{database_settings['NAME']}?host={host}&port={port}" if host.startswith("/") else f"{host}:{port}/{database_settings['NAME']}"
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "VAR_DIR": str(tmp_path),
        "LOG_DIR": str(tmp_path / "log"),
        "LOG_ORIGIN": ORIGIN,
        "DJANGO_SETTINGS_MODULE": "config.settings.dev",
    }
    return subprocess.Popen([sys.executable, "-m", "django", "sealer"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def test_the_command_makes_a_key_seals_and_stops_cleanly(tmp_path: Path) -> None:
    with database.connect() as connection:
        ingest(connection, [make_leaf_call() for _ in range(20)])
        process = run_sealer(tmp_path)
        try:
            deadline = time.monotonic() + 60
            while connection.execute("SELECT 1 FROM audit_loghead WHERE signed_size = 20").fetchone() is None:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
    assert (tmp_path / "keys" / ED25519_FILE).stat().st_mode & 0o777 == 0o600
    assert verify().startswith("ok: 20 leaves")


def test_the_command_refuses_to_go_on_with_a_new_key(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    (tmp_path / "keys" / ED25519_FILE).unlink()
    process = run_sealer(tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"put it back from a backup" in errors
