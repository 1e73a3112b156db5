"""Reads a SavedModel directory: tags, signatures and content digest, without TensorFlow.

Format: `saved_model.pb` (or `.pbtxt`) holds a SavedModel message, `variables/` the values, `assets/` files that the graph reads.
Source: tensorflow/core/protobuf/saved_model.proto, https://www.tensorflow.org/guide/saved_model#the_savedmodel_format_on_disk.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from serving.protocol.protos.saved_model_pb2 import MetaGraphDef, SavedModel, SignatureDef, TensorInfo
from serving.protocol.protos.tensor_pb2 import TensorProto

from .dtypes import NAMES, numpy_dtype
from .errors import Code, InvalidModel
from .graph import UNREAD, RunFacts, find_run_facts
from .servable import Signature, TensorSpec
from .wire import Malformed, walk

BINARY, TEXT = "saved_model.pb", "saved_model.pbtxt"
_INTERNAL = ("__saved_model_init_op", "__saved_model_train_op")  # "signatures" that TensorFlow's loader keeps for itself
_META_GRAPHS, _GRAPH_DEF = 2, 2  # field numbers in SavedModel and MetaGraphDef
_SMALL = (1, 5)  # the fields of MetaGraphDef that are parsed: meta_info_def, signature_def


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a SavedModel directory says of one of its graphs. `facts` by signature."""

    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: Mapping[str, Signature]
    facts: Mapping[str, RunFacts]


def read_savedmodel(path: str, tags: Iterable[str]) -> ModelFiles:
    """Read the graph with exactly these tags.

    Raises InvalidModel, with a text that says what is wrong with which file, for a directory that is missing, not a SavedModel,
    truncated, without these tags, or with ends that can't be fed or fetched.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise InvalidModel(f"{path} is not there", Code.NOT_FOUND)
    found = list(_read_graphs(directory))
    wanted = set(tags)
    for meta_graph, graph in found:
        if set(meta_graph.meta_info_def.tags) == wanted:
            return _describe(path, meta_graph, graph)
    have = "; ".join("{ " + ", ".join(meta_graph.meta_info_def.tags) + " }" for meta_graph, _ in found) or "none"
    raise InvalidModel(
        f"Could not find meta graph def matching supplied tags: {{ {', '.join(sorted(wanted))} }} in {path}; it has: {have}", Code.NOT_FOUND
    )


def _read_graphs(directory: Path) -> Iterator[tuple[MetaGraphDef, memoryview]]:
    """Each graph's small parts, parsed, and the bytes of its graph_def (empty for the text form)."""
    binary, text = directory / BINARY, directory / TEXT
    if binary.is_file():
        view = memoryview(binary.read_bytes())  # not mapped: a file that shrinks under a mapping ends the process
        if not view:
            raise InvalidModel(f"{binary} is empty")
        try:
            yield from [_read_meta_graph(part) for number, _, part in walk(view) if number == _META_GRAPHS]
        except (Malformed, DecodeError) as error:
            raise InvalidModel(f"{binary} is truncated or not a SavedModel: {error}") from error
    elif text.is_file():
        saved_model = SavedModel()
        try:
            text_format.Parse(text.read_text(), saved_model, allow_unknown_field=True)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise InvalidModel(f"{text} is truncated or not a SavedModel: {error}") from error
        yield from [(meta_graph, memoryview(b"")) for meta_graph in saved_model.meta_graphs]
    else:
        raise InvalidModel(f"{directory} is not a SavedModel: it has neither {BINARY} nor {TEXT}", Code.NOT_FOUND)


def _read_meta_graph(view: memoryview) -> tuple[MetaGraphDef, memoryview]:
    small = bytearray()
    graph = memoryview(b"")
    for number, start, part in walk(view):
        if number == _GRAPH_DEF:
            graph = part
        elif number in _SMALL:
            small += view[start : _end(view, start, part)]
    return MetaGraphDef.FromString(bytes(small)), graph


def _end(view: memoryview, start: int, part: memoryview) -> int:
    """Where the length-delimited field that starts at `start` ends."""
    place = start
    while view[place] >= 0x80:  # tag
        place += 1
    place += 1
    while view[place] >= 0x80:  # length
        place += 1
    return place + 1 + len(part)


def _describe(path: str, meta_graph: MetaGraphDef, graph: memoryview) -> ModelFiles:
    signatures = {name: _signature(name, definition) for name, definition in meta_graph.signature_def.items() if name not in _INTERNAL}
    if not signatures:
        raise InvalidModel(f"{path} has no signatures: nothing in it can be called")
    try:
        fetched = {name: [spec.name for spec in signature.outputs.values()] for name, signature in signatures.items()}
        facts = find_run_facts(graph, fetched) if len(graph) else dict.fromkeys(signatures, UNREAD)
    except (Malformed, DecodeError) as error:
        raise InvalidModel(f"the graph in {path} can't be read: {error}") from error
    info = meta_graph.meta_info_def
    return ModelFiles(tuple(info.tags), info.tensorflow_version, signatures, facts)


def _signature(name: str, definition: SignatureDef) -> Signature:
    inputs = {alias: _spec(f"input {alias} of signature {name}", info) for alias, info in sorted(definition.inputs.items())}
    outputs = {alias: _spec(f"output {alias} of signature {name}", info) for alias, info in sorted(definition.outputs.items())}
    if not outputs:
        raise InvalidModel(f"signature {name} has no outputs")
    defaults = {alias: decode_tensor(value) for alias, value in definition.defaults.items() if alias in inputs}
    return Signature(definition.method_name, inputs, outputs, defaults)


def _spec(what: str, info: TensorInfo) -> TensorSpec:
    if info.HasField("coo_sparse") or info.HasField("composite_tensor"):
        raise InvalidModel(f"{what} is a sparse or composite tensor: it can't be served")
    dtype = NAMES.get(info.dtype, f"DT_{info.dtype}")
    if dtype in ("DT_RESOURCE", "DT_VARIANT"):
        raise InvalidModel(f"{what} is of type {dtype}: such ends can't be fed or fetched")
    try:
        numpy_dtype(dtype)
    except InvalidModel as error:
        raise InvalidModel(f"{what}: {error.message}") from error
    shape = None
    if info.HasField("tensor_shape") and not info.tensor_shape.unknown_rank:
        shape = tuple(dim.size if dim.size >= 0 else -1 for dim in info.tensor_shape.dim)
    elif not info.HasField("tensor_shape"):
        shape = ()
    return TensorSpec(info.name, dtype, shape)


_VALUES = {
    "DT_FLOAT": "float_val", "DT_DOUBLE": "double_val", "DT_INT32": "int_val", "DT_UINT8": "int_val", "DT_INT16": "int_val",
    "DT_INT8": "int_val", "DT_UINT16": "int_val", "DT_INT64": "int64_val", "DT_BOOL": "bool_val", "DT_UINT32": "uint32_val",
    "DT_UINT64": "uint64_val", "DT_HALF": "half_val", "DT_BFLOAT16": "half_val",
}  # fmt: skip


def decode_tensor(message: TensorProto) -> np.ndarray:
    """A TensorProto as an array: raw content, or the typed values, the last of which repeats to the shape's end.

    Raises InvalidModel for dtypes that aren't supported and for contents that don't fit the shape.
    """
    name = NAMES.get(message.dtype, f"DT_{message.dtype}")
    dtype = numpy_dtype(name)
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    size = int(np.prod(shape, dtype=np.int64))
    try:
        if message.tensor_content:
            return np.frombuffer(message.tensor_content, dtype).reshape(shape)
        if name == "DT_STRING":
            values = np.empty(len(message.string_val), object)
            values[:] = list(message.string_val)
        elif name in ("DT_HALF", "DT_BFLOAT16"):
            values = np.array(message.half_val, np.uint16).view(dtype)
        elif name in ("DT_COMPLEX64", "DT_COMPLEX128"):
            parts = np.array(message.scomplex_val if name == "DT_COMPLEX64" else message.dcomplex_val)
            values = (parts[0::2] + 1j * parts[1::2]).astype(dtype)
        else:
            values = np.array(getattr(message, _VALUES[name]), dtype)
    except (KeyError, ValueError) as error:
        raise InvalidModel(f"a tensor of type {name} can't be decoded: {error}") from error
    if len(values) > size or (size and not len(values) and name == "DT_STRING"):
        raise InvalidModel(f"a tensor of shape {list(shape)} has {len(values)} values")
    if not len(values):
        return np.zeros(shape, dtype)
    return np.concatenate([values, np.repeat(values[-1:], size - len(values))]).reshape(shape)
