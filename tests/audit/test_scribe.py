import asyncio
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connections
from msgspec.structs import replace

from audit import backlog, database, ids, journal, keys, leaves, partitions, rowformat
from audit.entries import CallEncoder
from audit.errors import PayloadElsewhere, PayloadErased, PayloadUnavailable
from audit.files import DiskDirectory
from audit.journal import encode_group
from audit.models import JournalSegment, Outbox, PayloadKey, Quarantine, Record
from audit.payload_store import read_payload
from audit.record import Call
from audit.scribe import Scribe, ScribeOptions
from audit.store import PayloadStore
from tests.audit.calls import MASTER_KEY, make_call, make_recorder, make_refusal, make_time_id

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path, settings: Any) -> Path:
    """A journal directory that the site's settings know, with master key and payload store beside it."""
    directory = tmp_path / "journal"
    directory.mkdir()
    settings.JOURNAL_DIR = directory
    settings.VAR_DIR = tmp_path
    settings.MASTER_KEY_FILE = tmp_path / "master.key"
    settings.MASTER_KEY_FILE.write_bytes(MASTER_KEY)
    return directory


@pytest.fixture
def scribe(path: Path) -> Iterator[Scribe]:
    made = make_scribe(path)
    yield made
    made._disconnect()


def make_scribe(path: Path) -> Scribe:
    options = ScribeOptions(directory=path, node="node-1", poll_s=0.01, backlog_s=0.0)
    return Scribe(database.connect, PayloadStore(f"file://{path.parent}/payloads"), options)


def record(path: Path, calls: Sequence[Call], **options: Any) -> None:
    """A whole gateway life that records `calls`."""

    async def main() -> None:
        recorder = make_recorder(path, **options)
        recorder.start(asyncio.get_running_loop())
        for start in range(0, len(calls), 50):
            await asyncio.gather(*map(recorder.append, calls[start : start + 50]))
        await recorder.close()

    asyncio.run(main())


def write_segment(path: Path, groups: Sequence[Sequence[bytes]], *, row_format: int = 1, start: bytes | None = None) -> UUID:
    """A segment by hand: groups of entries, each announcing the one before, and the end mark."""
    identifier = ids.new_id()
    now_us = time.time_ns() // 1000
    data = journal.encode_header(journal.SegmentHeader(identifier, start or ids.new_id(), row_format, now_us, "node-1", "test"))
    seed = journal.crc_seed(identifier)
    for number, entries in enumerate([*groups, []]):
        flags = journal.FLAG_END if number == len(groups) else 0
        data += b"".join(encode_group(seed, number + 1, list(entries), len(data), flags))
    uuid = UUID(bytes=identifier)
    (path / f"{uuid}.seg").write_bytes(data)
    return uuid


def make_entry(call: Call, **columns: bytes) -> bytes:
    """An entry of the current format; `columns` replaces whole packed fields."""
    entry, _ = CallEncoder("node-1", MASTER_KEY).encode(replace(call, request=None, response=None), b"", b"")
    decoded = journal.decode_entry(memoryview(entry), 0)
    fields = split_fields(bytes(decoded.row))
    names = rowformat.CURRENT.columns[:-3]
    changed = [columns.get(name, field) for name, field in zip(names, fields, strict=True)]
    return journal.encode_entry(decoded.type, b"".join(changed), bytes(decoded.leaf))


def split_fields(row: bytes) -> list[bytes]:
    fields = []
    at = 0
    while at < len(row):
        size = 4 + max(0, int.from_bytes(row[at : at + 4], "big", signed=True))
        fields.append(row[at : at + size])
        at += size
    return fields


def check_ingested(expected: Sequence[Call]) -> None:
    """Every call has one row and one outbox entry, and they agree."""
    rows = dict(Record.objects.filter(kind__in=("prediction", "refusal")).values_list("id", "leaf_hash"))
    waiting = dict(Outbox.objects.values_list("record_id", "leaf"))
    assert {UUID(bytes=call.record_id) for call in expected} == rows.keys()
    assert Record.objects.count() == len(waiting)
    for record_id, leaf_hash in rows.items():
        assert leaves.leaf_hash(bytes(waiting[record_id])) == bytes(leaf_hash)


def alarms_of(path: Path) -> tuple[str, ...]:
    found = backlog.read_backlog(path)
    assert found is not None
    return found.alarms


def test_rows_say_what_was_recorded(path: Path, scribe: Scribe) -> None:
    call = make_call(answer="low risk", error="", total_us=5, rows=3, version=2)
    refusal = make_refusal(version=None, count=4)
    record(path, [call, refusal])
    assert scribe.step_until_idle() == 3  # and the receipt key
    check_ingested([call, refusal])
    row = Record.objects.get(id=UUID(bytes=call.record_id))
    assert row.ts == datetime.fromtimestamp(0, UTC) + timedelta(microseconds=ids.time_us(call.record_id))
    names = "protocol verb model version signature outcome status actor_type key_prefix application address request_bytes response_bytes"
    names += " rows total_us queue_us model_us batch_id batch_size batch_index worker device answer count error"
    for name in names.split():
        assert getattr(row, name) == getattr(call, name), name
    assert (row.user_name, row.kind, row.node) == ("ada", "prediction", "node-1")
    assert (bytes(row.artifact or b""), bytes(row.trace or b"")) == (call.artifact, call.trace)
    refused = Record.objects.get(kind="refusal")
    assert (refused.version, refused.artifact, refused.count, refused.batch_size) == (None, None, 4, 0)


def test_payloads_are_read_from_the_journal_and_then_from_the_store(path: Path, scribe: Scribe) -> None:
    large = os.urandom(50_000)
    calls = [make_call(request=b"small"), make_call(request=large, response=b"x" * 100_000)]
    record(path, calls)
    scribe.step_until_idle()
    for shipped in (False, True):
        if shipped:
            scribe._shipper.ship_waiting()
            assert not list(path.glob("*.seg"))
        for call in calls:
            payload = read_payload(Record.objects.get(id=UUID(bytes=call.record_id)))
            assert (payload.request, payload.response) == (call.request, call.response)
    assert {segment.state for segment in JournalSegment.objects.all()} == {"shipped"}
    assert not list(path.glob("*.keys"))  # the key table has them


def test_a_payload_whose_key_is_destroyed_is_erased(path: Path, scribe: Scribe) -> None:
    call = make_call()
    record(path, [call])
    scribe.step_until_idle()
    row = Record.objects.get(id=UUID(bytes=call.record_id))
    PayloadKey.objects.update(wrapped=None, destroyed_at=datetime.now(UTC))
    with pytest.raises(PayloadErased):
        read_payload(row)


def test_a_destroyed_key_does_not_come_back_from_a_key_journal(path: Path, scribe: Scribe) -> None:
    record(path, [make_call()])
    (file,) = path.glob("*.keys")
    left_behind = file.read_bytes()
    scribe.step_until_idle()
    PayloadKey.objects.update(wrapped=None, destroyed_at=datetime.now(UTC))
    file.write_bytes(left_behind)
    scribe.step()
    assert PayloadKey.objects.get().wrapped is None
    assert not list(path.glob("*.keys"))


def test_a_payload_of_another_node_says_where_it_is(path: Path, scribe: Scribe, tmp_path: Path, settings: Any) -> None:
    call = make_call()
    record(path, [call])
    scribe.step_until_idle()
    settings.JOURNAL_DIR = tmp_path / "other"
    settings.JOURNAL_DIR.mkdir()
    with pytest.raises(PayloadElsewhere, match="node-1"):
        read_payload(Record.objects.get(id=UUID(bytes=call.record_id)))


def test_a_payload_in_a_changed_store_is_not_shown(path: Path, scribe: Scribe) -> None:
    call = make_call()
    record(path, [call])
    scribe.step_until_idle()
    scribe._shipper.ship_waiting()
    row = Record.objects.get(id=UUID(bytes=call.record_id))
    (stored,) = [file for file in (path.parent / "payloads").rglob("*.seg") if file.stem == str(row.segment)]
    data = bytearray(stored.read_bytes())
    data[row.segment_offset + row.segment_length - 5] ^= 1
    stored.write_bytes(data)
    with pytest.raises(PayloadUnavailable, match="not the one that was logged"):
        read_payload(row)


def test_a_living_gateway_is_followed(path: Path, scribe: Scribe) -> None:
    calls = [make_call() for _ in range(120)]

    async def main() -> None:
        recorder = make_recorder(path)
        recorder.start(asyncio.get_running_loop())
        for number, call in enumerate(calls):
            await recorder.append(call)
            if number % 40 == 0:
                scribe.step()
        deadline = time.monotonic() + 30
        while scribe.records < 121:  # the last group is announced when the writer is idle
            scribe.step()
            await asyncio.sleep(0.002)
            assert time.monotonic() < deadline
        assert {follower.is_dead for follower in scribe._followers.values()} == {False}
        await recorder.close()

    asyncio.run(main())
    scribe.step_until_idle()
    check_ingested(calls)
    assert set(JournalSegment.objects.values_list("state", flat=True)) == {"closed"}


def test_unused_segments_leave_no_trace(path: Path, scribe: Scribe) -> None:
    write_segment(path, [])
    (path / "left.seg.tmp").write_bytes(b"")
    os.utime(path / "left.seg.tmp", (0, 0))
    header = journal.encode_header(journal.SegmentHeader(ids.new_id(), ids.new_id(), 1, 0, "node-1", "test"))
    (path / "prepared.seg").write_bytes(header.ljust(100_000, b"\0"))
    scribe.step()
    scribe.step()
    assert [file.name for file in path.iterdir() if file.suffix != ".json"] == [f"{JournalSegment.objects.get().uuid}.seg"]
    assert JournalSegment.objects.get().position > journal.HEADER_BYTES  # the one with an end mark only


@pytest.mark.parametrize("year_us", [915_148_800_000_000, 1_924_992_000_000_000])  # 1999, 2031
def test_a_clock_that_is_far_off_goes_to_the_default_partition_with_an_alarm(path: Path, scribe: Scribe, year_us: int) -> None:
    call = make_call(record_id=make_time_id(year_us))
    record(path, [call])
    scribe.step_until_idle()
    scribe.step()
    check_ingested([call])
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM audit_record_default")
        assert cursor.fetchone() == (1,)
    assert any("default partition" in alarm for alarm in alarms_of(path))
    event = Record.objects.get(verb="journal.partition")
    assert json.loads(bytes(Outbox.objects.get(record_id=event.id).leaf))["d"]["segment"]


def test_a_missing_day_gets_its_partition(path: Path) -> None:
    day = datetime.now(UTC).date() - timedelta(days=9)
    at_us = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()) * 1_000_000
    name = partitions.partition_name(day)
    scribe = make_scribe(path)
    try:
        record(path, [make_call(record_id=make_time_id(at_us))])
        scribe.step_until_idle()
        with connections["default"].cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {name}")
            assert cursor.fetchone() == (1,)
            cursor.execute(f"DROP TABLE {name}")
        assert not scribe._alarms
    finally:
        scribe._disconnect()


def test_a_segment_of_an_older_row_format_is_ingested(path: Path, scribe: Scribe) -> None:
    call = make_call(rows=7, total_us=99)
    entry = journal.decode_entry(memoryview(make_entry(call)), 0)
    fields = dict(zip(rowformat.CURRENT.columns, split_fields(bytes(entry.row)), strict=False))
    old = rowformat.FORMATS[0].columns[:-3]
    write_segment(path, [[journal.encode_entry(1, b"".join(fields[name] for name in old), bytes(entry.leaf))]], row_format=0)
    new = make_call()
    write_segment(path, [[make_entry(new)]])
    scribe.step_until_idle()
    check_ingested([call, new])
    row = Record.objects.get(id=UUID(bytes=call.record_id))
    assert (row.rows, row.total_us, row.model, row.node) == (7, 99, "half_plus_two", "node-1")
    assert (row.count, row.device, row.answer, row.trace) == (1, "", "", None)  # what that format did not know yet


def test_a_row_format_of_the_future_is_kept_with_an_alarm(path: Path, scribe: Scribe) -> None:
    write_segment(path, [[make_entry(make_call())]], row_format=77)
    scribe.step()
    scribe.step()
    assert Record.objects.count() == 0
    assert any("row format 77" in alarm for alarm in alarms_of(path))
    assert len(list(path.glob("*.seg"))) == 1


def test_a_refused_row_goes_to_quarantine_and_everything_else_in(path: Path, scribe: Scribe) -> None:
    good = [make_call() for _ in range(40)]
    bad = [make_call() for _ in range(3)]
    spoiled = [
        make_entry(bad[0], model=b"\0\0\0\x02\xff\xfe"),  # no UTF-8
        make_entry(bad[1], status=b"\0\0\0\x01\x01"),  # no smallint
        make_entry(bad[2], user_name=b"\0\0\0\x02a\0"),  # NUL
    ]
    entries = [make_entry(call) for call in good]
    for number, entry in enumerate(spoiled):
        entries.insert(11 * (number + 1), entry)
    write_segment(path, [entries[:20], entries[20:]])
    scribe.step_until_idle()
    scribe.step()
    assert set(Record.objects.filter(kind="prediction").values_list("id", flat=True)) == {UUID(bytes=call.record_id) for call in good}
    kept = {row.record_id: row for row in Quarantine.objects.all()}
    assert kept.keys() == {UUID(bytes=call.record_id) for call in bad}
    for call, entry in zip(bad, spoiled, strict=True):
        row = kept[UUID(bytes=call.record_id)]
        decoded = journal.decode_entry(memoryview(entry), 0)
        assert (bytes(row.row), bytes(row.leaf)) == (bytes(decoded.row), bytes(decoded.leaf))
        assert bytes(Outbox.objects.get(record_id=row.record_id).leaf) == bytes(decoded.leaf)  # still sealed
    assert any("quarantine" in alarm for alarm in alarms_of(path))
    assert Record.objects.filter(verb="journal.quarantine").count() == 1


def test_a_record_that_is_in_the_log_already_is_not_sealed_again(path: Path, scribe: Scribe) -> None:
    call = make_call()
    write_segment(path, [[make_entry(call)]])
    scribe.step_until_idle()
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_logleaf (index, record_id, leaf_hash)"
            " SELECT 0, record_id, sha256(leaf) FROM audit_outbox WHERE record_id = %s",
            [UUID(bytes=call.record_id)],
        )
        cursor.execute("DELETE FROM audit_outbox")
    write_segment(path, [[make_entry(call)]])
    scribe.step_until_idle()
    assert not Outbox.objects.filter(record_id=UUID(bytes=call.record_id)).exists()
    assert Quarantine.objects.get().record_id == UUID(bytes=call.record_id)


def test_an_entry_whose_lengths_do_not_add_up_is_kept_and_the_log_goes_on(path: Path, scribe: Scribe) -> None:
    good = [make_call() for _ in range(3)]
    entries = [make_entry(call) for call in good]
    broken = b"\0\0\0\x05" + entries[0][4:]
    write_segment(path, [[entries[0], broken], [entries[1]], [b"\0" * 30], [entries[2]]])
    scribe.step_until_idle()
    check_ingested_some(good)
    assert Quarantine.objects.count() == 2


def check_ingested_some(expected: Sequence[Call]) -> None:
    found = set(Record.objects.values_list("id", flat=True))
    assert {UUID(bytes=call.record_id) for call in expected} <= found


def test_damage_is_an_alarm_a_leaf_and_a_kept_file(path: Path, scribe: Scribe) -> None:
    calls = [make_call() for _ in range(5)]
    uuid = write_segment(path, [[make_entry(call)] for call in calls])
    file = path / f"{uuid}.seg"
    data = bytearray(file.read_bytes())
    second = data.find(journal.GROUP_MAGIC, data.find(journal.GROUP_MAGIC) + 1)
    data[second + 60] ^= 1
    file.write_bytes(data)
    scribe.step_until_idle()
    scribe.step()
    scribe._shipper.ship_waiting()
    check_ingested_some([calls[0], *calls[2:]])
    assert not Record.objects.filter(id=UUID(bytes=calls[1].record_id)).exists()
    assert JournalSegment.objects.get().state == "damaged"
    assert file.exists()
    assert any("unreadable" in alarm for alarm in alarms_of(path))
    assert Record.objects.filter(verb="journal.damage").count() == 1


def test_a_file_that_is_no_segment_is_an_alarm(path: Path, scribe: Scribe) -> None:
    (path / f"{UUID(int=5)}.seg").write_bytes(b"\0" * 2000)
    scribe.step()
    scribe.step()
    assert any("no whole header" in alarm for alarm in alarms_of(path))


def test_voided_groups_are_never_ingested(path: Path, scribe: Scribe) -> None:
    kept, voided, later = (make_call() for _ in range(3))
    start = ids.new_id()
    uuid = write_segment(path, [[make_entry(kept)], [make_entry(voided)]], start=start)
    data = (path / f"{uuid}.seg").read_bytes()
    second = data.find(journal.GROUP_MAGIC, data.find(journal.GROUP_MAGIC) + 1)
    write_segment(path, [[journal.encode_void(uuid.bytes, second)], [make_entry(later)]], start=start)
    scribe.step_until_idle()
    check_ingested([kept, later])
    assert JournalSegment.objects.get(uuid=uuid).void_from == second
    assert set(JournalSegment.objects.values_list("state", flat=True)) == {"closed"}


def test_a_void_is_known_after_its_own_segment_is_gone(path: Path, scribe: Scribe) -> None:
    kept, voided = (make_call() for _ in range(2))
    uuid = write_segment(path, [[make_entry(kept)], [make_entry(voided)]])
    file = path / f"{uuid}.seg"
    data = file.read_bytes()
    second = data.find(journal.GROUP_MAGIC, data.find(journal.GROUP_MAGIC) + 1)
    fd = os.open(file, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # its writer lives on, condemned
    other = write_segment(path, [[journal.encode_void(uuid.bytes, second)]])
    scribe.step_until_idle()
    scribe._shipper.ship_waiting()
    assert not (path / f"{other}.seg").exists()
    os.close(fd)
    again = make_scribe(path)
    try:
        again.step_until_idle()
    finally:
        again._disconnect()
    check_ingested([kept])


def test_two_scribes_ingest_everything_once(path: Path) -> None:
    calls = [make_call() for _ in range(2_000)]
    record(path, calls, segment_bytes=200_000)
    scribes = [make_scribe(path) for _ in range(2)]
    errors: list[BaseException] = []
    barrier = threading.Barrier(2)

    def work(scribe: Scribe) -> None:
        try:
            barrier.wait(10)
            for _ in range(30):
                scribe.step()
        except BaseException as error:
            errors.append(error)
        finally:
            scribe._disconnect()

    threads = [threading.Thread(target=work, args=(scribe,)) for scribe in scribes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    check_ingested(calls)
    assert sum(scribe.records for scribe in scribes) == 2_001


def test_a_position_that_was_moved_back_is_read_again(path: Path, scribe: Scribe) -> None:
    """What asynchronous commits mean: a crash of PostgreSQL takes rows and position back together."""
    first, second = (make_call() for _ in range(2))
    uuid = write_segment(path, [[make_entry(first)], [make_entry(second)]])
    file = path / f"{uuid}.seg"
    whole = file.read_bytes()
    fd = os.open(file, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    scribe.step_until_idle()
    Record.objects.all().delete()
    Outbox.objects.all().delete()
    JournalSegment.objects.update(position=journal.HEADER_BYTES)
    third = make_call()
    end = whole.rfind(journal.GROUP_MAGIC)
    os.pwrite(fd, b"".join(encode_group(journal.crc_seed(uuid.bytes), 3, [make_entry(third)], end)), end)
    os.close(fd)
    scribe.step_until_idle()
    scribe.step_until_idle()
    check_ingested([first, second, third])


def test_while_postgresql_is_away_the_backlog_is_told_and_then_taken(path: Path, settings: Any) -> None:
    calls = [make_call() for _ in range(300)]
    record(path, calls)
    is_away = True

    def connect() -> "psycopg.Connection[Any]":
        if is_away:
            raise psycopg.OperationalError("connection refused")
        return database.connect()

    options = ScribeOptions(directory=path, node="node-1", poll_s=0.01, backlog_s=0.0, retry_s=(0.01, 0.02))
    scribe = Scribe(connect, PayloadStore(f"file://{path.parent}/payloads"), options)
    thread = threading.Thread(target=scribe.run)
    thread.start()
    try:
        wait_until(lambda: (found := backlog.read_backlog(path)) is not None and found.records >= 301)
        told = backlog.read_backlog(path)
        assert told is not None
        assert told.bytes == sum(file.stat().st_size for file in path.glob("*.seg")) - journal.HEADER_BYTES * len(told.positions)
        assert abs(told.oldest_us - ids.time_us(calls[0].record_id)) < 5_000_000
        is_away = False
        wait_until(lambda: scribe.records >= 301)
        wait_until(lambda: (found := backlog.read_backlog(path)) is not None and found.bytes == 0 and not list(path.glob("*.seg")))
    finally:
        scribe.stop.set()
        thread.join(30)
    check_ingested(calls)


def wait_until(claim: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.01)


def database_address() -> str:
    found = connections["default"].settings_dict
    return psycopg.conninfo.make_conninfo(
        dbname=found["NAME"],
        user=found["USER"] or None,
        password=found["PASSWORD"] or None,
        host=found["HOST"] or None,
        port=found["PORT"] or None,
    )


def start_scribe(path: Path, address: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.audit.scribe_process", address, str(path), f"file://{path.parent}/payloads"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def count_positions() -> int:
    """How far all segments are ingested, in bytes."""
    with database.connect() as connection:
        row = connection.execute("SELECT COALESCE(sum(position - %s), 0) FROM audit_journalsegment", (journal.HEADER_BYTES,)).fetchone()
    assert row is not None
    return int(row[0])


def wait_until_moved() -> None:
    before = count_positions()
    wait_until(lambda: count_positions() > before)


def test_a_scribe_killed_at_random_points_loses_and_doubles_nothing(path: Path) -> None:
    """Real processes, `kill -9`, and backends that are ended under them, while a gateway goes on recording."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    calls: list[Call] = []
    done = threading.Event()

    async def write() -> None:
        recorder = make_recorder(path, segment_bytes=300_000, rotate_s=0.5)
        recorder.start(asyncio.get_running_loop())
        while not done.is_set():
            made = [make_call(request=b"x" * chance.choice((10, 3_000))) for _ in range(chance.choice((1, 20, 200)))]
            await asyncio.gather(*map(recorder.append, made))
            calls.extend(made)
            await asyncio.sleep(0.01 if len(calls) < 8_000 else 0.2)
        await recorder.close()

    gateway = threading.Thread(target=lambda: asyncio.run(write()))
    gateway.start()
    try:
        for strike in range(8):
            process = start_scribe(path, database_address())
            if strike % 2:  # every other time, strike only once it is at work
                wait_until_moved()
            time.sleep(chance.random() * 0.3)
            if strike % 3 == 2:
                with database.connect() as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND pid <> pg_backend_pid() AND query LIKE '%%audit_%%'"
                    )
                time.sleep(chance.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=30)
    finally:
        done.set()
        gateway.join(60)
    connections["default"].close()  # it may have been among those ended
    assert Record.objects.exists()
    scribe = make_scribe(path)
    try:
        scribe.step_until_idle()
        scribe.step_until_idle()
        scribe._shipper.ship_waiting()
    finally:
        scribe._disconnect()
    check_ingested(calls)
    left = {file.stem for file in path.glob("*.seg")}
    assert not left, [row for row in JournalSegment.objects.values_list("uuid", "state", "position") if str(row[0]) in left]
    assert not Quarantine.objects.exists()
    for call in chance.sample(calls, 20):
        assert read_payload(Record.objects.get(id=UUID(bytes=call.record_id))).request == call.request


def test_the_command_follows_the_journal_until_it_is_told_to_stop(path: Path) -> None:
    calls = [make_call() for _ in range(50)]
    record(path, calls)
    found = connections["default"].settings_dict
    host = found["HOST"] or ""
    authority = f"{found['USER']}:{found['PASSWORD']}@" if found["PASSWORD"] else f"{found['USER']}@" if found["USER"] else ""
    place = f"/{found['NAME']}?host={host}" if host.startswith("/") else f"{host}:{found['PORT']}/{found['NAME']}"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.dev",
        "DATABASE_URL": f"postgresql://{authority}{place}",
        "VAR_DIR": str(path.parent),
        "JOURNAL_DIR": str(path),
        "MASTER_KEY_FILE": str(path.parent / "master.key"),
    }
    process = subprocess.Popen([sys.executable, "manage.py", "scribe"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: Record.objects.count() == 51 or process.poll() is not None)
        process.terminate()
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors.decode()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    check_ingested(calls)


def test_a_key_from_the_journal_opens_payloads_before_the_scribe_has_it(path: Path, scribe: Scribe) -> None:
    call = make_call()
    record(path, [call])
    scribe.step_until_idle()
    key = PayloadKey.objects.get()
    PayloadKey.objects.all().delete()
    with pytest.raises(PayloadUnavailable, match="key is not known"):
        read_payload(Record.objects.get(id=UUID(bytes=call.record_id)))
    wrapped = keys.WrappedKey(key.key_id.bytes, key.scope, 1, bytes(key.wrapped or b""))
    key_journal = keys.KeyJournal(DiskDirectory(path), ids.new_id(), "node-1")
    key_journal.append(wrapped)
    assert read_payload(Record.objects.get(id=UUID(bytes=call.record_id))).request == call.request
    key_journal.close()
    assert sha256(call.request or b"").digest() == call.body_sha256
