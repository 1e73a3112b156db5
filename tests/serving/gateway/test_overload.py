"""More calls than can be answered: the rest is refused at once and told when to come back, and neighbours don't feel it."""

import asyncio
from collections.abc import Callable

import httpx

from tests.serving.gateway.conftest import Door
from tests.serving.gateway.snapshots import KEYS


def ask_many(door: Door, model: str, body: bytes, times: int) -> list[httpx.Response]:
    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(f"/v1/models/{model}:predict", content=body, headers={"X-API-Key": KEYS["all"]})

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=times)
        async with httpx.AsyncClient(base_url=door.gateway.url, timeout=30.0, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*(ask(client) for _ in range(times)))

    return asyncio.run(run())


def test_calls_beyond_a_models_share_are_refused_at_once(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway(GATEWAY_MAX_IN_FLIGHT="12", GATEWAY_MAX_IN_FLIGHT_PER_MODEL="8")
    answers = ask_many(door, "slow", b'{"instances":[0.25]}', 12)
    codes = [answer.status_code for answer in answers]
    assert codes.count(200) == 8
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 4
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.headers["daybook-record"] for answer in refused)
    assert door.predict("half_plus_two", {"instances": [1]}).status_code == 200


def test_large_bodies_held_at_one_time_are_bounded(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway(GATEWAY_MAX_OPEN_MB="1", MAX_BODY_MB="1")
    body = b'{"instances":[0.5]}' + b" " * 700_000
    codes = sorted(answer.status_code for answer in ask_many(door, "slow", body, 3))
    assert codes == [200, 429, 429]
    assert "daybook_open_body_bytes 0.0" in door.http.get("/metrics").text


def test_deadlines_behind_slow_runs_are_504_in_time(door: Door) -> None:
    """What waits with 200 ms to live behind runs of 3 s is answered when its time is over, long before those end."""

    async def run() -> list[int]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=door.gateway.url, timeout=30.0, limits=limits, trust_env=False) as client:

            async def ask(value: float, **headers: str) -> int:
                answer = await client.post(
                    "/v1/models/slow:predict", json={"instances": [value]}, headers={"X-API-Key": KEYS["all"], **headers}
                )
                return answer.status_code

            blocking = [asyncio.create_task(ask(3.0)) for _ in range(2)]
            await asyncio.sleep(0.3)
            late = await asyncio.gather(*(ask(9.0, **{"Daybook-Timeout-Ms": "200"}) for _ in range(30)))
            assert not any(task.done() for task in blocking)
            assert await asyncio.gather(*blocking) == [200, 200]
            return late

    assert set(asyncio.run(run())) == {504}
