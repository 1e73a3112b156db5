"""The management API's reference as a page, drawn on the server from the same description that /api/schema/ gives.

Swagger UI and Redoc need inline styles and scripts, which our content security policy doesn't allow; a reference needs neither.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator

METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, slots=True)
class FieldRow:
    name: str
    place: str  # "path", "query" or "body"
    type_name: str
    required: bool
    description: str


@dataclass(frozen=True, slots=True)
class AnswerRow:
    status: str
    description: str
    type_name: str


@dataclass(frozen=True, slots=True)
class Operation:
    id: str
    method: str
    path: str
    summary: str
    description: str
    fields: tuple[FieldRow, ...]
    answers: tuple[AnswerRow, ...]
    example: str  # a curl command


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    operations: tuple[Operation, ...]


@require_safe
def api_docs(request: HttpRequest) -> HttpResponse:
    return render(request, "api_docs.html", {"groups": groups(), "site": settings.SITE_URL})


@lru_cache(maxsize=1)
def groups() -> tuple[Group, ...]:
    """All operations by their tag, in the order of the description. The code doesn't change while we run, so neither do they."""
    document: dict[str, Any] = SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]
    found: dict[str, list[Operation]] = {}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                found.setdefault(operation["tags"][0], []).append(_operation(document, path, method, operation))
    return tuple(Group(name, tuple(operations)) for name, operations in found.items())


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Operation:
    summary, _, rest = operation.get("description", "").partition("\n")
    parameters = [
        FieldRow(p["name"], p["in"], _type_name(document, p["schema"]), p.get("required", False), p.get("description", ""))
        for p in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    fields = (*parameters, *(_body_fields(document, body) if body else ()))
    answers = tuple(
        AnswerRow(status, answer.get("description", ""), _type_name(document, _answer_schema(answer)))
        for status, answer in operation["responses"].items()
    )
    return Operation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation.get("summary") or summary,
        description=rest.strip(),
        fields=fields,
        answers=answers,
        example=_curl(method, path, [field for field in fields if field.place == "body" and field.required]),
    )


def _answer_schema(answer: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _body_fields(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[FieldRow]:
    schema = _resolve(document, schema)
    required = schema.get("required", ())
    for name, value in schema.get("properties", {}).items():
        if not value.get("readOnly"):
            yield FieldRow(name, "body", _type_name(document, value), name in required, value.get("description", ""))


def _type_name(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """A schema in a few words: `list of Record`, `"open" or "key"`, `integer or null`."""
    if not schema:
        return ""
    if "$ref" in schema:
        found = _resolve(document, schema)
        return _type_name(document, found) if "enum" in found else schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    for key in ("allOf", "oneOf", "anyOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type_name(document, part) for part in schema[key]))
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {_type_name(document, schema['items'])}"
    words = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{words} ({schema['format']})" if "format" in schema else words


def _curl(method: str, path: str, required: list[FieldRow]) -> str:
    parts = ["curl", '-H "Authorization: Bearer $DAYBOOK_API_KEY"']
    if method != "get":
        parts.append(f"-X {method.upper()}")
    if required:
        body = json.dumps({field.name: "…" for field in required}, ensure_ascii=False)
        parts.append(f"-H 'Content-Type: application/json' -d '{body}'")
    return " ".join([*parts, f'"$DAYBOOK_URL{path}"'])
