"""The load-time probe: which signatures may share a run, and what it says of the others."""

from collections.abc import Callable

import numpy as np
import pytest

from serving.engine.batch import BatchRule
from serving.engine.errors import RunFailed
from serving.engine.probe import probe_servable
from serving.engine.servable import Signature, TensorSpec
from tests.serving.engine.servables import FLOATS, LoadModel, NumpyServable


def probe(servable, signature: str = "serving_default", *, stateful: bool = False) -> BatchRule:  # type: ignore[no-untyped-def]
    return probe_servable(servable, stateful=stateful)[signature]


@pytest.mark.parametrize(
    "name", ["half_plus_two", "half_plus_three", "mlp", "picky", "strings", "free_size", "softmax", "slow", "tf_example"]
)
def test_models_of_independent_rows_are_batched(load_model: LoadModel, name: str) -> None:
    rule = probe(load_model(name))
    assert rule.batched, rule.reason
    assert rule.rerun


def test_every_dtype_can_be_probed(load_model: LoadModel) -> None:
    rules = probe_servable(load_model("dtypes"), stateful=False)
    assert {name: rule.reason for name, rule in rules.items() if not rule.batched} == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("batch_norm", "a row gives another output alone than beside others"),
        ("clipped_mix", "a row gives another output alone than beside others"),
        ("reshapes", "a row gives another output alone than beside others"),
        ("random", "its runs draw random numbers (RandomUniform)"),
        ("rarely_random", "its runs draw random numbers (RandomUniform)"),
        ("counter", "its runs change the model's state (AssignAdd)"),
        ("fixed", "input x has the shape [1, 2]: its dimension 0 is not unknown"),
        ("scalar", "input x has the shape []: its dimension 0 is not unknown"),
    ],
)
def test_models_whose_answers_would_change_are_not(load_model: LoadModel, name: str, reason: str) -> None:
    rule = probe(load_model(name))
    assert (rule.batched, rule.reason, rule.rerun) == (False, reason, False)


def test_probing_leaves_state_alone(load_model: LoadModel) -> None:
    servable = load_model("counter")
    probe(servable)
    assert servable.run("serving_default", {"step": np.ones(1, np.float32)}, timeout_ms=1000)["total"].tolist() == [1.0]


def test_signatures_of_one_model_are_told_apart(load_model: LoadModel) -> None:
    rules = probe_servable(load_model("two_signatures"), stateful=False)
    assert (rules["serving_default"].batched, rules["centred"].batched) == (True, False)


def test_a_stateful_deployment_is_never_run(load_model: LoadModel) -> None:
    servable = NumpyServable()
    assert probe(servable, stateful=True) == BatchRule(False, "the deployment is stateful", rerun=False)
    assert servable.sizes == []


def test_a_trailing_one_may_be_left_out_where_that_was_shown(load_model: LoadModel) -> None:
    rule = probe(load_model("half_plus_two"))
    accepted = [rule.accepts({"x": np.zeros(shape, np.float32)}) for shape in ((3,), (3, 1), (3, 2), (3, 1, 1))]
    assert accepted == [True, True, False, False]


def test_a_feed_of_another_rank_is_not_batched_where_it_mixes_rows(load_model: LoadModel) -> None:
    rule = probe(load_model("softmax"))
    assert rule.accepts({"x": np.zeros((3, 7), np.float32)})
    assert not rule.accepts({"x": np.zeros(3, np.float32)})


def test_other_inputs_than_probed_are_not_batched(load_model: LoadModel) -> None:
    rule = probe(load_model("half_plus_two"))
    assert not rule.accepts({})
    assert not rule.accepts({"x": np.zeros((3, 1)), "z": np.zeros((3, 1))})


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x - x[:1],
        lambda x: np.cumsum(x, 0),
        lambda x: x * len(x),
        lambda x: np.sort(x, 0),
        lambda x: x[::-1],
        lambda x: np.where(np.abs(x).max() > 10, 0, x),
        lambda x: x / max(1.0, np.abs(x).sum()),
        lambda x: x + 1e-3 * x.mean(0),
        lambda x: np.roll(x, 1, 0),
        lambda x: x * (1 + (len(x) > 6)),
        lambda x: np.unique(x, axis=0) if len(np.unique(x, axis=0)) == len(x) else np.zeros_like(x),
    ],
)
def test_every_way_of_mixing_rows_is_caught(body: Callable[[np.ndarray], np.ndarray]) -> None:
    assert not probe(NumpyServable(body)).batched


@pytest.mark.parametrize("body", [lambda x: x[:1], lambda x: x.sum(), lambda x: x.reshape(1, -1), lambda x: np.concatenate([x, x])])
def test_outputs_that_do_not_keep_the_rows_are_caught(body: Callable[[np.ndarray], np.ndarray]) -> None:
    assert not probe(NumpyServable(body)).batched


def test_a_model_that_differs_from_run_to_run_is_caught() -> None:
    generator = np.random.default_rng(1)
    rule = probe(NumpyServable(lambda x: x + generator.normal(0, 1e-2, x.shape).astype(np.float32)))
    assert rule.reason == "the same input twice gives different outputs"


def test_another_order_of_summing_is_tolerated() -> None:
    weights = np.random.default_rng(2).normal(size=(2, 500)).astype(np.float32)

    def body(x: np.ndarray) -> np.ndarray:
        hidden = x @ weights if len(x) > 2 else (x.astype(np.float64) @ weights).astype(np.float32)
        return np.repeat(hidden.sum(1, keepdims=True), 2, 1)

    assert probe(NumpyServable(body)).batched


@pytest.mark.parametrize("body", [lambda x: np.full_like(x, np.nan), lambda x: x * np.inf, lambda x: (x > 0).astype(np.int64)])
def test_outputs_that_are_not_numbers_or_are_classes_are_compared(body: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.errstate(invalid="ignore"):
        assert probe(NumpyServable(body)).batched


def test_a_model_that_made_up_input_can_not_run_says_why() -> None:
    servable = NumpyServable()
    servable.fail_with = RunFailed("key not in table")
    assert probe(servable) == BatchRule(False, "not probed: key not in table", rerun=False)


def test_inputs_too_large_to_make_up_are_not_probed() -> None:
    signature = Signature("", {"x": TensorSpec("x", "DT_FLOAT", (-1, 10_000, 10_000))}, FLOATS.outputs)
    rule = probe(NumpyServable(signature=signature))
    assert rule.reason == "not probed: its inputs are too large"
