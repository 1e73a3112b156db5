"""TensorFlow Serving's REST predict: request body → arrays, arrays → answer body.

The reference checks in an order that callers can see (a bad body on an unknown model is 400, an empty object on one is 404), so
decoding has two halves and the caller looks the model up between them:

    parsed = parse_predict(body)                   JSON, `signature_name`
    form = …                                       model (404), signature (`no_such_signature`)
    inputs = decode_inputs(parsed, form)           one of `instances` and `inputs`, tensors
    …
    body = encode_predictions(outputs, …)

Beyond the reference: `output_filter`, defaults in column form, `"inputs": {}` for signatures without inputs, and answers that can't
be put into rows are refused before the model runs where the signature's shapes show it.

Source: https://www.tensorflow.org/tfx/serving/api_rest; TensorFlow Serving, util/json_tensor.cc.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import orjson
import simdjson

from . import json_tensor
from .dtypes import ElementType, element_type
from .errors import ProtocolError
from .json_tensor import Array
from .json_text import debug_text, parse_json

DEFAULT_SIGNATURE: Final = "serving_default"

_FRESH_PARSER_BYTES: Final = 1 << 20  # a parser keeps 14 times the longest text it has seen
_SATURATED: Final = 0xFFFFFF  # simdjson counts elements up to here

_parser = simdjson.Parser()  # owned by the gateway's loop thread


@dataclass(frozen=True, slots=True)
class SignatureForm:
    """What the codec must know of a signature, prepared once per snapshot (`make_form`)."""

    name: str
    inputs: Mapping[str, ElementType]  # sorted by name
    outputs: tuple[str, ...]
    defaults: frozenset[str]  # inputs that may be left out: whoever runs the signature fills them in
    row_sizes: Mapping[str, int | None]  # dimension 0 of outputs where the static shape tells it, None for a scalar
    row_fault: str = ""  # why answers with all outputs can't be rows
    only_input: str = ""  # its name when there is exactly one
    only_type: ElementType | None = None


class ParsedPredict(msgspec.Struct, gc=False):
    """A body between the two halves. `flat` and `shape` are set when the whole tensor is numbers; else `document` is parsed."""

    body: bytes
    signature_name: str
    key: str = ""  # "instances", "inputs"; "" until `document` was looked at
    name: str = ""  # the input's name when `flat` stood inside {"inputs": {name: …}}
    flat: Array | None = None
    shape: tuple[int, ...] = ()
    document: dict[str, Any] | None = None


class Predict(msgspec.Struct, frozen=True, gc=False):
    """A decoded body. `rows`: dimension 0 where all inputs share it, otherwise 0."""

    inputs: dict[str, Array]
    rows: int
    row_form: bool
    output_filter: tuple[str, ...] = ()


def make_form(
    name: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, Sequence[int] | None],
    defaults: Iterable[str] = (),
) -> SignatureForm:
    """inputs: dtype name by input name. outputs: static shape by output name, None for unknown rank, -1 for a free dimension.

    defaults: names of inputs that have one.
    """
    types = {alias: element_type(inputs[alias]) for alias in sorted(inputs)}
    only = next(iter(types)) if len(types) == 1 else ""
    row_sizes = {
        alias: (shape[0] if shape else None) for alias, shape in outputs.items() if shape is not None and (not shape or shape[0] >= 0)
    }
    return SignatureForm(
        name=name,
        inputs=types,
        outputs=tuple(outputs),
        defaults=frozenset(defaults),
        row_sizes=row_sizes,
        row_fault=_find_row_fault(row_sizes),
        only_input=only,
        only_type=types[only] if only else None,
    )


# --- First half -----------------------------------------------------------------------------------------------------------------


def parse_predict(body: bytes) -> ParsedPredict:
    """Raises ProtocolError when the body is no JSON object or `signature_name` no string."""
    return _scan(body) or _parse(body)


def _scan(body: bytes) -> ParsedPredict | None:
    """The fast way: one list of numbers under `instances`, `inputs` or `inputs.<name>`. None: take the other way."""
    global _parser
    try:
        document = (_parser if len(body) <= _FRESH_PARSER_BYTES else simdjson.Parser()).parse(body)
        if type(document) is not simdjson.Object or len(document) > 4:
            return None
        key = name = ""
        signature_name: Any = ""
        values: Any = None
        for member in document:
            if member == "instances" or member == "inputs":
                if key:
                    return None
                key, values = member, document[member]
            elif member == "signature_name":
                signature_name = document[member]
                if type(signature_name) is not str:
                    return None
            elif member == "output_filter":
                return None
        if key == "inputs" and type(values) is simdjson.Object and len(values) == 1:
            name = next(iter(values))
            values = values[name]
        if type(values) is not simdjson.Array:
            return None
        found = _flatten(body, values)
        return None if found is None else ParsedPredict(body, signature_name, key, name, *found)
    except RuntimeError:  # too deep; or proxies of an earlier text are still alive in somebody's traceback
        _parser = simdjson.Parser()
        return None
    except (ValueError, TypeError, IndexError, KeyError):  # not strict JSON; or not all numbers
        return None


def _flatten(body: bytes, values: Any) -> tuple[Array, tuple[int, ...]] | None:
    flat = np.frombuffer(values.as_buffer(of_type="d"), np.float64)
    shape = []
    first = values
    while type(first) is simdjson.Array:
        size = len(first)
        shape.append(size)
        if not size or size == _SATURATED or len(shape) == json_tensor.MAX_RANK:
            return None
        first = first[0]
    if len(flat) != math.prod(shape):
        return None
    region = body[body.index(b"[") : body.rindex(b"]") + 1]
    return (flat, tuple(shape)) if json_tensor.has_structure(region, shape) else None


def _parse(body: bytes) -> ParsedPredict:
    document = parse_json(body)
    if type(document) is not dict:
        raise ProtocolError(f"JSON Value: {debug_text(document)} Is not object")
    signature_name = document.get("signature_name", "")
    if type(signature_name) is not str:
        raise ProtocolError(f"JSON Value: {debug_text(document)} not formatted correctly. 'signature_name' key must be a string value.")
    return ParsedPredict(body, signature_name, document=document)


# --- Second half ----------------------------------------------------------------------------------------------------------------


def no_such_signature(name: str) -> ProtocolError:
    """What REST says; gRPC and classify have texts of their own."""
    return ProtocolError(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')


def decode_inputs(parsed: ParsedPredict, form: SignatureForm) -> Predict:
    """Raises ProtocolError with the reference's text. Row-form requests whose outputs can't be rows are refused here already."""
    if parsed.flat is not None:
        element = form.only_type
        if element is not None and element.kind == "float" and (not parsed.name or parsed.name == form.only_input):
            row_form = parsed.key == "instances"
            if row_form and form.row_fault:
                raise ProtocolError(form.row_fault)
            array = json_tensor.convert_numbers(parsed.flat, parsed.shape, element)
            return Predict({form.only_input: array}, array.shape[0], row_form)
        parsed.document = parse_json(parsed.body)  # integers must be told from 1.0, and errors quote the values
    document = parsed.document
    assert document is not None
    if not form.inputs and document.get("inputs") != {}:
        raise ProtocolError(f"Failed to get input map for signature: {parsed.signature_name or 'DEFAULT'}")
    return _decode_document(document, form)


def _decode_document(document: dict[str, Any], form: SignatureForm) -> Predict:
    has_rows, has_columns = "instances" in document, "inputs" in document
    if has_rows and has_columns:
        raise ProtocolError(
            f"JSON Value: {debug_text(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if not has_rows and not has_columns:
        raise ProtocolError("Missing 'inputs' or 'instances' key")
    if has_rows:
        instances = document["instances"]
        if type(instances) is not list:
            raise ProtocolError(f"JSON Value: {debug_text(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise ProtocolError(f"JSON Value: {debug_text(document)} No values in 'instances' array")
        inputs = _decode_rows(instances, form)
    else:
        inputs = _decode_columns(document["inputs"], form)
    output_filter = _decode_output_filter(document, form)
    if has_rows:
        check_static_rows(form, output_filter or form.outputs)
    return Predict(inputs, num_rows(inputs), has_rows, output_filter)


def num_rows(inputs: Mapping[str, Array]) -> int:
    sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _decode_output_filter(document: dict[str, Any], form: SignatureForm) -> tuple[str, ...]:
    """Texts of the gRPC door, which has this field."""
    names = document.get("output_filter")
    if names is None:
        return ()
    if type(names) is not list or not all(type(name) is str for name in names):
        raise ProtocolError("'output_filter' key must be a list of strings.")
    for place, name in enumerate(names):
        if name not in form.outputs:
            known = ",".join(sorted(form.outputs))
            raise ProtocolError(f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{known}}}.")
        if name in names[:place]:
            raise ProtocolError(f"duplicate output tensor alias: {name}")
    return tuple(names)


def _is_row_object(value: Any) -> bool:
    return type(value) is dict and not json_tensor.is_base64(value)


def _has_row_object(rows: list[Any]) -> bool:
    return dict in set(map(type, rows)) and any(map(_is_row_object, rows))


def _decode_rows(instances: list[Any], form: SignatureForm) -> dict[str, Array]:
    names = form.inputs.keys()
    if len(names) > 1 and not _is_row_object(instances[0]):
        raise ProtocolError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"
        )
    try:
        if not _is_row_object(instances[0]):
            if _has_row_object(instances):
                raise _row_fault(instances, form)
            return {form.only_input: json_tensor.decode_tensor(instances, _only(form))}
        if not all(_is_row_object(row) and row.keys() == names for row in instances):
            raise _row_fault(instances, form)
        return {name: json_tensor.decode_tensor([row[name] for row in instances], element) for name, element in form.inputs.items()}
    except ProtocolError:
        raise _row_fault(instances, form) from None


def _only(form: SignatureForm) -> ElementType:
    assert form.only_type is not None
    return form.only_type


def _row_fault(instances: list[Any], form: SignatureForm) -> ProtocolError:
    """The first fault of rows that have one, found in the reference's order: row by row, key by key."""
    rows = _RowWalk(form)
    check = rows.check_object if _is_row_object(instances[0]) else rows.check_plain
    try:
        check(0, instances[0])
        for start in range(1, len(instances), json_tensor.STEP):
            part = instances[start : start + json_tensor.STEP]
            if not rows.are_like_the_first(part):
                for place, row in enumerate(part, start):
                    check(place, row)
    except ProtocolError as error:
        return error
    return ProtocolError("JSON Value: 'instances' holds a number that no element type can hold")


class _RowWalk:
    """Checks rows one after the other; each must have the shape of the first."""

    def __init__(self, form: SignatureForm) -> None:
        self._form = form
        self._by_name = False
        self._seen: dict[str, tuple[int, list[int]]] = {}  # by input: size and shape of the first row

    def are_like_the_first(self, rows: list[Any]) -> bool:
        """Whether these have no fault, found out at C speed. The first row has been checked."""
        names, shapes = self._form.inputs.keys(), {name: (len(rows), *shape) for name, (_, shape) in self._seen.items()}
        if self._by_name:
            if not all(type(row) is dict and row.keys() == names for row in rows):
                return False
            return all(
                json_tensor.is_tensor([row[name] for row in rows], element, shapes[name]) for name, element in self._form.inputs.items()
            )
        return not _has_row_object(rows) and json_tensor.is_tensor(rows, _only(self._form), shapes[self._form.only_input])

    def check_object(self, place: int, row: Any) -> None:
        self._by_name = True
        if not _is_row_object(row):
            raise ProtocolError(f"Expecting object but got list at item {place} of input list")
        for name, value in row.items():
            try:
                self._check_value(name, value)
            except ProtocolError as error:
                raise ProtocolError(
                    f"Failed to process element: {place} key: {name} of 'instances' list. Error: {error.code}: {error.message}"
                ) from None
        if row.keys() != self._form.inputs.keys():
            raise ProtocolError(
                f"Failed to process element: {place} of 'instances' list. JSON object: {debug_text(row)} "
                f"keys must be equal to: {','.join(self._form.inputs)}"
            )

    def check_plain(self, place: int, row: Any) -> None:
        if _is_row_object(row):
            raise ProtocolError(f"Expecting value/list but got object at item {place} of input list")
        try:
            self._check_value(self._form.only_input, row)
        except ProtocolError as error:
            raise ProtocolError(f"Failed to process element: {place} of 'instances' list. Error: {error.code}: {error.message}") from None

    def _check_value(self, name: str, value: Any) -> None:
        element = self._form.inputs.get(name)
        if element is None:
            raise ProtocolError(f"JSON object: does not have named input: {name}")
        size, shape = json_tensor.walk_instance(value, element)
        first_size, first_shape = self._seen.setdefault(name, (size, shape))
        if size != first_size:
            raise ProtocolError(f"Expecting tensor size: {first_size} but got: {size}")
        if shape != first_shape:
            raise ProtocolError(f"Expecting shape {_shape_text(first_shape)} but got: {_shape_text(shape)}")


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _decode_columns(value: Any, form: SignatureForm) -> dict[str, Array]:
    if not _is_row_object(value):
        if len(form.inputs) > 1:
            raise ProtocolError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"
            )
        return {form.only_input: json_tensor.decode_tensor(value, _only(form))}
    inputs = {}
    for name, element in form.inputs.items():
        if name in value:
            inputs[name] = json_tensor.decode_tensor(value[name], element)
        elif name not in form.defaults:
            raise ProtocolError(f"Missing named input: {name} in 'inputs' object.")
    return inputs


# --- Answers --------------------------------------------------------------------------------------------------------------------


def check_static_rows(form: SignatureForm, outputs: Sequence[str]) -> None:
    """Refuse the row form where the signature's own shapes show that its answer has no common dimension 0."""
    fault = _find_row_fault({name: size for name, size in form.row_sizes.items() if name in outputs})
    if fault:
        raise ProtocolError(fault)


def _find_row_fault(sizes: Mapping[str, int | None]) -> str:
    """sizes: dimension 0 of outputs, None for a scalar. Empty when all agree."""
    first: int | None = None
    for name, size in sizes.items():
        if size is None:
            return f"Tensor name: {name} has no shape information "
        if first is not None and size != first:
            return f"Tensor name: {name} has inconsistent batch size: {size} expecting: {first}"
        first = size
    return ""


def encode_predictions(outputs: Mapping[str, Array], *, row_form: bool) -> bytes:
    """The answer's body. Raises ProtocolError when outputs have no common dimension 0 in row form, or a type that JSON lacks."""
    if not outputs:
        raise ProtocolError("Cannot convert empty tensor map to JSON")
    if not row_form:
        return _encode_columns(outputs)
    fault = _find_row_fault({name: (array.shape[0] if array.ndim else None) for name, array in outputs.items()})
    if fault:
        raise ProtocolError(fault)
    if len(outputs) > 1:
        return b'{"predictions":' + _encode_row_objects(outputs) + b"}"
    ((name, array),) = outputs.items()
    return b'{"predictions":' + json_tensor.encode_tensor(array, as_bytes=name.endswith("_bytes")) + b"}"


def _encode_columns(outputs: Mapping[str, Array]) -> bytes:
    texts = [json_tensor.encode_tensor(array, as_bytes=name.endswith("_bytes")) for name, array in outputs.items()]
    if len(texts) == 1:
        return b'{"outputs":' + texts[0] + b"}"
    members = (orjson.dumps(name) + b":" + text for name, text in zip(outputs, texts, strict=True))
    return b'{"outputs":{' + b",".join(members) + b"}}"


def _encode_row_objects(outputs: Mapping[str, Array]) -> bytes:
    names = list(outputs)
    if all(json_tensor.is_finite(array) for array in outputs.values()):
        columns = [json_tensor.json_rows(array, as_bytes=name.endswith("_bytes")) for name, array in outputs.items()]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
    keys = [orjson.dumps(name) + b":" for name in names]
    texts = [
        [json_tensor.encode_tensor(np.asarray(row, array.dtype), as_bytes=name.endswith("_bytes")) for row in array]
        for name, array in outputs.items()
    ]
    rows_text = (b"{" + b",".join(map(bytes.__add__, keys, row)) + b"}" for row in zip(*texts, strict=True))
    return b"[" + b",".join(rows_text) + b"]"
