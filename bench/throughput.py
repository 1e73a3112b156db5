"""Requests per second and latency of Daybook and its peers: same machine, same SavedModels, same load, alternating.

    python -m bench.throughput [--peers fastapi,celery,mosec,triton] [--models half_plus_two,mlp,convnet]
                               [--connections 1,8,32,64] [--rounds 3] [--seconds 5] [--json FILE]

Daybook answers with key check and durable record; the peers have neither. Each round measures all peers once, in turn, so that a
slow quarter of an hour hits all of them; a ratio is the median over rounds of the ratio inside a round. After each measurement of
Daybook the log has to catch up: the time until nothing is unsealed is printed with it.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from dataclasses import asdict
from pathlib import Path

from . import models as bench_models
from .load import Load, closed_loop
from .peers import PEERS, Running, own_redis, started
from .portal import ROOT, Portal, running


def triton_body(body: Path, model: str) -> Path:
    """The same numbers in the Open Inference Protocol's JSON."""
    rows = json.loads(body.read_text())["instances"]
    flat = [[row] for row in rows] if model == "half_plus_two" else rows
    shape, inner = [len(flat)], flat[0]
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0]
    path = body.with_suffix(".v2.json")
    path.write_text(json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": flat}]}))
    return path


def wait_sealed(portal: Portal, seconds: float = 60) -> float:
    """Seconds until the log has sealed everything."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if portal.num_behind() == 0:
            return time.monotonic() - start
        time.sleep(0.05)
    return float("inf")


def body_for(peer: Running, model: str, models: Path) -> Path:
    body = models / f"{model}.json"
    return triton_body(body, model) if peer.peer.name == "triton" else body


def warm_up(peer: Running, names: list[str], models: Path) -> None:
    """Until each model answers: a worker behind a task queue may still be importing TensorFlow."""
    for name in names:
        for _ in range(60):
            load = closed_loop(peer.url(name), body_for(peer, name, models), connections=2, seconds=1, headers={})
            if load.rate > 0 and load.bad == 0:
                break
        else:
            raise RuntimeError(f"{peer.peer.name} doesn't answer for {name}")


def measure(arguments: argparse.Namespace, directory: Path) -> list[dict[str, object]]:
    models = directory / "models"
    results: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        portal = stack.enter_context(running(directory / "portal", MODEL_ROOTS=str(models)))
        for name in arguments.models:
            portal.deploy(f"bench-{name}", models / name)
            portal.wait_available(f"bench-{name}")
        redis_url = stack.enter_context(own_redis(directory)) if any(PEERS[name].needs_redis for name in arguments.peers) else ""
        peers: list[Running] = []
        for name in arguments.peers:
            peers.append(stack.enter_context(started(PEERS[name], directory, models, redis_url)))
            warm_up(peers[-1], arguments.models, models)
            peers[-1].pause()
        for round_number in range(arguments.rounds):
            for model in arguments.models:
                body = models / f"{model}.json"
                for connections in arguments.connections:
                    before = portal.cpu_seconds()
                    load = closed_loop(
                        f"{portal.gateway}/v1/models/bench-{model}:predict",
                        body,
                        connections=connections,
                        seconds=arguments.seconds,
                        headers=portal.headers,
                    )
                    lag = wait_sealed(portal)
                    requests = max(load.rate * arguments.seconds, 1)
                    cpu = {role: round((used - before.get(role, 0)) / requests * 1e6, 1) for role, used in portal.cpu_seconds().items()}
                    results.append(
                        result("daybook", model, connections, round_number, load)
                        | {"cpu_us": round(sum(cpu.values()), 1), "cpu_us_by_process": cpu, "sealed_after_s": round(lag, 2)}
                    )
                    show(results[-1])
                    for peer in peers:
                        results.append(measure_peer(peer, model, connections, round_number, models, arguments.seconds))
                        show(results[-1])
    return results


def measure_peer(peer: Running, model: str, connections: int, round_number: int, models: Path, seconds: float) -> dict[str, object]:
    peer.resume()
    before = peer.cpu_seconds()
    load = closed_loop(peer.url(model), body_for(peer, model, models), connections=connections, seconds=seconds, headers={})
    cpu_us = (peer.cpu_seconds() - before) / max(load.rate * seconds, 1) * 1e6
    peer.pause()
    return result(peer.peer.name, model, connections, round_number, load) | {"cpu_us": round(cpu_us, 1)}


def result(server: str, model: str, connections: int, round_number: int, load: Load) -> dict[str, object]:
    return {"server": server, "model": model, "connections": connections, "round": round_number, **asdict(load)}


def show(row: dict[str, object]) -> None:
    print(
        " ".join(f"{key}={value:.0f}" if isinstance(value, float) and value > 20 else f"{key}={value}" for key, value in row.items()),
        flush=True,
    )


def table(results: list[dict[str, object]]) -> str:
    """Markdown: medians, and Daybook's ratio to each peer (of rates, and of median latencies) as the median over rounds."""
    servers = list(dict.fromkeys(str(row["server"]) for row in results))
    lines = [
        "| model | connections | "
        + " | ".join(f"{server} req/s (p50 / p99 ms; CPU µs)" for server in servers)
        + " | "
        + " | ".join(f"× {server} (p50)" for server in servers[1:])
        + " |",
        "| --- | --- |" + " --- |" * (2 * len(servers) - 1),
    ]
    for model, connections in dict.fromkeys((row["model"], row["connections"]) for row in results):
        rows = [row for row in results if (row["model"], row["connections"]) == (model, connections)]
        by_server = {
            server: sorted((row for row in rows if row["server"] == server), key=lambda row: int(str(row["round"]))) for server in servers
        }
        cells = []
        for server in servers:
            rate, p50, p99, cpu = (
                statistics.median(float(str(row[key])) for row in by_server[server]) for key in ("rate", "p50_us", "p99_us", "cpu_us")
            )
            bad = sum(int(str(row["bad"])) for row in by_server[server])
            cells.append(f"{rate:,.0f} ({p50 / 1000:.2f} / {p99 / 1000:.1f}; {cpu:,.0f})" + (f" **{bad} bad**" if bad else ""))
        for server in servers[1:]:
            pairs = list(zip(by_server["daybook"], by_server[server], strict=True))
            rates, medians = (statistics.median(float(str(a[key])) / float(str(b[key])) for a, b in pairs) for key in ("rate", "p50_us"))
            cells.append(f"{rates:.2f} ({medians:.2f})")
        lines.append(f"| {model} | {connections} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def conditions() -> str:
    with open("/proc/cpuinfo") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {name}; Python {platform.python_version()}; load before: {os.getloadavg()[0]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=lambda text: [name for name in text.split(",") if name], default=["fastapi", "celery"])
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(bench_models.NAMES))
    parser.add_argument("--connections", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--directory", type=Path, default=ROOT / "var" / "bench")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(conditions())
    results = measure(arguments, arguments.directory)
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
