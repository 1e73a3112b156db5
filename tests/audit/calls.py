"""Calls and recorders for tests."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from audit import ids, journal
from audit.files import JournalDirectory
from audit.record import Call
from audit.recorder import Recorder, RecorderOptions
from audit.segments import End, Follower

MASTER_KEY = bytes(range(32))
ORIGIN = "daybook.test/log"


def make_call(**changes: Any) -> Call:
    request = changes.get("request", b'{"instances": [1.0, 2.0, 5.0]}')
    response = changes.get("response", b'{"predictions": [2.5, 3.0, 4.5]}')
    fields: dict[str, Any] = {
        "record_id": ids.new_id(),
        "received_us": 1_795_000_000_000_000,
        "protocol": "tfs_rest",
        "verb": "predict",
        "model": "half_plus_two",
        "version": 1,
        "signature": "serving_default",
        "context": sha256(b"context").digest(),
        "artifact": sha256(b"artifact").digest(),
        "outcome": "ok",
        "status": 200,
        "error": "",
        "actor_type": "key",
        "key_prefix": "dbk_1a2b3c4d",
        "application": "demo",
        "user": "ada",
        "address": "127.0.0.0/24",
        "trace": bytes(range(16)),
        "request": request,
        "response": response,
        "body_sha256": sha256(request or b"").digest(),
        "request_bytes": len(request or b""),
        "response_bytes": len(response or b""),
        "rows": 3,
        "total_us": 1234,
        "queue_us": 300,
        "model_us": 100,
        "batch_id": 77,
        "batch_size": 12,
        "batch_index": 3,
        "worker": "worker-1",
        "device": "cpu",
    }
    return Call(**{**fields, **changes})


def make_refusal(**changes: Any) -> Call:
    fields = {
        "outcome": "too_many",
        "status": 429,
        "error": "too many requests",
        "request": None,
        "response": None,
        "context": None,
        "artifact": None,
        "batch_id": 0,
        "batch_size": 0,
        "batch_index": 0,
    }
    return make_call(**{**fields, **changes})


def make_recorder(path: Path, *, directory: JournalDirectory | None = None, **options: Any) -> Recorder:
    settings = {"node": "node-1", "origin": ORIGIN, "master_key": MASTER_KEY, "segment_bytes": 1 << 20, "switch_interval_s": None}
    return Recorder(RecorderOptions(directory=path, **{**settings, **options}), directory=directory)


def make_time_id(time_us: int) -> bytes:
    """An id minted by a clock that says `time_us`."""
    return ids.IdSource(lambda: time_us).new()


def read_entries(path: Path) -> list[journal.Entry]:
    """All entries of all finished segments in a directory, voids honoured, as the scribe would take them."""
    followers = [Follower(file) for file in sorted(path.glob("*.seg"))]
    voids: dict[bytes, int] = {}
    for follower in followers:
        assert not follower.check_alive(), f"{follower.path.name} is still locked"
        voids.update(follower.find_voids())
    entries: list[journal.Entry] = []
    for follower in followers:
        follower.void_from = voids.get(follower.header.segment)
        end = End.NOT_YET
        while end is End.NOT_YET:
            reading = follower.read()
            assert not reading.damage, f"{follower.path.name} is damaged at {reading.damage}"
            assert reading.groups or reading.end is not End.NOT_YET, "no progress"
            entries += [entry for group in reading.groups for entry in journal.iterate_entries(group)]
            follower.moved_to(reading.position)
            end = reading.end
        follower.close()
    return entries


def record_ids(entries: Sequence[journal.Entry]) -> list[bytes]:
    return [bytes(entry.row[16:32]) for entry in entries if entry.type == journal.EntryType.RECORD]


def leaves_of(entries: Sequence[journal.Entry]) -> dict[bytes, bytes]:
    """Leaf by record id."""
    return {bytes(entry.row[16:32]): bytes(entry.leaf) for entry in entries if entry.type == journal.EntryType.RECORD}
