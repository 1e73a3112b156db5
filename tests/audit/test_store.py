"""Where finished segments go: all of them, durable, as often as asked."""

import os
from pathlib import Path
from uuid import UUID

import pytest

from audit import ids
from audit.store import PayloadStore

SEGMENT = UUID(bytes=ids.new_id())
DATA = os.urandom(3_000_000)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    path = tmp_path / f"{SEGMENT}.seg"
    path.write_bytes(DATA)
    return path


def is_stored(store: PayloadStore, key: str) -> bool:
    return store.read(key, 0, len(DATA)) == DATA and store.read(key, 17, 5) == DATA[17:22]


def test_a_segment_on_the_same_disk_gets_another_name_and_no_copy(finished: Path, tmp_path: Path) -> None:
    store = PayloadStore(f"file://{tmp_path}/payloads")
    key = store.key(SEGMENT)
    for _ in range(2):  # a crash may lie between storing and saying so
        store.put(finished, key)
        assert os.path.samefile(finished, tmp_path / "payloads" / key)
    finished.unlink()
    assert is_stored(store, key)
    assert [path.name for path in (tmp_path / "payloads" / key).parent.iterdir()] == [f"{SEGMENT}.seg"]


def test_a_segment_for_another_disk_is_copied(finished: Path, tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"daybook-test-{os.getpid()}"
    other.mkdir()
    try:
        assert os.stat(other).st_dev != os.stat(tmp_path).st_dev
        store = PayloadStore(f"file://{other}")
        key = store.key(SEGMENT)
        for _ in range(2):
            store.put(finished, key)
            assert is_stored(store, key)
    finally:
        for path in sorted(other.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        other.rmdir()
