"""The generated OpenAPI documents: valid for every shape of signature, with examples that their own schemas accept."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NoReturn

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema_path import SchemaPath
from openapi_spec_validator import OpenAPIV31SpecValidator

from catalog.openapi.generate import CallExample, Document, ServedModel, describe
from catalog.signatures import Signature, TensorSpec, decode_signatures, encode_signatures

from .factories import DIGITS, HALF_PLUS_TWO, signature, spec


class RefuseAll(dict[str, Callable[[str], Any]]):
    """Handlers for references to elsewhere: none may be followed, whatever their scheme."""

    def __contains__(self, scheme: object) -> bool:
        return True

    def __missing__(self, scheme: str) -> Callable[[str], Any]:
        def refuse(uri: str) -> NoReturn:
            raise AssertionError(f"the document refers to {uri}")

        return refuse


def model(signatures: Mapping[str, Signature], **fields: Any) -> ServedModel:
    values: dict[str, Any] = {
        "name": "digits",
        "versions": (3, 2),
        "labels": {},
        "default_version": 3,
        "access": "key",
        "gateway_url": "http://127.0.0.1:8501",
        **fields,
    }
    return ServedModel(signatures=signatures, **values)


def errors_of(document: Document) -> list[str]:
    validator = OpenAPIV31SpecValidator(SchemaPath.from_dict(document, handlers=RefuseAll()))
    return [str(error) for error in islice(validator.iter_errors(), 10)]


def body_validator(document: Document, path: str) -> Draft202012Validator:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": document["components"]})


SHAPES = {
    "half plus two": HALF_PLUS_TWO,
    "pictures and two outputs": DIGITS,
    "a scalar input": {"serving_default": signature({"seed": spec(dtype="DT_INT32")}, {"y": spec(-1)})},
    "strings": {"serving_default": signature({"text": spec(-1, dtype="DT_STRING")}, {"raw_bytes": spec(-1, dtype="DT_STRING")})},
    "several inputs": {"serving_default": signature({"a": spec(-1), "b": spec(-1, 3)}, {"y": spec(-1)})},
    "half precision": {"serving_default": signature({"x": spec(-1, 4, dtype="DT_HALF")}, {"y": spec(-1, dtype="DT_BFLOAT16")})},
    "unknown rank": {"serving_default": signature({"x": TensorSpec("DT_FLOAT", None)}, {"y": TensorSpec("DT_STRING", None)})},
    "a fixed number of rows": {"serving_default": signature({"x": spec(2, 3)}, {"y": spec(2)})},
    "rows that disagree": {"serving_default": signature({"x": spec(2, 3), "w": spec(5)}, {"y": spec(2)})},
    "an output without rows": {"serving_default": signature({"x": spec(-1, 3)}, {"mean": spec()})},
    "no JSON form": {"serving_default": signature({"x": spec(-1, dtype="DT_COMPLEX64")}, {"y": spec(-1)})},
    "no inputs": {"serving_default": signature({}, {"y": spec(3)})},
    "all integers": {
        dtype: signature({"x": spec(-1, dtype=dtype)}, {"y": spec(-1, dtype=dtype)})
        for dtype in ("DT_INT8", "DT_INT16", "DT_INT32", "DT_INT64", "DT_UINT8", "DT_UINT16", "DT_UINT32", "DT_UINT64", "DT_BOOL")
    },
    "names that need escaping": {"a b/é{x}": signature({"in put": spec(-1), "ö:0": spec(-1)}, {"~/y": spec(-1)})},
    "thirty signatures": {f"signature_{i}": signature({"x": spec(-1, i + 1)}, {"y": spec(-1)}) for i in range(30)},
    "tf.Example": {
        "serving_default": signature({"inputs": spec(-1, dtype="DT_STRING")}, {"outputs": spec(-1)}, "tensorflow/serving/regress")
    },
    "none at all": {},
}


@pytest.mark.parametrize("signatures", SHAPES.values(), ids=SHAPES.keys())
def test_document_is_valid_openapi(signatures: dict[str, Signature]) -> None:
    assert errors_of(describe(model(signatures, labels={"stable": 2}, access="open"))) == []


def test_document_of_one_version_is_valid() -> None:
    document = describe(model(DIGITS, version=3))
    assert errors_of(document) == []
    assert set(document["paths"]) == {f"/v1/models/digits/versions/3{rest}" for rest in (":predict", "", "/metadata")}


@pytest.mark.parametrize("signatures", SHAPES.values(), ids=SHAPES.keys())
def test_examples_fit_their_schema(signatures: dict[str, Signature]) -> None:
    document = describe(model(signatures))
    path = "/v1/models/digits:predict"
    if path not in document["paths"]:
        assert not any(each.callable_as_json for each in signatures.values())
        return
    validator = body_validator(document, path)
    media = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    for key, example in media.get("examples", {}).items():
        assert list(validator.iter_errors(example["value"])) == [], key


def test_a_model_whose_name_needs_escaping_has_valid_paths() -> None:
    document = describe(model(HALF_PLUS_TWO, name="a b/{c}:d", labels={"x/y": 3}))
    assert errors_of(document) == []
    assert "/v1/models/a%20b%2F%7Bc%7D%3Ad:predict" in document["paths"]


def test_row_form_is_left_out_where_rows_cannot_be_answered() -> None:
    def forms(signatures: dict[str, Signature]) -> set[str]:
        return {name for name in describe(model(signatures))["components"]["schemas"] if name.startswith("serving_default.")}

    assert "serving_default.rows" in forms(SHAPES["half plus two"])
    for shape in ("an output without rows", "rows that disagree", "a scalar input"):
        assert forms(SHAPES[shape]) == {"serving_default.columns", "serving_default.columns.answer"}, shape


def test_wrong_bodies_are_refused_by_the_schema() -> None:
    validator = body_validator(describe(model(DIGITS)), "/v1/models/digits:predict")
    row = [[0.0] * 8] * 8
    assert validator.is_valid({"instances": [row]})
    assert validator.is_valid({"instances": [{"image": row}]})
    assert validator.is_valid({"inputs": {"image": [row, row]}})
    wrong_bodies: tuple[Any, ...] = (
        {},
        {"instances": []},
        {"instances": [row[:7]]},
        {"instances": [{"picture": row}]},
        {"instances": [row], "inputs": [row]},
        {"instances": [row], "signature_name": "other"},
        {"instances": [[["a"] * 8] * 8]},
        {"instances": row},
    )
    for wrong in wrong_bodies:
        assert not validator.is_valid(wrong), wrong


def test_defaults_make_an_input_optional() -> None:
    signatures = {"serving_default": signature({"x": spec(-1), "t": spec()}, {"y": spec(-1)}, defaults={"t": [1.0]})}
    validator = body_validator(describe(model(signatures)), "/v1/models/digits:predict")
    assert validator.is_valid({"inputs": {"x": [1.0]}})
    assert not validator.is_valid({"inputs": {"t": 1.0}})


def test_given_examples_come_first_under_safe_keys() -> None:
    examples = (CallExample("a seven!", {"instances": [1.0]}, "why"), CallExample("a seven?", {"instances": [2.0]}))
    media = describe(model(HALF_PLUS_TWO, examples=examples))["paths"]["/v1/models/digits:predict"]["post"]["requestBody"]["content"]
    keys = list(media["application/json"]["examples"])
    assert keys[:2] == ["a-seven", "a-seven-2"]
    assert media["application/json"]["examples"]["a-seven"] == {"summary": "a seven!", "description": "why", "value": {"instances": [1.0]}}


def test_open_models_need_no_key_and_others_do() -> None:
    assert {} in describe(model(HALF_PLUS_TWO, access="open"))["security"]
    assert {} not in describe(model(HALF_PLUS_TWO, access="key"))["security"]


def test_a_large_input_gets_no_example() -> None:
    signatures = {"serving_default": signature({"x": spec(-1, 96, 96, 3)}, {"y": spec(-1, 6)})}
    media = describe(model(signatures))["paths"]["/v1/models/digits:predict"]["post"]["requestBody"]["content"]["application/json"]
    assert "examples" not in media


def test_inputs_without_rows_get_no_row_example() -> None:
    document = describe(model({"serving_default": signature({"x": spec(0)}, {"y": spec(0)})}))
    assert errors_of(document) == []
    examples = document["paths"]["/v1/models/digits:predict"]["post"]["requestBody"]["content"]["application/json"].get("examples", {})
    assert [example["value"] for example in examples.values()] == [{"inputs": []}]


def test_the_same_model_gives_the_same_document() -> None:
    assert describe(model(DIGITS)) == describe(model(decode_signatures(encode_signatures(DIGITS))))


DTYPES = st.sampled_from(
    ["DT_FLOAT", "DT_DOUBLE", "DT_INT32", "DT_INT64", "DT_UINT8", "DT_BOOL", "DT_STRING", "DT_COMPLEX64", "DT_RESOURCE"]
)
SPECS = st.builds(TensorSpec, DTYPES, st.none() | st.lists(st.integers(-1, 3), max_size=4).map(tuple))
NAMES = st.text(min_size=1, max_size=12)
SIGNATURES = st.builds(Signature, st.dictionaries(NAMES, SPECS, max_size=3), st.dictionaries(NAMES, SPECS, min_size=1, max_size=3))


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))  # shrinking takes minutes
@given(st.dictionaries(NAMES, SIGNATURES, max_size=3), st.dictionaries(NAMES, st.integers(0, 5), max_size=2))
def test_any_signatures_give_a_valid_document(signatures: dict[str, Signature], labels: dict[str, int]) -> None:
    assert errors_of(describe(model(signatures, labels=labels))) == []
    assert decode_signatures(encode_signatures(signatures)) == signatures
