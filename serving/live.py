"""How busy versions are now: what is under way, from Redis, how many rows share a batch, from the newest records, and what workers say
of themselves."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import msgspec
import redis

from audit.figures import ANSWERED
from audit.models import Record

from .dataplane import Keys

logger = logging.getLogger(__name__)

BATCHES_OF = timedelta(minutes=1)
_RECORDS_PER_MODEL = 100  # enough for a mean, and the list is asked for every three seconds


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """Stream entries that wait or are at a worker; None = unknown. An entry holds all calls that a gateway took in one tick."""

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


def read_batch_sizes(names: Sequence[str], now: datetime) -> dict[tuple[str, int], float]:
    """The mean number of rows of a batch by model and version, over the last minute's newest records; one query."""
    fields = ("model", "version", "worker", "batch_id", "batch_size")
    recent = Record.objects.filter(ts__gte=now - BATCHES_OF, ts__lte=now, outcome__in=ANSWERED, batch_size__gt=0)
    of_each = [recent.filter(model=name).order_by("-ts").values_list(*fields)[:_RECORDS_PER_MODEL] for name in names]
    if not of_each:
        return {}
    sizes: dict[tuple[str, int], dict[tuple[str, int], int]] = defaultdict(dict)
    for model, version, worker, batch_id, size in of_each[0].union(*of_each[1:], all=True):
        sizes[model, version][worker, batch_id] = size  # a batch counts once, however many calls were in it
    return {key: sum(batches.values()) / len(batches) for key, batches in sizes.items()}
