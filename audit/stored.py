"""How a long request is stored: the arrays that it was decoded to, and what rebuilds the body from them (RULES 2.6).

290 KB of JSON numbers are 110 KB of float32, which cost a tenth of the time to compress and encrypt. What the caller sent is still
named by the digest of the received body, in the leaf; the stored form gives the same arrays, not the same white space.

    {"daybook":"tensors/1","form":"instances",…,"tensors":[{"name":"x","dtype":"<f4","shape":[1,784],"bytes":3136},…]}\\n
    the tensors' bytes, little-endian, one after the other; strings as int64 offsets (n + 1), then the bytes

`form` is `instances` or `inputs`. Imports no framework and nothing of the codecs, so that whoever holds a payload can read it.
"""

import json
from binascii import b2a_base64
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_MARK: Final = b'{"daybook":"tensors/1",'
_STRING: Final = "bytes"


class BadStored(ValueError):
    """Bytes that begin as a stored request and don't go on as one."""


def pack(form: str, tensors: Mapping[str, Array], envelope: Mapping[str, Any]) -> bytes:
    """form: "instances" or "inputs". envelope: JSON values that belong to the body beside them (`signature_name`, …).

    Strings are `object` arrays of bytes. Types that NumPy doesn't have by itself are stored as float32, which holds them.
    """
    described, parts = [], []
    for name, array in tensors.items():
        if array.dtype.kind == "O":
            dtype, data = _STRING, _pack_strings(array)
        else:
            if array.dtype.kind == "V":
                array = array.astype(np.float32)
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            dtype, data = array.dtype.str, array.tobytes()
        described.append({"name": name, "dtype": dtype, "shape": list(array.shape), "bytes": len(data)})
        parts.append(data)
    head = json.dumps({"daybook": "tensors/1", "form": form, **envelope, "tensors": described}, separators=(",", ":"))
    return b"".join((head.encode(), b"\n", *parts))


def is_packed(data: bytes) -> bool:
    return data.startswith(_MARK)


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The head and the arrays, read-only views of `data`. Raises BadStored."""
    head, _, body = data.partition(b"\n")
    try:
        described: dict[str, Any] = json.loads(head)
        tensors = {}
        offset = 0
        for tensor in described["tensors"]:
            size, shape = int(tensor["bytes"]), tuple(tensor["shape"])
            part = body[offset : offset + size]
            if tensor["dtype"] == _STRING:
                tensors[tensor["name"]] = _unpack_strings(part, shape)
            else:
                tensors[tensor["name"]] = np.frombuffer(part, np.dtype(tensor["dtype"])).reshape(shape)
            offset += size
    except (ValueError, KeyError, TypeError) as error:
        raise BadStored(f"not a stored request: {error}") from error
    if offset != len(body):
        raise BadStored(f"{len(body)} bytes of tensors, {offset} expected")
    return described, tensors


def as_json(data: bytes) -> bytes:
    """A body that decodes to the same arrays; `data` itself when it was stored as it came. Raises BadStored."""
    if not is_packed(data):
        return data
    head, tensors = unpack(data)
    envelope = {name: value for name, value in head.items() if name not in ("daybook", "form", "tensors")}
    values = {name: _values(array) for name, array in tensors.items()}
    content: Any = values
    if len(values) == 1:
        (content,) = values.values()
    elif head.get("form") == "instances":
        content = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json.dumps({**envelope, str(head.get("form")): content}, ensure_ascii=False).encode()


def _values(array: Array) -> Any:
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        # The shortest text that parses back to the same float32, as JSON had it: 0.1 and not 0.10000000149011612.
        texts = np.array([float(np.format_float_positional(value, unique=True)) for value in array.ravel()], np.float64)
        return texts.reshape(array.shape).tolist()
    if array.dtype.kind != "O":
        return array.tolist()
    values: Array = np.empty(array.size, object)
    for place, item in enumerate(array.ravel().tolist()):
        try:
            values[place] = item.decode()
        except UnicodeDecodeError:
            values[place] = {"b64": b2a_base64(item, newline=False).decode()}
    return values.reshape(array.shape).tolist()


def _pack_strings(array: Array) -> bytes:
    strings: list[bytes] = array.ravel().tolist()
    offsets = np.zeros(len(strings) + 1, "<i8")
    np.cumsum([len(item) for item in strings], out=offsets[1:])
    return offsets.tobytes() + b"".join(strings)


def _unpack_strings(part: bytes, shape: tuple[int, ...]) -> Array:
    count = 1
    for size in shape:
        count *= size
    offsets = np.frombuffer(part, "<i8", count + 1).tolist()
    body = part[8 * (count + 1) :]
    values: Array = np.empty(count, object)
    values[:] = [body[first:last] for first, last in pairwise(offsets)]
    return values.reshape(shape)
