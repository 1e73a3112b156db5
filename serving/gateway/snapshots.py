"""The gateway's copy of the snapshot: taken from Redis when announced and each second, kept in a file, swapped whole.

A snapshot counts as confirmed when Redis says that it is the current one. The file carries over a restart of the gateway while
Redis is away, and its modification time says when it was last confirmed. What is unconfirmed for too long opens no key: it may have
been revoked.

    {prefix}snapshot:current    the snapshot as JSON        written by `serving.publication.announce`
    {prefix}snapshot:version    its version
    {prefix}snapshot            channel that announces it
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from serving.snapshot import EMPTY, Snapshot, decode_snapshot

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
_TOUCH_S: Final = 10.0
_AWAY: Final = (RedisError, OSError, TimeoutError)


class SnapshotHolder:
    """The current snapshot. Owned by the loop; `current` may be read from anywhere."""

    def __init__(
        self, client: "redis.asyncio.Redis", prefix: str, file: Path, on_change: Callable[[Snapshot], None], *, stale_after_s: float
    ) -> None:
        """on_change: called on the loop with each new snapshot, before it becomes `current`."""
        self.current: Snapshot = EMPTY
        self._client = client
        self._prefix = prefix
        self._file = file
        self._on_change = on_change
        self._stale_after_s = stale_after_s
        self._confirmed_s = float("-inf")  # monotonic
        self._touched_s = float("-inf")
        self._body = b""
        self._announced = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was confirmed; infinite when it never was."""
        return time.monotonic() - self._confirmed_s

    @property
    def is_stale(self) -> bool:
        return self.age_s > self._stale_after_s

    async def start(self) -> None:
        """Load the kept snapshot, look into Redis once, then follow it."""
        self._load()
        with contextlib.suppress(*_AWAY):
            await self._poll()
        self._tasks = [
            asyncio.create_task(self._follow(), name="snapshot-poll"),
            asyncio.create_task(self._listen(), name="snapshot-channel"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._announced.wait()
            self._announced.clear()
            try:
                await self._poll()
            except _AWAY as error:
                logger.debug("snapshot not confirmed", extra={"error": str(error), "age_s": round(self.age_s, 1)})

    async def _listen(self) -> None:
        """Each announcement brings the next poll forward; a lost one costs a second."""
        while True:
            channel = self._client.pubsub(ignore_subscribe_messages=True)
            try:
                await channel.subscribe(f"{self._prefix}snapshot")
                while True:
                    if await channel.get_message(timeout=30.0) is not None:
                        self._announced.set()
            except _AWAY:
                await asyncio.sleep(POLL_S)
            finally:
                with contextlib.suppress(*_AWAY):
                    await channel.aclose()  # type: ignore[no-untyped-call]

    async def _poll(self) -> None:
        async with asyncio.timeout(5.0):
            version = await self._client.get(f"{self._prefix}snapshot:version")
            if version is None:
                return
            if version != str(self.current.version).encode() or not self._body:
                body = await self._client.get(f"{self._prefix}snapshot:current")
                if not isinstance(body, bytes) or not self._take(body):
                    return
                self._keep(body)
        self._confirm()

    def _take(self, body: bytes) -> bool:
        """Swap to this snapshot. Whether it could be read; one that can't leaves the old one in place."""
        if body == self._body:
            return True
        try:
            snapshot = decode_snapshot(body)
        except msgspec.DecodeError as error:
            logger.error("snapshot not readable", extra={"error": str(error), "size_bytes": len(body)})
            return False
        try:
            self._on_change(snapshot)
        except Exception:  # a description that this release can't prepare: go on with the last one, which becomes stale
            logger.exception("snapshot not taken", extra={"snapshot": snapshot.version})
            return False
        self.current, self._body = snapshot, body
        logger.info(
            "snapshot",
            extra={"snapshot": snapshot.version, "deployments": len(snapshot.deployments), "keys": len(snapshot.keys)},
        )
        return True

    def _confirm(self) -> None:
        self._confirmed_s = now = time.monotonic()
        if now - self._touched_s > _TOUCH_S:
            self._touched_s = now
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def _load(self) -> None:
        try:
            body = self._file.read_bytes()
            confirmed = self._file.stat().st_mtime
        except OSError:
            return
        if self._take(body):
            ago = time.time() - confirmed
            self._confirmed_s = time.monotonic() - ago if ago >= 0 else float("-inf")  # a clock that was set back confirms nothing

    def _keep(self, body: bytes) -> None:
        """Replace the file; only its owner can read it, at every instant. Some 100 KB at most, so written on the loop."""
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(body)
            draft.replace(self._file)
        except OSError as error:
            logger.warning("snapshot not kept", extra={"error": str(error)})
