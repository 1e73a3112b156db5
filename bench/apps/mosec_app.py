"""Peer by option: mosec, Rust front end with dynamic batching, one Python worker per model with TensorFlow's Python package."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from mosec import Runtime, Server, Worker


class Predict(Worker):
    """One batched worker; the subclass names its model."""

    name = ""

    def __init__(self) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        self.tf = tf
        self.model = tf.saved_model.load(str(Path(os.environ["BENCH_MODELS"]) / self.name / "1"))
        self.function = self.model.signatures["serving_default"]

    def deserialize(self, data: bytes) -> Any:
        return np.asarray(orjson.loads(data)["instances"], np.float32)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps({"predictions": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: list[Any]) -> list[Any]:
        rows = [len(item) for item in data]
        outputs = self.function(x=self.tf.constant(np.concatenate(data)))
        return np.split(next(iter(outputs.values())).numpy(), np.cumsum(rows)[:-1])


class HalfPlusTwo(Predict):
    name = "half_plus_two"


class MLP(Predict):
    name = "mlp"


class ConvNet(Predict):
    name = "convnet"


if __name__ == "__main__":
    server = Server()
    for worker in (HalfPlusTwo, MLP, ConvNet):
        runtime = Runtime(worker, num=1, max_batch_size=64, max_wait_time=2)
        server.register_runtime({f"/v1/models/{worker.name}": [runtime]})
    server.run()
