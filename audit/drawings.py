"""Requests and answers drawn as people look at them: pixels as an image, scores as bars, named fields as a list. Pure.

A drawing is a guess from the form of the values alone (the record holds no schema), so the raw body always stands beside it. What
no rule knows is not drawn.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .charts import Bar, label_bars

MAX_ROWS = 4
MAX_BARS = 12
BARS_BESIDE_OTHERS = 3  # of one row among several: the likeliest
MAX_IMAGE_SIDE = 64
MAX_FIELDS = 40


@dataclass(frozen=True, slots=True)
class Pixel:
    x: int
    y: int
    ink: str  # fill-opacity, 0 to 1


@dataclass(frozen=True, slots=True)
class Picture:
    """A grey image as ink on paper: `width` × `height` cells, those without ink left out."""

    width: int
    height: int
    pixels: tuple[Pixel, ...]
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """One of: a picture, bars, fields by name, numbers in a row, text."""

    name: str = ""
    picture: Picture | None = None
    bars: tuple[Bar, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One instance and its answer."""

    number: int
    request: tuple[Drawing, ...]
    response: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    rows: tuple[Row, ...]
    num_rows: int  # all of them; at most `MAX_ROWS` are drawn


def draw_exchange(request: bytes | None, response: bytes | None) -> Exchange | None:
    """Pair instances with predictions and draw both. None when neither is JSON of a known form."""
    asked, answered = _instances(_json(request)), _predictions(_json(response))
    if not asked and not answered:
        return None
    num_rows = max(len(asked), len(answered))
    rows = []
    for place in range(min(num_rows, MAX_ROWS)):
        request_drawings = _draw(asked[place], is_answer=False) if place < len(asked) else ()
        response_drawings = _draw(answered[place], is_answer=True) if place < len(answered) else ()
        if num_rows > 1:
            response_drawings = tuple(replace(drawing, bars=likeliest(drawing.bars)) for drawing in response_drawings)
        if request_drawings or response_drawings:
            rows.append(Row(place + 1, request_drawings, response_drawings))
    return Exchange(tuple(rows), num_rows) if rows else None


def likeliest(bars: tuple[Bar, ...]) -> tuple[Bar, ...]:
    """The few highest, where a row isn't alone."""
    return tuple(sorted(bars, key=lambda bar: -float(bar.percent))[:BARS_BESIDE_OTHERS])


def _json(body: bytes | None) -> Any:
    if not body or len(body) > 4_000_000:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _instances(value: Any) -> Sequence[Any]:
    """TensorFlow Serving's row and column forms, classify and regress, and the Open Inference Protocol."""
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("instances"), list):
        return list(value["instances"])
    if isinstance(value.get("examples"), list):
        return list(value["examples"])
    inputs = value.get("inputs")
    if isinstance(inputs, list) and inputs and all(isinstance(item, dict) and "data" in item for item in inputs):
        return _rows_of_tensors(inputs)
    return _columns(inputs)


def _predictions(value: Any) -> Sequence[Any]:
    if not isinstance(value, dict):
        return []
    for name in ("predictions", "results"):
        if isinstance(value.get(name), list):
            return list(value[name])
    outputs = value.get("outputs")
    if isinstance(outputs, list) and outputs and all(isinstance(item, dict) and "data" in item for item in outputs):
        return _rows_of_tensors(outputs)
    return _columns(outputs)


def _columns(value: Any) -> Sequence[Any]:
    """`{"x": [[…], […]], "y": […]}` → one dict per row; a bare list is its rows."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value or not all(isinstance(column, list) for column in value.values()):
        return []
    lengths = {len(column) for column in value.values()}
    if len(lengths) != 1:
        return [value]
    return [{name: column[place] for name, column in value.items()} for place in range(lengths.pop())]


def _rows_of_tensors(tensors: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    """Version 2 tensors with a shape and flat (or nested) data."""
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        data, shape = tensor["data"], tensor.get("shape")
        if not isinstance(data, list) or not isinstance(shape, list) or not shape:
            return []
        flat = _flattened(data)
        rows = shape[0]
        if not isinstance(rows, int) or rows < 1 or len(flat) % rows:
            return []
        width = len(flat) // rows
        columns[str(tensor.get("name", ""))] = [
            flat[place * width : (place + 1) * width] if width > 1 else flat[place] for place in range(rows)
        ]
    if len({len(column) for column in columns.values()}) != 1:
        return []
    if len(columns) == 1:
        return next(iter(columns.values()))
    return _columns(columns)


def _flattened(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in _flattened(item)]


def _draw(value: Any, *, is_answer: bool) -> tuple[Drawing, ...]:
    if isinstance(value, dict):
        drawn = []
        plain = []
        for name, item in list(value.items())[:MAX_FIELDS]:
            if isinstance(item, str | int | float | bool) or item is None:
                plain.append((str(name), _scalar(item)))
            elif isinstance(item, list) and len(item) == 1 and not isinstance(item[0], list | dict):
                plain.append((str(name), _scalar(item[0])))
            else:
                drawn += [Drawing(str(name), one.picture, one.bars, one.fields, one.text) for one in _draw(item, is_answer=is_answer)]
        return (*((Drawing(fields=tuple(plain)),) if plain else ()), *drawn)
    if isinstance(value, list):
        return _draw_list(value, is_answer=is_answer)
    return (Drawing(text=_scalar(value)),)


def _draw_list(value: list[Any], *, is_answer: bool) -> tuple[Drawing, ...]:
    if scores := _labelled_scores(value):
        return (Drawing(bars=_bars(scores)),)
    is_flat = not (value and isinstance(value[0], list))
    # An answer's flat list of 64 or 100 numbers is as likely a score for each class.
    if not (is_answer and is_flat) and (picture := find_picture(value)):
        return (Drawing(picture=picture),)
    numbers = value if value and all(_is_number(item) for item in value) else None
    if numbers and is_answer and len(numbers) > 1:
        return (Drawing(bars=_bars([(str(place), float(number)) for place, number in enumerate(numbers)])),)
    if numbers:
        shown = ", ".join(_scalar(number) for number in numbers[:24])
        return (Drawing(text=shown + (f", … {len(numbers)} in all" if len(numbers) > 24 else "")),)
    if value and all(isinstance(item, str) for item in value):
        return (Drawing(text=" ".join(value[:200])),)
    return ()


def _labelled_scores(value: list[Any]) -> list[tuple[str, float]]:
    """classify's `[["cat", 0.9], ["dog", 0.1]]`."""
    pairs = [item for item in value if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and _is_number(item[1])]
    return [(str(label), float(score)) for label, score in pairs] if value and len(pairs) == len(value) else []


def _bars(scores: list[tuple[str, float]]) -> tuple[Bar, ...]:
    """The highest first where there are too many to see at once. Shares of one are drawn on a scale of one; negative values as text."""
    if any(not math.isfinite(score) or score < 0 for _, score in scores):
        return tuple(
            Bar(label, "0", _scalar(score), is_top=score == max(value for _, value in scores)) for label, score in scores[:MAX_BARS]
        )
    if len(scores) > MAX_BARS:
        scores = sorted(scores, key=lambda item: -item[1])[:MAX_BARS]
    whole = 1.0 if all(score <= 1.0 for _, score in scores) else None
    return tuple(label_bars(scores, whole=whole, digits=3 if whole else None))


def find_picture(value: list[Any]) -> Picture | None:
    """A grid of 8 × 8 to 64 × 64 numbers: rows of numbers, the same with one channel, or a flat list with a square length."""
    grid: list[list[float]] | None = None
    if len(value) >= 8 and all(isinstance(row, list) for row in value):
        if len({len(row) for row in value}) == 1 and len(value[0]) >= 8:
            cells = [[cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in row] for row in value]
            grid = cells if all(_is_number(cell) for row in cells for cell in row) else None
    elif len(value) >= 64 and all(_is_number(item) for item in value):
        side = math.isqrt(len(value))
        grid = [value[row * side : (row + 1) * side] for row in range(side)] if side * side == len(value) else None
    if grid is None or len(grid) > MAX_IMAGE_SIDE or len(grid[0]) > MAX_IMAGE_SIDE:
        return None
    low, high = min(min(row) for row in grid), max(max(row) for row in grid)
    if not (math.isfinite(low) and math.isfinite(high)) or low == high:
        return None
    pixels = tuple(
        Pixel(x, y, f"{ink:.2f}")
        for y, row in enumerate(grid)
        for x, cell in enumerate(row)
        if (ink := (cell - low) / (high - low)) >= 0.02
    )
    return Picture(len(grid[0]), len(grid), pixels, _scalar(low), _scalar(high))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)[:500]
