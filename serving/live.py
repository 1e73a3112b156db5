"""How full the queues are now, and what workers say of themselves, read from Redis."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import redis

from .dataplane import Keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """Entries that wait in a version's stream or are at a worker; None = unknown."""

    queued: int | None = None


def read_loads(redis_url: str, streams: Sequence[str]) -> dict[str, StreamLoad]:
    """The load by stream, over both priorities. Raises redis.RedisError."""
    if not streams:
        return {}
    client = redis.Redis.from_url(redis_url, socket_timeout=1)
    try:
        with client.pipeline(transaction=False) as pipe:
            for stream in streams:
                pipe.xlen(f"{stream}:0")
                pipe.xlen(f"{stream}:1")
            lengths = pipe.execute()
    finally:
        client.close()
    return {stream: StreamLoad(lengths[2 * i] + lengths[2 * i + 1]) for i, stream in enumerate(streams)}


class LoadedVersion(msgspec.Struct, frozen=True):
    model: str
    version: int
    state: str
    error: str


class WorkerStatus(msgspec.Struct, frozen=True):
    """What a worker shows every few seconds: `held` requests are at it now."""

    worker: str
    node: str
    held: int
    answered: int  # since it was started
    versions: tuple[LoadedVersion, ...]


def read_workers(redis_url: str, prefix: str) -> list[WorkerStatus]:
    """Of all workers that have shown their status in the last seconds, with or without PostgreSQL. Raises redis.RedisError."""
    keys = Keys(prefix)
    client = redis.Redis.from_url(redis_url, socket_timeout=1)
    try:
        workers = sorted(member.decode() for member in cast(set[bytes], client.smembers(keys.workers)))
        values = cast(list[bytes | None], client.mget([keys.status(worker) for worker in workers]) if workers else [])
    finally:
        client.close()
    return [status for value in values if value is not None and (status := _decode_status(value)) is not None]


def _decode_status(value: bytes) -> WorkerStatus | None:
    try:
        return msgspec.json.decode(value, type=WorkerStatus)
    except msgspec.MsgspecError as error:  # a worker of another release
        logger.warning("worker status not readable", extra={"error": str(error)})
        return None
