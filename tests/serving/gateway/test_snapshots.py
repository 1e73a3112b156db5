"""The gateway's copy of the snapshot: followed in Redis, kept in a file, and too old to trust after a while."""

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
import redis.asyncio
from django.conf import settings

from serving.gateway.snapshots import SnapshotHolder
from serving.snapshot import EMPTY, Snapshot, encode_snapshot
from tests.serving.gateway.snapshots import make_snapshot


def put(client: redis.Redis, snapshot: Snapshot, body: bytes | None = None) -> None:
    prefix = settings.REDIS_PREFIX
    client.set(f"{prefix}snapshot:current", encode_snapshot(snapshot) if body is None else body)
    client.set(f"{prefix}snapshot:version", snapshot.version)
    client.publish(f"{prefix}snapshot", snapshot.version)


def follow(
    url: str, file: Path, body: Callable[[SnapshotHolder], Awaitable[None]], on_change: Callable[[Snapshot], None] = lambda snapshot: None
) -> None:
    async def run() -> None:
        client = redis.asyncio.Redis.from_url(url, socket_connect_timeout=0.5)
        holder = SnapshotHolder(client, settings.REDIS_PREFIX, file, on_change, stale_after_s=300.0)
        await holder.start()
        try:
            await body(holder)
        finally:
            await holder.close()
            await client.aclose()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_each_new_snapshot_is_taken_and_kept(redis_client: redis.Redis, tmp_path: Path) -> None:
    file = tmp_path / "run" / "snapshot.json"
    taken: list[int] = []

    async def body(holder: SnapshotHolder) -> None:
        assert (holder.current.version, holder.is_stale) == (1, False)
        put(redis_client, make_snapshot("p:", version=2))
        await until(lambda: holder.current.version == 2)
        assert holder.age_s < 5.0

    put(redis_client, make_snapshot("p:", version=1))
    follow(settings.REDIS_URL, file, body, lambda snapshot: taken.append(snapshot.version))
    assert taken == [1, 2]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["snapshot.json"]


def test_what_cannot_be_read_or_prepared_leaves_the_last_one(redis_client: redis.Redis, tmp_path: Path) -> None:
    def refuse(snapshot: Snapshot) -> None:
        if snapshot.version == 3:
            raise ImportError("no such type here")

    async def body(holder: SnapshotHolder) -> None:
        for version, text in ((2, b'{"version": "two"}'), (3, None), (4, b"\xff")):
            put(redis_client, make_snapshot("p:", version=version), text)
            await asyncio.sleep(0.1)
            assert holder.current.version == 1
        put(redis_client, make_snapshot("p:", version=5))
        await until(lambda: holder.current.version == 5)

    put(redis_client, make_snapshot("p:", version=1))
    follow(settings.REDIS_URL, tmp_path / "s.json", body, refuse)


@pytest.mark.parametrize(("ago_s", "is_stale"), [(10, False), (1000, True), (-1000, True)])
def test_the_file_carries_over_and_says_when_it_was_confirmed(
    redis_client: redis.Redis, tmp_path: Path, ago_s: int, is_stale: bool
) -> None:
    file = tmp_path / "s.json"
    file.write_bytes(encode_snapshot(make_snapshot("p:", version=7)))
    confirmed = time.time() - ago_s
    os.utime(file, (confirmed, confirmed))

    async def body(holder: SnapshotHolder) -> None:
        assert (holder.current.version, holder.is_stale) == (7, is_stale)

    follow("redis://127.0.0.1:1/0", file, body)


def test_without_file_and_redis_nothing_is_known(tmp_path: Path) -> None:
    async def body(holder: SnapshotHolder) -> None:
        assert holder.current is EMPTY
        assert holder.is_stale

    follow("redis://127.0.0.1:1/0", tmp_path / "s.json", body)
    (tmp_path / "s.json").write_bytes(b"damaged")
    follow("redis://127.0.0.1:1/0", tmp_path / "s.json", body)
