"""How full the queues are now, read from Redis."""

from collections.abc import Sequence
from dataclasses import dataclass

import redis


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
