"""What a version can be asked: its signatures, as plain values.

The catalog may not import `serving`, so it has these types of its own. Their JSON form (`encode_signatures`,
`decode_signatures`) is the one that `msgspec.to_builtins` makes of `serving.snapshot.Signature`, so whoever holds a snapshot
says `decode_signatures(msgspec.to_builtins(version.signatures))`. Imports no framework.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DEFAULT_SIGNATURE = "serving_default"

Kind = Literal["float", "integer", "boolean", "string", "unsupported"]

# TensorFlow's enum name → what JSON carries it as, and its limits where it has some.
_INTEGER_RANGES = {
    "DT_INT8": (-(2**7), 2**7 - 1),
    "DT_INT16": (-(2**15), 2**15 - 1),
    "DT_INT32": (-(2**31), 2**31 - 1),
    "DT_INT64": (-(2**63), 2**63 - 1),
    "DT_UINT8": (0, 2**8 - 1),
    "DT_UINT16": (0, 2**16 - 1),
    "DT_UINT32": (0, 2**32 - 1),
    "DT_UINT64": (0, 2**64 - 1),
}
_FLOATS = frozenset({"DT_HALF", "DT_BFLOAT16", "DT_FLOAT", "DT_DOUBLE"})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `shape` is None for unknown rank; -1 marks an unknown dimension."""

    dtype: str  # TensorFlow's enum name, "DT_FLOAT"
    shape: tuple[int, ...] | None
    name: str = ""  # the graph's tensor name, "x:0"

    @property
    def kind(self) -> Kind:
        """What its elements are in JSON; `unsupported` for complex, quantised, resource and variant elements."""
        if self.dtype in _FLOATS:
            return "float"
        if self.dtype in _INTEGER_RANGES:
            return "integer"
        if self.dtype == "DT_BOOL":
            return "boolean"
        return "string" if self.dtype == "DT_STRING" else "unsupported"

    @property
    def integer_range(self) -> tuple[int, int]:
        """Raises KeyError unless `kind` is `integer`."""
        return _INTEGER_RANGES[self.dtype]

    @property
    def type_name(self) -> str:
        """The dtype as people write it: `float32`, `string`, `int64`."""
        plain = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}
        return plain.get(self.dtype, self.dtype.removeprefix("DT_").lower())

    @property
    def shape_text(self) -> str:
        """`[n, 8, 8]`: n for a free first dimension, ? for another free one, `any shape` for unknown rank."""
        if self.shape is None:
            return "any shape"
        marks = [str(size) if size >= 0 else ("n" if place == 0 else "?") for place, size in enumerate(self.shape)]
        return f"[{', '.join(marks)}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a version. `batched` is whether requests may share a run; `defaults` name inputs that may be left out."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = ""
    batched: bool = True
    defaults: Mapping[str, list[object]] = field(default_factory=dict)

    @property
    def callable_as_json(self) -> bool:
        """Whether every element has a JSON form and there is something to send."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return bool(self.inputs) and all(spec.kind != "unsupported" for spec in specs)

    @property
    def rows(self) -> int | None:
        """Dimension 0 that all inputs and outputs share: -1 when free, a number when fixed, None when there is no common one.

        None means that the row form (`instances`) can't be answered: TensorFlow Serving refuses an answer whose outputs don't
        all have the request's number of rows.
        """
        first: set[int] = set()
        for spec in (*self.inputs.values(), *self.outputs.values()):
            if spec.shape is None:
                continue
            if not spec.shape:
                return None
            first.add(spec.shape[0])
        fixed = first - {-1}
        if len(fixed) > 1:
            return None
        return fixed.pop() if fixed else -1


def decode_signatures(stored: Mapping[str, Any]) -> dict[str, Signature]:
    """Raises KeyError or TypeError when `stored` is not of the form that `encode_signatures` gives."""

    def tensors(specs: Mapping[str, Any]) -> dict[str, TensorSpec]:
        return {
            alias: TensorSpec(dtype=spec["dtype"], shape=None if spec["shape"] is None else tuple(spec["shape"]), name=spec.get("name", ""))
            for alias, spec in specs.items()
        }

    return {
        name: Signature(
            inputs=tensors(signature["inputs"]),
            outputs=tensors(signature["outputs"]),
            method_name=signature.get("method_name", ""),
            batched=signature.get("batched", True),
            defaults=dict(signature.get("defaults", {})),
        )
        for name, signature in stored.items()
    }


def encode_signatures(signatures: Mapping[str, Signature]) -> dict[str, Any]:
    def tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
        return {
            alias: {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
            for alias, spec in specs.items()
        }

    return {
        name: {
            "method_name": signature.method_name,
            "inputs": tensors(signature.inputs),
            "outputs": tensors(signature.outputs),
            "batched": signature.batched,
            "defaults": dict(signature.defaults),
        }
        for name, signature in signatures.items()
    }
