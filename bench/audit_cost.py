"""What the daybook costs: two gateways on one portal, one that records and one that doesn't, under the same load in turn.

    python -m bench.audit_cost [--pairs 12] [--seconds 4] [--connections 64]

Prints the median ratio of throughput (recorded / unrecorded) over the pairs with its 95 % interval (from order statistics), CPU µs
per request of all processes together, and the medians at one connection.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx

from . import models as bench_models
from .load import Load, closed_loop
from .portal import ROOT, Portal, cpu_seconds, descendants, free_port, running
from .throughput import conditions, wait_sealed


def start_unrecorded(portal: Portal) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    command = [sys.executable, "-m", "bench.unrecorded"]
    environment = {**portal.environment, "GATEWAY_PORT": str(port), "JOURNAL_DIR": str(portal.directory / "unrecorded")}
    (portal.directory / "unrecorded").mkdir(exist_ok=True)
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    address = f"http://127.0.0.1:{port}"
    for _ in range(100):
        try:
            if httpx.get(f"{address}/readyz").status_code == 200:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    return process, address


def measured(portal: Portal, other: int, address: str, body: Path, model: str, connections: int, seconds: float) -> tuple[Load, float]:
    """The load, and CPU µs per request of all processes until the log has caught up."""

    def used() -> float:
        return sum(portal.cpu_seconds().values()) + sum(cpu_seconds(pid) for pid in descendants(other))

    before = used()
    url = f"{address}/v1/models/bench-{model}:predict"
    load = closed_loop(url, body, connections=connections, seconds=seconds, headers=portal.headers)
    wait_sealed(portal)
    return load, (used() - before) / max(load.rate * seconds, 1) * 1e6


def interval(ratios: list[float]) -> tuple[float, float]:
    """A 95 % interval of the median, from order statistics (binomial; exact enough from six pairs on)."""
    ordered = sorted(ratios)
    spread = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return ordered[spread], ordered[-1 - spread]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(bench_models.NAMES))
    parser.add_argument("--directory", type=Path, default=ROOT / "var" / "bench")
    arguments = parser.parse_args()
    models = arguments.directory / "models"
    print(conditions())
    with running(arguments.directory / "portal", MODEL_ROOTS=str(models)) as portal:
        for name in arguments.models:
            portal.deploy(f"bench-{name}", models / name)
            portal.wait_available(f"bench-{name}")
        unrecorded, address = start_unrecorded(portal)
        try:
            for model in arguments.models:
                report(portal, unrecorded.pid, address, models / f"{model}.json", model, arguments)
        finally:
            unrecorded.terminate()
            unrecorded.wait()


def report(portal: Portal, other: int, address: str, body: Path, model: str, arguments: argparse.Namespace) -> None:
    ratios: list[float] = []
    cpu: dict[str, list[float]] = {"on": [], "off": []}
    for pair in range(arguments.pairs):
        rates: dict[str, float] = {}
        for mode in ("on", "off") if pair % 2 else ("off", "on"):
            where = portal.gateway if mode == "on" else address
            load, used = measured(portal, other, where, body, model, arguments.connections, arguments.seconds)
            rates[mode] = load.rate
            cpu[mode].append(used)
            if load.bad:
                print(f"{model} {mode}: {load.bad} bad answers", file=sys.stderr)
        ratios.append(rates["on"] / rates["off"])
    low, high = interval(ratios)
    on, off = statistics.median(cpu["on"]), statistics.median(cpu["off"])
    alone = {
        mode: closed_loop(f"{where}/v1/models/bench-{model}:predict", body, connections=1, seconds=3, headers=portal.headers).p50_us
        for mode, where in (("on", portal.gateway), ("off", address))
    }
    print(f"{model}: throughput × {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}] of {len(ratios)} pairs")
    print(f"{model}: CPU {on:.0f} µs with, {off:.0f} µs without, {on - off:.0f} µs for the record")
    print(f"{model}: one connection {alone['on']} µs with, {alone['off']} µs without", flush=True)


if __name__ == "__main__":
    main()
