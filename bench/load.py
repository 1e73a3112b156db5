"""Closed-loop load with wrk, and what it says: rate, quantiles, errors."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
%s
local file = io.open("%s", "rb"); wrk.body = file:read("*a"); file:close()
done = function(summary, latency, requests)
  io.write(string.format('\\nJSON {"requests": %%d, "seconds": %%f, "p50_us": %%d, "p99_us": %%d, "max_us": %%d, "bad": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), latency.max,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One run. `rate` in good answers per second, latencies in µs, `bad` counts other statuses and broken connections."""

    rate: float
    p50_us: int
    p99_us: int
    max_us: int
    bad: int


def closed_loop(url: str, body: Path, *, connections: int, seconds: float, headers: dict[str, str]) -> Load:
    """`connections` clients that each send the next request when the last is answered; one wrk thread."""
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % (lines, body))
        script.flush()
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds:g}s", "--timeout", "30s", "-s", script.name, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(output.rpartition("JSON ")[2])
    return Load(
        max(result["requests"] - result["bad"], 0) / result["seconds"], result["p50_us"], result["p99_us"], result["max_us"], result["bad"]
    )
