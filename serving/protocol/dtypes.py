"""Element types by the names that signatures, JSON errors and NumPy give them.

Source: tensorflow/core/framework/types.proto and types.cc (`DataTypeString`).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

Kind = Literal["float", "integer", "boolean", "string", "unsupported"]


@dataclass(frozen=True, slots=True)
class ElementType:
    """name: "DT_FLOAT". text: as TensorFlow writes it in errors ("float"). dtype: None where JSON has no form for it.

    low, high: the range of integers; what JSON numbers must lie in.
    """

    name: str
    text: str
    kind: Kind
    dtype: "np.dtype[Any] | None"
    low: int = 0
    high: int = 0


def _integer(name: str, dtype: Any) -> ElementType:
    limits = np.iinfo(dtype)
    return ElementType(name, name.removeprefix("DT_").lower(), "integer", np.dtype(dtype), int(limits.min), int(limits.max))


_KNOWN = {
    element.name: element
    for element in (
        ElementType("DT_FLOAT", "float", "float", np.dtype(np.float32)),
        ElementType("DT_DOUBLE", "double", "float", np.dtype(np.float64)),
        ElementType("DT_HALF", "half", "float", np.dtype(np.float16)),
        ElementType("DT_BOOL", "bool", "boolean", np.dtype(np.bool_)),
        ElementType("DT_STRING", "string", "string", np.dtype(np.object_)),
        _integer("DT_INT8", np.int8),
        _integer("DT_INT16", np.int16),
        _integer("DT_INT32", np.int32),
        _integer("DT_INT64", np.int64),
        _integer("DT_UINT8", np.uint8),
        _integer("DT_UINT16", np.uint16),
        _integer("DT_UINT32", np.uint32),
        _integer("DT_UINT64", np.uint64),
    )
}


@cache
def element_type(name: str) -> ElementType:
    """The type that a signature calls `name`; one of kind `unsupported` for complex, quantised, resource and variant elements."""
    if name == "DT_BFLOAT16" and (dtype := find_bfloat16()) is not None:
        return ElementType(name, "bfloat16", "float", dtype)
    return _KNOWN.get(name) or ElementType(name, name.removeprefix("DT_").lower(), "unsupported", None)


@cache
def find_bfloat16() -> "np.dtype[Any] | None":
    """NumPy has none of its own. TensorFlow brings `ml_dtypes`; a gateway that was installed without it can't take such numbers."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
