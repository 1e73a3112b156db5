"""NumPy arrays in and out of TensorFlow's tensors.

In: small arrays are copied into memory that TensorFlow allocates (cheaper than a callback); large ones are lent without a copy where
they are aligned, and stay alive until TensorFlow calls their deallocator, which may be long after the run when the graph keeps
them. Out: small tensors are copied and freed at once; large ones become arrays that own the tensor.

Strings are TF_TString, 24 bytes each. Those that we make are of the kind LARGE (length, capacity, pointer), pointing into one block
that lives as long as the tensor: an op that keeps an element copies its bytes, whereas the kind VIEW would be copied as a pointer
into memory that is gone after the run. `check_strings` compares both directions with the C API's own functions at start.
Source: third_party/xla/xla/tsl/platform/ctstring_internal.h at v2.21.0.
"""

import ctypes
from ctypes import c_int64, c_void_p, memmove, string_at
from itertools import count

import numpy as np

from .errors import EngineError, InvalidInput
from .tensorflow_c import Deallocator, Functions

STRING = 7  # DT_STRING
LEND_BYTES = 1 << 17  # from here on a copy costs more than a callback
KEEP_BYTES = 1 << 16  # from here on an output keeps TensorFlow's memory
_COPY_AS_BYTES = 1 << 12  # up to here bytes objects are the quickest way through ctypes
_SMALL, _LARGE, _OFFSET, _VIEW = 0, 1, 2, 3  # TF_TString_Type, the two lowest bits
_TSTRING_BYTES = 24
_MAX_SHAPES = 4096

_lent: dict[int, object] = {}  # what TensorFlow still points into; changed under the GIL only
_tokens = count(1)
_dims: dict[tuple[int, ...], ctypes.Array[c_int64]] = {}


def _forget(_data: int | None, _length: int, token: int) -> None:
    _lent.pop(token, None)


_give_back = Deallocator(_forget)  # called by whichever thread drops the last reference; held here for ever


def num_lent() -> int:
    """How many arrays TensorFlow points into now."""
    return len(_lent)


def aligned_empty(num_bytes: int, alignment: int = 64) -> np.ndarray:
    """Uninitialised bytes whose address is a multiple of `alignment`, as TensorFlow wants its tensors."""
    block = np.empty(num_bytes + alignment, np.uint8)
    offset = -block.__array_interface__["data"][0] % alignment
    return block[offset : offset + num_bytes]


def new_tensor(functions: Functions, array: np.ndarray, dtype: int) -> int:
    """A TF_Tensor* with the array's shape and values; the caller deletes it. Raises InvalidInput for strings that aren't bytes."""
    shape = array.shape
    dims = _dims.get(shape)
    if dims is None:
        if len(_dims) >= _MAX_SHAPES:
            _dims.clear()
        dims = _dims[shape] = (c_int64 * len(shape))(*shape)
    if dtype == STRING:
        return _new_strings(functions, array, dims)
    size = array.nbytes
    if size >= LEND_BYTES:
        array = np.ascontiguousarray(array)
        address = array.__array_interface__["data"][0]
        if address % 64 == 0:
            token = next(_tokens)
            _lent[token] = array
            return functions.TF_NewTensor(dtype, dims, len(shape), address, size, _give_back, token)  # type: ignore[no-any-return]
    tensor: int = functions.TF_AllocateTensor(dtype, dims, len(shape), size)
    if not tensor:
        raise EngineError(f"TensorFlow can't allocate {size} bytes")
    if size <= _COPY_AS_BYTES:
        memmove(functions.TF_TensorData(tensor), array.tobytes(), size)
    else:
        array = np.ascontiguousarray(array)
        memmove(functions.TF_TensorData(tensor), array.__array_interface__["data"][0], size)
    return tensor


def _new_strings(functions: Functions, array: np.ndarray, dims: "ctypes.Array[c_int64]") -> int:
    values = array.ravel().tolist()
    try:
        block = b"\0".join(values) + b"\0"  # ends with NUL: some ops read them as C strings
    except TypeError as error:
        raise InvalidInput(f"strings must be bytes: {error}") from error
    lengths = np.fromiter(map(len, values), np.uint64, len(values))
    words = aligned_empty(_TSTRING_BYTES * len(values)).view(np.uint64).reshape(-1, 3)
    words[:, 0] = (lengths << np.uint64(2)) | np.uint64(_LARGE)
    words[:, 1] = lengths
    pointers = words[:, 2]
    if len(values):
        address = ctypes.cast(ctypes.c_char_p(block), c_void_p).value or 0
        pointers[0] = address
        np.cumsum(lengths[:-1] + np.uint64(1), out=pointers[1:])
        pointers[1:] += np.uint64(address)
    token = next(_tokens)
    _lent[token] = (words, block)
    return functions.TF_NewTensor(  # type: ignore[no-any-return]
        STRING, dims, len(dims), words.__array_interface__["data"][0], words.nbytes, _give_back, token
    )


class _Owner:
    """Owns a TF_Tensor; arrays made from it keep it alive."""

    __slots__ = ("__array_interface__", "_delete", "_tensor")

    def __init__(self, functions: Functions, tensor: int, address: int, shape: tuple[int, ...], itemsize: int) -> None:
        self._delete = functions.TF_DeleteTensor
        self._tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "shape": (*shape, itemsize),
            "typestr": "|u1",
            "data": (address, True),
        }

    def __del__(self) -> None:
        self._delete(self._tensor)


def take_tensor(functions: Functions, tensor: int | None, dtype: np.dtype, number: int) -> np.ndarray:
    """The array of a fetched TF_Tensor*, which belongs to it from here on. Read-only."""
    if tensor is None:
        raise EngineError("the run fetched nothing")
    dim = functions.TF_Dim
    rank = functions.TF_NumDims(tensor)
    if rank == 2:
        shape: tuple[int, ...] = (dim(tensor, 0), dim(tensor, 1))
    elif rank == 1:
        shape = (dim(tensor, 0),)
    else:
        shape = tuple([dim(tensor, place) for place in range(rank)])
    size = functions.TF_TensorByteSize(tensor)
    if size < KEEP_BYTES or number == STRING:
        try:
            if number == STRING:
                return _read_strings(functions.TF_TensorData(tensor), size // _TSTRING_BYTES).reshape(shape)
            return np.frombuffer(string_at(functions.TF_TensorData(tensor), size), dtype).reshape(shape) if size else np.empty(shape, dtype)
        finally:
            functions.TF_DeleteTensor(tensor)
    owner = _Owner(functions, tensor, functions.TF_TensorData(tensor), shape, dtype.itemsize)
    return np.asarray(owner).view(dtype)[..., 0]


def _read_strings(address: int, number: int) -> np.ndarray:
    values = np.empty(number, object)
    raw = string_at(address, number * _TSTRING_BYTES) if number else b""
    words = np.frombuffer(raw, np.uint64).reshape(-1, 3)
    kinds = (words[:, 0] & np.uint64(3)).tolist()
    lengths = (words[:, 0] >> np.uint64(2)).tolist()
    for place, kind in enumerate(kinds):
        start = place * _TSTRING_BYTES
        if kind == _SMALL:  # a byte of length, then the characters
            values[place] = raw[start + 1 : start + 1 + (raw[start] >> 2)]
        elif kind == _LARGE:
            values[place] = string_at(int(words[place, 2]), lengths[place])
        elif kind == _VIEW:
            values[place] = string_at(int(words[place, 1]), lengths[place])
        else:  # OFFSET: 32-bit length, then the distance from the element itself
            length, offset = np.frombuffer(raw, np.uint32, 2, start).tolist()
            values[place] = string_at(address + start + offset, length >> 2)
    return values


def check_strings(functions: Functions) -> None:
    """Compare our reading and writing of TF_TString with the C API's. Raises EngineError when this build lays them out otherwise."""
    samples = [b"", b"a", b"x" * 22, b"y" * 23, b"nul\0inside", bytes(range(256)) * 5]
    array = np.empty(len(samples), object)
    array[:] = samples
    tensor = new_tensor(functions, array, STRING)
    start = functions.TF_TensorData(tensor)
    read_by_them = [
        string_at(functions.TF_StringGetDataPointer(place), functions.TF_StringGetSize(place))
        for place in range(start, start + _TSTRING_BYTES * len(samples), _TSTRING_BYTES)
    ]
    functions.TF_DeleteTensor(tensor)
    theirs = (ctypes.c_uint64 * (3 * len(samples)))()
    places = [ctypes.addressof(theirs) + place * _TSTRING_BYTES for place in range(len(samples))]
    for place, sample in zip(places, samples, strict=True):
        functions.TF_StringInit(place)
        functions.TF_StringCopy(place, sample, len(sample))
    read_by_us = _read_strings(places[0], len(samples)).tolist()
    for place in places:
        functions.TF_StringDealloc(place)
    if read_by_them != samples or read_by_us != samples:
        raise EngineError("this build of TensorFlow lays out its strings in another way: string tensors can't be served")
