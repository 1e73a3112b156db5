"""What one side puts into a frame, the other side finds in it; anything else is refused."""

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from serving.protocol.frames import (
    REPLY_PART_BYTES,
    FrameError,
    ReplyJoiner,
    cut_reply,
    decode_reply,
    decode_request,
    encode_error,
    encode_reply,
    encode_request,
    part_request_id,
    split_frames,
)
from serving.protocol.messages import InferenceRequest, InferenceResponse, Timing

ID = bytes(range(16))
DTYPES = ("f4", "f8", "i4", "u1", "i2", "i1", "c8", "i8", "?", "u2", "c16", "f2", "u4", "u8")


def make_request(inputs: dict[str, np.ndarray], **changes: object) -> InferenceRequest:
    rows = next((array.shape[0] for array in inputs.values() if array.ndim), 0)
    values = {"model": "digits", "version": 3, "signature": "serving_default", "inputs": inputs, "rows": rows}
    return InferenceRequest(**(values | changes))  # type: ignore[arg-type]


def request_bytes(inputs: dict[str, np.ndarray], request_id: bytes = ID) -> bytes:
    parts, size = encode_request(make_request(inputs), request_id=request_id, deadline_us=7)
    frame = b"".join(parts)
    assert len(frame) == size
    assert size % 8 == 0
    return frame


def reply_bytes(outputs: dict[str, np.ndarray], request_id: bytes = ID) -> bytes:
    return b"".join(encode_reply(request_id, InferenceResponse(outputs))[0])


def test_a_request_comes_back_as_it_was() -> None:
    inputs = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "key": np.array([b"a", b"\0bc"], object)}
    request = make_request(inputs, output_filter=("y", "z"))
    parts, _ = encode_request(request, request_id=ID, deadline_us=2**62, priority=1, trace=b"t" * 16, caller="dbk_1a2b")
    frame = decode_request(b"".join(parts))
    assert (frame.request_id, frame.deadline_us, frame.priority, frame.trace, frame.caller) == (ID, 2**62, 1, b"t" * 16, "dbk_1a2b")
    got = frame.request
    assert (got.model, got.version, got.signature, got.rows, got.output_filter) == ("digits", 3, "serving_default", 2, ("y", "z"))
    np.testing.assert_array_equal(got.inputs["x"], inputs["x"])
    assert got.inputs["key"].tolist() == [b"a", b"\0bc"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_travels(dtype: str) -> None:
    for shape in ((), (0,), (1,), (3, 0, 2), (5,), (2, 3, 1)):
        array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
        got = decode_request(request_bytes({"x": array, "after": np.array(9, np.int64)})).request.inputs
        assert got["x"].dtype == array.dtype
        assert got["x"].shape == shape
        np.testing.assert_array_equal(got["x"], array)
        assert got["after"] == 9


def test_bfloat16_travels() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    got = decode_reply(reply_bytes({"y": array})).response.outputs["y"]
    assert got.dtype == array.dtype
    assert got.tolist() == [1.5, -2.0]


@given(stn.arrays(object, stn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), elements=st.binary(max_size=9)))
def test_strings_of_any_bytes_and_shape_travel(array: np.ndarray) -> None:
    got = decode_request(request_bytes({"s": array})).request.inputs["s"]
    assert got.shape == array.shape
    assert got.tolist() == array.tolist()


def test_arrays_in_other_layouts_travel() -> None:
    turned = np.arange(6, dtype=">i4").reshape(2, 3)
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    large = np.arange(60_000, dtype=np.float64).reshape(200, 300)[::2, ::3]
    got = decode_request(request_bytes({"turned": turned, "fortran": fortran, "large": large})).request.inputs
    np.testing.assert_array_equal(got["turned"], turned)
    np.testing.assert_array_equal(got["fortran"], fortran)
    np.testing.assert_array_equal(got["large"], large)
    assert got["turned"].dtype == np.int32


def test_decoded_arrays_are_aligned_views_that_cannot_be_changed() -> None:
    entry = request_bytes({"odd": np.zeros(3, np.int8)}) + request_bytes({"x": np.ones(4, np.float64)})
    (first, *_), (second, *_) = split_frames(entry)
    x = decode_request(entry, second).request.inputs["x"]
    assert not x.flags.owndata
    assert x.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 2
    assert first == 0


def test_a_large_tensor_is_not_copied_to_encode_it() -> None:
    array = np.zeros(1 << 20, np.uint8)
    parts, _ = encode_request(make_request({"x": array}), request_id=ID, deadline_us=0)
    assert any(isinstance(part, memoryview) and np.shares_memory(np.frombuffer(part, np.uint8), array) for part in parts)


def test_replies_come_back_with_their_timing() -> None:
    timing = Timing(1, 2, 3, 4, 5, "worker-1", "CPU:0")
    parts, _ = encode_reply(ID, InferenceResponse({"y": np.array([[0.5]])}, timing))
    reply = decode_reply(b"".join(parts))
    assert (reply.request_id, reply.code, reply.error, reply.response.timing) == (ID, 0, "", timing)
    assert reply.response.outputs["y"].tolist() == [[0.5]]


def test_errors_come_back_with_their_text() -> None:
    reply = decode_reply(b"".join(encode_error(ID, 3, "RunFailed", "input must be [?,3]: ä \udc80", Timing(batch_id=9))[0]))
    assert (reply.code, reply.subject, reply.error, reply.response.timing.batch_id) == (3, "RunFailed", "input must be [?,3]: ä ?", 9)
    assert reply.response.outputs == {}


def carried(text: str) -> str:
    """An error's text after its travel."""
    return decode_reply(b"".join(encode_error(ID, 3, "RunFailed", text)[0])).error


def test_error_texts_are_whole_up_to_64_kb() -> None:
    assert carried("x" * 65_536) == "x" * 65_536
    assert carried("x" * 65_537) == "x" * 65_536 + "...TRUNCATED"
    assert carried("é" * 40_000) == "é" * 32_768 + "...TRUNCATED"
    assert carried("x" + "é" * 40_000) == "x" + "é" * 32_767 + "...TRUNCATED"  # never half a character


def test_an_entry_is_split_without_decoding() -> None:
    ids = [bytes([n]) * 16 for n in range(3)]
    entry = b"".join(request_bytes({"x": np.zeros(n, np.int8)}, request_id) for n, request_id in enumerate(ids))
    found = list(split_frames(entry))
    assert [(request_id, number) for _, request_id, number in found] == [(request_id, 7) for request_id in ids]
    assert [decode_request(entry, offset).request.inputs["x"].size for offset, *_ in found] == [0, 1, 2]


def test_every_cut_of_an_entry_is_refused() -> None:
    entry = request_bytes({"x": np.arange(4), "s": np.array([b"abc"], object)}) * 2
    half = len(entry) // 2
    for length in range(1, len(entry)):
        if length == half:
            continue
        with pytest.raises(FrameError):
            [decode_request(entry[:length], offset) for offset, *_ in split_frames(entry[:length])]


@given(st.data())
def test_damaged_bytes_are_refused_or_decode_within_the_entry(data: st.DataObject) -> None:
    entry = bytearray(request_bytes({"x": np.arange(4), "s": np.array([b"abc", b""], object)}))
    for _ in range(data.draw(st.integers(1, 4))):
        entry[data.draw(st.integers(0, len(entry) - 1))] = data.draw(st.integers(0, 255))
    try:
        for offset, *_ in split_frames(bytes(entry)):
            decode_request(bytes(entry), offset)
    except FrameError:
        pass


def tampered(tensors: list[object]) -> bytes:
    """A request frame whose header says `tensors` and that holds 16 bytes of them."""
    header = msgspec.msgpack.encode(["m", 1, "s", 0, 1, [], None, "", tensors])
    header_and_tensors = header + b"\0" * (-len(header) % 8) + bytes(16)
    return struct.pack("<2sBBIQ16sq", b"DB", 1, 1, len(header), 40 + len(header_and_tensors), ID, 0) + header_and_tensors


@pytest.mark.parametrize(
    "tensors",
    [
        [["x", 1, [1000], 4000]],
        [["x", 1, [2], 4]],
        [["x", 1, [-1], 4]],
        [["x", 1, [4], -16]],
        [["x", 99, [4], 16]],
        [["x", 1, [2**62, 4], 16]],
        [["x", 7, [2**40], 16]],
        [["x", 7, [3], 16]],
        [["x", 1, "no shape", 16]],
    ],
)
def test_a_header_that_lies_about_its_tensors_is_refused(tensors: list[object]) -> None:
    with pytest.raises(FrameError):
        decode_request(tampered(tensors))


def test_frames_of_another_version_or_kind_are_refused() -> None:
    frame = request_bytes({"x": np.zeros(1)})
    with pytest.raises(FrameError, match="kind 2"):
        decode_reply(frame)
    with pytest.raises(FrameError, match="format version"):
        decode_request(frame[:2] + b"\x09" + frame[3:])


def test_what_no_frame_carries_is_refused() -> None:
    with pytest.raises(FrameError, match="dtype"):
        request_bytes({"x": np.array(["text"])})
    with pytest.raises(FrameError, match="not bytes"):
        request_bytes({"x": np.array(["text"], object)})


def test_a_long_reply_is_cut_and_joined_in_any_order_once() -> None:
    frame = reply_bytes({"y": np.random.default_rng(1).integers(0, 255, 2 * REPLY_PART_BYTES + 99).astype(np.uint8)})
    parts = [prefix + bytes(piece) for prefix, piece in cut_reply(ID, 5, frame)]
    other = [prefix + bytes(piece) for prefix, piece in cut_reply(ID, 6, frame)]
    assert len(parts) == 3
    assert all(part_request_id(part) == ID for part in parts)
    joiner = ReplyJoiner()
    assert joiner.add(parts[2], max_bytes=1 << 23) is None
    assert joiner.add(other[0], max_bytes=1 << 23) is None
    assert joiner.add(parts[0], max_bytes=1 << 23) is None
    assert joiner.add(parts[0], max_bytes=1 << 23) is None
    assert joiner.add(parts[1], max_bytes=1 << 23) == frame


def test_reply_parts_that_do_not_fit_are_refused() -> None:
    (prefix, piece), *_ = cut_reply(ID, 5, bytes(REPLY_PART_BYTES + 8))
    for part in (b"", prefix[:9], prefix + bytes(piece)[:-1], prefix + bytes(piece) + b"x"):
        with pytest.raises(FrameError):
            ReplyJoiner().add(part, max_bytes=1 << 23)
    with pytest.raises(FrameError, match="at most"):
        ReplyJoiner().add(prefix + bytes(piece), max_bytes=1000)


def test_unfinished_replies_are_held_up_to_so_many_bytes() -> None:
    """What dead workers began goes first, what a living one goes on with stays, and one reply always fits."""
    length = REPLY_PART_BYTES + 8
    joiner = ReplyJoiner(max_open_bytes=3 * length)
    living = [prefix + bytes(piece) for prefix, piece in cut_reply(ID, 1, bytes(2 * length))]
    assert joiner.add(living[0], max_bytes=1 << 23) is None
    for number in range(50):
        prefix, piece = next(iter(cut_reply(bytes([number + 50]) * 16, 1, bytes(length))))
        assert joiner.add(prefix + bytes(piece), max_bytes=1 << 23) is None
        assert joiner.add(living[0], max_bytes=1 << 23) is None
        assert sum(len(whole) for whole, _ in joiner._open.values()) == joiner._open_bytes <= 3 * length
    assert [joiner.add(part, max_bytes=1 << 23) for part in living[1:]][-1] == bytes(2 * length)
    large = [prefix + bytes(piece) for prefix, piece in cut_reply(ID, 2, bytes(5 * length))]
    assert [joiner.add(part, max_bytes=1 << 23) for part in large][-1] == bytes(5 * length)


def test_parts_of_one_reply_agree_on_its_length() -> None:
    joiner = ReplyJoiner()
    (first, piece), *_ = cut_reply(ID, 5, bytes(REPLY_PART_BYTES + 8))
    other, rest = list(cut_reply(ID, 5, bytes(REPLY_PART_BYTES + 16)))[1]
    joiner.add(first + bytes(piece), max_bytes=1 << 23)
    with pytest.raises(FrameError, match="others of"):
        joiner.add(other + bytes(rest), max_bytes=1 << 23)


def test_unfinished_replies_are_forgotten_when_too_many() -> None:
    joiner = ReplyJoiner(max_open=2)
    cut = {n: [p + bytes(piece) for p, piece in cut_reply(bytes([n]) * 16, 1, bytes(REPLY_PART_BYTES + 8))] for n in range(3)}
    for parts in cut.values():
        assert joiner.add(parts[0], max_bytes=1 << 23) is None
    assert joiner.add(cut[0][1], max_bytes=1 << 23) is None
    assert joiner.add(cut[2][1], max_bytes=1 << 23) is not None
