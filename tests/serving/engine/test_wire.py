"""The walk over protobuf's wire format, compared with protobuf itself."""

import random

import pytest

from serving.engine.wire import Malformed, read_varint, walk
from serving.protocol.protos.tensor_pb2 import TensorProto


def test_length_delimited_fields_are_found_in_order() -> None:
    message = TensorProto(dtype=1, tensor_content=b"content", string_val=[b"a", b"", b"c" * 300])  # type: ignore[arg-type]
    message.tensor_shape.dim.add(size=300)
    view = memoryview(message.SerializeToString())
    found = [(number, bytes(part)) for number, _, part in walk(view)]
    shape = message.tensor_shape.SerializeToString()
    assert found == [(1, b""), (2, shape), (4, b"content"), (8, b"a"), (8, b""), (8, b"c" * 300)]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63 - 1])
def test_varints_are_read(value: int) -> None:
    encoded = TensorProto(int64_val=[value]).SerializeToString()
    assert read_varint(memoryview(encoded), 2) == (value, len(encoded))


@pytest.mark.parametrize("content", [b"\x0a", b"\x0a\x05abc", b"\x0a\xff", b"\x0b", b"\x00\x00", b"\xff" * 12, b"\x09\x01", b"\x0d\x01"])
def test_what_is_malformed_is_said_so(content: bytes) -> None:
    with pytest.raises(Malformed):
        list(walk(memoryview(content)))


def test_random_bytes_never_raise_anything_else() -> None:
    generator = random.Random(7)
    for _ in range(3000):
        content = generator.randbytes(generator.randrange(60))
        try:
            for _, _, part in walk(memoryview(content)):
                assert len(part) <= len(content)
        except Malformed:
            pass
