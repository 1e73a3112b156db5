"""Tiny SavedModels for tests, built by TensorFlow's Python package in a process of its own and cached below a directory.

`build_models(directory)` gives `{name: base path}`; each base path holds version directories. The cache key is this file's
content, so that a changed recipe is built anew. The process under test never imports TensorFlow.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

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
    "slow",
    "counted",
)


def build_models(directory: Path) -> dict[str, str]:
    """Build all models below `directory`, once; takes some ten seconds the first time. Safe for several processes at once."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    root = directory / f"models-{recipe}"
    if not root.is_dir():
        making = directory / f"making-{os.getpid()}-{recipe}"
        making.mkdir(parents=True)
        _run_here(making)
        try:
            making.rename(root)
        except OSError:  # another process was first
            shutil.rmtree(making)
    return {name: str(root / name) for name in NAMES}


DTYPES = (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
    "complex64", "complex128", "string",
)  # fmt: skip


def build_large_model(directory: Path, megabytes: int) -> str:
    """A model with one table of this size, for measuring loads beside traffic; base path, cached like the others."""
    base = directory / f"large-{megabytes}"
    if not base.is_dir():
        making = directory / f"making-large-{os.getpid()}"
        _run_here(making, str(megabytes))
        making.rename(base)
    return str(base)


def _run_here(*arguments: object) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if result.returncode:
        raise RuntimeError(f"building the test models failed:\n{result.stderr[-4000:]}")


class _Maker:
    """Saves models below `root`. Runs in the building process only: it imports TensorFlow."""

    def __init__(self, root: Path) -> None:
        import tensorflow

        self.tf: Any = tensorflow
        self.root = root

    def function(self, shapes: Mapping[str, Sequence[int | None]], dtype: object, body: Callable[..., object]) -> Any:
        specs = [self.tf.TensorSpec(shape, dtype, name=name) for name, shape in shapes.items()]
        return self.tf.function(body, input_signature=specs)

    def save(self, name: str, functions: Mapping[str, Any], variables: Iterable[Any] = (), version: int = 1) -> None:
        module = self.tf.Module()
        module.variables_kept = list(variables)
        module.functions = dict(functions)
        self.tf.saved_model.save(module, str(self.root / name / str(version)), signatures=dict(functions))

    def simple(
        self,
        name: str,
        shapes: Mapping[str, Sequence[int | None]],
        body: Callable[..., object],
        *,
        dtype: object = None,
        variables: Iterable[Any] = (),
        version: int = 1,
    ) -> None:
        self.save(name, {"serving_default": self.function(shapes, dtype or self.tf.float32, body)}, variables, version)

    def save_v1(self, name: str, make: Callable[[], tuple[Any, Any, Any]], tags: Iterable[str] = ("serve",)) -> None:
        """A TensorFlow 1 graph: what `tf.saved_model.load` refuses or can't express. `make` gives inputs, outputs, defaults."""
        v1 = self.tf.compat.v1
        with self.tf.Graph().as_default(), v1.Session() as session:
            inputs, outputs, defaults = make()
            session.run(v1.global_variables_initializer())
            signature = v1.saved_model.build_signature_def(
                {key: v1.saved_model.build_tensor_info(tensor) for key, tensor in inputs.items()},
                {key: v1.saved_model.build_tensor_info(tensor) for key, tensor in outputs.items()},
                "tensorflow/serving/predict",
            )
            for key, value in defaults.items():
                signature.defaults[key].CopyFrom(self.tf.make_tensor_proto(value))
            builder = v1.saved_model.Builder(str(self.root / name / "1"))
            builder.add_meta_graph_and_variables(session, list(tags), {"serving_default": signature})
            builder.save()


def _build(root: Path) -> None:
    maker = _Maker(root)
    _build_simple(maker)
    _build_mixing(maker)
    _build_shapes(maker)
    _build_v1(maker)
    _describe_messages(root)


def _build_simple(maker: _Maker) -> None:
    tf = maker.tf
    half, two, three = tf.Variable(0.5), tf.Variable(2.0), tf.Variable(3.0)
    maker.simple("half_plus_two", {"x": [None, 1]}, lambda x: {"y": x * half + two}, variables=[half, two])
    maker.simple("half_plus_two", {"x": [None, 1]}, lambda x: {"y": x * half + three}, variables=[half, three], version=2)
    generator = tf.random.Generator.from_seed(1)
    weights = [tf.Variable(generator.normal([a, b], stddev=a**-0.5)) for a, b in pairwise((784, 512, 512, 10))]

    def mlp(x: Any) -> object:
        for weight in weights[:-1]:
            x = tf.nn.relu(x @ weight)
        return {"probabilities": tf.nn.softmax(x @ weights[-1])}

    maker.simple("mlp", {"x": [None, 784]}, mlp, variables=weights)
    maker.save("dtypes", {dtype: maker.function({"x": [None, 2]}, dtype, lambda x: {"y": tf.identity(x)}) for dtype in DTYPES})
    maker.simple(
        "strings",
        {"s": [None]},
        lambda s: {"upper": tf.strings.upper(s), "twice": tf.strings.join([s, s]), "length": tf.strings.length(s)},
        dtype=tf.string,
    )
    maker.simple("picky", {"x": [None, 2]}, lambda x: {"y": tf.debugging.check_numerics(x, "not a number") * 2.0})
    features = {
        "x": tf.io.FixedLenFeature([2], tf.float32),
        "n": tf.io.FixedLenFeature([], tf.int64),
        "s": tf.io.FixedLenFeature([], tf.string),
        "bag": tf.io.VarLenFeature(tf.int64),
    }

    def score(examples: Any) -> object:
        parsed = tf.io.parse_example(examples, features)
        total = tf.reduce_sum(parsed["x"], 1) + tf.cast(parsed["n"] + tf.cast(tf.strings.length(parsed["s"]), tf.int64), tf.float32)
        return {"scores": tf.stack([total, -total], 1)}

    maker.simple("tf_example", {"inputs": [None]}, score, dtype=tf.string)

    def slow(x: Any, work: Any) -> object:
        """The rows as they came, after max(work) products of about half a millisecond on one thread."""
        matrix = tf.fill([256, 256], 1.0 / 256.0)
        condition = lambda i, m: i < tf.cast(tf.reduce_max(work), tf.int32)  # noqa: E731
        product = tf.while_loop(condition, lambda i, m: (i + 1, m @ matrix), [0, matrix])[1]
        return {"y": x + 0.0 * product[0, 0]}

    maker.simple("slow", {"x": [None], "work": [None]}, slow)
    maker.simple(
        "endless",
        {"x": [None, 1]},
        lambda x: {"y": tf.while_loop(lambda i, v: tf.reduce_max(v) > 0.0, lambda i, v: (i + 1, v * 1.0), [0, x])[1]},
    )


def _build_mixing(maker: _Maker) -> None:
    """Models whose answers would change if requests shared a run."""
    tf = maker.tf
    maker.simple("batch_norm", {"x": [None, 3]}, lambda x: {"y": (x - tf.reduce_mean(x, 0)) / (tf.math.reduce_std(x, 0) + 1e-3)})
    maker.simple("reshapes", {"x": [None, 2]}, lambda x: {"y": tf.reshape(tf.transpose(x), [-1, 2])})
    maker.simple("random", {"x": [None, 2]}, lambda x: {"y": x + tf.random.uniform(tf.shape(x))})
    maker.simple("rarely_random", {"x": [None, 2]}, lambda x: {"y": tf.where(tf.random.uniform([]) < 1e-9, -x, x)})
    maker.simple("clipped_mix", {"x": [None, 2]}, lambda x: {"y": x + tf.nn.relu(tf.reduce_max(x) - 20.0)})
    double = maker.function({"x": [None, 2]}, tf.float32, lambda x: {"y": x * 2.0})
    centred = maker.function({"x": [None, 2]}, tf.float32, lambda x: {"y": x - tf.reduce_mean(x, 0)})
    maker.save("two_signatures", {"serving_default": double, "centred": centred})


def _build_shapes(maker: _Maker) -> None:
    tf = maker.tf
    maker.simple("softmax", {"x": [None, None]}, lambda x: {"y": tf.nn.softmax(x, -1)})
    maker.simple("fixed", {"x": [1, 2]}, lambda x: {"y": x * 2.0})
    maker.simple("scalar", {"x": []}, lambda x: {"y": x * 2.0})
    maker.simple("free_size", {"x": [None, None, None, 3]}, lambda x: {"y": tf.reduce_mean(x, [1, 2])})


def _build_v1(maker: _Maker) -> None:
    tf = maker.tf
    v1 = tf.compat.v1

    def half_plus_three() -> tuple[object, object, object]:
        half, three = v1.Variable(0.5, use_resource=False), v1.Variable(3.0, use_resource=False)
        x = v1.placeholder(tf.float32, name="x")  # of unknown rank
        return {"x": x}, {"y": tf.add(x * half, three, name="y")}, {}

    def counter() -> tuple[object, object, object]:
        total = v1.Variable(0.0, use_resource=False)
        step = v1.placeholder(tf.float32, [None], name="step")
        return {"step": step}, {"total": tf.identity(v1.assign_add(total, tf.reduce_sum(step))) + 0.0 * step}, {}

    def defaults() -> tuple[object, object, object]:
        x, scale = v1.placeholder(tf.float32, [None], name="x"), v1.placeholder(tf.float32, [], name="scale")
        return {"x": x, "scale": scale}, {"y": x * scale}, {"scale": 10.0}

    def resource_end() -> tuple[object, object, object]:
        x, table = v1.placeholder(tf.float32, [None], name="x"), v1.placeholder(tf.resource, [], name="table")
        return {"x": x, "table": table}, {"y": x * 2.0}, {}

    def counted() -> tuple[object, object, object]:
        """How many requests this model has run, after `work` products of about half a millisecond."""
        total = v1.Variable(0.0, use_resource=False)
        work = v1.placeholder(tf.float32, [None], name="work")
        matrix = tf.fill([256, 256], 1.0 / 256.0)
        condition = lambda i, m: i < tf.cast(tf.reduce_max(work), tf.int32)  # noqa: E731
        product = v1.while_loop(condition, lambda i, m: (i + 1, m @ matrix), [0, matrix])[1]
        with tf.control_dependencies([product]):
            counted = v1.assign_add(total, 1.0)
        return {"work": work}, {"total": tf.identity(counted) + 0.0 * work}, {}

    for make in (half_plus_three, counter, defaults, resource_end, counted):
        maker.save_v1(make.__name__, make)
    maker.save_v1("tagged", half_plus_three, ("serve", "gpu"))


def _build_large(base: Path, megabytes: int) -> None:
    maker = _Maker(base.parent)
    tf = maker.tf
    tables = [tf.Variable(tf.fill([megabytes * 4096 // 8, 64], float(place))) for place in range(8)]
    maker.simple(base.name, {"x": [None]}, lambda x: {"y": x + sum(table[0, 0] for table in tables)}, variables=tables)


def _describe_messages(root: Path) -> None:
    """TensorFlow's own field numbers, for comparing our minimal messages with them."""
    from tensorflow.core.example import example_pb2
    from tensorflow.core.framework import graph_pb2, tensor_pb2, types_pb2
    from tensorflow.core.protobuf import config_pb2, saved_model_pb2

    found: dict[str, dict[str, object]] = {}
    roots = (saved_model_pb2.SavedModel, config_pb2.ConfigProto, config_pb2.RunOptions, graph_pb2.GraphDef, tensor_pb2.TensorProto)
    waiting = [message.DESCRIPTOR for message in (*roots, example_pb2.Example)]
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found[message.full_name] = {field.name: [field.number, field.type, field.label] for field in message.fields}
            waiting += [field.message_type for field in message.fields if field.message_type]
    found["enum"] = {"DataType": sorted([name, number] for name, number in types_pb2.DataType.items())}
    (root / "messages.json").write_text(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _build_large(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        _build(Path(sys.argv[1]))
