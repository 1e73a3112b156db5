"""JSON Schemas (2020-12) of what a signature takes and gives, in TensorFlow Serving's row and column forms. Pure."""

from collections.abc import Mapping
from typing import Any

from catalog.signatures import DEFAULT_SIGNATURE, Signature, TensorSpec

Schema = dict[str, Any]

_FLOAT_FORMATS = {"DT_FLOAT": "float", "DT_DOUBLE": "double"}


def element(spec: TensorSpec) -> Schema:
    """One element of a tensor."""
    match spec.kind:
        case "float":
            return {"type": "number", "format": _FLOAT_FORMATS.get(spec.dtype, spec.type_name)}
        case "integer":
            low, high = spec.integer_range
            return {"type": "integer", "format": spec.type_name, "minimum": low, "maximum": high}
        case "boolean":
            return {"type": "boolean"}
        case "string":
            return {"$ref": "#/components/schemas/String"}
        case _:
            return {"description": f"{spec.type_name} has no JSON form"}


def any_rank_name(spec: TensorSpec) -> str:
    return f"AnyRank.{spec.type_name}"


def any_rank(spec: TensorSpec) -> Schema:
    """One value, or a list of what is left open.

    A schema that refers to itself through `items` would say more, but openapi-spec-validator 0.9 recurses on it without end.
    """
    return {
        "description": f"A {spec.type_name} tensor of any rank: one value, or equally long lists to any depth.",
        "anyOf": [element(spec), {"type": "array"}],
    }


def tensor(spec: TensorSpec, shape: tuple[int, ...] | None) -> Schema:
    """Nested lists of `shape`; known dimensions fix the length."""
    if shape is None:
        return {"$ref": f"#/components/schemas/{any_rank_name(spec)}"}
    schema = element(spec)
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def row(spec: TensorSpec) -> Schema:
    """One row of a tensor whose dimension 0 is the rows'."""
    return tensor(spec, None if spec.shape is None else spec.shape[1:])


def named(spec: TensorSpec, schema: Schema) -> Schema:
    """`schema` with the tensor's dtype and whole shape in words."""
    words = f"{spec.type_name} {spec.shape_text}"
    return schema | {"description": words} if "$ref" not in schema else {"description": words, "allOf": [schema]}


def instances(signature: Signature) -> Schema:
    """The list under `instances`. Only for signatures with `rows`."""
    if len(signature.inputs) == 1:
        [(name, spec)] = signature.inputs.items()
        item = named(spec, row(spec))
        items: Schema = {"anyOf": [item, _object({name: row(spec)}, required=[name], closed=True)]}
    else:
        items = _object(
            {name: named(spec, row(spec)) for name, spec in signature.inputs.items()}, required=list(signature.inputs), closed=True
        )
    schema: Schema = {"type": "array", "minItems": 1, "items": items, "description": "One element a row."}
    if signature.rows is not None and signature.rows >= 0:
        schema |= {"minItems": signature.rows, "maxItems": signature.rows}
    return schema


def columns(signature: Signature) -> Schema:
    """The value under `inputs`."""
    required = [name for name in signature.inputs if name not in signature.defaults]
    by_name = _object(
        {name: named(spec, tensor(spec, spec.shape)) for name, spec in signature.inputs.items()}, required=required, closed=False
    )
    if len(signature.inputs) > 1:
        return by_name
    [spec] = signature.inputs.values()
    return {"anyOf": [named(spec, tensor(spec, spec.shape)), by_name]}


def request(name: str, signature: Signature, *, row_form: bool) -> Schema:
    """A whole predict body for one signature in one form."""
    key, value = ("instances", instances(signature)) if row_form else ("inputs", columns(signature))
    other = "inputs" if row_form else "instances"
    required = [key]
    if name == DEFAULT_SIGNATURE:
        chosen: Schema = {"type": "string", "enum": [DEFAULT_SIGNATURE, ""], "default": DEFAULT_SIGNATURE}
    else:
        chosen = {"type": "string", "const": name}
        required.append("signature_name")
    return {
        "type": "object",
        "title": f"{name}, {'row' if row_form else 'column'} form",
        "properties": {"signature_name": chosen, key: value},
        "required": sorted(required),
        "not": {"required": [other]},
    }


def answer(name: str, signature: Signature, *, row_form: bool) -> Schema:
    """The answer to `request` of the same arguments."""
    outputs = signature.outputs
    if row_form:
        key = "predictions"
        if len(outputs) == 1:
            [spec] = outputs.values()
            items = named(spec, row(spec))
        else:
            items = _object({name: named(spec, row(spec)) for name, spec in outputs.items()}, required=list(outputs), closed=True)
        value: Schema = {"type": "array", "items": items, "description": "One element a row, in the order asked."}
    else:
        key = "outputs"
        if len(outputs) == 1:
            [spec] = outputs.values()
            value = named(spec, tensor(spec, spec.shape))
        else:
            value = _object(
                {name: named(spec, tensor(spec, spec.shape)) for name, spec in outputs.items()}, required=list(outputs), closed=True
            )
    return {
        "type": "object",
        "title": f"{name}, answer to the {'row' if row_form else 'column'} form",
        "properties": {key: value},
        "required": [key],
    }


def _object(properties: Mapping[str, Schema], *, required: list[str], closed: bool) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = sorted(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def common() -> dict[str, Schema]:
    """Schemas that every description carries."""
    states = ["START", "LOADING", "AVAILABLE", "UNLOADING", "END", "UNKNOWN"]
    status = _object(
        {
            "version": {"type": "string", "pattern": "^[0-9]+$"},
            "state": {"type": "string", "enum": states},
            "status": _object(
                {"error_code": {"type": "string"}, "error_message": {"type": "string"}},
                required=["error_code", "error_message"],
                closed=False,
            ),
        },
        required=["version", "state", "status"],
        closed=False,
    )
    return {
        "Error": _object({"error": {"type": "string"}}, required=["error"], closed=False),
        "String": {
            "description": "Text, or bytes as base64.",
            "anyOf": [
                {"type": "string"},
                _object({"b64": {"type": "string", "contentEncoding": "base64"}}, required=["b64"], closed=True),
            ],
        },
        "ModelStatus": _object(
            {"model_version_status": {"type": "array", "items": status}}, required=["model_version_status"], closed=False
        ),
        "ModelMetadata": _object(
            {
                "model_spec": _object(
                    {"name": {"type": "string"}, "signature_name": {"type": "string"}, "version": {"type": "string"}},
                    required=["name", "version"],
                    closed=False,
                ),
                "metadata": _object({"signature_def": {"type": "object"}}, required=["signature_def"], closed=False),
            },
            required=["model_spec", "metadata"],
            closed=False,
        ),
        "ModelList": _object(
            {"models": {"type": "array", "items": {"type": "object"}}},
            required=["models"],
            closed=False,
        ),
    }
