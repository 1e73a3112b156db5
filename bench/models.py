"""The three SavedModels that every peer serves, and one body for each.

Run with Python TensorFlow, in a process of its own: `python -m bench.models DIRECTORY`.

half_plus_two: (n,) float32 → (n,); next to no work, so it measures everything but the model.
mlp: 784-512-512-10, (n, 784) → (n, 10).
convnet: (n, 96, 96, 3) → (n, 10), about 60 MFLOP; its JSON body has 27,648 numbers.
big: 400 MB of weights, for the isolation bench only. heavy: a chain of matrix products that takes some 100 ms a batch.
"""

import json
import sys
from pathlib import Path

NAMES = ("half_plus_two", "mlp", "convnet")


def write_bodies(directory: Path) -> None:
    """`NAME.json` beside the models: what one request sends. Values as a client would print them, four digits."""
    import numpy as np

    rng = np.random.default_rng(7)
    bodies = {
        "half_plus_two": {"instances": [1.0, 2.0, 5.0]},
        "mlp": {"instances": [rng.random(784).round(4).tolist()]},
        "convnet": {"instances": [rng.random((96, 96, 3)).round(7).tolist()]},
        "heavy": {"instances": [rng.random(512).round(4).tolist()]},
    }
    for name, body in bodies.items():
        (directory / f"{name}.json").write_text(json.dumps(body))


def build(directory: Path) -> None:
    import tensorflow as tf

    tf.random.set_seed(7)

    def export(name: str, function: object, *shape: int | None) -> None:
        module = tf.Module()
        module.f = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
        module.variables_ = kept
        tf.saved_model.save(module, str(directory / name / "1"), signatures={"serving_default": module.f})

    def weights(*shape: int) -> tf.Variable:
        kept.append(tf.Variable(tf.random.normal(shape, stddev=0.05)))
        return kept[-1]

    kept: list[tf.Variable] = []
    half, two = tf.Variable(0.5), tf.Variable(2.0)
    kept += [half, two]
    export("half_plus_two", lambda x: {"y": x * half + two}, None)

    kept = []
    layers = [weights(784, 512), weights(512, 512), weights(512, 10)]

    def mlp(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in layers[:-1]:
            x = tf.nn.relu(x @ layer)
        return {"scores": tf.nn.softmax(x @ layers[-1])}

    export("mlp", mlp, None, 784)

    kept = []
    kernels = [weights(3, 3, 3, 16), weights(3, 3, 16, 32), weights(3, 3, 32, 64), weights(3, 3, 64, 64)]
    head = weights(64, 10)

    def convnet(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for kernel in kernels:
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, strides=2, padding="SAME"))
        return {"scores": tf.nn.softmax(tf.reduce_mean(x, [1, 2]) @ head)}

    export("convnet", convnet, None, 96, 96, 3)

    kept = []
    table = weights(100_000, 1000)
    export("big", lambda x: {"y": tf.gather(table, tf.cast(x, tf.int32))}, None)

    kept = []
    square = weights(2048, 2048)
    into, out = weights(512, 2048), weights(2048, 10)

    def heavy(x: tf.Tensor) -> dict[str, tf.Tensor]:
        x = x @ into
        for _ in range(12):
            x = tf.nn.tanh(x @ square)
        return {"scores": tf.nn.softmax(x @ out)}

    export("heavy", heavy, None, 512)


def ensure(directory: Path) -> None:
    """Build what isn't there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "heavy" / "1" / "saved_model.pb").exists():
        build(directory)
    write_bodies(directory)


if __name__ == "__main__":
    ensure(Path(sys.argv[1]))
