"""Servables and values for the engine's tests: a true implementation of `Servable` over NumPy, with handles for faults."""

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from serving.engine.batch import BatchRule, Task
from serving.engine.errors import InvalidModel, RunFailed, UnknownSignature
from serving.engine.options import BatchingOptions
from serving.engine.registry import LoadRequest
from serving.engine.scheduler import QueueOptions, Scheduler
from serving.engine.servable import Arrays, Servable, ServableKey, Signature, TensorSpec

LoadModel = Callable[..., Servable]
KEY = ServableKey("m", 1)
FLOATS = Signature(
    "tensorflow/serving/predict",
    {"x": TensorSpec("x:0", "DT_FLOAT", (-1, 2))},
    {"y": TensorSpec("y:0", "DT_FLOAT", (-1, 2))},
)
RUN_TOGETHER = BatchRule(True, "rows are independent")
_ids = count(1)


class NumpyServable:
    """Runs a NumPy function. Fails as a whole when a row holds `poison`, as a graph does; keeps the sizes of its runs."""

    def __init__(
        self,
        body: Callable[[np.ndarray], np.ndarray] = lambda x: x * 2,
        *,
        name: str = "m",
        version: int = 1,
        poison: float = float("nan"),
        signature: Signature = FLOATS,
    ) -> None:
        self.name, self.version, self.artifact, self.device = name, version, "0" * 64, "CPU"
        self.signatures = {"serving_default": signature}
        self.unbatchable: Mapping[str, str] = {}
        self.body = body
        self.poison = poison
        self.fail_with: Exception | None = None
        self.sizes: list[int] = []
        self.unloaded = False

    def run(self, signature: str, inputs: Arrays, *, output_filter: Sequence[str] = (), timeout_ms: int) -> dict[str, np.ndarray]:
        if signature not in self.signatures:
            raise UnknownSignature(f'Serving signature key "{signature}" not found.')
        x = inputs["x"]
        self.sizes.append(len(x) if x.ndim else 0)
        if self.fail_with is not None:
            raise self.fail_with
        if np.isnan(x).any() if np.isnan(self.poison) else (x == self.poison).any():
            raise RunFailed("a row is poisoned")
        outputs = {"y": self.body(x)}
        return {name: outputs[name] for name in output_filter or outputs}

    def unload(self) -> None:
        self.unloaded = True


class NumpyLoader:
    """Loads any directory as a NumpyServable. Directories that hold a file `broken` fail with its text; `gate` holds loads back."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.loaded: list[ServableKey] = []
        self.servables: dict[ServableKey, NumpyServable] = {}
        self.bytes = 1

    def estimate_bytes(self, request: LoadRequest) -> int:
        return self.bytes

    def load(self, request: LoadRequest) -> Servable:
        self.entered.set()
        self.gate.wait(20)
        key = ServableKey(request.name, request.version)
        self.loaded.append(key)
        broken = Path(request.path) / "broken"
        if broken.exists():
            raise InvalidModel(broken.read_text())
        servable = self.servables[key] = NumpyServable(name=request.name, version=request.version)
        return servable


def make_task(rows: int = 1, *, value: float = 1.0, **fields: object) -> Task:
    """A task of `rows` rows of two floats, all `value`."""
    values: dict[str, object] = {
        "id": next(_ids).to_bytes(16, "big"),
        "key": KEY,
        "signature": "serving_default",
        "inputs": {"x": np.full((rows, 2), value, np.float32)},
        "rows": rows,
        "deadline": 1e9,
        **fields,
    }
    return Task(**values)  # type: ignore[arg-type]


def make_scheduler(batching: BatchingOptions | None = None, *, key: ServableKey = KEY, rule: BatchRule = RUN_TOGETHER) -> Scheduler:
    """A scheduler with one queue whose only signature is batched."""
    scheduler = Scheduler()
    scheduler.configure(key, QueueOptions(batching or BatchingOptions(), rules={"serving_default": rule}))
    return scheduler
