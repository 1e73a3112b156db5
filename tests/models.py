"""Tiny SavedModels for tests, built by TensorFlow's Python package in a process of its own and cached below a directory.

`build_models(directory)` gives `{name: base path}`; each base path holds version directories. The cache key is this file's
content, so that a changed recipe is built anew. The process under test never imports TensorFlow.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = (
    "half_plus_two",
    "half_plus_three",
    "counter",
    "mlp",
    "dtypes",
    "strings",
    "batch_norm",
    "reshapes",
    "random",
    "rarely_random",
    "clipped_mix",
    "picky",
    "softmax",
    "fixed",
    "scalar",
    "defaults",
    "tagged",
    "resource_end",
    "tf_example",
    "endless",
    "two_signatures",
    "free_size",
)


def build_models(directory: Path) -> dict[str, str]:
    """Build all models below `directory`, once; takes some ten seconds the first time. Safe for several processes at once."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    root = directory / f"models-{recipe}"
    if not root.is_dir():
        making = directory / f"making-{os.getpid()}-{recipe}"
        making.mkdir(parents=True)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(
            [sys.executable, __file__, str(making)], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        if result.returncode:
            raise RuntimeError(f"building the test models failed:\n{result.stderr[-4000:]}")
        try:
            making.rename(root)
        except OSError:  # another process was first
            shutil.rmtree(making)
    return {name: str(root / name) for name in NAMES}


def _build(root: Path) -> None:
    import tensorflow as tf

    def save(name, module, signatures, version=1):
        tf.saved_model.save(module, str(root / name / str(version)), signatures=signatures)

    def function(shapes, dtype=tf.float32):
        return tf.function(input_signature=[tf.TensorSpec(shape, dtype, name=name) for name, shape in shapes.items()])

    def simple(name, shapes, body, *, dtype=tf.float32, version=1, attributes=None):
        module = tf.Module()
        for key, value in (attributes or {}).items():
            setattr(module, key, value)
        module.call = function(shapes, dtype)(body)
        save(name, module, {"serving_default": module.call}, version)

    half, two = tf.Variable(0.5), tf.Variable(2.0)
    simple("half_plus_two", {"x": [None, 1]}, lambda x: {"y": x * half + two}, attributes={"half": half, "two": two})
    three = tf.Variable(3.0)
    simple("half_plus_two", {"x": [None, 1]}, lambda x: {"y": x * half + three}, version=2, attributes={"half": half, "two": three})

    generator = tf.random.Generator.from_seed(1)
    sizes = (784, 512, 512, 10)
    weights = [tf.Variable(generator.normal([a, b], stddev=a**-0.5)) for a, b in zip(sizes, sizes[1:], strict=False)]

    def mlp(x):
        for weight in weights[:-1]:
            x = tf.nn.relu(x @ weight)
        return {"probabilities": tf.nn.softmax(x @ weights[-1])}

    simple("mlp", {"x": [None, 784]}, mlp, attributes={"weights": weights})

    module = tf.Module()
    module.calls = {}
    for dtype in (
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "complex64",
        "complex128",
        "string",
    ):
        call = function({"x": [None, 2]}, tf.as_dtype(dtype))(lambda x: {"y": tf.identity(x)})
        module.calls[dtype] = call
    save("dtypes", module, dict(module.calls))

    simple(
        "strings",
        {"s": [None]},
        lambda s: {"upper": tf.strings.upper(s), "twice": tf.strings.join([s, s]), "length": tf.strings.length(s)},
        dtype=tf.string,
    )
    simple("batch_norm", {"x": [None, 3]}, lambda x: {"y": (x - tf.reduce_mean(x, 0)) / (tf.math.reduce_std(x, 0) + 1e-3)})
    simple("reshapes", {"x": [None, 2]}, lambda x: {"y": tf.reshape(tf.transpose(x), [-1, 2])})
    simple("random", {"x": [None, 2]}, lambda x: {"y": x + tf.random.uniform(tf.shape(x))})
    simple("rarely_random", {"x": [None, 2]}, lambda x: {"y": tf.where(tf.random.uniform([]) < 1e-9, -x, x)})
    simple("clipped_mix", {"x": [None, 2]}, lambda x: {"y": x + tf.nn.relu(tf.reduce_max(x) - 20.0)})
    simple("picky", {"x": [None, 2]}, lambda x: {"y": tf.debugging.check_numerics(x, "not a number") * 2.0})
    simple("softmax", {"x": [None, None]}, lambda x: {"y": tf.nn.softmax(x, -1)})
    simple("fixed", {"x": [1, 2]}, lambda x: {"y": x * 2.0})
    simple("scalar", {"x": []}, lambda x: {"y": x * 2.0})
    simple("free_size", {"x": [None, None, None, 3]}, lambda x: {"y": tf.reduce_mean(x, [1, 2])})
    simple(
        "endless",
        {"x": [None, 1]},
        lambda x: {"y": tf.while_loop(lambda i, v: tf.reduce_max(v) > 0.0, lambda i, v: (i + 1, v * 1.0), [0, x])[1]},
    )

    module = tf.Module()
    module.double = function({"x": [None, 2]})(lambda x: {"y": x * 2.0})
    module.mean = function({"x": [None, 2]})(lambda x: {"y": x - tf.reduce_mean(x, 0)})
    save("two_signatures", module, {"serving_default": module.double, "centred": module.mean})

    parse = {
        "x": tf.io.FixedLenFeature([2], tf.float32),
        "n": tf.io.FixedLenFeature([], tf.int64),
        "s": tf.io.FixedLenFeature([], tf.string),
    }

    def classify(examples):
        features = tf.io.parse_example(examples, parse)
        total = tf.reduce_sum(features["x"], 1) + tf.cast(
            features["n"] + tf.strings.length(features["s"], name="l").numpy() if False else features["n"], tf.float32
        )
        return {"scores": tf.stack([total, -total], 1)}

    simple("tf_example", {"inputs": [None]}, classify, dtype=tf.string)

    # TF1: what `tf.saved_model.load` refuses or can't express
    v1 = tf.compat.v1

    def save_v1(name, make, tags=("serve",), builder=None):
        with tf.Graph().as_default(), v1.Session() as session:
            inputs, outputs, extra = make()
            session.run(v1.global_variables_initializer())
            builder = v1.saved_model.Builder(str(root / name / "1"))
            signature = v1.saved_model.build_signature_def(
                {key: v1.saved_model.build_tensor_info(tensor) for key, tensor in inputs.items()},
                {key: v1.saved_model.build_tensor_info(tensor) for key, tensor in outputs.items()},
                "tensorflow/serving/predict",
            )
            for default, value in extra.items():
                signature.defaults[default].CopyFrom(tf.make_tensor_proto(value))
            builder.add_meta_graph_and_variables(session, list(tags), {"serving_default": signature})
            builder.save()

    def half_plus_three():
        half = v1.Variable(0.5, use_resource=False)
        three = v1.Variable(3.0, use_resource=False)
        x = v1.placeholder(tf.float32, name="x")  # unknown rank
        return {"x": x}, {"y": tf.add(x * half, three, name="y")}, {}

    def counter():
        total = v1.Variable(0.0, use_resource=False)
        step = v1.placeholder(tf.float32, [None], name="step")
        added = v1.assign_add(total, tf.reduce_sum(step))
        return {"step": step}, {"total": tf.identity(added) + 0.0 * step}, {}

    def defaults():
        x = v1.placeholder(tf.float32, [None], name="x")
        scale = v1.placeholder(tf.float32, [], name="scale")
        return {"x": x, "scale": scale}, {"y": x * scale}, {"scale": 10.0}

    def resource_end():
        table = v1.placeholder(tf.resource, [], name="table")
        x = v1.placeholder(tf.float32, [None], name="x")
        return {"x": x, "table": table}, {"y": x * 2.0}, {}

    save_v1("half_plus_three", half_plus_three)
    save_v1("counter", counter)
    save_v1("defaults", defaults)
    save_v1("resource_end", resource_end)
    save_v1("tagged", half_plus_three, ("serve", "gpu"))


if __name__ == "__main__":
    _build(Path(sys.argv[1]))
