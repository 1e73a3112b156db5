"""Example bodies made from a signature, for models whose owner gave none. Pure."""

import math
from typing import Any

from catalog.signatures import DEFAULT_SIGNATURE, Signature, TensorSpec

MAX_ELEMENTS = 4096  # longer examples would drown the document; the owner's own examples are not limited
_FREE_DIMENSION = 3  # for unknown dimensions other than the rows


def request_example(name: str, signature: Signature, *, row_form: bool) -> dict[str, Any] | None:
    """A body with the right names, dtypes and shapes, or None when none can be made that is sure to be well formed.

    None for serialized `tf.Example` inputs (an empty one lacks the features that the graph asks for) and for tensors of more
    than MAX_ELEMENTS elements.
    """
    if not signature.callable_as_json or takes_examples(signature):
        return None
    if row_form and not signature.rows:  # no common dimension 0, or one that is 0: an empty list of rows is refused
        return None
    num_rows = signature.rows if signature.rows is not None and signature.rows > 0 else 1
    values: dict[str, Any] = {}
    for alias, spec in signature.inputs.items():
        shape = _concrete(spec, num_rows)
        if math.prod(shape) > MAX_ELEMENTS:
            return None
        values[alias] = _fill(spec, shape)
    body: dict[str, Any] = {} if name == DEFAULT_SIGNATURE else {"signature_name": name}
    if row_form:
        rows = [{alias: value[i] for alias, value in values.items()} for i in range(num_rows)]
        body["instances"] = [next(iter(r.values())) for r in rows] if len(values) == 1 else rows
    else:
        body["inputs"] = next(iter(values.values())) if len(values) == 1 else values
    return body


def takes_examples(signature: Signature) -> bool:
    """Whether its one input is a list of serialized `tf.Example`s, as classify and regress signatures have it."""
    if len(signature.inputs) != 1:
        return False
    [(alias, spec)] = signature.inputs.items()
    by_method = signature.method_name.rpartition("/")[2] in {"classify", "regress"}
    by_name = alias in {"examples", "inputs"} and "example" in spec.name.lower()
    return spec.kind == "string" and spec.shape is not None and len(spec.shape) == 1 and (by_method or by_name)


def _concrete(spec: TensorSpec, num_rows: int) -> tuple[int, ...]:
    if spec.shape is None:
        return (num_rows,)
    return tuple(size if size >= 0 else (num_rows if place == 0 else _FREE_DIMENSION) for place, size in enumerate(spec.shape))


def _fill(spec: TensorSpec, shape: tuple[int, ...]) -> Any:
    if shape:
        return [_fill(spec, shape[1:]) for _ in range(shape[0])]
    return {"float": 0.5, "integer": 1, "boolean": True, "string": "text"}[spec.kind]
