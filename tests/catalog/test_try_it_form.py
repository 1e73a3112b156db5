from typing import Any

from catalog.signatures import Signature, TensorSpec
from catalog.try_it import Field, Form, make_form

from .factories import DIGITS, HALF_PLUS_TWO, signature, spec


def form(each: Signature, **hints: Any) -> Form:
    made = make_form("serving_default", each, **{"feature_names": {}, "image_range": [], "example": None, **hints})
    assert made is not None
    return made


def only_field(each: Signature, **hints: Any) -> Field:
    [field] = form(each, **hints).fields
    return field


def one(*shape: int, dtype: str = "DT_FLOAT", name: str = "x") -> Signature:
    return signature({name: spec(*shape, dtype=dtype)}, {"y": spec(-1)})


def test_small_pictures_are_drawn() -> None:
    field = only_field(DIGITS["serving_default"], image_range=[16, 0])
    assert field.widget == "draw"
    assert field.picture is not None
    assert (field.picture.height, field.picture.width, field.picture.black, field.picture.white, field.picture.flat) == (8, 8, 16, 0, False)
    assert field.row_shape == (8, 8)


def test_flat_pictures_are_drawn_when_their_range_is_stated() -> None:
    flat = only_field(one(-1, 64), image_range=[16, 0])
    assert flat.widget == "draw"
    assert flat.picture is not None
    assert flat.picture.flat
    assert only_field(one(-1, 64)).widget == "json"
    assert only_field(one(-1, 784, name="pixels")).widget == "draw"


def test_colour_pictures_are_chosen_from_a_file() -> None:
    field = only_field(one(-1, 96, 96, 3, dtype="DT_UINT8"))
    assert field.widget == "picture"
    assert field.picture is not None
    assert (field.picture.black, field.picture.white) == (0, 255)


def test_numbers_may_be_several_rows() -> None:
    field = only_field(HALF_PLUS_TWO["serving_default"], example={"instances": [[1.0], [2.0]]})
    assert (field.widget, field.many, field.row_shape, field.initial) == ("numbers", True, (1,), [1.0])


def test_several_inputs_are_one_row_each() -> None:
    made = form(
        signature({"age": spec(-1), "name": spec(-1, dtype="DT_STRING"), "new": spec(-1, dtype="DT_BOOL")}, {"y": spec(-1)}),
        example={"instances": [{"age": 40.0, "name": "x", "new": True}]},
    )
    assert [(field.name, field.widget, field.many, field.initial) for field in made.fields] == [
        ("age", "numbers", False, 40.0),
        ("name", "text", False, "x"),
        ("new", "choice", False, True),
    ]


def test_short_vectors_get_their_names() -> None:
    assert only_field(one(-1, 2), feature_names={"x": ["height", "weight"]}).names == ("height", "weight")
    assert only_field(one(-1, 2), feature_names={"x": ["height"]}).names == ("0", "1")
    assert only_field(one(-1, 41)).widget == "json"


def test_examples_and_unknown_shapes() -> None:
    regress = signature({"inputs": spec(-1, dtype="DT_STRING")}, {"outputs": spec(-1)}, "tensorflow/serving/regress")
    assert only_field(regress).widget == "example"
    assert only_field(signature({"x": TensorSpec("DT_FLOAT", None)}, {"y": TensorSpec("DT_FLOAT", None)})).widget == "json"


def test_no_rows_means_columns() -> None:
    made = form(signature({"x": spec(-1, 3)}, {"mean": spec()}), example={"inputs": {"x": [[1, 2, 3]]}})
    assert not made.rows
    assert made.fields[0].widget == "json"


def test_what_has_no_json_form_has_no_form() -> None:
    assert make_form("s", one(-1, dtype="DT_COMPLEX64"), feature_names={}, image_range=[], example=None) is None
    assert make_form("s", signature({}, {"y": spec(1)}), feature_names={}, image_range=[], example=None) is None


def test_outputs_say_which_are_one_value_a_row() -> None:
    outputs = {output.name: (output.kind, output.is_scalar) for output in form(DIGITS["serving_default"]).outputs}
    assert outputs == {"scores": ("float", False), "class": ("integer", True)}
