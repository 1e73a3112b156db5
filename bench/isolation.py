"""Neighbours: what a loading model and a saturated heavy one do to the others, through the whole path.

    python -m bench.isolation [--runs 3] [--seconds 10]

Load: model A (the MLP) under open-loop load at 30 % of its peak, before and while a 400 MB model loads; the ratio of the p99s.
Heavy: half-plus-two beside the heavy model under 16 closed-loop connections; its p99 against the heavy model's batch time under the
same load with nothing beside it.
"""

import argparse
import asyncio
import re
import statistics
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from . import open_loop
from .load import closed_loop
from .portal import ROOT, Portal, running
from .throughput import conditions

SATURATING = 16  # closed-loop callers of the heavy model


def client_of(portal: Portal) -> open_loop.Client:
    parts = urlsplit(portal.gateway)
    return open_loop.Client(parts.hostname or "127.0.0.1", parts.port or 80)


def steady(portal: Portal, models: Path, model: str, rate: float, seconds: float) -> list[open_loop.Answer]:
    client = client_of(portal)
    request = client.request(f"/v1/models/bench-{model}:predict", (models / f"{model}.json").read_bytes(), portal.headers)
    return open_loop.run(client, request, rate=rate, seconds=seconds)


def during_load(portal: Portal, models: Path, rate: float, seconds: float) -> tuple[float, float, float]:
    """p99 (s) before, p99 during, and how long the load took (s)."""
    before = open_loop.quantile(steady(portal, models, "mlp", rate, seconds), 0.99)
    took: list[float] = []

    def load() -> None:
        start = time.perf_counter()
        portal.deploy("bench-big", models / "big")
        portal.wait_available("bench-big")
        took.append(time.perf_counter() - start)

    loading = threading.Thread(target=load)
    loading.start()
    answers = steady(portal, models, "mlp", rate, seconds)
    loading.join()
    end = answers[0].due + took[0]
    during = open_loop.quantile([answer for answer in answers if answer.due <= end], 0.99)
    portal.undeploy("bench-big")
    time.sleep(3)
    return before, during, took[0]


def batch_time(portal: Portal, models: Path, seconds: float) -> float:
    """The heavy model's batch time (s) under saturation with nothing beside it: the median of what answers say the model took."""
    client = client_of(portal)
    request = client.request("/v1/models/bench-heavy:predict", (models / "heavy.json").read_bytes(), portal.headers)
    found: list[float] = []

    async def caller(end: float) -> None:
        while time.perf_counter() < end:
            answer = await client.send(request, time.perf_counter())
            took = re.search(rb"model;dur=([0-9.]+)", answer.headers)
            assert took is not None, answer
            found.append(float(took[1]) / 1e3)

    async def main() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(caller(end) for _ in range(SATURATING)))
        await client.close()

    open_loop.run_apart(main())
    return statistics.median(found)


def beside_heavy(portal: Portal, models: Path, rate: float, seconds: float) -> tuple[float, float, float]:
    """Heavy batch time alone (s), light p99 alone, light p99 beside the saturated heavy model."""
    heavy = f"{portal.gateway}/v1/models/bench-heavy:predict"
    alone = batch_time(portal, models, 4)
    light = open_loop.quantile(steady(portal, models, "half_plus_two", rate, seconds), 0.99)
    saturating = threading.Thread(
        target=closed_loop,
        args=(heavy, models / "heavy.json"),
        kwargs={"connections": SATURATING, "seconds": seconds + 2, "headers": portal.headers},
    )
    saturating.start()
    time.sleep(1)
    beside = open_loop.quantile(steady(portal, models, "half_plus_two", rate, seconds), 0.99)
    saturating.join()
    return alone, light, beside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--directory", type=Path, default=ROOT / "var" / "bench")
    arguments = parser.parse_args()
    models = arguments.directory / "models"
    print(conditions())
    with running(arguments.directory / "portal", MODEL_ROOTS=str(models)) as portal:
        for name in ("half_plus_two", "mlp", "heavy"):
            portal.deploy(f"bench-{name}", models / name)
            portal.wait_available(f"bench-{name}")
        peak = {}
        for name in ("half_plus_two", "mlp"):
            url = f"{portal.gateway}/v1/models/bench-{name}:predict"
            peak[name] = closed_loop(url, models / f"{name}.json", connections=32, seconds=5, headers=portal.headers).rate
        for run in range(arguments.runs):
            before, during, took = during_load(portal, models, 0.3 * peak["mlp"], arguments.seconds)
            ratio = during / before
            print(
                f"run {run}: p99 before {before * 1e3:.1f} ms, during a load of {took:.1f} s {during * 1e3:.1f} ms: × {ratio:.2f}: "
                f"{'holds' if ratio <= 1.5 else 'BROKEN'}",
                flush=True,
            )
        for run in range(arguments.runs):
            batch, light, beside = beside_heavy(portal, models, 0.3 * peak["half_plus_two"], arguments.seconds)
            bound = batch * 1.2 + light
            if batch < 0.05:
                print(f"run {run}: a heavy batch takes {batch * 1e3:.0f} ms alone, which is less than the 50 that the bound is about")
            print(
                f"run {run}: heavy batch {batch * 1e3:.0f} ms; light p99 alone {light * 1e3:.1f} ms, beside {beside * 1e3:.1f} ms, "
                f"bound {bound * 1e3:.0f} ms: {'holds' if beside <= bound else 'BROKEN'}"
            )


if __name__ == "__main__":
    main()
