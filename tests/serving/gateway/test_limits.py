"""Rates and concurrency: the meter by itself, shared through Redis, and seen from outside."""

import asyncio
import threading
from collections.abc import Callable

import httpx
import pytest
import redis
import redis.asyncio
from django.conf import settings

from serving.gateway.errors import TooMany
from serving.gateway.limits import Limiter
from serving.snapshot import Limits
from tests.serving.gateway.conftest import Door, wait_until
from tests.serving.gateway.snapshots import KEYS


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def granted(limiter: Limiter, limits: Limits, times: int, name: str = "key:a") -> int:
    count = 0
    for _ in range(times):
        try:
            meter = limiter.admit(name, limits)
        except TooMany:
            continue
        assert meter is not None
        Limiter.leave(meter)
        count += 1
    return count


def test_a_second_holds_its_rate_and_no_more() -> None:
    clock = Clock()
    limiter = Limiter(None, "", lambda: 1, clock)
    limits = Limits(requests_per_second=10)
    assert granted(limiter, limits, 50) == 10
    clock.now += 0.25
    assert granted(limiter, limits, 50) == 2
    clock.now += 3600
    assert granted(limiter, limits, 50) == 10
    assert granted(limiter, limits, 50, "key:b") == 10


def test_the_wait_is_computed() -> None:
    clock = Clock()
    limiter = Limiter(None, "", lambda: 1, clock)
    limits = Limits(requests_per_second=2)
    granted(limiter, limits, 2)
    with pytest.raises(TooMany) as caught:
        limiter.admit("key:a", limits)
    assert caught.value.retry_after == pytest.approx(0.5)


def test_concurrency_counts_what_is_under_way() -> None:
    limiter = Limiter(None, "", lambda: 1, Clock())
    limits = Limits(concurrency=2)
    first, second = limiter.admit("key:a", limits), limiter.admit("key:a", limits)
    with pytest.raises(TooMany):
        limiter.admit("key:a", limits)
    assert first is not None
    assert second is not None
    Limiter.leave(first)
    assert limiter.admit("key:a", limits) is not None


def test_without_redis_gateways_share_by_division() -> None:
    limiter = Limiter(None, "", lambda: 4, Clock())
    assert granted(limiter, Limits(concurrency=8), 3) == 3
    clock = Clock()
    limiter = Limiter(None, "", lambda: 4, clock)
    limits = Limits(requests_per_second=40)
    granted(limiter, limits, 100)
    clock.now += 1.0
    assert granted(limiter, limits, 100) == 10


def test_meters_of_the_idle_are_forgotten() -> None:
    clock = Clock()
    limiter = Limiter(None, "", lambda: 1, clock)
    for number in range(1000):
        granted(limiter, Limits(requests_per_second=1), 1, f"address:{number}")
    clock.now += 100
    granted(limiter, Limits(requests_per_second=1), 1)
    assert len(limiter._meters) == 1


def test_several_gateways_lease_from_one_bucket(redis_client: redis.Redis) -> None:
    """Four gateways ask as fast as they can for some time: together they grant the rate, and at most a block each beyond."""
    limits = Limits(requests_per_second=200)
    seconds = 0.6

    async def gateway(client: redis.asyncio.Redis) -> int:
        limiter = Limiter(client, settings.REDIS_PREFIX, lambda: 4)
        loop = asyncio.get_running_loop()
        end, count = loop.time() + seconds, 0
        while loop.time() < end:
            try:
                meter = limiter.admit("key:shared", limits) or await limiter.admit_leased("key:shared", limits)
            except TooMany:
                await asyncio.sleep(0.002)
                continue
            Limiter.leave(meter)
            count += 1
        return count

    async def run() -> int:
        client = redis.asyncio.Redis.from_url(settings.REDIS_URL)
        try:
            return sum(await asyncio.gather(*(gateway(client) for _ in range(4))))
        finally:
            await client.aclose()

    count = asyncio.run(run())
    assert 150 <= count <= 200 * (1 + seconds) + 4 * 20 + 100  # a bucket, what drips in, a block each, and a busy machine


def test_redis_away_falls_back_to_the_share() -> None:
    async def run() -> int:
        client = redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.2)
        limiter = Limiter(client, "x:", lambda: 2)
        limits = Limits(requests_per_second=100)
        count = 0
        for _ in range(300):
            try:
                meter = limiter.admit("key:a", limits) or await limiter.admit_leased("key:a", limits)
            except TooMany:
                await asyncio.sleep(0.001)
                continue
            Limiter.leave(meter)
            count += 1
        await client.aclose()
        return count

    assert 1 <= asyncio.run(run()) <= 100


def test_a_limited_key_is_told_when_to_come_back(door: Door) -> None:
    answers = [door.predict("half_plus_two", {"instances": [1]}, key=KEYS["limited"]) for _ in range(12)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert len(refused) >= 4
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.headers["daybook-record"] for answer in refused)
    assert refused[0].json() == {"error": "More than 5 requests per second."}


def test_a_key_with_one_place_has_one_call_at_a_time(door: Door) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(door.predict("slow", {"instances": [0.5]}, key=KEYS["single"]))

    first = threading.Thread(target=ask)
    first.start()
    wait_until(lambda: "daybook_in_flight 1.0" in door.http.get("/metrics").text, "the first is under way")
    assert door.predict("half_plus_two", {"instances": [1]}, key=KEYS["single"]).status_code == 429
    first.join()
    assert answers[0].status_code == 200
    assert door.predict("half_plus_two", {"instances": [1]}, key=KEYS["single"]).status_code == 200


def test_anonymous_callers_are_limited_by_address(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway()
    door.publish_and_wait(open_limits=Limits(requests_per_second=3))
    codes = [door.predict("open_half", {"instances": [1]}, key=None).status_code for _ in range(10)]
    assert codes.count(200) <= 6
    assert 429 in codes
    assert door.predict("open_half", {"instances": [1]}).status_code == 200  # a key has its own limit
