"""What is read of a SavedModel without TensorFlow, and what is said of files that aren't one."""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from serving.engine.digest import LARGE_BYTES, digest_apart, digest_files
from serving.engine.errors import Code, InvalidModel
from serving.engine.savedmodel import decode_tensor, read_savedmodel
from serving.engine.servable import TensorSpec
from serving.protocol.protos.saved_model_pb2 import SavedModel
from serving.protocol.protos.tensor_pb2 import TensorProto

SERVE = ("serve",)


@pytest.fixture
def copied(models: dict[str, str], tmp_path: Path) -> Path:
    """A copy of half_plus_two version 1 to be damaged."""
    path = tmp_path / "1"
    shutil.copytree(f"{models['half_plus_two']}/1", path)
    return path


def test_signatures_are_read(models: dict[str, str]) -> None:
    files = read_savedmodel(f"{models['half_plus_two']}/1", SERVE)
    signature = files.signatures["serving_default"]
    assert files.tags == ("serve",)
    assert files.tensorflow_version.startswith("2.")
    assert signature.method_name == "tensorflow/serving/predict"
    assert signature.inputs == {"x": TensorSpec("serving_default_x:0", "DT_FLOAT", (-1, 1))}
    assert [(spec.dtype, spec.shape) for spec in signature.outputs.values()] == [("DT_FLOAT", (-1, 1))]
    assert list(files.signatures) == ["serving_default"]  # TensorFlow's own init "signature" isn't one


def test_unknown_rank_and_scalars_are_told_apart(models: dict[str, str]) -> None:
    shapes = [
        read_savedmodel(f"{models[name]}/1", SERVE).signatures["serving_default"].inputs["x"].shape
        for name in ("half_plus_three", "scalar")
    ]
    assert shapes == [None, ()]


def test_defaults_are_read(models: dict[str, str]) -> None:
    signature = read_savedmodel(f"{models['defaults']}/1", SERVE).signatures["serving_default"]
    assert {name: value.tolist() for name, value in signature.defaults.items()} == {"scale": 10.0}


@pytest.mark.parametrize(
    ("name", "effect", "loops"),
    [
        ("half_plus_two", "", False),
        ("mlp", "", False),
        ("batch_norm", "", False),
        ("counter", "its runs change the model's state (AssignAdd)", False),
        ("random", "its runs draw random numbers (RandomUniform)", False),
        ("rarely_random", "its runs draw random numbers (RandomUniform)", False),
        ("endless", "", True),
        ("slow", "", True),
    ],
)
def test_what_runs_do_is_read_from_the_graph(models: dict[str, str], name: str, effect: str, loops: bool) -> None:
    facts = read_savedmodel(f"{models[name]}/1", SERVE).facts["serving_default"]
    assert (facts.side_effect, facts.loops) == (effect, loops)


def test_the_text_form_is_read_but_its_graph_is_not_followed(copied: Path, models: dict[str, str]) -> None:
    binary = copied / "saved_model.pb"
    message = SavedModel.FromString(binary.read_bytes())
    (copied / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    binary.unlink()
    files = read_savedmodel(str(copied), SERVE)
    assert files.signatures == read_savedmodel(f"{models['half_plus_two']}/1", SERVE).signatures
    assert files.facts["serving_default"].loops


def refuse(path: Path, tags: tuple[str, ...] = SERVE) -> InvalidModel:
    with pytest.raises(InvalidModel) as refused:
        read_savedmodel(str(path), tags)
    return refused.value


def test_a_missing_directory_is_said_so(tmp_path: Path) -> None:
    error = refuse(tmp_path / "7")
    assert (error.message, error.code) == (f"{tmp_path}/7 is not there", Code.NOT_FOUND)


def test_a_directory_that_is_not_a_savedmodel_is_said_so(tmp_path: Path) -> None:
    assert refuse(tmp_path).message == f"{tmp_path} is not a SavedModel: it has neither saved_model.pb nor saved_model.pbtxt"


def test_an_empty_file_is_said_so(copied: Path) -> None:
    (copied / "saved_model.pb").write_bytes(b"")
    assert refuse(copied).message == f"{copied}/saved_model.pb is empty"


@pytest.mark.parametrize("size", [1, 7, 100, 1000, 5000])
def test_a_truncated_file_is_said_so(copied: Path, size: int) -> None:
    file = copied / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-size])
    assert refuse(copied).message.startswith(f"{file} is truncated or not a SavedModel: ")


@pytest.mark.parametrize("content", [b"hello, this is a README", b"\x00" * 50, b"\xff" * 50, b"PK\x03\x04zip", bytes(range(256))])
def test_any_other_file_is_refused(copied: Path, content: bytes) -> None:
    (copied / "saved_model.pb").write_bytes(content)
    assert str(copied) in refuse(copied).message


def test_no_damage_of_one_byte_raises_anything_else(copied: Path) -> None:
    file = copied / "saved_model.pb"
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(InvalidModel):
            read_savedmodel(str(copied), SERVE)


def test_other_tags_are_named(copied: Path) -> None:
    assert refuse(copied, ("serve", "gpu")).message == (
        f"Could not find meta graph def matching supplied tags: {{ gpu, serve }} in {copied}; it has: {{ serve }}"
    )


def test_the_digest_covers_paths_sizes_and_contents(copied: Path, tmp_path: Path) -> None:
    digest, size = digest_files(str(copied))
    twin = tmp_path / "twin"
    shutil.copytree(copied, twin)
    assert digest_files(str(twin)) == (digest, size)
    assert size == sum(file.stat().st_size for file in copied.rglob("*") if file.is_file())
    (twin / "assets.extra").mkdir()
    assert digest_files(str(twin))[0] == digest  # an empty directory is nothing
    changed = [twin / "assets.extra" / "note", twin / "variables" / "variables.index", twin / "saved_model.pb"]
    seen = {digest}
    changed[0].write_bytes(b"")
    seen.add(digest_files(str(twin))[0])
    changed[0].rename(twin / "assets.extra" / "other")
    seen.add(digest_files(str(twin))[0])
    for file in changed[1:]:
        file.write_bytes(file.read_bytes() + b"x")
        seen.add(digest_files(str(twin))[0])
    assert len(seen) == 5


def test_the_digest_is_the_one_documented(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"1")
    assert digest_files(str(tmp_path)) == (hashlib.sha256(b"a\x001\x001" + b"b/c\x003\x00two").hexdigest(), 4)


def test_a_large_artifact_is_digested_in_another_process_to_the_same_end(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(LARGE_BYTES))
    (tmp_path / "näme").write_bytes(b"small")
    assert digest_apart(str(tmp_path)) == digest_files(str(tmp_path))


def test_what_the_other_process_says_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(LARGE_BYTES))
    (tmp_path / "shrinks").symlink_to("/sys/devices/system/cpu/online")  # says that it has 4096 bytes, has a few
    with pytest.raises(OSError, match="shrinks shrank while it was read"):
        digest_apart(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dtype": 1, "float_val": [1.5, 2.5]}, np.array([1.5, 2.5, 2.5], np.float32)),
        ({"dtype": 2, "double_val": [1.5]}, np.array([1.5] * 3)),
        ({"dtype": 9, "int64_val": [-(2**60), 2, 3]}, np.array([-(2**60), 2, 3])),
        ({"dtype": 10, "bool_val": [True, False, True]}, np.array([True, False, True])),
        ({"dtype": 19, "half_val": [0x3C00]}, np.array([1.0] * 3, np.float16)),
        ({"dtype": 8, "scomplex_val": [1.0, 2.0]}, np.array([1 + 2j] * 3, np.complex64)),
        ({"dtype": 3, "tensor_content": np.arange(3, dtype=np.int32).tobytes()}, np.arange(3, dtype=np.int32)),
        ({"dtype": 3}, np.zeros(3, np.int32)),
        ({"dtype": 7, "string_val": [b"a", b"b"]}, np.array([b"a", b"b", b"b"], object)),
    ],
)  # fmt: skip
def test_tensor_messages_are_decoded(fields: dict[str, object], expected: np.ndarray) -> None:
    message = TensorProto(**fields)  # type: ignore[arg-type]
    message.tensor_shape.dim.add(size=3)
    found = decode_tensor(message)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "fields", [{"dtype": 1, "float_val": [1.0] * 4}, {"dtype": 1, "tensor_content": b"123"}, {"dtype": 21}, {"dtype": 99}]
)
def test_tensor_messages_that_do_not_fit_are_refused(fields: dict[str, object]) -> None:
    message = TensorProto(**fields)  # type: ignore[arg-type]
    message.tensor_shape.dim.add(size=3)
    with pytest.raises(InvalidModel):
        decode_tensor(message)
