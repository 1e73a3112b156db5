"""JSON values ↔ arrays, by TensorFlow Serving's rules.

A tensor is a value, or lists nested to one depth with one length at each level. Going in there are three ways, from fast to exact:

1. `scan_numbers`: the only list of the body, all numbers, straight to a flat float64 buffer through simdjson, no Python floats.
2. `decode_tensor`: parsed values, flattened level by level with C-speed built-ins and checked as a whole.
3. `_Walk`: element by element in the reference's order. It runs only when 2 found a fault, to say which one comes first.

Going out orjson writes arrays itself; what it can't (NaN, strings, bfloat16) is turned into what it can.

Source: TensorFlow Serving, util/json_tensor.cc; where ours differs, the reference sheet's verdicts say so.
"""

import binascii
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson

from .dtypes import ElementType
from .errors import ProtocolError, UnsupportedType
from .json_text import debug_text, string_bytes, type_name

Array = np.ndarray[Any, np.dtype[Any]]

MAX_RANK: Final = 32  # TensorFlow allows 254, NumPy 64; real tensors have at most 8

STEP: Final = 256  # how much of a list is looked at as a whole when a fault is searched

_NOT_STRUCTURE: Final = bytes(code for code in range(256) if code not in b'[],":{}')
_NON_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


# --- In -------------------------------------------------------------------------------------------------------------------------


def is_base64(value: object) -> bool:
    """Whether it is `{"b64": "…"}` and nothing else."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def has_structure(region: bytes, shape: Sequence[int]) -> bool:
    """Whether the text from the first `[` to the last `]` of a document is exactly one list of lists of this shape, without strings.

    It must hold as many numbers as the shape: `[]` and `[1]` look alike. Compares the brackets and commas with those of the shape:
    exact, because a region without quotes lies in no string and holds no key. Half the time that parsing it takes, where visiting
    the lists would take twice that time.
    """
    return region.translate(None, _NOT_STRUCTURE) == _structure(shape)


def _structure(shape: Sequence[int]) -> bytes:
    text = b"[" + b"," * (shape[-1] - 1) + b"]"
    for size in shape[-2::-1]:
        text = b"[" + b",".join([text] * size) + b"]"
    return text


def convert_numbers(flat: Array, shape: Sequence[int], element: ElementType) -> Array:
    """float64 → the element type; beyond its range become infinities, as in a C cast."""
    dtype = element.dtype
    assert dtype is not None
    if dtype != flat.dtype:
        with np.errstate(over="ignore"):
            flat = flat.astype(dtype)
    return flat.reshape(shape) if len(shape) != 1 else flat


def decode_tensor(value: Any, element: ElementType) -> Array:
    """The array of a JSON value (column form, or all rows of one input). Raises ProtocolError with the reference's text."""
    try:
        return _decode(value, element)
    except _Deviation:
        raise _Walk(element).fault(value) from None


def is_tensor(value: Any, element: ElementType, shape: Sequence[int]) -> bool:
    """Whether a value is a tensor of this shape and type, found out at C speed."""
    try:
        return bool(_decode(value, element).shape == tuple(shape))
    except (_Deviation, ProtocolError):
        return False


def _decode(value: Any, element: ElementType) -> Array:
    shape: list[int] = []
    level: list[Any] = [value]
    while level and type(level[0]) is list:
        lengths = set(map(len, level)) if set(map(type, level)) == {list} else ()
        if len(lengths) != 1 or len(shape) == MAX_RANK:
            raise _Deviation
        shape += lengths
        level = list(chain.from_iterable(level))
    return _convert(level, element).reshape(shape)


class _Deviation(Exception):
    """Some element is not of the type: the walk will say which."""


def _convert(flat: list[Any], element: ElementType) -> Array:
    types = set(map(type, flat))
    match element.kind:
        case "float":
            if not types <= {float, int}:
                flat = _with_named_numbers(flat, types)
            assert element.dtype is not None
            return convert_numbers(_float64(flat), (len(flat),), element)
        case "integer":
            if types - {int} or (flat and not (element.low <= min(flat) and max(flat) <= element.high)):
                raise _Deviation
        case "boolean":
            if types - {bool}:
                raise _Deviation
        case "string":
            return _strings(flat, types)
        case _:
            if flat:
                raise _Deviation
            return np.empty(0, np.uint8)
    return np.array(flat, element.dtype)


def _float64(flat: list[Any]) -> Array:
    try:
        return np.array(flat, np.float64)
    except OverflowError:
        raise ProtocolError("JSON Parse error: Number too big to be stored in double.") from None


def _with_named_numbers(flat: list[Any], types: set[type]) -> list[Any]:
    """The strings "NaN", "Infinity", "-Infinity" (proto3's JSON form) as the numbers that they name."""
    if types - {float, int, str}:
        raise _Deviation
    try:
        return [_NON_FINITE[value] if type(value) is str else value for value in flat]
    except KeyError:
        raise _Deviation from None


def _strings(flat: list[Any], types: set[type]) -> Array:
    array: Array = np.empty(len(flat), object)
    if types <= {str}:
        array[:] = [string_bytes(value) for value in flat]
    elif types <= {str, dict}:
        array[:] = [string_bytes(value) if type(value) is str else _decode_base64_object(value) for value in flat]
    else:
        raise _Deviation
    return array


def _decode_base64_object(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise _Deviation
    try:
        return decode_base64(value["b64"])
    except ValueError:
        raise _Deviation from None


def decode_base64(text: str) -> bytes:
    """Standard alphabet, padding optional, white space allowed. Raises ValueError for anything else."""
    data = text.encode("ascii")
    if data.translate(None, b" \t\r\n\v\f") != data:
        data = data.translate(None, b" \t\r\n\v\f")
    if padding := -len(data) % 4:
        data += b"=" * padding
    return binascii.a2b_base64(data, strict_mode=True) if data else b""


class _Walk:
    """The reference's way through a value, to find its first fault. Parts without one are passed over at C speed: a fault at the end
    of a long list costs little more than the list."""

    def __init__(self, element: ElementType) -> None:
        self._element = element

    def fault(self, value: Any) -> ProtocolError:
        """The first fault of a value that is known to have one."""
        try:
            self.check(value)
        except ProtocolError as error:
            return error
        return ProtocolError(f"JSON Value: {debug_text(value)} Type: {type_name(value)} is not of expected type: {self._element.text}")

    def check(self, value: Any) -> tuple[int, list[int]]:
        """Number of elements and shape. Raises ProtocolError."""
        shape = _first_shape(value)
        if len(shape) > MAX_RANK:
            raise ProtocolError(f"Encountered list at unexpected level: {MAX_RANK} expected < {MAX_RANK}")
        return self._fill(value, 0, shape), shape

    def _fill(self, value: Any, level: int, shape: list[int]) -> int:
        rank = len(shape)
        if type(value) is not list:
            if level != rank:
                raise ProtocolError(
                    f"JSON Value: {debug_text(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {rank}"
                )
            check_element(value, self._element)
            return 1
        if level >= rank:
            raise ProtocolError(f"Encountered list at unexpected level: {level} expected < {rank}")
        if len(value) != shape[level]:
            raise ProtocolError(f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
        count = 0
        for start in range(0, len(value), STEP):
            part = value[start : start + STEP]
            if len(part) > 1 and is_tensor(part, self._element, (len(part), *shape[level + 1 :])):
                count += math.prod((len(part), *shape[level + 1 :]))
            else:
                count += sum(self._fill(item, level + 1, shape) for item in part)
        return count


def check_element(value: Any, element: ElementType) -> None:
    """Raises ProtocolError when a JSON value can't be one element; UnsupportedType when no JSON value can."""
    kind, known = element.kind, type(value)
    if kind == "unsupported" and known is not dict:
        raise UnsupportedType(f"Conversion of JSON Value: {debug_text(value)} to type: {element.text}")
    if kind == "string" and known is dict:
        if not is_base64(value):
            raise ProtocolError(f"JSON Value: {debug_text(value)} not formatted correctly for base64 data")
        try:
            decode_base64(value["b64"])
        except ValueError:
            raise ProtocolError("Unable to base64 decode") from None
        return
    if (
        (kind == "float" and (known in (float, int) or (known is str and value in _NON_FINITE)))
        or (kind == "integer" and known is int and element.low <= value <= element.high)
        or (kind == "boolean" and known is bool)
        or (kind == "string" and known is str)
    ):
        return
    raise ProtocolError(f"JSON Value: {debug_text(value)} Type: {type_name(value)} is not of expected type: {element.text}")


def _first_shape(value: Any) -> list[int]:
    """The shape as the first element of each level has it."""
    shape: list[int] = []
    while type(value) is list and len(shape) <= MAX_RANK:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def walk_instance(value: Any, element: ElementType) -> tuple[int, list[int]]:
    """Number of elements and shape of one row's value. Raises ProtocolError at its first fault."""
    return _Walk(element).check(value)


# --- Out ------------------------------------------------------------------------------------------------------------------------


def encode_tensor(array: Array, *, as_bytes: bool) -> bytes:
    """JSON text of a whole array. Numbers parse back to the same float32, float64 or int64; whole floats keep their `.0`.

    as_bytes: strings become `{"b64": …}`; otherwise only those that are not UTF-8 do. NaN and infinities are bare tokens, which
    JSON lacks and TensorFlow Serving's clients expect. Raises ProtocolError for complex numbers.
    """
    if array.dtype.kind == "O":
        return orjson.dumps(_string_values(array, as_bytes))
    array = writable_by_orjson(array)
    text = orjson.dumps(array if array.ndim else array[()], option=orjson.OPT_SERIALIZE_NUMPY)
    return _with_tokens(text, array) if b"null" in text else text


def writable_by_orjson(array: Array) -> Array:
    """The array itself where orjson takes it: contiguous, in the machine's byte order, of a type that it knows."""
    dtype = array.dtype
    kind = dtype.kind
    if kind == "V" and dtype.name == "bfloat16":
        return array.astype(np.float32)
    if kind not in "fiub" or dtype.itemsize > 8:
        raise ProtocolError(f"Failed to write JSON value for tensor type: {dtype.name}")
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def json_rows(array: Array, *, as_bytes: bool) -> Iterable[Any]:
    """What orjson shall write for each row; for finite numbers and for strings."""
    if array.dtype.kind == "O":
        values = _string_values(array, as_bytes)
        assert isinstance(values, list)
        return values
    return writable_by_orjson(array)


def _string_values(array: Array, as_bytes: bool) -> Any:
    values: Array = np.empty(array.size, object)
    for place, data in enumerate(array.ravel().tolist()):
        values[place] = _base64_object(data) if as_bytes else _text_or_base64(data)
    return values.reshape(array.shape).tolist()


def _base64_object(data: bytes) -> dict[str, str]:
    return {"b64": binascii.b2a_base64(data, newline=False).decode()}


def _text_or_base64(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _base64_object(data)


def _with_tokens(text: bytes, array: Array) -> bytes:
    """orjson writes `null` for each number that JSON lacks, in the array's order: put the tokens there."""
    odd = array[~np.isfinite(array)].ravel().tolist()
    names = [b"NaN" if math.isnan(value) else (b"Infinity" if value > 0 else b"-Infinity") for value in odd]
    pieces = text.split(b"null")
    return b"".join(chain.from_iterable(zip(pieces, [*names, b""], strict=True)))
