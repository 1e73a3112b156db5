"""Frames: how requests and replies travel through Redis Streams.

One stream entry carries the frames of one gateway (requests) or for one gateway (replies), laid end to end. All numbers are
little-endian; every frame, and every tensor in it, starts at a multiple of 8, so that arrays can be views of the entry:

    prefix   magic "DB", format version u8, kind u8, header length u32, frame length u64, request id 16 bytes, number i64
    header   MessagePack array (`_RequestHeader` or `_ReplyHeader`), padded to 8
    tensors  raw bytes in the header's order, each padded to 8; strings as int64 offsets (n + 1), then the bytes

The prefix's number is the deadline of a request (µs, Redis server time) or the status of a reply (google.rpc.Code). A reply frame
longer than a part (RULES 4.3) travels in pieces: `cut_reply` makes them, `ReplyJoiner` puts them together.

The header is MessagePack because msgspec checks its types while it decodes: 0.9 µs, where `struct` calls for each field took 4.
Encoding gives parts to be written one after the other. Large tensors among them are views of the caller's arrays, which must not
change before they are written.

    FrameError   bytes that are no frame of this version, or values that no frame can hold
"""

import math
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from .messages import InferenceRequest, InferenceResponse, Timing

Buffer = bytes | memoryview
Array = np.ndarray[Any, np.dtype[Any]]

FORMAT_VERSION: Final = 1
REPLY_PART_BYTES: Final = 1 << 20

_MAGIC: Final = b"DB"
_REQUEST, _REPLY = 1, 2
_prefix: Final = struct.Struct("<2sBBIQ16sq")
_part: Final = struct.Struct("<16sQIIQ")  # request id, writer's token, index, count, length of the whole frame
_PADS: Final = tuple(b"\0" * (-size % 8) for size in range(8))
_COPY_BELOW: Final = 32 * 1024  # a copy of this costs less than writing one more part
MAX_ERROR_BYTES: Final = 64 * 1024

_BFLOAT16: Final = 14
_STRING: Final = 7
_NAMES: Final = {  # NumPy's `dtype.str` → TensorFlow's DataType
    "<f4": 1, "<f8": 2, "<i4": 3, "|u1": 4, "<i2": 5, "|i1": 6, "|O": _STRING, "<c8": 8, "<i8": 9, "|b1": 10, "<u2": 17, "<c16": 18,
    "<f2": 19, "<u4": 22, "<u8": 23,
}  # fmt: skip
_DTYPES: Final = {number: np.dtype(name) for name, number in _NAMES.items()}

_Tensor = tuple[str, int, tuple[int, ...], int]  # name, DataType, shape, bytes


class FrameError(ValueError):
    """These bytes are no frame, or these values don't fit into one."""


class _RequestHeader(msgspec.Struct, array_like=True, frozen=True):
    model: str
    version: int
    signature: str
    priority: int
    rows: int
    output_filter: tuple[str, ...]
    trace: bytes | None
    caller: str
    tensors: list[_Tensor]


class _ReplyHeader(msgspec.Struct, array_like=True, frozen=True):
    subject: str
    error: str
    queue_us: int
    model_us: int
    batch_id: int
    batch_size: int
    batch_index: int
    worker: str
    device: str
    tensors: list[_Tensor]


class RequestFrame(NamedTuple):
    """A request as a worker reads it. `deadline_us` is Redis server time; arrays are read-only views of the entry."""

    request_id: bytes
    deadline_us: int
    priority: int
    trace: bytes | None
    caller: str
    request: InferenceRequest


class ReplyFrame(NamedTuple):
    """A reply as a gateway reads it: `code` 0 with outputs, otherwise a google.rpc.Code, its subject (a class name) and its text."""

    request_id: bytes
    code: int
    subject: str
    error: str
    response: InferenceResponse


_encode = msgspec.msgpack.Encoder().encode
_decode_request_header = msgspec.msgpack.Decoder(_RequestHeader).decode
_decode_reply_header = msgspec.msgpack.Decoder(_ReplyHeader).decode


def encode_request(
    request: InferenceRequest, *, request_id: bytes, deadline_us: int, priority: int = 0, trace: bytes | None = None, caller: str = ""
) -> tuple[list[Buffer], int]:
    """The frame's parts and its length in bytes. Raises FrameError for a dtype that can't travel."""
    parts: list[Buffer] = [b"", b""]
    tensors, size = _encode_tensors(request.inputs, parts)
    header = _encode(
        _RequestHeader(
            request.model,
            request.version,
            request.signature,
            priority,
            request.rows,
            request.output_filter,
            trace,
            caller,
            tensors,
        )
    )
    return parts, _finish(parts, size, header, _REQUEST, request_id, deadline_us)


def encode_reply(request_id: bytes, response: InferenceResponse) -> tuple[list[Buffer], int]:
    """The parts and length of the frame that answers with outputs. Raises FrameError for a dtype that can't travel."""
    parts: list[Buffer] = [b"", b""]
    tensors, size = _encode_tensors(response.outputs, parts)
    timing = response.timing
    header = _encode(
        _ReplyHeader(
            "",
            "",
            timing.queue_us,
            timing.model_us,
            timing.batch_id,
            timing.batch_size,
            timing.batch_index,
            timing.worker,
            timing.device,
            tensors,
        )
    )
    return parts, _finish(parts, size, header, _REPLY, request_id, 0)


def encode_error(request_id: bytes, code: int, subject: str, text: str, timing: Timing | None = None) -> tuple[list[Buffer], int]:
    """The parts and length of the frame that answers with an error. Its text is whole up to MAX_ERROR_BYTES, as REST gives it; a
    door whose protocol has shorter texts (gRPC: 1,024 characters) cuts it."""
    timing = timing or Timing()
    encoded = text.encode("utf-8", "replace")  # an op may put anything into its message
    text = encoded[:MAX_ERROR_BYTES].decode("utf-8", "ignore")
    if len(encoded) > MAX_ERROR_BYTES:
        text += "...TRUNCATED"
    header = _encode(
        _ReplyHeader(
            subject,
            text,
            timing.queue_us,
            timing.model_us,
            timing.batch_id,
            timing.batch_size,
            timing.batch_index,
            timing.worker,
            timing.device,
            [],
        )
    )
    parts: list[Buffer] = [b"", b""]
    return parts, _finish(parts, 0, header, _REPLY, request_id, code)


def split_frames(entry: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Offset, request id and number (deadline or status) of each frame, without decoding it.

    Raises FrameError where the entry doesn't go on with a whole frame.
    """
    offset, end = 0, len(entry)
    while offset < end:
        if end - offset < _prefix.size:
            raise FrameError(f"entry ends inside a frame's prefix, {end - offset} bytes after offset {offset}")
        magic, version, _, _, length, request_id, number = _prefix.unpack_from(entry, offset)
        if magic != _MAGIC or version != FORMAT_VERSION:
            raise FrameError(f"no frame of format version {FORMAT_VERSION} at offset {offset}")
        if length < _prefix.size or length > end - offset or length % 8:
            raise FrameError(f"frame of {length} bytes at offset {offset}, {end - offset} bytes are left")
        yield offset, request_id, number
        offset += length


def decode_request(entry: bytes, offset: int = 0) -> RequestFrame:
    """Raises FrameError when there is no well-formed request frame at `offset`."""
    request_id, deadline_us, start, header_end, end = _decode_prefix(entry, offset, _REQUEST)
    try:
        header = _decode_request_header(memoryview(entry)[start:header_end])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FrameError(f"request header at offset {offset}: {error}") from error
    inputs = _decode_tensors(entry, header_end + -header_end % 8, end, header.tensors)
    request = InferenceRequest(header.model, header.version, header.signature, inputs, header.rows, header.output_filter)
    return RequestFrame(request_id, deadline_us, header.priority, header.trace, header.caller, request)


def decode_reply(entry: bytes, offset: int = 0) -> ReplyFrame:
    """Raises FrameError when there is no well-formed reply frame at `offset`."""
    request_id, code, start, header_end, end = _decode_prefix(entry, offset, _REPLY)
    try:
        header = _decode_reply_header(memoryview(entry)[start:header_end])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FrameError(f"reply header at offset {offset}: {error}") from error
    outputs = _decode_tensors(entry, header_end + -header_end % 8, end, header.tensors)
    timing = Timing(
        header.queue_us,
        header.model_us,
        header.batch_id,
        header.batch_size,
        header.batch_index,
        header.worker,
        header.device,
    )
    return ReplyFrame(request_id, code, header.subject, header.error, InferenceResponse(outputs, timing))


def cut_reply(request_id: bytes, token: int, frame: Buffer) -> Iterator[tuple[bytes, memoryview]]:
    """Pieces of a reply frame that is too long for one part, as (prefix, bytes); `token` tells this writing of it from another's."""
    view = memoryview(frame).cast("B")
    count = -(-len(view) // REPLY_PART_BYTES)
    for index in range(count):
        prefix = _part.pack(request_id, token, index, count, len(view))
        yield prefix, view[index * REPLY_PART_BYTES : (index + 1) * REPLY_PART_BYTES]


class ReplyJoiner:
    """Puts cut replies together. Belongs to one reader.

    A worker may die within a reply, and nobody ever finishes it. At most `max_open` unfinished ones of `max_open_bytes` together are
    held, or the newest alone where it is longer; what got no piece for the longest time is forgotten first.
    """

    def __init__(self, max_open: int = 64, max_open_bytes: int = 256 << 20) -> None:
        self._open: OrderedDict[tuple[bytes, int], tuple[bytearray, set[int]]] = OrderedDict()
        self._open_bytes = 0
        self._max_open = max_open
        self._max_open_bytes = max_open_bytes

    def add(self, part: bytes, *, max_bytes: int) -> bytes | None:
        """The whole frame when this was its last missing piece. Raises FrameError for a piece that doesn't fit."""
        if len(part) < _part.size:
            raise FrameError(f"reply part of {len(part)} bytes")
        request_id, token, index, count, length = _part.unpack_from(part)
        start = index * REPLY_PART_BYTES
        if length > max_bytes:
            raise FrameError(f"reply of {length} bytes, at most {max_bytes} are taken")
        if count != -(-length // REPLY_PART_BYTES) or index >= count or len(part) - _part.size != min(REPLY_PART_BYTES, length - start):
            raise FrameError(f"part {index} of {count} with {len(part)} bytes doesn't fit a reply of {length}")
        whole, seen = self._find_or_open((request_id, token), length)
        if len(whole) != length:
            raise FrameError(f"part {index} is of a reply of {length} bytes, others of {len(whole)}")
        whole[start : start + REPLY_PART_BYTES] = memoryview(part)[_part.size :]
        seen.add(index)
        if len(seen) < count:
            return None
        del self._open[request_id, token]
        self._open_bytes -= length
        return bytes(whole)

    def _find_or_open(self, key: tuple[bytes, int], length: int) -> tuple[bytearray, set[int]]:
        if (found := self._open.get(key)) is not None:
            self._open.move_to_end(key)
            return found
        while self._open and (len(self._open) >= self._max_open or self._open_bytes + length > self._max_open_bytes):
            _, (forgotten, _) = self._open.popitem(last=False)
            self._open_bytes -= len(forgotten)
        self._open_bytes += length
        opened = self._open[key] = (bytearray(length), set())
        return opened


def part_request_id(part: bytes) -> bytes:
    """Whose reply a piece belongs to."""
    return part[:16]


def _encode_tensors(arrays: dict[str, Array], parts: list[Buffer]) -> tuple[list[_Tensor], int]:
    """Append the arrays' bytes to `parts`; returns what the header says of them and the number of bytes appended."""
    tensors: list[_Tensor] = []
    total = 0
    for name, array in arrays.items():
        code = _NAMES.get(array.dtype.str)
        if code is None:
            array, code = _with_known_dtype(name, array)
        if code == _STRING:
            size = _encode_strings(name, array, parts)
        elif (size := array.nbytes) < _COPY_BELOW:
            parts.append(array.tobytes())
        else:
            parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if pad := _PADS[size & 7]:
            parts.append(pad)
        total += size + len(pad)
        tensors.append((name, code, array.shape, size))
    return tensors, total


def _encode_strings(name: str, array: Array, parts: list[Buffer]) -> int:
    strings: Sequence[bytes] = array.ravel().tolist()
    offsets = np.zeros(len(strings) + 1, np.int64)
    try:
        joined = b"".join(strings)
        np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)), out=offsets[1:])
    except TypeError as error:
        raise FrameError(f"tensor {name!r} holds something that is not bytes: {error}") from error
    parts += (offsets.tobytes(), joined)
    return offsets.nbytes + len(joined)


def _finish(parts: list[Buffer], size: int, header: bytes, kind: int, request_id: bytes, number: int) -> int:
    """Put prefix and header before the tensors; returns the frame's length."""
    length = len(header)
    pad = _PADS[length & 7]
    total = _prefix.size + length + len(pad) + size
    parts[0] = _prefix.pack(_MAGIC, FORMAT_VERSION, kind, length, total, request_id, number)
    parts[1] = header + pad
    return total


def _decode_prefix(entry: bytes, offset: int, kind: int) -> tuple[bytes, int, int, int, int]:
    """Request id, number, start and end of the header, end of the frame."""
    try:
        magic, version, found, header_length, length, request_id, number = _prefix.unpack_from(entry, offset)
    except struct.error as error:
        raise FrameError(f"no frame at offset {offset}: {error}") from error
    start = offset + _prefix.size
    if magic != _MAGIC or version != FORMAT_VERSION or found != kind:
        raise FrameError(f"no frame of format version {FORMAT_VERSION} and kind {kind} at offset {offset}")
    if offset + length > len(entry) or _prefix.size + header_length > length:
        raise FrameError(f"frame of {length} bytes with a header of {header_length} at offset {offset} of {len(entry)}")
    return request_id, number, start, start + header_length, offset + length


def _decode_tensors(entry: bytes, offset: int, end: int, tensors: list[_Tensor]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, code, shape, size in tensors:
        if size < 0 or offset + size > end:
            raise FrameError(f"tensor {name!r} of {size} bytes at {offset}, its frame ends at {end}")
        try:
            if code == _STRING:
                arrays[name] = _decode_strings(entry, offset, size, shape)
            else:
                dtype = _DTYPES.get(code) or _find_dtype(code)
                array: Array = np.ndarray(shape, dtype, entry, offset)
                if array.nbytes != size:
                    raise ValueError(f"shape {shape} doesn't agree with {size} bytes")
                arrays[name] = array
        except (TypeError, ValueError) as error:
            raise FrameError(f"tensor {name!r}: {error}") from error
        offset += size + (-size & 7)
    return arrays


def _decode_strings(entry: bytes, offset: int, size: int, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    start = offset + 8 * (count + 1)
    if min(shape, default=0) < 0 or start > offset + size:
        raise ValueError(f"shape {shape} doesn't agree with {size} bytes of strings")
    array: Array = np.empty(shape, object)
    offsets: Array = np.ndarray((count + 1,), np.int64, entry, offset)
    bounds: list[int] = offsets.tolist()
    if bounds[0] != 0 or start + bounds[-1] != offset + size or (np.diff(offsets) < 0).any():
        raise ValueError(f"string offsets don't agree with {size} bytes")
    strings = [entry[start + first : start + last] for first, last in pairwise(bounds)]
    array.reshape(-1)[:] = strings
    return array


def _with_known_dtype(name: str, array: Array) -> tuple[Array, int]:
    """The array as one that travels: other byte order turned, bfloat16 by name."""
    if array.dtype.name == "bfloat16":
        return array, _BFLOAT16
    turned = array.dtype.newbyteorder("<")
    if (code := _NAMES.get(turned.str)) is None:
        raise FrameError(f"tensor {name!r} has dtype {array.dtype}, which no frame carries")
    return array.astype(turned), code


def _find_dtype(code: int) -> np.dtype[Any]:
    if code != _BFLOAT16:
        raise ValueError(f"DataType {code} is not one that frames carry")
    import ml_dtypes  # comes with TensorFlow; only a process that serves bfloat16 needs it

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
