"""Long requests in the journal: what is stored gives the same arrays back."""

import json
from typing import Any

import numpy as np
import pytest

from audit import stored
from serving.protocol.tfs_rest import decode_inputs, make_form, parse_predict


def strings(*values: bytes) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize("form", ["instances", "inputs"])
@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_INT8", "DT_INT64", "DT_UINT64", "DT_BOOL", "DT_STRING"])
def test_a_stored_request_decodes_to_the_same_arrays(form: str, dtype: str) -> None:
    values: Any = {"DT_BOOL": [True, False], "DT_STRING": ["ä", {"b64": "/w=="}]}.get(dtype, [1, 100])
    if dtype in ("DT_FLOAT", "DT_DOUBLE", "DT_HALF"):
        values = [0.1, -1e-7, 65504.0]
    signature = make_form("serving_default", {"x": dtype}, {"y": (-1,)})
    decoded = decode_inputs(parse_predict(json.dumps({form: values}).encode()), signature)
    packed = stored.pack(form, decoded.inputs, {"signature_name": "s"})
    assert stored.is_packed(packed)
    again = decode_inputs(parse_predict(stored.as_json(packed)), signature)
    assert again.inputs["x"].dtype == decoded.inputs["x"].dtype
    assert again.inputs["x"].tolist() == decoded.inputs["x"].tolist()
    assert again.row_form == (form == "instances")
    assert json.loads(stored.as_json(packed))["signature_name"] == "s"


def test_several_inputs_become_rows_or_columns_again() -> None:
    arrays = {"a": np.float32([[1, 2], [3, 4]]), "b": strings(b"p", b"q")}  # type: ignore[arg-type]
    assert json.loads(stored.as_json(stored.pack("instances", arrays, {}))) == {
        "instances": [{"a": [1.0, 2.0], "b": "p"}, {"a": [3.0, 4.0], "b": "q"}]
    }
    assert json.loads(stored.as_json(stored.pack("inputs", arrays, {}))) == {"inputs": {"a": [[1.0, 2.0], [3.0, 4.0]], "b": ["p", "q"]}}


def test_numbers_are_shown_as_they_were_written() -> None:
    assert stored.as_json(stored.pack("inputs", {"x": np.array([0.1, 2.5], np.float32)}, {})) == b'{"inputs": [0.1, 2.5]}'


def test_other_bodies_are_left_alone() -> None:
    for body in (b"", b"{}", b'{"instances": [1]}', b"\xff"):
        assert stored.as_json(body) == body


def test_damage_is_told() -> None:
    packed = stored.pack("inputs", {"x": np.arange(4.0), "s": strings(b"a")}, {})
    for cut in range(len(b'{"daybook":"tensors/1",'), len(packed)):
        with pytest.raises(stored.BadStored):
            stored.as_json(packed[:cut])
    with pytest.raises(stored.BadStored):
        stored.as_json(packed + b"x")
