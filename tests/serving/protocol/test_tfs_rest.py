"""TensorFlow Serving's REST predict, row by row of the reference sheet's table."""

import contextlib
import json
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.protocol.errors import ProtocolError, UnsupportedType
from serving.protocol.tfs_rest import Predict, SignatureForm, decode_inputs, encode_predictions, make_form, no_such_signature, parse_predict

SCALAR_ROWS = {"y": (-1,)}


def one_input(dtype: str = "DT_FLOAT", **fields: Any) -> SignatureForm:
    return make_form("serving_default", {"x": dtype}, fields.pop("outputs", SCALAR_ROWS), **fields)


def two_inputs(**fields: Any) -> SignatureForm:
    return make_form("serving_default", {"a": "DT_FLOAT", "b": "DT_STRING"}, SCALAR_ROWS, **fields)


def decode(body: bytes | str, form: SignatureForm | None = None) -> Predict:
    return decode_inputs(parse_predict(body.encode() if isinstance(body, str) else body), form or one_input())


def fault(body: bytes | str, form: SignatureForm | None = None) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode(body, form)
    assert caught.value.code == "INVALID_ARGUMENT"
    return caught.value.message


# --- What is taken ------------------------------------------------------------------------------------------------------------


def test_rows_of_one_input_become_one_tensor() -> None:
    found = decode('{"instances": [1.0, 2.0, 5.0]}')
    assert found.inputs["x"].tolist() == [1.0, 2.0, 5.0]
    assert found.inputs["x"].dtype == np.float32
    assert (found.rows, found.row_form) == (3, True)


def test_columns_of_one_input_need_no_name() -> None:
    found = decode('{"inputs": [[1, 2], [3, 4], [5, 6]]}')
    assert found.inputs["x"].shape == (3, 2)
    assert not found.row_form


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("3", ()),
        ("[]", (0,)),
        ("[[], []]", (2, 0)),
        ("[[[1], [2]]]", (1, 2, 1)),
        ('{"x": [[1, 2]]}', (1, 2)),
        ('{"x": 1, "other": "ignored"}', ()),
    ],
)
def test_columns_have_any_shape(value: str, shape: tuple[int, ...]) -> None:
    assert decode(f'{{"inputs": {value}}}').inputs["x"].shape == shape


def test_shapes_are_not_checked_against_the_signature() -> None:
    assert decode('{"instances": [[[1, 2]], [[3, 4]]]}').inputs["x"].shape == (2, 1, 2)


def test_rows_of_several_inputs_are_objects() -> None:
    found = decode('{"instances": [{"a": [1, 2], "b": "p"}, {"b": {"b64": "cQ=="}, "a": [3, 4]}]}', two_inputs())
    assert found.inputs["a"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.inputs["b"].tolist() == [b"p", b"q"]
    assert found.rows == 2


def test_columns_may_differ_in_length() -> None:
    found = decode('{"inputs": {"a": [1, 2], "b": ["p"]}}', two_inputs())
    assert (found.inputs["a"].shape, found.inputs["b"].shape, found.rows) == ((2,), (1,), 0)


@pytest.mark.parametrize("tail", [" ", "\n\n", " trailing", "}}", ' {"instances": []}', "\0"])
def test_what_follows_the_first_value_is_ignored(tail: str) -> None:
    assert decode('{"instances": [1, 2]}' + tail).rows == 2


@pytest.mark.parametrize("body", ['\ufeff{"instances": [1]}', ' \t\r\n{"instances":[1]}', '{ "instances" : [ 1 ] , "unknown": {} }'])
def test_white_space_order_and_unknown_keys_do_not_matter(body: str) -> None:
    assert decode(body).inputs["x"].tolist() == [1.0]


def test_numbers_that_json_lacks_are_taken_bare_and_as_strings() -> None:
    bare = decode('{"instances": [NaN, Infinity, -Infinity, Inf, -Inf, 1]}').inputs["x"]
    assert [math.isnan(bare[0]), *bare[1:].tolist()] == [True, math.inf, -math.inf, math.inf, -math.inf, 1.0]
    named = decode('{"instances": ["NaN", "Infinity", "-Infinity", 1]}').inputs["x"]
    assert [math.isnan(named[0]), *named[1:].tolist()] == [True, math.inf, -math.inf, 1.0]


def test_floats_beyond_the_range_become_infinities() -> None:
    assert decode('{"instances": [1e39, -1e39, 1e-60]}').inputs["x"].tolist() == [math.inf, -math.inf, 0.0]


@pytest.mark.parametrize(
    ("dtype", "numpy_type", "value"),
    [
        ("DT_DOUBLE", np.float64, 0.1),
        ("DT_HALF", np.float16, 1.5),
        ("DT_INT8", np.int8, -128),
        ("DT_UINT8", np.uint8, 255),
        ("DT_INT16", np.int16, -32768),
        ("DT_UINT16", np.uint16, 65535),
        ("DT_INT32", np.int32, 2**31 - 1),
        ("DT_UINT32", np.uint32, 2**32 - 1),
        ("DT_INT64", np.int64, -(2**63)),
        ("DT_UINT64", np.uint64, 2**64 - 1),
        ("DT_BOOL", np.bool_, True),
    ],
)
def test_each_type_keeps_its_values(dtype: str, numpy_type: type, value: Any) -> None:
    found = decode(json.dumps({"instances": [value, value]}), one_input(dtype)).inputs["x"]
    assert found.dtype == numpy_type
    assert found.tolist() == [value, value]


def test_bfloat16_is_taken_as_a_number() -> None:
    pytest.importorskip("ml_dtypes")
    assert decode('{"instances": [1.5]}', one_input("DT_BFLOAT16")).inputs["x"].dtype.name == "bfloat16"


def test_integers_are_numbers_for_float_inputs() -> None:
    assert decode('{"inputs": [1, 2.5, 18446744073709551616]}', one_input("DT_DOUBLE")).inputs["x"].tolist() == [1.0, 2.5, 2.0**64]


@pytest.mark.parametrize("text", ["aGVsbG8=", "aGVsbG8", "aGVs\\nbG8="])
def test_base64_needs_no_padding(text: str) -> None:
    assert decode(f'{{"instances": [{{"b64": "{text}"}}]}}', one_input("DT_STRING")).inputs["x"].tolist() == [b"hello"]


def test_strings_are_utf8_and_may_hold_other_bytes_as_they_came() -> None:
    assert decode('{"instances": ["ä\\u00e4\\ud83d\\ude00"]}', one_input("DT_STRING")).inputs["x"].tolist() == ["ää😀".encode()]
    assert decode(b'{"instances": ["\xff\xfe"]}', one_input("DT_STRING")).inputs["x"].tolist() == [b"\xff\xfe"]


def test_defaults_may_be_left_out_in_column_form() -> None:
    found = decode('{"inputs": {"a": [1]}}', two_inputs(defaults=["b"]))
    assert list(found.inputs) == ["a"]


def test_a_signature_without_inputs_takes_an_empty_object() -> None:
    form = make_form("counter", {}, {"y": ()})
    assert decode('{"inputs": {}}', form).inputs == {}
    assert fault('{"signature_name": "counter", "instances": [1]}', form) == "Failed to get input map for signature: counter"
    assert fault('{"inputs": [1]}', form) == "Failed to get input map for signature: DEFAULT"


def test_an_output_filter_names_outputs() -> None:
    form = make_form("s", {"x": "DT_FLOAT"}, {"y": (-1,), "z": ()})
    assert decode('{"instances": [1], "output_filter": ["y"]}', form).output_filter == ("y",)
    assert fault('{"inputs": [1], "output_filter": ["w"]}', form) == (
        "output tensor alias not found in signature: w Outputs expected to be in the set {y,z}."
    )
    assert fault('{"inputs": [1], "output_filter": ["y", "y"]}', form) == "duplicate output tensor alias: y"
    assert fault('{"inputs": [1], "output_filter": "y"}', form) == "'output_filter' key must be a list of strings."


# --- What is refused ------------------------------------------------------------------------------------------------------------

NESTED = "Encountered list at unexpected"
ROW = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("  ", "JSON Parse error: The document is empty. at offset: 2"),
        ("nonsense", "JSON Parse error: Invalid value. at offset: 0"),
        ('{"instances": [1,]}', "JSON Parse error: Invalid value. at offset: 17"),
        ('{"instances": [1 2]}', "JSON Parse error: Missing a comma or ] after an array element. at offset: 17"),
        ('{"instances": [1], x}', "JSON Parse error: Missing a name for object member. at offset: 19"),
        ('{"instances" [1]}', "JSON Parse error: Missing a colon after a name of object member. at offset: 13"),
        ('{"instances": [1] "a": 1}', "JSON Parse error: Missing a comma or } after an object member. at offset: 18"),
        ('{"instances": ["a]}', "JSON Parse error: Missing a closing quotation mark in string. at offset: 15"),
        ('{"instances": ["\\x"]}', "JSON Parse error: Invalid escape character in string. at offset: 16"),
        ('{"instances": ["\\u12g4"]}', "JSON Parse error: Incorrect hex digit after \\u escape in string. at offset: 17"),
        ('{"instances": ["\n"]}', "JSON Parse error: Invalid encoding in string. at offset: 16"),
        ('{"ä": [1], x}', "JSON Parse error: Missing a name for object member. at offset: 12"),
        ("[1, 2]", "JSON Value: [\n    1,\n    2\n] Is not object"),
        ("3", "JSON Value: 3 Is not object"),
        ('"a"', 'JSON Value: "a" Is not object'),
        ("null", "JSON Value: null Is not object"),
        ("1.5", "JSON Value: 1.5 Is not object"),
        (
            '{"signature_name": 5, "instances": [1]}',
            'JSON Value: {\n    "signature_name": 5,\n    "instances": [\n        1\n    ]\n} '
            "not formatted correctly. 'signature_name' key must be a string value.",
        ),
        ("{}", "Missing 'inputs' or 'instances' key"),
        (
            '{"instances": [1], "inputs": [1]}',
            'JSON Value: {\n    "instances": [\n        1\n    ],\n    "inputs": [\n        1\n    ]\n} '
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        ('{"instances": 3}', "JSON Value: {\n    \"instances\": 3\n} Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ('{"instances": [[1, 2], [3]]}', ROW.format(1) + "Expecting tensor size: 2 but got: 1"),
        ('{"instances": [[1, 2], [3, 4], [[5, 6]]]}', ROW.format(2) + "Expecting shape [2] but got: [1,2]"),
        ('{"instances": [1, [1]]}', ROW.format(1) + "Expecting shape [] but got: [1]"),
        ('{"instances": [[1, 2], [3], [4, 5, 6]]}', ROW.format(1) + "Expecting tensor size: 2 but got: 1"),
        ('{"instances": [[1, [2]]]}', ROW.format(0) + f"{NESTED} level: 1 expected < 1"),
        ('{"instances": [[[1, 2], [3]]]}', ROW.format(0) + f"{NESTED} size: 1 at level: 1 expected size: 2"),
        ('{"instances": [[[1], 2]]}', ROW.format(0) + "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('{"inputs": [[1, 2], [3]]}', f"{NESTED} size: 1 at level: 1 expected size: 2"),
        ('{"inputs": [1, [2]]}', f"{NESTED} level: 1 expected < 1"),
        ('{"inputs": [[1], 2]}', "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('{"inputs": [[], [1]]}', f"{NESTED} size: 1 at level: 1 expected size: 0"),
        ('{"instances": ["a"]}', ROW.format(0) + 'JSON Value: "a" Type: String is not of expected type: float'),
        ('{"instances": [1, null]}', ROW.format(1) + "JSON Value: null Type: Null is not of expected type: float"),
        ('{"instances": [1, true]}', ROW.format(1) + "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": [false]}', "JSON Value: false Type: False is not of expected type: float"),
        ('{"inputs": [{"a": 1}]}', 'JSON Value: {\n    "a": 1\n} Type: Object is not of expected type: float'),
        ('{"inputs": {"y": [1]}}', "Missing named input: x in 'inputs' object."),
        ('{"inputs": {"x": [1], "y": [1], "x2": []}, "instances": 1}', None),
        ('{"instances": [{"x": 1}, 2]}', "Expecting object but got list at item 1 of input list"),
        ('{"instances": [1, {"x": 2}]}', "Expecting value/list but got object at item 1 of input list"),
        (
            '{"instances": [{"x": 1}, {"x": [1, 2]}]}',
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 1 but got: 2",
        ),
        (
            '{"instances": [{"x": 1, "z": 2}]}',
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
        ),
        ('{"instances": [{}]}', "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x"),
    ],
)
def test_faults_have_the_reference_texts(body: str, text: str | None) -> None:
    found = fault(body)
    assert text is None or found == text


def test_several_inputs_are_told_apart_from_one() -> None:
    assert fault('{"instances": [1, 2]}', two_inputs()) == (
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
    )
    assert fault('{"inputs": [1, 2]}', two_inputs()) == (
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
    )
    assert fault('{"instances": [{"a": 1, "b": "p"}, {"a": 2}]}', two_inputs()) == (
        "Failed to process element: 1 of 'instances' list. JSON object: {\n    \"a\": 2\n} keys must be equal to: a,b"
    )


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("DT_INT8", "300", "JSON Value: 300 Type: Number is not of expected type: int8"),
        ("DT_INT8", "1.0", "JSON Value: 1.0 Type: Number is not of expected type: int8"),
        ("DT_UINT8", "-1", "JSON Value: -1 Type: Number is not of expected type: uint8"),
        ("DT_INT16", "32768", "JSON Value: 32768 Type: Number is not of expected type: int16"),
        ("DT_INT32", "2147483648", "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("DT_INT64", "9223372036854775808", "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64"),
        ("DT_UINT32", "4294967296", "JSON Value: 4294967296 Type: Number is not of expected type: uint32"),
        ("DT_UINT64", "-1", "JSON Value: -1 Type: Number is not of expected type: uint64"),
        ("DT_BOOL", "1", "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("DT_STRING", "1", "JSON Value: 1 Type: Number is not of expected type: string"),
        ("DT_INT64", "0.1", "JSON Value: 0.1 Type: Number is not of expected type: int64"),
        ("DT_STRING", '{"b64": 1}', 'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data'),
        ("DT_STRING", '[{"b64": "a", "c": 1}]', 'JSON Value: {\n    "b64": "a",\n    "c": 1\n} not formatted correctly for base64 data'),
        ("DT_STRING", '[{"b64": "####"}]', "Unable to base64 decode"),
        ("DT_STRING", '[{"b64": "a"}]', "Unable to base64 decode"),
        ("DT_STRING", '["\\ud800"]', "JSON Parse error: The surrogate pair in string is invalid."),
        ("DT_FLOAT", '"nan"', 'JSON Value: "nan" Type: String is not of expected type: float'),
    ],
)
def test_types_are_checked_with_their_range(dtype: str, value: str, text: str) -> None:
    body = f'{{"inputs": {{"x": {value}}}}}'
    assert fault(body, one_input(dtype)) == text


def test_a_type_without_a_json_form_is_501_in_columns_and_400_in_rows() -> None:
    form = one_input("DT_COMPLEX64")
    with pytest.raises(UnsupportedType, match=r"^Conversion of JSON Value: 1 to type: complex64$"):
        decode('{"inputs": [1]}', form)
    assert fault('{"instances": [1]}', form) == (
        "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: complex64"
    )


def test_an_unknown_signature_is_named() -> None:
    assert no_such_signature("").message == 'Serving signature name: "serving_default" not found in signature def'
    assert no_such_signature("other").message == 'Serving signature name: "other" not found in signature def'


@pytest.mark.parametrize("depth", [40, 900, 5_000, 200_000])
@pytest.mark.parametrize("closed", [True, False])
def test_any_nesting_ends_in_a_refusal(depth: int, closed: bool) -> None:
    body = '{"instances": ' + "[" * depth + ("1" + "]" * depth + "}" if closed else "")
    assert fault(body)


def test_a_number_of_many_digits_ends_in_a_refusal() -> None:
    assert "Number too big" in fault('{"instances": [NaN, ' + "9" * 10_000 + "]}")
    assert "Number too big" in fault('{"inputs": [NaN, ' + "9" * 400 + "]}")


def test_quoted_values_are_cut_at_256_bytes() -> None:
    quoted = fault(json.dumps({"instances": ["ä" * 5_000]})).split("JSON Value: ")[1].split(" Type: ")[0]
    assert 250 <= len(quoted.encode()) <= 256
    assert len(fault(json.dumps({"inputs": [1], "instances": list(range(100_000))}))) < 500


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"instances": [' + "1," * 600_000 + '"a"]}', "process element: 600000 of"),
        ('{"instances": [' + "[1,2]," * 200_000 + "[1]]}", "process element: 200000 of"),
        ('{"inputs": [' + "[1,2]," * 200_000 + "[1]]}", "unexpected size: 1 at level: 1"),
        ('{"inputs": [[' + "1," * 600_000 + "null]]}", "JSON Value: null"),
        ('{"instances": [' + '{"x": 1},' * 100_000 + '{"x": []}]}', "process element: 100000 key: x"),
        ('{"instances": [[' + "1," * 600_000 + "NaN]" + "," + "[2]]}", "process element: 1 of"),
    ],
)
def test_a_fault_at_the_end_of_a_long_body_is_found_soon(body: str, text: str) -> None:
    begun = time.thread_time()
    assert text in fault(body)
    assert time.thread_time() - begun < 2.0  # a walk over each element takes longer


def test_a_ragged_list_is_never_reshaped() -> None:
    """Six numbers in three rows, as a 3 × 2 list has them; and lists of one number in the place of a number."""
    for value in ("[[1,2],[3],[4,5,6]]", "[[1,[2]],[3,4]]", "[[[1],2],[3,4]]", "[[1,2],[],[3,4,5,6]]", "[1,[2],3]", "[[1],[2],[[3]]]"):
        for key in ("instances", "inputs"):
            fault(f'{{"{key}":{value}}}')
            fault(f'{{"signature_name":"[[","{key}":{value}}}')
            fault(f'{{"{key}":{value},"comment":"]]"}}')


def test_brackets_in_strings_do_not_confuse_shapes() -> None:
    for body in (
        '{"signature_name":"[,]","instances":[[1,2],[3,4]]}',
        '{"instances":[[1,2],[3,4]],"x":"]"}',
        '{"a":"[","instances":[[1,2],[3,4]]}',
    ):
        assert decode(body).inputs["x"].shape == (2, 2)


# --- Against the specification's naive form -------------------------------------------------------------------------------------


def naive(value: Any) -> tuple[list[float], list[int]] | None:
    """The reference's two functions: shape along the first elements, then every element at its level. None: refused."""
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    flat: list[float] = []

    def fill(item: Any, level: int) -> bool:
        if not isinstance(item, list):
            flat.append(item)
            return level == len(shape) and isinstance(item, int | float) and not isinstance(item, bool)
        return level < len(shape) and len(item) == shape[level] and all(fill(inner, level + 1) for inner in item)

    return (flat, shape) if fill(value, 0) else None


numbers = st.one_of(st.integers(-(2**40), 2**40), st.floats(width=32, allow_nan=False), st.sampled_from([0, -0.0, 1e-45]))
values = st.recursive(st.one_of(numbers, st.sampled_from([True, None])), lambda inner: st.lists(inner, max_size=4), max_leaves=30)


@st.composite
def regular(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    flat = draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(flat, object).reshape(shape).tolist()


@settings(max_examples=300, deadline=None)
@given(st.one_of(values, regular()), st.sampled_from([None, 2]), st.sampled_from([(",", ":"), (", ", ": "), (" , ", " :\n")]))
def test_columns_are_what_the_naive_reading_gives(value: Any, indent: int | None, separators: tuple[str, str]) -> None:
    body = json.dumps({"inputs": value}, indent=indent, separators=separators)
    expected = naive(value)
    if expected is None:
        fault(body)
    else:
        found = decode(body, one_input("DT_DOUBLE")).inputs["x"]
        assert (found.ravel().tolist(), list(found.shape)) == ([float(number) for number in expected[0]], expected[1])


@settings(max_examples=300, deadline=None)
@given(st.lists(values, min_size=1, max_size=4))
def test_rows_are_what_the_naive_reading_gives(rows: list[Any]) -> None:
    read = [naive(row) for row in rows]
    body = json.dumps({"instances": rows})
    named = json.dumps({"instances": [{"x": row} for row in rows]})
    shapes = {json.dumps(found[1]) if found else "refused" for found in read}
    if len(shapes) > 1 or "refused" in shapes:
        fault(body)
        fault(named)
    else:
        assert read[0] is not None
        expected = [len(rows), *read[0][1]]
        for text in (body, named):
            assert list(decode(text, one_input("DT_DOUBLE")).inputs["x"].shape) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='[]{},:"0123456789.-eNaInfty\\ ', max_size=40).map(str.encode))
def test_no_body_does_worse_than_a_refusal(body: bytes) -> None:
    for text in (body, b'{"instances":' + body, b'{"inputs":' + body + b"}"):
        for form in (one_input(), two_inputs(), one_input("DT_INT32"), one_input("DT_STRING")):
            with contextlib.suppress(ProtocolError):
                decode(text, form)


# --- Answers --------------------------------------------------------------------------------------------------------------------


def array_of(dtype: Any, value: Any) -> Any:
    return np.asarray(value, dtype)


def rows(**outputs: Any) -> str:
    return encode_predictions({name: np.asarray(value) for name, value in outputs.items()}, row_form=True).decode()


def columns(**outputs: Any) -> str:
    return encode_predictions({name: np.asarray(value) for name, value in outputs.items()}, row_form=False).decode()


def strings(*values: bytes) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_one_output_is_bare_and_several_are_objects() -> None:
    assert rows(y=array_of(np.float32, [2.5, 3.0])) == '{"predictions":[2.5,3.0]}'
    assert columns(y=array_of(np.float32, [2.5, 3.0])) == '{"outputs":[2.5,3.0]}'
    assert (
        rows(y=array_of(np.float32, [2.5, 3.0]), n=array_of(np.int64, [[1], [2]]))
        == '{"predictions":[{"y":2.5,"n":[1]},{"y":3.0,"n":[2]}]}'
    )
    assert columns(y=array_of(np.float32, [2.5]), n=array_of(np.int64, 7)) == '{"outputs":{"y":[2.5],"n":7}}'


def test_numbers_json_lacks_are_bare_tokens() -> None:
    assert columns(y=array_of(np.float32, [[1.0, np.nan], [np.inf, -np.inf]])) == '{"outputs":[[1.0,NaN],[Infinity,-Infinity]]}'
    assert rows(y=array_of(np.float64, [np.nan, 1]), b=[True, False]) == '{"predictions":[{"y":NaN,"b":true},{"y":1.0,"b":false}]}'
    assert columns(y=array_of(np.float32, np.nan)) == '{"outputs":NaN}'


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_are_numbers(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    assert json.loads(columns(y=np.array([limits.min, limits.max], dtype)))["outputs"] == [limits.min, limits.max]


def test_half_and_bfloat16_are_numbers() -> None:
    assert columns(y=array_of(np.float16, [1.5, np.inf])) == '{"outputs":[1.5,Infinity]}'
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert columns(y=np.array([1.5, 3], ml_dtypes.bfloat16)) == '{"outputs":[1.5,3.0]}'


def test_strings_are_text_or_base64() -> None:
    assert rows(y=strings("ä".encode(), b"\xff")) == '{"predictions":["ä",{"b64":"/w=="}]}'
    assert rows(image_bytes=strings(b"a")) == '{"predictions":[{"b64":"YQ=="}]}'
    assert rows(y=strings(b"a"), n=[1]) == '{"predictions":[{"y":"a","n":1}]}'


def test_arrays_of_any_layout_are_written() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert columns(y=array.T) == '{"outputs":[[0.0,3.0],[1.0,4.0],[2.0,5.0]]}'
    assert columns(y=array.astype(">f4")) == '{"outputs":[[0.0,1.0,2.0],[3.0,4.0,5.0]]}'
    assert columns(y=np.empty((0, 3), np.float32)) == '{"outputs":[]}'


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(width=32), max_size=20), st.lists(st.floats(), max_size=20))
def test_written_numbers_parse_back_to_the_same(narrow: list[float], wide: list[float]) -> None:
    for array in (np.array(narrow, np.float32), np.array(wide, np.float64)):
        text = columns(y=array)
        parsed = np.array(json.loads(text)["outputs"], np.float64).astype(array.dtype)
        assert np.array_equal(parsed, array, equal_nan=True)
        for token in text[12:-2].split(",") if len(array) else ():
            assert "." in token or "e" in token or token.lstrip("-") in ("NaN", "Infinity")


def test_rows_need_a_common_first_dimension() -> None:
    with pytest.raises(ProtocolError, match=r"^Tensor name: y has no shape information $"):
        rows(y=array_of(np.float32, 1))
    with pytest.raises(ProtocolError, match=r"^Tensor name: z has inconsistent batch size: 3 expecting: 2$"):
        rows(y=[1, 2], z=[1, 2, 3])
    with pytest.raises(ProtocolError, match=r"^Failed to write JSON value for tensor type: complex64$"):
        columns(y=array_of(np.complex64, [1]))


def test_answers_that_cannot_be_rows_are_refused_before_the_run() -> None:
    scalar = one_input(outputs={"y": (-1,), "total": ()})
    assert fault('{"instances": [1]}', scalar) == "Tensor name: total has no shape information "
    assert decode('{"inputs": [1]}', scalar).rows == 1
    assert decode('{"instances": [1], "output_filter": ["y"]}', scalar).output_filter == ("y",)
    clash = one_input(outputs={"y": (2,), "z": (3,)})
    assert fault('{"instances": [[1]]}', clash) == "Tensor name: z has inconsistent batch size: 3 expecting: 2"
    assert decode('{"instances": [1]}', one_input(outputs={"y": (-1,), "z": (3,), "w": None})).rows == 1
