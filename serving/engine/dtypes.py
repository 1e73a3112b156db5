"""TensorFlow's dtypes as NumPy knows them. Numbers are `types.proto`'s, the same as the C API's."""

import ml_dtypes
import numpy as np

from .errors import InvalidModel

NUMBERS = {
    "DT_FLOAT": 1,
    "DT_DOUBLE": 2,
    "DT_INT32": 3,
    "DT_UINT8": 4,
    "DT_INT16": 5,
    "DT_INT8": 6,
    "DT_STRING": 7,
    "DT_COMPLEX64": 8,
    "DT_INT64": 9,
    "DT_BOOL": 10,
    "DT_QINT8": 11,
    "DT_QUINT8": 12,
    "DT_QINT32": 13,
    "DT_BFLOAT16": 14,
    "DT_QINT16": 15,
    "DT_QUINT16": 16,
    "DT_UINT16": 17,
    "DT_COMPLEX128": 18,
    "DT_HALF": 19,
    "DT_RESOURCE": 20,
    "DT_VARIANT": 21,
    "DT_UINT32": 22,
    "DT_UINT64": 23,
    "DT_FLOAT8_E5M2": 24,
    "DT_FLOAT8_E4M3FN": 25,
}
NAMES = {number: name for name, number in NUMBERS.items()}

_NUMPY: dict[str, np.dtype] = {
    "DT_FLOAT": np.dtype(np.float32),
    "DT_DOUBLE": np.dtype(np.float64),
    "DT_INT32": np.dtype(np.int32),
    "DT_UINT8": np.dtype(np.uint8),
    "DT_INT16": np.dtype(np.int16),
    "DT_INT8": np.dtype(np.int8),
    "DT_STRING": np.dtype(object),
    "DT_COMPLEX64": np.dtype(np.complex64),
    "DT_INT64": np.dtype(np.int64),
    "DT_BOOL": np.dtype(np.bool_),
    "DT_QINT8": np.dtype(np.int8),
    "DT_QUINT8": np.dtype(np.uint8),
    "DT_QINT32": np.dtype(np.int32),
    "DT_BFLOAT16": np.dtype(ml_dtypes.bfloat16),
    "DT_QINT16": np.dtype(np.int16),
    "DT_QUINT16": np.dtype(np.uint16),
    "DT_UINT16": np.dtype(np.uint16),
    "DT_COMPLEX128": np.dtype(np.complex128),
    "DT_HALF": np.dtype(np.float16),
    "DT_UINT32": np.dtype(np.uint32),
    "DT_UINT64": np.dtype(np.uint64),
    "DT_FLOAT8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "DT_FLOAT8_E4M3FN": np.dtype(ml_dtypes.float8_e4m3fn),
}


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of one element; strings are `object` arrays of `bytes`.

    Raises InvalidModel for what can't cross the border: resources, variants and types that NumPy doesn't know.
    """
    try:
        return _NUMPY[name]
    except KeyError:
        raise InvalidModel(f"tensors of type {name} can't be fed or fetched") from None
