"""Servables for tests of the door, written in Python: true ones, that answer at once, late, wrongly or not at all."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.engine.errors import Code, RunFailed
from serving.engine.registry import LoadRequest
from serving.engine.servable import Arrays, Signature, TensorSpec

NAPS = (0.25, 0.5, 1.5, 3.0)
Outputs = dict[str, np.ndarray[Any, Any]]

FLOATS = TensorSpec("x:0", "DT_FLOAT", (-1,))


def signature(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], **fields: Any) -> Signature:
    return Signature("tensorflow/serving/predict", inputs, outputs, **fields)


def half_plus_two(inputs: Arrays) -> Outputs:
    return {"y": (inputs["x"] / 2 + 2).astype(np.float32)}


def picky(inputs: Arrays) -> Outputs:
    if (inputs["x"] < 0).any():
        raise RunFailed("x must not be negative [[{{node picky}}]]", Code.INVALID_ARGUMENT)
    return {"y": inputs["x"]}


def broken(inputs: Arrays) -> Outputs:
    raise RunFailed("the kernel failed", Code.INTERNAL)


def slow(inputs: Arrays) -> Outputs:
    seconds = float(inputs["x"][0])
    time.sleep(seconds if seconds in NAPS else 0)  # the loading probe feeds what it likes
    return {"y": inputs["x"]}


def texts(inputs: Arrays) -> Outputs:
    values = np.empty(inputs["t"].shape, object)
    values.ravel()[:] = [bytes(reversed(value)) for value in inputs["t"].ravel()]
    return {"t": values, "t_bytes": values, "n": np.array([len(value) for value in inputs["t"].ravel()], np.int64)}


def digits(inputs: Arrays) -> Outputs:
    scores = np.zeros((len(inputs["x"]), 3), np.float32)
    scores[np.arange(len(scores)), inputs["x"].astype(int) % 3] = 0.75
    return {"scores": scores}


def total(inputs: Arrays) -> Outputs:
    return {"y": inputs["x"], "sum": np.asarray(inputs["x"].sum(), np.float32)}


SCORES = TensorSpec("s:0", "DT_FLOAT", (-1, 3))
STRINGS = TensorSpec("t:0", "DT_STRING", (-1,))
ONE = signature({"x": FLOATS}, {"y": FLOATS})

SERVABLES: dict[str, tuple[Signature, Callable[[Arrays], Outputs]]] = {
    "half_plus_two": (ONE, half_plus_two),
    "open_half": (ONE, half_plus_two),
    "subscribed": (ONE, half_plus_two),
    "picky": (ONE, picky),
    "broken": (ONE, broken),
    "slow": (ONE, slow),
    "texts": (
        signature({"t": STRINGS}, {"t": STRINGS, "t_bytes": STRINGS, "n": TensorSpec("n:0", "DT_INT64", (-1,))}),
        texts,
    ),
    "digits": (signature({"x": FLOATS}, {"scores": SCORES}), digits),
    "total": (signature({"x": FLOATS}, {"y": FLOATS, "sum": TensorSpec("sum:0", "DT_FLOAT", ())}), total),
}


class DoorServable:
    unbatchable: Mapping[str, str] = {}
    artifact = "ab" * 32
    device = "CPU"

    def __init__(self, request: LoadRequest) -> None:
        self.name = request.name
        self.version = request.version
        one, self._run = SERVABLES[request.name]
        self.signatures: Mapping[str, Signature] = {"serving_default": one}

    def run(self, signature: str, inputs: Arrays, *, output_filter: Sequence[str] = (), timeout_ms: int) -> Outputs:
        outputs = self._run(inputs)
        return {name: outputs[name] for name in output_filter} if output_filter else outputs

    def unload(self) -> None:
        pass


class DoorLoader:
    def estimate_bytes(self, request: LoadRequest) -> int:
        return 1

    def load(self, request: LoadRequest) -> DoorServable:
        return DoorServable(request)
