import asyncio
import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from audit import backlog, entries, ids, journal, keys, leaves, payloads, receipts
from audit.errors import LogStalled, LogUnavailable
from audit.journal import EntryType
from audit.recorder import Committed, Recorder
from audit.segments import Follower
from tests.audit.calls import MASTER_KEY, leaves_of, make_call, make_recorder, make_refusal, make_time_id, read_entries, record_ids
from tests.audit.disks import FaultyDisk, raise_error, wait_for


def run(recorder: Recorder, body: Callable[[Recorder], Awaitable[None]]) -> None:
    """Start it on a loop, run `body`, close it."""

    async def main() -> None:
        recorder.start(asyncio.get_running_loop())
        try:
            await body(recorder)
        finally:
            await recorder.close()

    asyncio.run(main())


async def until(claim: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never became true"
        await asyncio.sleep(0.005)


def secrets_of(path: Path) -> Callable[[bytes], bytes]:
    found = {}
    for file in path.glob("*.keys"):
        for key in keys.iterate_keys(file.read_bytes()):
            found[key.key_id] = keys.unwrap_key(MASTER_KEY, key.key_id, key.scope, key.wrapped)
    return found.__getitem__


def events_of(taken: list[journal.Entry], type_: str) -> list[dict[str, object]]:
    parsed = [json.loads(leaf) for leaf in leaves_of(taken).values()]
    return [leaf["d"] for leaf in parsed if leaf["t"] == type_]


def test_what_was_recorded_is_in_the_journal_with_its_receipt(tmp_path: Path) -> None:
    committed: list[Committed] = []
    calls = [make_call(request=b"request %d" % number, response=b"response %d" % number) for number in range(300)]

    async def body(recorder: Recorder) -> None:
        committed.extend(await asyncio.gather(*map(recorder.append, calls)))
        assert recorder.ready
        assert recorder.backlog_refused == ""
        assert recorder.figures.records >= 300

    run(make_recorder(tmp_path), body)
    taken = read_entries(tmp_path)
    assert Counter(record_ids(taken)).most_common(1)[0][1] == 1
    logged = leaves_of(taken)
    announced = events_of(taken, "gateway.key")
    assert len(announced) == 1
    public_key = _base64url(str(announced[0]["key"]))
    for call, answer in zip(calls, committed, strict=True):
        assert answer.record_id == call.record_id
        assert leaves.leaf_hash(logged[call.record_id]) == answer.leaf_hash
        receipts.verify(receipts.decode_text(answer.receipt()), public_key, leaf=logged[call.record_id])
        assert answer.commit_us > 0
    by_id = {bytes(entry.row[16:32]): entry for entry in taken}
    for call in calls[:5]:
        entry = by_id[call.record_id]
        (path,) = [file for file in tmp_path.glob("*.seg") if _at(file, entry) == _whole(entry)]
        payload = payloads.open_entry(_at(path, entry), leaves.leaf_hash(logged[call.record_id]), secrets_of(tmp_path))
        assert (payload.request, payload.response) == (call.request, call.response)


def _base64url(text: str) -> bytes:
    from base64 import urlsafe_b64decode

    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _at(path: Path, entry: journal.Entry) -> bytes:
    return path.read_bytes()[entry.offset : entry.offset + entry.length]


def _whole(entry: journal.Entry) -> bytes:
    return journal.encode_entry(entry.type, bytes(entry.row), bytes(entry.leaf), bytes(entry.attachment))


def test_large_payloads_are_compressed_and_travel_apart(tmp_path: Path) -> None:
    text, noise = b"[0.25, 0.5]," * 20_000, os.urandom(200_000)

    async def body(recorder: Recorder) -> None:
        await asyncio.gather(
            recorder.append(make_call(request=text)),
            recorder.append(make_call(request=noise)),
            *(recorder.append(make_call()) for _ in range(20)),
        )

    run(make_recorder(tmp_path), body)
    taken = read_entries(tmp_path)
    by_size = sorted(taken, key=lambda entry: entry.length)
    assert len(taken) == 23
    assert by_size[-1].length > 200_000
    assert by_size[-2].length < 64 * 1024
    large_segment = [path for path in tmp_path.glob("*.seg") if path.stat().st_size > 200_000]
    assert len(large_segment) == 1
    assert sum(1 for entry in taken if _at(large_segment[0], entry) == _whole(entry)) == 1  # in a lane of its own
    for entry, plaintext in ((by_size[-1], noise), (by_size[-2], text)):
        leaf_hash = leaves.leaf_hash(bytes(entry.leaf))
        assert payloads.open_entry(_whole(entry), leaf_hash, secrets_of(tmp_path)).request == plaintext


def test_one_key_per_tenant_and_month(tmp_path: Path) -> None:
    december = make_time_id(1_796_500_000_000_000)

    async def body(recorder: Recorder) -> None:
        calls = [make_call(application=name) for name in ("a", "b", "") for _ in range(4)]
        calls.append(make_call(application="a", record_id=december))
        await asyncio.gather(*map(recorder.append, calls))

    run(make_recorder(tmp_path), body)
    (path,) = tmp_path.glob("*.keys")
    found = list(keys.iterate_keys(path.read_bytes()))
    months = {key.scope.rpartition("/")[2] for key in found}
    assert sorted(key.scope.rpartition("/")[0] for key in found) == ["a", "a", "anonymous", "b"]
    assert "2026-12" in months


def test_a_key_that_cannot_be_made_durable_is_never_used(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    refused: list[BaseException] = []

    async def body(recorder: Recorder) -> None:
        await recorder.append(make_refusal())
        disk.on_create = raise_error(errno.ENOSPC)
        with pytest.raises(LogUnavailable, match="key journal") as caught:
            await recorder.append(make_call())
        refused.append(caught.value)
        disk.heal()
        await recorder.append(make_call())

    run(make_recorder(tmp_path, directory=disk), body)
    assert refused
    assert len(record_ids(read_entries(tmp_path))) == 4  # receipt key, refusal, call and the gap


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("where", ["on_write", "on_sync"])
@pytest.mark.parametrize("can_truncate", [True, False])
def test_a_failing_disk_means_503_and_no_record_and_then_recovery(tmp_path: Path, number: int, where: str, can_truncate: bool) -> None:
    disk = FaultyDisk(tmp_path)
    disk.can_truncate = can_truncate
    before = [make_call() for _ in range(20)]
    during = [make_call() for _ in range(20)]
    after = [make_call() for _ in range(20)]

    async def body(recorder: Recorder) -> None:
        await asyncio.gather(*map(recorder.append, before))
        setattr(disk, where, raise_error(number, times=3))  # the fresh segment fails twice, too
        results = await asyncio.gather(*map(recorder.append, during), return_exceptions=True)
        assert all(type(result) is LogUnavailable for result in results)
        await until(lambda: recorder.ready)
        await asyncio.gather(*map(recorder.append, after))
        await until(lambda: not recorder._gap)
        await recorder.append(make_call())

    run(make_recorder(tmp_path, directory=disk), body)
    taken = read_entries(tmp_path)
    found = Counter(record_ids(taken))
    assert set(found.values()) == {1}
    assert all(call.record_id in found for call in [*before, *after])
    assert not any(call.record_id in found for call in during)  # they were answered 503
    gaps = events_of(taken, "gap")
    assert sum(int(str(gap["calls"])) for gap in gaps) == 20
    assert any(entry.type == EntryType.VOID for entry in taken)


def test_while_the_disk_stays_broken_calls_are_refused_at_once(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)

    async def body(recorder: Recorder) -> None:
        await recorder.append(make_call())
        disk.on_sync = disk.on_create = raise_error(errno.EIO)
        with pytest.raises(LogUnavailable):
            await recorder.append(make_call())
        assert not recorder.ready
        started = time.monotonic()
        for _ in range(50):
            with pytest.raises(LogUnavailable):
                await recorder.append(make_call())
        assert time.monotonic() - started < 0.5
        disk.heal()
        await until(lambda: recorder.ready)
        await recorder.append(make_call())

    run(make_recorder(tmp_path, directory=disk), body)
    taken = read_entries(tmp_path)
    assert [int(str(gap["calls"])) for gap in events_of(taken, "gap")] == [51]


def test_closing_while_the_disk_is_broken_ends(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)

    async def body(recorder: Recorder) -> None:
        disk.on_sync = disk.on_create = raise_error(errno.EIO)
        with pytest.raises(LogUnavailable):
            await recorder.append(make_call())

    run(make_recorder(tmp_path, directory=disk), body)


def test_a_stalled_sync_makes_the_gateway_unready_and_nobody_is_told_anything(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    release = threading.Event()
    first, second = make_call(), make_call()

    async def body(recorder: Recorder) -> None:
        await recorder.append(make_call())
        disk.on_sync = wait_for(release)
        in_flight = recorder.append(first)
        await until(lambda: recorder._small.busy_since is not None)
        behind = recorder.append(second)
        with pytest.raises(LogStalled):
            await in_flight
        with pytest.raises(LogUnavailable) as caught:
            await behind
        assert not isinstance(caught.value, LogStalled)  # it never went to the file: 503
        assert not recorder.ready
        with pytest.raises(LogUnavailable):
            await recorder.append(make_call())
        release.set()
        await until(lambda: recorder.ready)
        await recorder.append(make_call())

    run(make_recorder(tmp_path, directory=disk, stall_s=0.2), body)
    found = record_ids(read_entries(tmp_path))
    assert first.record_id in found  # it became durable after all, as was possible
    assert second.record_id not in found


def test_refusals_above_ten_a_second_are_counted_in_one_record(tmp_path: Path) -> None:
    second_us = 1_795_000_000_000_000
    clock = iter(range(second_us, second_us + 999_999, 10_000))
    calls = [make_refusal(record_id=make_time_id(next(clock))) for _ in range(60)]
    answers: list[Committed] = []

    async def body(recorder: Recorder) -> None:
        answers.extend(await asyncio.gather(*map(recorder.refuse, calls)))

    run(make_recorder(tmp_path), body)
    logged = [json.loads(leaf) for leaf in leaves_of(read_entries(tmp_path)).values()]
    refusals = [leaf for leaf in logged if leaf["t"] == "refusal"]
    assert len(refusals) == 12  # ten by themselves, the eleventh which names the rest, and their count
    assert sum(leaf.get("cnt", 1) for leaf in refusals) == 60
    named = {ids.text(answer.record_id) for answer in answers}
    assert named <= {leaf["id"] for leaf in refusals}  # every name that an answer gave is in the log
    assert len(named) == 11


def test_aggregates_are_apart_by_caller_status_and_reason(tmp_path: Path) -> None:
    at = make_time_id(1_795_000_000_000_000)
    kinds = [
        {"address": "10.0.0.0/24", "key_prefix": "", "status": 401},
        {"address": "10.0.1.0/24", "key_prefix": "", "status": 401},
        {"address": "10.0.0.0/24", "key_prefix": "", "status": 403},
        {"address": "10.0.0.0/24", "key_prefix": "", "status": 401, "error": "expired"},
    ]

    async def body(recorder: Recorder) -> None:
        calls = [make_refusal(record_id=_with_random(at, n), outcome="rejected", **kind) for n, kind in enumerate(kinds * 5)]
        answers = await asyncio.gather(*map(recorder.aggregate_refusal, calls))
        assert len({answer.record_id for answer in answers}) == 4

    run(make_recorder(tmp_path), body)
    logged = [json.loads(leaf) for leaf in leaves_of(read_entries(tmp_path)).values()]
    counts = [leaf.get("cnt", 1) for leaf in logged if leaf["t"] == "refusal"]
    assert sorted(counts) == [1] * 4 + [4] * 4


def _with_random(record_id: bytes, number: int) -> bytes:
    return record_id[:12] + number.to_bytes(4, "big")


def test_a_cancelled_caller_takes_nobody_along(tmp_path: Path) -> None:
    at = make_time_id(1_795_000_000_000_000)

    async def body(recorder: Recorder) -> None:
        first = recorder.aggregate_refusal(make_refusal(record_id=at))
        second = recorder.aggregate_refusal(make_refusal(record_id=_with_random(at, 1)))
        first.cancel()
        assert (await second).record_id == at

    run(make_recorder(tmp_path), body)


def test_a_context_is_written_once_and_named_by_its_digest(tmp_path: Path) -> None:
    details = {"artifact": "ab" * 32, "policy": {"redact": ["ssn"]}, "origin": "daybook.test/log"}
    digests: list[bytes] = []

    async def body(recorder: Recorder) -> None:
        digests.extend((recorder.context(details), recorder.context(dict(reversed(details.items())))))
        await recorder.append(make_call(context=digests[0]))

    run(make_recorder(tmp_path), body)
    taken = read_entries(tmp_path)
    assert digests[0] == digests[1]
    (context,) = events_of(taken, "context")
    assert context == {"ctx": leaves.context_name(digests[0]), "is": details}
    (call,) = [json.loads(leaf) for leaf in leaves_of(taken).values() if b'"prediction"' in leaf]
    assert call["ctx"] == context["ctx"]


def test_segments_rotate_by_size_and_by_age(tmp_path: Path) -> None:
    async def body(recorder: Recorder) -> None:
        for _ in range(40):
            await asyncio.gather(*(recorder.append(make_call(request=b"x" * 8_000)) for _ in range(10)))
        await asyncio.sleep(0.35)
        await recorder.append(make_call())

    run(make_recorder(tmp_path, rotate_s=0.3), body)
    paths = list(tmp_path.glob("*.seg"))
    assert len(paths) > 3
    taken = read_entries(tmp_path)
    assert len(set(record_ids(taken))) == len(taken) == 402
    for path in paths:
        follower = Follower(path)
        assert follower.header.node == "node-1"
        assert path.stat().st_size <= (1 << 20) + journal.GROUP_BYTES
        follower.close()


def test_an_idle_writer_announces_its_last_group(tmp_path: Path) -> None:
    async def body(recorder: Recorder) -> None:
        call = make_call()
        await recorder.append(call)
        (path,) = [file for file in tmp_path.glob("*.seg") if file.read_bytes()[journal.HEADER_BYTES] != 0]
        follower = Follower(path)
        assert follower.check_alive()

        def is_readable() -> bool:
            entries = [entry for group in follower.read().groups for entry in journal.iterate_entries(group)]
            return call.record_id in record_ids(entries)

        await until(is_readable, timeout_s=2)
        follower.close()

    run(make_recorder(tmp_path), body)


def write_backlog(path: Path, **fields: object) -> None:
    backlog.write_backlog(path, backlog.Backlog(**{"time_us": time.time_ns() // 1000, **fields}))  # type: ignore[arg-type]


def test_new_work_is_refused_at_ninety_percent_and_everything_at_the_limit(tmp_path: Path) -> None:
    async def body(recorder: Recorder) -> None:
        for waiting, is_new_refused, is_all_refused in ((89, False, False), (95, True, False), (100, True, True), (5, False, False)):
            write_backlog(tmp_path, bytes=waiting << 20)
            recorder._backlog.look()
            assert bool(recorder.backlog_refused) == is_new_refused
            if is_all_refused:
                with pytest.raises(LogUnavailable, match="full"):
                    await recorder.append(make_call())
            else:
                await recorder.append(make_call())

    run(make_recorder(tmp_path, max_bytes=100 << 20), body)
    (gap,) = events_of(read_entries(tmp_path), "gap")
    assert gap["calls"] == 1


def test_new_work_is_refused_when_a_record_waits_for_half_the_merge_delay(tmp_path: Path) -> None:
    async def body(recorder: Recorder) -> None:
        now_us = time.time_ns() // 1000
        write_backlog(tmp_path, bytes=10, oldest_us=now_us - 40_000_000)
        recorder._backlog.look()
        assert recorder.backlog_refused == ""
        write_backlog(tmp_path, bytes=10, oldest_us=now_us - 60_000_000)
        recorder._backlog.look()
        assert "merge delay" in recorder.backlog_refused

    run(make_recorder(tmp_path, merge_delay_s=100), body)


def test_a_silent_scribe_does_not_hide_the_backlog(tmp_path: Path) -> None:
    async def body(recorder: Recorder) -> None:
        await asyncio.gather(*(recorder.append(make_call(request=b"x" * 10_000)) for _ in range(30)))
        used = recorder._small.segments_used
        write_backlog(tmp_path, time_us=1, bytes=0, positions={})
        recorder._backlog.look()
        verdict = recorder.backlog
        assert verdict.is_scribe_silent
        assert verdict.bytes == sum(used.values()) - journal.HEADER_BYTES * len(used)
        assert recorder.backlog_refused  # 300 KB of at most 256

    run(make_recorder(tmp_path, max_bytes=256 << 10), body)


def test_a_full_disk_refuses_new_work(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)

    async def body(recorder: Recorder) -> None:
        write_backlog(tmp_path, bytes=95 << 20)
        disk.free = 5 << 20
        recorder._backlog.look()
        assert "almost full" in recorder.backlog_refused

    run(make_recorder(tmp_path, directory=disk), body)


@pytest.mark.parametrize("year_us", [915_148_800_000_000, 1_924_992_000_000_000])  # 1999, 2031
def test_a_clock_that_is_far_off_still_records(tmp_path: Path, year_us: int) -> None:
    call = make_call(record_id=make_time_id(year_us))

    async def body(recorder: Recorder) -> None:
        await recorder.append(call)

    run(make_recorder(tmp_path), body)
    assert call.record_id in record_ids(read_entries(tmp_path))


def test_text_of_any_kind_is_recorded(tmp_path: Path) -> None:
    calls = [
        make_refusal(model="nul\0" * 100, error="\ud800 lone", user="x" * 10_000, address="é" * 100),
        make_refusal(model="", signature="", error="", application="", user="", key_prefix="", address="", trace=None, version=None),
        replace(make_refusal(), body_sha256=b"", request_bytes=-1, total_us=1 << 70),
    ]

    async def body(recorder: Recorder) -> None:
        await asyncio.gather(*map(recorder.append, calls))

    run(make_recorder(tmp_path), body)
    assert {call.record_id for call in calls} <= set(record_ids(read_entries(tmp_path)))


def test_a_row_is_the_same_bytes_however_it_was_made(tmp_path: Path) -> None:
    """Encoded parts are kept from call to call: the thousandth must be what the first would have been."""
    encoder = entries.CallEncoder("node-1", MASTER_KEY)
    for number in range(200):
        call = make_call(model=f"model-{number % 7}", user=f"user-{number % 3}", worker=f"w{number % 2}", request=None, response=None)
        assert encoder.encode(call, b"", b"") == entries.CallEncoder("node-1", MASTER_KEY).encode(call, b"", b"")
