"""Writing the demo's SavedModels: TensorFlow's own Python package, used here and nowhere on the serving path.

`tf.saved_model.save` says `predict` of every signature; classify and regress are told apart by the method name, so it's set here.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

MODELS = Path(__file__).with_name("models")
SAMPLES = Path(__file__).with_name("samples")
METHODS = {name: f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress")}


def save(name: str, version: int, module: tf.Module, signatures: Mapping[str, tuple[str, Callable[..., object]]]) -> Path:
    """Write `demo/models/<name>/<version>`, replacing what was there. signatures: key → (method, concrete function).

    Debug information and the unused Keras metadata are left out: they hold paths of the machine that trained the model.
    """
    directory = MODELS / name / str(version)
    shutil.rmtree(directory, ignore_errors=True)
    tf.saved_model.save(
        module,
        str(directory),
        signatures={key: function for key, (_, function) in signatures.items()},
        options=tf.saved_model.SaveOptions(save_debug_info=False),
    )
    set_methods(directory, {key: METHODS[method] for key, (method, _) in signatures.items()})
    (directory / "fingerprint.pb").unlink(missing_ok=True)  # describes the file as it was before the methods were set
    for empty in ("assets",):
        if (directory / empty).is_dir() and not any((directory / empty).iterdir()):
            (directory / empty).rmdir()
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    print(f"{directory.relative_to(MODELS.parent.parent)}: {size / 1024:.0f} KB")
    return directory


def set_methods(directory: Path, methods: Mapping[str, str]) -> None:
    file = directory / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for key, method in methods.items():
        model.meta_graphs[0].signature_def[key].method_name = method
    for node in (*model.meta_graphs[0].graph_def.node, *(n for f in model.meta_graphs[0].graph_def.library.function for n in f.node_def)):
        node.ClearField("experimental_debug_info")
    file.write_bytes(model.SerializeToString(deterministic=True))
