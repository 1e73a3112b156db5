"""SavedModels through the C API: values, dtypes, strings, memory, errors."""

import shutil
import subprocess
import sys
import threading
import time
from itertools import permutations
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from serving.engine import tensorflow_tensor
from serving.engine.errors import Code, InvalidInput, InvalidModel, RunFailed, UnknownSignature
from serving.engine.registry import LoadRequest
from serving.engine.tensorflow_c import get_functions
from serving.engine.tensorflow_servable import TensorflowLoader
from serving.engine.tensorflow_tensor import KEEP_BYTES, LEND_BYTES, aligned_empty, new_tensor, num_lent, take_tensor
from tests.models import DTYPES
from tests.serving.engine.servables import LoadModel


def run(servable, signature: str = "serving_default", *, output_filter: tuple[str, ...] = (), timeout_ms: int = 5000, **inputs):  # type: ignore[no-untyped-def]
    return servable.run(signature, inputs, output_filter=output_filter, timeout_ms=timeout_ms)


def strings(*values: bytes) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_half_plus_two_answers(load_model: LoadModel) -> None:
    servable = load_model("half_plus_two")
    assert run(servable, x=np.array([[1.0], [2.0], [5.0]], np.float32))["y"].tolist() == [[2.5], [3.0], [4.5]]
    assert servable.device == "CPU"
    assert len(servable.artifact) == 64


def test_shapes_are_not_checked_against_the_signature(load_model: LoadModel) -> None:
    assert run(load_model("half_plus_two"), x=np.array([1.0, 2.0, 5.0], np.float32))["y"].tolist() == [2.5, 3.0, 4.5]


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "string"])
@pytest.mark.parametrize("rows", [0, 1, 3, 100_000])
def test_every_dtype_comes_back_as_it_went(load_model: LoadModel, dtype: str, rows: int) -> None:
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    values = np.arange(rows * 2).reshape(rows, 2) % 100
    x = (values % 2).astype(bool) if dtype == "bool" else values.astype(numpy_dtype)
    if x.dtype.kind == "c":
        x = x * (1 - 2j)
    y = run(load_model("dtypes"), dtype, x=x.astype(numpy_dtype))["y"]
    assert y.dtype == numpy_dtype
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0.0, -0.0, np.finfo(np.float32).tiny / 4])
def test_special_floats_survive(load_model: LoadModel, value: float) -> None:
    x = np.array([[value, 1.0]], np.float32)
    assert run(load_model("dtypes"), "float32", x=x)["y"].tobytes() == x.tobytes()


def test_strings_of_all_lengths_go_in_and_out(load_model: LoadModel) -> None:
    values = strings(b"", b"a", b"nul\0inside", b"x" * 21, b"y" * 22, b"z" * 23, b"\xff\x00\xfe", b"w" * 100_000)
    found = run(load_model("strings"), s=values)
    assert found["upper"].tolist() == [value.upper() for value in values]
    assert found["twice"].tolist() == [value * 2 for value in values]
    assert found["length"].tolist() == [len(value) for value in values]


def test_strings_have_shapes_and_may_be_none(load_model: LoadModel) -> None:
    servable = load_model("strings")
    grid = strings(b"a", b"bb", b"ccc", b"dddd").reshape(2, 2)
    assert run(servable, s=grid)["upper"].tolist() == [[b"A", b"BB"], [b"CCC", b"DDDD"]]
    assert run(servable, s=strings())["upper"].shape == (0,)


def test_strings_that_are_not_bytes_are_refused(load_model: LoadModel) -> None:
    with pytest.raises(InvalidInput, match="strings must be bytes"):
        run(load_model("strings"), s=np.array(["text"], object))


def test_memory_that_was_lent_is_given_back(load_model: LoadModel) -> None:
    servable = load_model("dtypes")
    before = num_lent()
    lent = aligned_empty(LEND_BYTES * 2).view(np.float32).reshape(-1, 2)
    lent[:] = 1.5
    outputs = run(servable, "float32", x=lent)["y"]
    assert outputs.nbytes > KEEP_BYTES
    np.testing.assert_array_equal(outputs, lent)
    run(servable, "string", x=strings(b"a", b"b" * 50).reshape(1, 2))
    del outputs
    assert num_lent() == before


def test_a_large_output_outlives_its_model(load_model: LoadModel, models: dict[str, str]) -> None:
    servable = TensorflowLoader().load(LoadRequest("dtypes", 1, f"{models['dtypes']}/1"))
    x = np.random.default_rng(1).random((LEND_BYTES, 2)).astype(np.float32)
    y = run(servable, "float32", x=x)["y"][10:20]
    expected = x[10:20].copy()
    servable.unload()
    del x
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("order", ["transposed", "strided", "reversed"])
@pytest.mark.parametrize("rows", [3, 40_000])
def test_arrays_that_are_not_contiguous_are_fed_in_their_logical_order(load_model: LoadModel, order: str, rows: int) -> None:
    base = np.arange(rows * 4, dtype=np.float32)
    x = {
        "transposed": base[: rows * 2].reshape(2, rows).T,
        "strided": base.reshape(-1, 4)[:, ::2],
        "reversed": base[: rows * 2].reshape(-1, 2)[::-1],
    }[order]
    np.testing.assert_array_equal(run(load_model("dtypes"), "float32", x=x)["y"], x)


def test_nothing_leaks_over_many_runs(load_model: LoadModel) -> None:
    servable = load_model("strings")
    values = strings(*[b"q" * 1000] * 200)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(30):
        run(servable, s=values)
    before = resident()
    for _ in range(300):
        run(servable, s=values)
    assert resident() - before < 20 << 20  # 300 runs carry 180 MB


def test_the_output_filter_chooses_and_orders(load_model: LoadModel) -> None:
    servable = load_model("strings")
    assert list(run(servable, output_filter=("twice", "length"), s=strings(b"a"))) == ["twice", "length"]


@pytest.mark.parametrize(
    ("output_filter", "text"),
    [
        (("z",), "output tensor alias not found in signature: z Outputs expected to be in the set {length,twice,upper}."),
        (("upper", "upper"), "duplicate output tensor alias: upper"),
    ],
)
def test_a_wrong_output_filter_is_refused_in_tensorflow_servings_words(
    load_model: LoadModel, output_filter: tuple[str, ...], text: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        run(load_model("strings"), output_filter=output_filter, s=strings(b"a"))
    assert refused.value.message == text


def test_every_output_filter_gives_what_it_names(load_model: LoadModel) -> None:
    servable = load_model("strings")
    everything = run(servable, s=strings(b"ab"))
    for size in (1, 2, 3):
        for names in permutations(everything, size):
            found = run(servable, output_filter=names, s=strings(b"ab"))
            assert {name: value.tolist() for name, value in found.items()} == {name: everything[name].tolist() for name in names}


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "signature serving_default needs the input x"),
        ({"z": np.zeros(1, np.float32)}, "signature serving_default needs the input x"),
        ({"x": np.zeros(1, np.float64)}, "input x of signature serving_default is of type DT_FLOAT, got float64"),
        ({"x": np.zeros(1, np.float32), "z": np.zeros(1)}, "signature serving_default has no input z"),
    ],
)
def test_wrong_inputs_are_refused_before_the_run(load_model: LoadModel, inputs: dict[str, np.ndarray], text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        load_model("half_plus_two").run("serving_default", inputs, timeout_ms=1000)
    assert refused.value.message == text


def test_an_unknown_signature_is_refused(load_model: LoadModel) -> None:
    with pytest.raises(UnknownSignature, match=r'^Serving signature key "nope" not found\.$'):
        run(load_model("half_plus_two"), "nope")


def test_a_failing_run_keeps_tensorflows_code_and_text(load_model: LoadModel) -> None:
    servable = load_model("mlp")
    with pytest.raises(RunFailed) as failed:
        run(servable, x=np.zeros((2, 3), np.float32))
    assert failed.value.code is Code.INVALID_ARGUMENT
    assert "Matrix size-incompatible" in failed.value.message
    assert run(servable, x=np.zeros((2, 784), np.float32))["probabilities"].shape == (2, 10)


def test_a_run_past_its_timeout_ends(load_model: LoadModel) -> None:
    servable = load_model("endless")
    before = time.monotonic()
    with pytest.raises(RunFailed) as failed:
        run(servable, timeout_ms=200, x=np.ones((1, 1), np.float32))
    assert failed.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - before < 5.0
    assert run(servable, x=np.zeros((1, 1), np.float32))["y"].tolist() == [[0.0]]


def test_defaults_fill_what_is_left_out(load_model: LoadModel) -> None:
    servable = load_model("defaults")
    x = np.array([1.0, 2.0], np.float32)
    assert run(servable, x=x)["y"].tolist() == [10.0, 20.0]
    assert run(servable, x=x, scale=np.float32(3.0).reshape(()))["y"].tolist() == [3.0, 6.0]


def test_a_tensorflow_1_model_of_unknown_rank_runs(load_model: LoadModel) -> None:
    servable = load_model("half_plus_three")
    assert run(servable, x=np.array([1.0, 2.0], np.float32))["y"].tolist() == [3.5, 4.0]
    assert run(servable, x=np.float32(1.0).reshape(()))["y"].tolist() == 3.5


def test_a_model_with_reference_variables_keeps_its_state(load_model: LoadModel) -> None:
    servable = load_model("counter")
    step = np.array([1.0, 2.0], np.float32)
    assert [run(servable, step=step)["total"][0] for _ in range(3)] == [3.0, 6.0, 9.0]


def test_a_graph_is_chosen_by_all_its_tags(load_model: LoadModel) -> None:
    assert run(load_model("tagged", tags=("gpu", "serve")), x=np.zeros(1, np.float32))["y"].tolist() == [3.0]
    with pytest.raises(InvalidModel, match=r"matching supplied tags: \{ serve \} .* it has: \{ serve, gpu \}"):
        load_model("tagged")


def test_resource_ends_are_refused(load_model: LoadModel) -> None:
    with pytest.raises(InvalidModel, match="input table of signature serving_default is of type DT_RESOURCE"):
        load_model("resource_end")


def test_two_versions_and_two_callers_at_once(load_model: LoadModel) -> None:
    servables = [load_model("half_plus_two", 1), load_model("half_plus_two", 2)]
    wrong: list[float] = []

    def call(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(300):
            x = generator.random((generator.integers(1, 9), 1)).astype(np.float32)
            for plus, servable in zip((2.0, 3.0), servables, strict=True):
                difference = np.abs(run(servable, x=x)["y"] - (x / 2 + plus)).max()
                if difference > 1e-6:
                    wrong.append(float(difference))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_our_strings_are_laid_out_as_the_library_says() -> None:
    tensorflow_tensor.check_strings(get_functions())


def test_a_tensor_of_each_kind_survives_the_round_trip_without_a_run() -> None:
    functions = get_functions()
    for array, number in ((np.arange(6, dtype=np.float32).reshape(1, 2, 3), 1), (strings(b"a" * 40, b"").reshape(2, 1), 7)):
        found = take_tensor(functions, new_tensor(functions, array, number), array.dtype, number)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("damage", ["graph", "variables", "index"])
def test_a_damaged_model_is_refused_with_a_text(models: dict[str, str], tmp_path: Path, damage: str) -> None:
    path = tmp_path / "1"
    shutil.copytree(f"{models['mlp']}/1", path)
    victim = {"graph": "saved_model.pb", "variables": "variables/variables.data-00000-of-00001", "index": "variables/variables.index"}[
        damage
    ]
    content = (path / victim).read_bytes()
    (path / victim).write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidModel) as refused:
        TensorflowLoader().load(LoadRequest("mlp", 1, str(path)))
    assert str(path) in refused.value.message


def test_the_python_package_may_be_blocked_and_numpy_random_used(models: dict[str, str]) -> None:
    script = f"""
import sys
sys.modules["tensorflow"] = None
from serving.engine.registry import LoadRequest
from serving.engine.tensorflow_servable import TensorflowLoader
servable = TensorflowLoader().load(LoadRequest("half_plus_two", 1, "{models["half_plus_two"]}/1"))
import numpy as np, numpy.random
x = numpy.random.default_rng(1).random((2, 1)).astype(np.float32)
assert np.allclose(servable.run("serving_default", {{"x": x}}, timeout_ms=1000)["y"], x / 2 + 2)
assert not [name for name in sys.modules if name.startswith(("tensorflow.", "django", "redis"))]
servable.unload()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True)
