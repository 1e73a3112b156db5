"""TensorFlow Serving's REST answers about models: status, metadata, errors; and ours that it lacks, the list of models.

64-bit integers are strings here (proto3's JSON form), unlike in tensors.

Source: TensorFlow Serving, model_servers/http_rest_api_util.cc; get_model_status.proto; get_model_metadata.proto.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version as callers may see it. `state` is START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str  # the graph's, "x:0"
    dtype: str  # "DT_FLOAT"
    shape: Sequence[int] | None  # None: unknown rank


@dataclass(frozen=True, slots=True)
class SignatureInfo:
    method_name: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model in the list. `access`: open, key or subscription; the error is its directory's, not a version's."""

    name: str
    access: str
    default_version: int | None
    labels: Mapping[str, int]
    versions: Sequence[VersionState]
    error_code: str = "OK"
    error_message: str = ""


def encode_error(message: str) -> bytes:
    """What could not be said in UTF-8 (a lone surrogate out of the caller's own text) becomes a question mark."""
    try:
        return orjson.dumps({"error": message})
    except orjson.JSONEncodeError:
        return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def encode_status(versions: Iterable[VersionState]) -> bytes:
    """versions: descending."""
    return orjson.dumps({"model_version_status": [_status(version) for version in versions]}, option=orjson.OPT_INDENT_2)


def encode_metadata(model: str, version: int, signatures: Mapping[str, SignatureInfo]) -> bytes:
    document = {
        "model_spec": {"name": model, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": {name: _signature(info) for name, info in signatures.items()}}},
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def encode_models(models: Iterable[ListedModel]) -> bytes:
    document = [
        {
            "name": model.name,
            "access": model.access,
            "default_version": None if model.default_version is None else str(model.default_version),
            "labels": {label: str(version) for label, version in sorted(model.labels.items())},
            "status": {"error_code": model.error_code, "error_message": model.error_message},
            "model_version_status": [_status(version) for version in model.versions],
        }
        for model in models
    ]
    return orjson.dumps({"models": document}, option=orjson.OPT_INDENT_2)


def _status(version: VersionState) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "state": version.state,
        "status": {"error_code": version.error_code, "error_message": version.error_message},
    }


def _signature(info: SignatureInfo) -> dict[str, Any]:
    return {
        "inputs": {name: _tensor(tensor) for name, tensor in info.inputs.items()},
        "outputs": {name: _tensor(tensor) for name, tensor in info.outputs.items()},
        "method_name": info.method_name,
        "defaults": {},
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in info.shape or ()]
    return {
        "dtype": info.dtype,
        "tensor_shape": {"dim": dims, "unknown_rank": info.shape is None},
        "name": info.name,
    }
