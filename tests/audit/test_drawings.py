"""What is drawn of requests and answers, from their form alone; what no rule knows is left alone."""

import json
from typing import Any

import pytest

from audit.drawings import MAX_ROWS, Drawing, draw_exchange, find_picture


def exchange(request: Any, response: Any = None) -> Any:
    found = draw_exchange(json.dumps(request).encode(), None if response is None else json.dumps(response).encode())
    assert found is not None
    return found


def first(request: Any, response: Any = None) -> Any:
    return exchange(request, response).rows[0]


IMAGE = [[float((x + y) % 17) for x in range(8)] for y in range(8)]


@pytest.mark.parametrize(
    "request_body",
    [
        {"instances": [IMAGE]},
        {"instances": [[cell for row in IMAGE for cell in row]]},
        {"instances": [{"image": IMAGE}]},
        {"inputs": {"image": [IMAGE]}},
        {"inputs": [IMAGE]},
        {"instances": [[[[cell] for cell in row] for row in IMAGE]]},
        {"inputs": [{"name": "image", "shape": [1, 8, 8], "datatype": "FP32", "data": [cell for row in IMAGE for cell in row]}]},
    ],
)
def test_a_picture_is_found_in_every_form_of_request(request_body: Any) -> None:
    [drawing] = first(request_body).request
    assert (drawing.picture.width, drawing.picture.height) == (8, 8)
    darkest = next(pixel for pixel in drawing.picture.pixels if pixel.ink == "1.00")
    assert IMAGE[darkest.y][darkest.x] == max(map(max, IMAGE))


def test_scores_are_bars_on_a_scale_of_one() -> None:
    [drawing] = first({"instances": [[1.0]]}, {"predictions": [[0.1, 0.7, 0.2]]}).response
    assert [(bar.label, bar.percent, bar.text, bar.is_top) for bar in drawing.bars] == [
        ("0", "10.00", "0.100", False),
        ("1", "70.00", "0.700", True),
        ("2", "20.00", "0.200", False),
    ]


def test_classify_results_keep_their_labels() -> None:
    [drawing] = first({"examples": [{"x": 1.0}]}, {"results": [[["cat", 0.9], ["dog", 0.1]]]}).response
    assert [(bar.label, bar.is_top) for bar in drawing.bars] == [("cat", True), ("dog", False)]


def test_many_scores_show_the_highest() -> None:
    [drawing] = first({"instances": [[1.0]]}, {"predictions": [[number / 5000 for number in range(100)]]}).response
    assert [bar.label for bar in drawing.bars][:2] == ["99", "98"]


def test_named_fields_are_a_list_and_text_is_text() -> None:
    [drawing] = first({"instances": [{"age": 27, "employed": True, "note": None}]}).request
    assert drawing.fields == (("age", "27"), ("employed", "true"), ("note", "null"))
    assert first({"instances": ["Shall I compare"]}).request == (Drawing(text="Shall I compare"),)


def test_rows_are_paired_with_their_answers_and_counted() -> None:
    found = exchange({"instances": list(range(20))}, {"predictions": [0.5 * x + 2 for x in range(20)]})
    assert found.num_rows == 20
    assert len(found.rows) == MAX_ROWS
    assert [(row.request[0].text, row.response[0].text) for row in found.rows[:2]] == [("0", "2"), ("1", "2.5")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"instances": 3}',
        b'{"instances": []}',
        b"\xff\xfe",
        b'{"a": 1}',
        b"[" * 100_000,
        b'{"inputs": {"a": 1}}',
    ],
)
def test_what_has_no_known_form_is_not_drawn(body: bytes) -> None:
    assert draw_exchange(body, body) is None


def test_numbers_that_json_does_not_know_are_survived() -> None:
    [drawing] = first({"instances": [[1.0]]}, {"predictions": [[float("nan"), float("inf"), 1.0]]}).response
    assert len(drawing.bars) == 3
    assert find_picture([float("nan")] * 64) is None


@pytest.mark.parametrize("value", [[1.0] * 63, [1.0] * 64, [[1.0] * 8] * 7, [[1.0] * 8] * 7 + [[1.0] * 7], [[0.0] * 100] * 100])
def test_only_squares_of_a_size_that_can_be_seen_are_pictures(value: Any) -> None:
    assert find_picture(value) is None
