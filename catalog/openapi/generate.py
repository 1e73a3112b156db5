"""An OpenAPI 3.1 document for one served model, made from what its versions declare.

Pure: the site (`/catalog/<slug>/openapi.json`) and the gateway (`/v1/models/<name>/openapi.json`) call the same function with what
each knows, and an outsider could do so too. Names of components are made safe and unique; model and label names are percent-encoded
in paths. Source of the URL forms, bodies and error texts: TensorFlow Serving's REST API.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from catalog.openapi import examples, responses, schemas
from catalog.signatures import DEFAULT_SIGNATURE, Signature

Access = Literal["open", "key", "subscription"]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallExample:
    """A named predict body that runs as it stands."""

    name: str
    request: Mapping[str, Any]
    note: str = ""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the document says about one model.

    versions: those that can be called now, descending. signatures: of `version`, or of the default version.
    version: describe this one only (paths with this number); None describes the model with all URL forms.
    gateway_url: where the gateway answers, without a trailing slash.
    """

    name: str
    versions: tuple[int, ...]
    labels: Mapping[str, int]
    signatures: Mapping[str, Signature]
    default_version: int | None
    access: Access
    gateway_url: str
    title: str = ""
    summary: str = ""
    description: str = ""
    licence: str = ""  # an SPDX identifier
    examples: tuple[CallExample, ...] = field(default=())
    version: int | None = None


def describe(model: ServedModel) -> Document:
    """The document as plain JSON values. Deterministic: the same model gives the same document, byte for byte."""
    components = _Components()
    forms = _predict_forms(model, components)
    info: Document = {"title": model.title or model.name, "version": _version_text(model)}
    if model.summary:
        info["summary"] = model.summary
    info["description"] = _description(model)
    if model.licence:
        info["license"] = {"name": model.licence, "identifier": model.licence}
    security: list[dict[str, list[str]]] = [{"bearerKey": []}, {"headerKey": []}, {"basicKey": []}]
    if model.access == "open":
        security.insert(0, {})
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": model.gateway_url or "/", "description": "Daybook gateway"}],
        "security": security,
        "tags": [
            {"name": "predict", "description": "Ask the model."},
            {"name": "model", "description": "What is loaded, and what it takes and gives."},
        ],
        "paths": _paths(model, forms),
        "components": {
            "schemas": schemas.common() | components.schemas,
            "responses": responses.shared(model.name, model.access),
            "headers": responses.HEADERS,
            "parameters": responses.PARAMETERS,
            "securitySchemes": responses.SECURITY_SCHEMES,
        },
    }


class _Components:
    """Hands out component names that OpenAPI allows, each once."""

    def __init__(self) -> None:
        self.schemas: dict[str, schemas.Schema] = {}

    def add(self, name: str, schema: schemas.Schema) -> schemas.Schema:
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        unique, count = safe, 1
        while unique in self.schemas:
            count += 1
            unique = f"{safe}_{count}"
        self.schemas[unique] = schema
        return {"$ref": f"#/components/schemas/{unique}"}


@dataclass(frozen=True, slots=True)
class _Forms:
    """The bodies that predict takes and gives, as references, and examples by key."""

    requests: list[schemas.Schema]
    answers: list[schemas.Schema]
    examples: dict[str, Document]


def _predict_forms(model: ServedModel, components: _Components) -> _Forms:
    forms = _Forms(requests=[], answers=[], examples={})
    for given in model.examples:
        example: Document = {"summary": given.name, "value": dict(given.request)}
        if given.note:
            example["description"] = given.note
        forms.examples[_free_key(given.name, forms.examples)] = example
    for name, signature in sorted(model.signatures.items(), key=lambda item: (item[0] != DEFAULT_SIGNATURE, item[0])):
        if not signature.callable_as_json:
            continue
        for spec in (*signature.inputs.values(), *signature.outputs.values()):
            if spec.shape is None and schemas.any_rank_name(spec) not in components.schemas:
                components.add(schemas.any_rank_name(spec), schemas.any_rank(spec))
        for row_form in (True, False):
            if row_form and signature.rows is None:
                continue
            form = "rows" if row_form else "columns"
            forms.requests.append(components.add(f"{name}.{form}", schemas.request(name, signature, row_form=row_form)))
            forms.answers.append(components.add(f"{name}.{form}.answer", schemas.answer(name, signature, row_form=row_form)))
            body = examples.request_example(name, signature, row_form=row_form)
            if body is not None:
                forms.examples[_free_key(f"{name}.{form}", forms.examples)] = {
                    "summary": f"{name}, {'row' if row_form else 'column'} form, made from the signature",
                    "value": body,
                }
    return forms


def _free_key(name: str, taken: Mapping[str, object]) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "example"
    key, count = safe, 1
    while key in taken:
        count += 1
        key = f"{safe}-{count}"
    return key


def _paths(model: ServedModel, forms: _Forms) -> Document:
    base = f"/v1/models/{quote(model.name, safe='')}"
    paths: Document = {}
    for prefix, suffix, parameters, where in _places(model, base):
        if forms.requests:
            paths[f"{prefix}:predict"] = _with_parameters(parameters, post=_predict(model, forms, suffix, where))
        paths[prefix] = _with_parameters(parameters, get=_status(suffix, where))
        paths[f"{prefix}/metadata"] = _with_parameters(parameters, get=_metadata(suffix, where))
    if model.version is None:
        paths[f"{base}/openapi.json"] = {"get": _openapi_operation()}
        paths["/v1/models"] = {"get": _list_operation()}
    return paths


def _places(model: ServedModel, base: str) -> Iterable[tuple[str, str, list[Document], str]]:
    """(path prefix, suffix of operation ids, path parameters, the same in words) of each way to name a version."""
    if model.version is not None:
        yield f"{base}/versions/{model.version}", "", [], f"version {model.version}"
        return
    yield base, "", [], "the default version (the highest that is ready)"
    version: Document = {"type": "integer", "format": "int64", "minimum": 0}
    if model.versions:
        version["examples"] = [model.default_version if model.default_version is not None else model.versions[0]]
    parameter = {"name": "version", "in": "path", "required": True, "description": "A version's number.", "schema": version}
    yield f"{base}/versions/{{version}}", "Version", [parameter], "one version by number"
    if model.labels:
        label = {"type": "string", "enum": sorted(model.labels)}
        meanings = ", ".join(f"`{name}` is version {number}" for name, number in sorted(model.labels.items()))
        parameter = {"name": "label", "in": "path", "required": True, "description": f"Now {meanings}.", "schema": label}
        yield f"{base}/labels/{{label}}", "Label", [parameter], "the version that a label points to"


def _with_parameters(parameters: list[Document], **operations: Document) -> Document:
    return {"parameters": parameters, **operations} if parameters else dict(operations)


def _predict(model: ServedModel, forms: _Forms, suffix: str, where: str) -> Document:
    body: Document = {"schema": _any_of(forms.requests)}
    if forms.examples:
        body["examples"] = forms.examples
    return {
        "operationId": f"predict{suffix}",
        "tags": ["predict"],
        "summary": f"Ask {where}",
        "description": (
            "Row form: `instances` is a list with one element a row, answered with `predictions`. Column form: `inputs` holds whole "
            "tensors, answered with `outputs`. Numbers that JSON lacks are answered as `NaN`, `Infinity` and `-Infinity`."
        ),
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in responses.PARAMETERS],
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": {
                "description": "The prediction. It is in the daybook before it is here.",
                "headers": responses.header_references(responses.ANSWER_HEADERS),
                "content": {"application/json": {"schema": _any_of(forms.answers)}},
            },
            **responses.references(responses.PREDICT_ERRORS),
        },
    }


def _status(suffix: str, where: str) -> Document:
    return _read(f"getStatus{suffix}", f"State of {where}" if suffix else "State of all versions", "ModelStatus")


def _metadata(suffix: str, where: str) -> Document:
    return _read(f"getMetadata{suffix}", f"Signatures of {where}", "ModelMetadata")


def _list_operation() -> Document:
    return _read("listModels", "All models that you may call", "ModelList")


def _openapi_operation() -> Document:
    operation = _read("getOpenapi", "This document", "")
    operation["responses"]["200"]["content"] = {"application/json": {"schema": {"type": "object"}}}
    return operation


def _read(operation_id: str, summary: str, schema: str) -> Document:
    return {
        "operationId": operation_id,
        "tags": ["model"],
        "summary": summary,
        "responses": {
            "200": {
                "description": summary,
                "headers": responses.header_references(responses.ANSWER_HEADERS),
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
            },
            **responses.references(responses.READ_ERRORS),
        },
    }


def _any_of(references: list[schemas.Schema]) -> schemas.Schema:
    return references[0] if len(references) == 1 else {"anyOf": references}


def _version_text(model: ServedModel) -> str:
    number = model.version if model.version is not None else model.default_version
    return str(number) if number is not None else "none ready"


def _description(model: ServedModel) -> str:
    parts = [model.description] if model.description else []
    if model.default_version is None and model.version is None:
        parts.append("No version is ready to answer now.")
    silent = sorted(name for name, signature in model.signatures.items() if not signature.callable_as_json)
    if silent:
        names = ", ".join(f"`{name}`" for name in silent)
        parts.append(f"Not callable as JSON (no inputs, or element types without a JSON form): {names}.")
    parts.append(
        "Every answer and every refusal is recorded in the daybook; the `Daybook-Record` header names the record, and "
        "`Daybook-Receipt` is the signed promise that it will be in the log."
    )
    return "\n\n".join(parts)
