"""Peer by option: Triton with its Python backend, through nvidia-pytriton; spoken to in its own JSON protocol."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

tf.config.threading.set_intra_op_parallelism_threads(1)
SHAPES = {"half_plus_two": (1,), "mlp": (784,), "convnet": (96, 96, 3)}


def served(name: str) -> Any:
    model = tf.saved_model.load(str(Path(os.environ["BENCH_MODELS"]) / name / "1"))
    function = model.signatures["serving_default"]

    @batch
    def infer(x: Any) -> dict[str, Any]:
        rows = x.reshape(-1) if name == "half_plus_two" else x
        output = next(iter(function(x=tf.constant(rows)).values())).numpy()
        return {"y": output.reshape(len(x), -1)}

    infer.model = model
    return infer


if __name__ == "__main__":
    with Triton(
        config=TritonConfig(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[1]) + 1, metrics_port=int(sys.argv[1]) + 2)
    ) as triton:
        for name, shape in SHAPES.items():
            triton.bind(
                model_name=name,
                infer_func=served(name),
                inputs=[Tensor(name="x", dtype=np.float32, shape=shape)],
                outputs=[Tensor(name="y", dtype=np.float32, shape=(-1,))],
                config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
            )
        triton.serve()
