"""More than can be served: what can't be done is refused at once, what is too late is told in time, what is done is done at full speed."""

import asyncio
import json
import statistics
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from bench.open_loop import Answer, Client, at_rate, quantile, run_apart
from bench.portal import Portal, descendants

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

UNITS_PER_SECOND = 2000  # of the tests' models, roughly: one is a product of half a millisecond


@pytest.fixture
def client(live_portal: Portal) -> Client:
    parts = urlsplit(live_portal.gateway)
    return Client(parts.hostname or "", parts.port or 0)


def run_counted(portal: Portal, work: float) -> float:
    """One run of the counting model; how many it has seen."""
    url = f"{portal.gateway}/v1/models/counted:predict"
    answer = httpx.post(url, json={"instances": [work]}, headers=portal.headers, timeout=60)
    return float(answer.raise_for_status().json()["predictions"][0])


def test_deadlines_behind_long_runs_are_told_in_time_and_cost_the_model_nothing(
    live_portal: Portal, client: Client, test_models: dict[str, str]
) -> None:
    live_portal.register("counted", Path(test_models["counted"]))
    start = time.perf_counter()
    before = run_counted(live_portal, UNITS_PER_SECOND / 4)
    three_seconds = 3 * UNITS_PER_SECOND / 4 / (time.perf_counter() - start)
    path = "/v1/models/counted:predict"
    long = client.request(path, json.dumps({"instances": [three_seconds]}).encode(), live_portal.headers)
    short = client.request(path, b'{"instances": [1.0]}', {**live_portal.headers, "Daybook-Timeout-Ms": "200"})

    hello = client.request("/v1/models/half_plus_two:predict", b'{"instances": [1.0]}', live_portal.headers)

    async def main() -> tuple[list[Answer], list[Answer]]:
        await asyncio.gather(*(client.send(hello, time.perf_counter()) for _ in range(104)))  # connections are there, as callers have them
        blocking = [asyncio.create_task(client.send(long, time.perf_counter())) for _ in range(4)]
        await asyncio.sleep(0.5)
        hurried = await asyncio.gather(*(client.send(short, time.perf_counter()) for _ in range(100)))
        blocked = await asyncio.gather(*blocking)
        await client.close()
        return list(hurried), list(blocked)

    hurried, blocked = run_apart(main())
    assert Counter(answer.status for answer in blocked) == {200: 4}
    assert Counter(answer.status for answer in hurried) == {504: 100}
    assert quantile(hurried, 0.95) <= 0.25
    assert max(answer.latency for answer in hurried) <= 0.5
    assert run_counted(live_portal, 1.0) == before + 4 + 1, "a call whose deadline had passed reached the model"


def resident_mb(portal: Portal, role: str) -> float:
    """Of the largest process whose command line has `role` in it."""
    sizes = [0.0]
    for pid in descendants(portal.process.pid):
        try:
            if role in Path(f"/proc/{pid}/cmdline").read_text():
                sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6)
        except OSError:
            continue
    return max(sizes)


def goodput(answers: list[Answer]) -> float:
    """Good answers per second, from the first request to the last answer."""
    span = max(answer.due + answer.latency for answer in answers) - min(answer.due for answer in answers)
    return sum(answer.status == 200 for answer in answers) / span


LIMIT_BATCHES = """
from serving.models import Deployment
from serving.services import change_deployment
change_deployment(deployment=Deployment.objects.get(name="slow"), actor="test", batching={"max_batch_size": 4})
"""


def test_thrice_the_peak_leaves_the_peak(live_portal: Portal, client: Client, test_models: dict[str, str]) -> None:
    live_portal.register("slow", Path(test_models["slow"]))
    live_portal.manage("shell", "-c", LIMIT_BATCHES)
    time.sleep(4)
    body = json.dumps({"instances": [{"x": 1.0, "work": 400.0}]}).encode()
    patient = client.request("/v1/models/slow:predict", body, live_portal.headers)
    request = client.request("/v1/models/slow:predict", body, {**live_portal.headers, "Daybook-Timeout-Ms": "2000"})

    async def closed(seconds: float) -> float:
        """Answers per second of 64 callers, from the first to the last."""
        start = time.perf_counter()
        end = start + seconds
        count = 0

        async def caller() -> None:
            nonlocal count
            while time.perf_counter() < end:
                answer = await client.send(patient, time.perf_counter())
                count += answer.status == 200

        await asyncio.gather(*(caller() for _ in range(64)))
        return count / (time.perf_counter() - start)

    async def main() -> tuple[list[float], list[list[Answer]], list[float]]:
        await closed(2.0)
        peaks, memory, loads = [await closed(4.0)], [], []
        for _ in range(3):
            loads.append(await at_rate(client, request, rate=3 * peaks[-1], seconds=10.0))
            memory.append(resident_mb(live_portal, "config.gateway") + resident_mb(live_portal, "control."))
            peaks.append(await closed(4.0))
        await client.close()
        return peaks, loads, memory

    peaks, loads, memory = run_apart(main())
    # The machine itself is faster now and slower then: a load is held against the peaks before and after it.
    kept = [goodput(answers) / statistics.mean(around) for answers, around in zip(loads, pairwise(peaks), strict=True)]
    refused = [[answer for answer in answers if answer.status == 429] for answers in loads]
    late = sum(answer.status == 504 for answers in loads for answer in answers)
    slowest = [quantile(answers, 0.99) for answers in refused]
    print(f"peaks {peaks}, of them kept {kept}, late {late}, refused within {slowest} s at p99, memory {memory} MB")
    assert {answer.status for answers in loads for answer in answers} <= {200, 429, 504}
    assert statistics.median(kept) >= 0.9
    assert all(refused)
    assert all(b"retry-after" in answer.headers.lower() for answers in refused for answer in answers)
    assert statistics.median(slowest) <= 0.05
    assert memory[-1] <= 1.1 * memory[0]
