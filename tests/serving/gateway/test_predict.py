"""Predictions through the real door: right answers, and refusals as TensorFlow Serving's clients expect them."""

import re
from typing import Any

import httpx
import pytest

from tests.serving.gateway.conftest import Door


def error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    text = answer.json()["error"]
    assert isinstance(text, str)
    return text


def test_rows_and_columns_are_answered(door: Door) -> None:
    rows = door.predict("half_plus_two", {"instances": [1.0, 2.0, 5.0]})
    assert rows.json() == {"predictions": [2.5, 3.0, 4.5]}
    assert rows.text == '{"predictions":[2.5,3.0,4.5]}'
    assert rows.headers["content-type"] == "application/json"
    assert door.predict("half_plus_two", {"inputs": [[1.0], [2.0]]}).json() == {"outputs": [[2.5], [3.0]]}


def test_the_content_type_is_never_read(door: Door) -> None:
    answer = door.predict("half_plus_two", b'{"instances": [4]} trailing', headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.json() == {"predictions": [4.0]}


@pytest.mark.parametrize("path", ["versions/1", "versions/0001", "labels/stable"])
def test_versions_and_labels_choose(door: Door, path: str) -> None:
    assert door.predict(f"half_plus_two/{path}", {"instances": [2]}).json() == {"predictions": [3.0]}


def test_strings_travel_both_ways(door: Door) -> None:
    answer = door.predict("texts", {"instances": ["ab", {"b64": "//8="}]})
    assert answer.json() == {
        "predictions": [
            {"t": "ba", "t_bytes": {"b64": "YmE="}, "n": 2},
            {"t": {"b64": "//8="}, "t_bytes": {"b64": "//8="}, "n": 2},
        ]
    }


def test_an_output_filter_drops_outputs(door: Door) -> None:
    assert error(door.predict("total", {"instances": [1, 2]}), 400) == "Tensor name: sum has no shape information "
    assert door.predict("total", {"instances": [1, 2], "output_filter": ["y"]}).json() == {"predictions": [1.0, 2.0]}
    assert door.predict("total", {"inputs": [1, 2]}).json() == {"outputs": {"y": [1.0, 2.0], "sum": 3.0}}


def test_every_answer_names_its_record(door: Door) -> None:
    for answer in (door.predict("half_plus_two", {"instances": [1]}), door.predict("half_plus_two", {}), door.get("/v1/models")):
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", answer.headers["daybook-record"])
        assert re.fullmatch("[0-9a-f]{64}", answer.headers["daybook-leaf"])
        assert answer.headers["daybook-receipt"]
        assert "commit;dur=" in answer.headers["server-timing"]
        assert answer.headers["traceparent"]


def test_a_trace_goes_on(door: Door) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = door.predict("half_plus_two", {"instances": [1]}, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    found = answer.headers["traceparent"].split("-")
    assert (found[1], found[3]) == (trace, "01")
    assert found[2] == answer.headers["daybook-record"].replace("-", "")[16:]


@pytest.mark.parametrize(
    "traceparent", ["", "00-0-0-0", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-" + "a" * 32 + "-b7ad6b7169203331-01"]
)
def test_a_broken_trace_begins_a_new_one(door: Door, traceparent: str) -> None:
    answer = door.predict("half_plus_two", {"instances": [1]}, headers={"traceparent": traceparent})
    assert answer.headers["traceparent"].split("-")[1] == answer.headers["daybook-record"].replace("-", "")


@pytest.mark.parametrize(
    ("model", "body", "status", "text"),
    [
        ("half_plus_two", b"", 400, "JSON Parse error: The document is empty"),
        ("half_plus_two", b"{]", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        ("half_plus_two", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("half_plus_two", {"signature_name": "other"}, 400, 'Serving signature name: "other" not found in signature def'),
        ("nobody", b"{]", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        ("nobody", {"signature_name": 3}, 400, None),
        ("nobody", {}, 404, "Servable not found for request: Latest(nobody)"),
        ("half_plus_two/versions/9", {}, 404, "Servable not found for request: Specific(half_plus_two, 9)"),
        ("half_plus_two/labels/none", {}, 400, "Unrecognized servable version label: none"),
        ("nobody/labels/none", {}, 400, "Unrecognized servable version label: none"),
        ("half_plus_two/versions/99999999999999999999", {}, 400, "Failed to convert version: 99999999999999999999 to numeric."),
        ("picky", {"instances": [-1]}, 400, "x must not be negative [[{{node picky}}]]"),
        ("broken", {"instances": [1]}, 500, "the kernel failed"),
    ],
)
def test_refusals_come_in_the_reference_order(door: Door, model: str, body: Any, status: int, text: str | None) -> None:
    found = error(door.predict(model, body), status)
    assert text is None or found == text


def test_one_bad_input_fails_alone(door: Door) -> None:
    assert error(door.predict("picky", {"instances": [1, -1]}), 400)
    assert door.predict("picky", {"instances": [1]}).json() == {"predictions": [1.0]}


def test_classify_and_regress_say_that_they_are_not_there(door: Door) -> None:
    for verb in ("classify", "regress"):
        answer = door.http.post(f"/v1/models/half_plus_two:{verb}", json={}, headers={"X-API-Key": "dbk_00000001_all"})
        assert verb in error(answer, 501)


def test_a_deadline_is_kept(door: Door) -> None:
    answer = door.predict("slow", {"instances": [1.5]}, headers={"Daybook-Timeout-Ms": "150"})
    assert "eadline" in error(answer, 504)
    assert answer.elapsed.total_seconds() < 1.0
    assert answer.headers["daybook-error"] == "DEADLINE_EXCEEDED"
