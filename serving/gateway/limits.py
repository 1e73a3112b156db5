"""How much a caller may use: requests per second and calls at one time.

A caller is metered by a token bucket that holds one second's worth. One gateway alone keeps it itself. Several take blocks of
tokens, 100 ms' worth or more, from a bucket in Redis; while Redis is away each grants the limit divided by the gateways that it last
knew of. Concurrency is always divided. What callers may get beyond their limit: up to one block per gateway.

Callers without limits never come here.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from serving.snapshot import Limits

from .errors import TooMany

logger = logging.getLogger(__name__)

BLOCK_S: Final = 0.1
_IDLE_S: Final = 60.0
_MAX_METERS: Final = 50_000

# A bucket in Redis: grants up to ARGV[2] tokens at ARGV[1] per second, in Redis' own time; returns them, and µs until one is there.
_LEASE: Final = """
local rate, asked = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 't', 'n')
local tokens = math.min(rate, (tonumber(held[1]) or rate) + (now - (tonumber(held[2]) or now)) * rate / 1000000)
local granted = math.max(0, math.min(asked, math.floor(tokens)))
redis.call('HSET', KEYS[1], 't', tostring(tokens - granted), 'n', now)
redis.call('PEXPIRE', KEYS[1], 10000)
return {granted, math.ceil((1 - math.min(1, tokens - granted)) * 1000000 / rate)}
"""


@dataclass(slots=True)
class Meter:
    """One caller's use. Owned by the loop."""

    tokens: float
    refilled: float  # monotonic
    under_way: int = 0
    not_before: float = 0.0  # Redis has nothing to lease until then


class Limiter:
    """The meters of one gateway. All methods belong to the loop."""

    def __init__(
        self, client: "redis.asyncio.Redis | None", prefix: str, num_gateways: Callable[[], int], now: Callable[[], float] = time.monotonic
    ) -> None:
        """num_gateways: how many are live, as last known."""
        self._client = client
        self._prefix = prefix
        self._num_gateways = num_gateways
        self._now = now
        self._meters: dict[str, Meter] = {}
        self._swept = now()
        self._redis_away_until = 0.0
        self._lease = client.register_script(_LEASE) if client is not None else None

    def admit(self, name: str, limits: Limits) -> "Meter | None":
        """Take one request's place and token, to be given back with `leave`. None: ask `admit_leased`. Raises TooMany."""
        now = self._now()
        meter = self._meters.get(name)
        if meter is None:
            meter = self._add(name, limits, now)
        gateways = self._num_gateways()
        if limits.concurrency and meter.under_way >= math.ceil(limits.concurrency / gateways):
            raise TooMany(f"More than {limits.concurrency} calls at one time.", retry_after=1.0)
        rate = limits.requests_per_second
        if rate:
            if gateways == 1 or self._lease is None or now < self._redis_away_until:
                self._refill(meter, rate / gateways, now)
                if meter.tokens < 1:
                    raise _too_fast(rate, (1 - meter.tokens) * gateways / rate)
            elif meter.tokens < 1:
                if now < meter.not_before:
                    raise _too_fast(rate, meter.not_before - now)
                return None
            meter.tokens -= 1
        meter.under_way += 1
        return meter

    async def admit_leased(self, name: str, limits: Limits) -> Meter:
        """The same, after taking a block of tokens from Redis. Raises TooMany."""
        meter = self._meters.get(name) or self._add(name, limits, self._now())
        rate = limits.requests_per_second
        assert self._lease is not None
        try:
            granted, wait_us = await self._lease(keys=[f"{self._prefix}limit:{name}"], args=[rate, max(1, math.ceil(rate * BLOCK_S))])
        except (RedisError, OSError, TimeoutError) as error:
            logger.debug("limit not leased", extra={"error": str(error)})
            self._redis_away_until = self._now() + 1.0
            self._refill(meter, rate / self._num_gateways(), self._now())
        else:
            now = self._now()
            meter.tokens += granted
            meter.refilled = now  # what Redis gives is not given twice
            if not granted:
                meter.not_before = now + wait_us / 1e6
        if meter.tokens < 1:
            raise _too_fast(rate, max(meter.not_before - self._now(), 1 / rate))
        if limits.concurrency and meter.under_way >= math.ceil(limits.concurrency / self._num_gateways()):
            raise TooMany(f"More than {limits.concurrency} calls at one time.", retry_after=1.0)
        meter.tokens -= 1
        meter.under_way += 1
        return meter

    @staticmethod
    def leave(meter: Meter) -> None:
        """Give the place back."""
        meter.under_way -= 1

    def _add(self, name: str, limits: Limits, now: float) -> Meter:
        self._sweep(now)
        alone = self._num_gateways() == 1 or self._lease is None
        meter = self._meters[name] = Meter(float(limits.requests_per_second) if alone else 0.0, now)
        return meter

    @staticmethod
    def _refill(meter: Meter, rate: float, now: float) -> None:
        meter.tokens = min(max(rate, 1.0), meter.tokens + (now - meter.refilled) * rate)
        meter.refilled = now

    def _sweep(self, now: float) -> None:
        """Forget callers who haven't been here for a minute; of a flood of addresses, those who have nothing under way."""
        crowded = len(self._meters) >= _MAX_METERS
        if now - self._swept < (1.0 if crowded else _IDLE_S):
            return
        self._swept = now
        oldest = now - (1.0 if crowded else _IDLE_S)
        self._meters = {name: meter for name, meter in self._meters.items() if meter.under_way or meter.refilled > oldest}


def _too_fast(rate: int, wait_s: float) -> TooMany:
    return TooMany(f"More than {rate} requests per second.", retry_after=wait_s)
