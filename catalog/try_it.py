"""The try-it form of a signature: which widget each input gets, and what it starts with. Pure.

The form asks for one row; what the browser sends is built from the same values by `static/js/try-it.js`, in row form where the
signature has rows, otherwise in column form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .openapi.examples import takes_examples
from .openapi.tagging import input_modality
from .signatures import Signature, TensorSpec

Widget = Literal["draw", "picture", "numbers", "vector", "text", "choice", "example", "json"]
MAX_FIELDS = 40  # numbers beside each other; wider vectors are typed as JSON
_MAX_DRAWN = 64  # pixels a side


@dataclass(frozen=True, slots=True)
class Picture:
    """An input that is a picture: its size, channels, and which numbers black and white are."""

    height: int
    width: int
    channels: int  # 0: the tensor has no channel dimension
    black: float
    white: float
    flat: bool  # the row is one vector of height * width numbers


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    widget: Widget
    kind: str  # "float", "integer", "boolean", "string"
    type_text: str  # "float32 [n, 8, 8]"
    row_shape: tuple[int, ...] | None  # without the rows' dimension; None for unknown rank
    many: bool  # several rows may be typed at once, separated by commas
    names: tuple[str, ...] = ()  # of the numbers of a vector
    picture: Picture | None = None
    initial: Any = None  # a row's value


@dataclass(frozen=True, slots=True)
class Output:
    """What the drawing of an answer wants to know of an output."""

    name: str
    kind: str
    is_scalar: bool  # one value a row


@dataclass(frozen=True, slots=True)
class Form:
    signature: str
    rows: bool  # send `instances`; otherwise `inputs`
    fields: tuple[Field, ...]
    outputs: tuple[Output, ...]


def make_form(
    name: str,
    signature: Signature,
    *,
    feature_names: Mapping[str, Sequence[str]],
    image_range: Sequence[float],
    example: Mapping[str, Any] | None,
) -> Form | None:
    """The form of one signature, filled from `example` (a predict body for it), or None when it can't be asked in JSON."""
    if not signature.callable_as_json:
        return None
    rows = signature.rows is not None and signature.rows in {-1, 1}
    first = _first_row(signature, example) if example is not None else {}
    alone = len(signature.inputs) == 1
    fields = tuple(
        _field(
            alias,
            spec,
            rows=rows,
            alone=alone,
            names=tuple(feature_names.get(alias, ())),
            image_range=image_range,
            opaque=takes_examples(signature),
            initial=first.get(alias),
        )
        for alias, spec in signature.inputs.items()
    )
    outputs = tuple(
        Output(alias, spec.kind, spec.shape is not None and math.prod(spec.shape[1:] if rows else spec.shape) == 1)
        for alias, spec in signature.outputs.items()
    )
    return Form(signature=name, rows=rows, fields=fields, outputs=outputs)


def _field(
    alias: str,
    spec: TensorSpec,
    *,
    rows: bool,
    alone: bool,
    names: tuple[str, ...],
    image_range: Sequence[float],
    opaque: bool,
    initial: Any,
) -> Field:
    shape = spec.shape[1:] if rows and spec.shape else spec.shape
    picture = _picture(alias, spec, image_range) if rows else None
    widget: Widget = "json"
    many = False
    if picture is not None:
        widget = "draw" if is_drawn(picture.height, picture.width, picture.channels) else "picture"
    elif opaque and rows:
        widget = "example"
    elif opaque or shape is None or any(size < 0 for size in shape):
        widget = "json"
    elif math.prod(shape) == 1:
        many = alone and rows and spec.kind in {"float", "integer"}
        widget = "text" if spec.kind == "string" else "choice" if spec.kind == "boolean" else "numbers"
    elif len(shape) == 1 and shape[0] <= MAX_FIELDS and spec.kind in {"float", "integer"}:
        widget = "vector"
        names = names if len(names) == shape[0] else tuple(str(place) for place in range(shape[0]))
    return Field(
        name=alias,
        widget=widget,
        kind=spec.kind,
        type_text=f"{spec.type_name} {spec.shape_text}",
        row_shape=shape,
        many=many,
        names=names if widget == "vector" else (),
        picture=picture,
        initial=initial,
    )


def _picture(alias: str, spec: TensorSpec, image_range: Sequence[float]) -> Picture | None:
    if spec.shape is None or spec.kind not in {"float", "integer"}:
        return None
    declared = len(image_range) == 2
    flat = len(spec.shape) == 2
    if input_modality(alias, spec) != "image" and not (declared and flat and _is_square(spec.shape[1])):
        return None
    if flat:
        height = width = math.isqrt(spec.shape[1])
        channels = 0
    else:
        height, width = spec.shape[1], spec.shape[2]
        channels = spec.shape[3] if len(spec.shape) == 4 else 0
        if height < 0 or width < 0:
            return None
    full = 255.0 if spec.kind == "integer" else 1.0
    # Data sets of handwriting store ink as the large number, photographs store light as it.
    usual = (full, 0.0) if is_drawn(height, width, channels) else (0.0, full)
    black, white = (float(image_range[0]), float(image_range[1])) if declared else usual
    return Picture(height, width, channels, black, white, flat)


def is_drawn(height: int, width: int, channels: int) -> bool:
    """Whether a person can make such a picture with a pen: small, in shades of one ink."""
    return channels <= 1 and max(height, width) <= _MAX_DRAWN


def _is_square(size: int) -> bool:
    return size >= 16 and math.isqrt(size) ** 2 == size


def _first_row(signature: Signature, body: Mapping[str, Any]) -> dict[str, Any]:
    """The first row of a predict body by input; empty when the body isn't in a form that has one."""
    alone = next(iter(signature.inputs)) if len(signature.inputs) == 1 else None
    rows = body.get("instances")
    if isinstance(rows, list) and rows:
        row = rows[0]
        if isinstance(row, Mapping) and set(row) <= set(signature.inputs):
            return dict(row)
        return {alone: row} if alone is not None else {}
    columns = body.get("inputs")
    if isinstance(columns, Mapping):
        return {name: value[0] if isinstance(value, list) and value else value for name, value in columns.items()}
    if alone is not None and isinstance(columns, list) and columns:
        return {alone: columns[0]}
    return {}
