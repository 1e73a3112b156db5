"""A runtime with handles for faults: a true servable whose runs can fail, last, and kill the process.

Its version directory holds `options.json`: `delay` seconds per run. Every run is noted in a file beside it before it begins, one
line with the values that it was fed, so that tests see across processes what has reached the model. The runs of the load-time probe
take no time and leave no note.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from serving.engine.errors import Code, RunFailed
from serving.engine.probe import TIMEOUT_MS as PROBE_TIMEOUT_MS
from serving.engine.registry import LoadRequest
from serving.engine.servable import Arrays, Signature, TensorSpec

FAIL = -1.0
ABORT = -666.0
SIGNATURE = Signature(
    "tensorflow/serving/predict", {"x": TensorSpec("x:0", "DT_FLOAT", (-1,))}, {"y": TensorSpec("y:0", "DT_FLOAT", (-1,))}
)


class ScriptedServable:
    """y = 2x; a row of `FAIL` fails its run, one of `ABORT` kills the process, as a broken native op does."""

    signatures: Mapping[str, Signature] = {"serving_default": SIGNATURE}
    unbatchable: Mapping[str, str] = {}
    artifact = "0" * 64
    device = "CPU"

    def __init__(self, request: LoadRequest) -> None:
        self.name = request.name
        self.version = request.version
        self._directory = Path(request.path)
        self._delay = json.loads((self._directory / "options.json").read_text()).get("delay", 0.0)

    def run(self, signature: str, inputs: Arrays, *, output_filter: Sequence[str] = (), timeout_ms: int) -> dict[str, np.ndarray]:
        x = inputs["x"]
        if timeout_ms == PROBE_TIMEOUT_MS:
            return {"y": x * 2}
        with _notes(self._directory).open("a") as runs:
            runs.write(json.dumps(x.tolist()) + "\n")
        if (x == ABORT).any():
            os.abort()
        time.sleep(self._delay)
        if (x == FAIL).any():
            raise RunFailed("x must not be -1", Code.INVALID_ARGUMENT)
        return {"y": x * 2}

    def unload(self) -> None:
        pass


def _notes(directory: Path) -> Path:
    """Not inside it: what a load sees change there it refuses."""
    return directory.with_name(f"{directory.name}.runs.jsonl")


class ScriptedLoader:
    def estimate_bytes(self, request: LoadRequest) -> int:
        return 1

    def load(self, request: LoadRequest) -> ScriptedServable:
        return ScriptedServable(request)


def make_version(base: Path, version: int = 1, *, delay: float = 0.0) -> Path:
    directory = base / str(version)
    directory.mkdir(parents=True)
    (directory / "options.json").write_text(json.dumps({"delay": delay}))
    return directory


def runs(base: Path, version: int = 1) -> list[list[float]]:
    """What has reached the model, run by run."""
    path = _notes(base / str(version))
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def forget_runs(base: Path, version: int = 1) -> None:
    _notes(base / str(version)).unlink(missing_ok=True)
