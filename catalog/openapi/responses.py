"""The parts of a description that all served models share: errors, headers, ways to show a key. Pure."""

from collections.abc import Iterable
from typing import Any

Part = dict[str, Any]

SECURITY_SCHEMES: dict[str, Part] = {
    "bearerKey": {"type": "http", "scheme": "bearer", "description": "An API key: `Authorization: Bearer dbk_…`."},
    "headerKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key as it is."},
    "basicKey": {"type": "http", "scheme": "basic", "description": "Any user name, the API key as password."},
}

HEADERS: dict[str, Part] = {
    "Daybook-Record": {
        "description": "The id of this call's record (on floods of refusals, of the record that counts them).",
        "schema": {"type": "string", "format": "uuid"},
    },
    "Daybook-Leaf": {
        "description": "SHA-256 leaf hash of the record in the log.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    "Daybook-Receipt": {
        "description": "Signed promise that the record will be in the log; `daybook-verify receipt` checks it.",
        "schema": {"type": "string", "contentEncoding": "base64"},
    },
    "Server-Timing": {
        "description": "Where the time went, in milliseconds: queue, batch, model, commit.",
        "schema": {"type": "string"},
    },
    "traceparent": {"description": "W3C trace context of the call.", "schema": {"type": "string"}},
    "Daybook-Error": {
        "description": "The kind of fault as a google.rpc code, for machines.",
        "schema": {"type": "string", "examples": ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"]},
    },
    "Retry-After": {"description": "Seconds after which asking again is sensible.", "schema": {"type": "integer", "minimum": 0}},
}

PARAMETERS: dict[str, Part] = {
    "Daybook-Timeout-Ms": {
        "name": "Daybook-Timeout-Ms",
        "in": "header",
        "required": False,
        "description": "A deadline shorter than the model's own, in milliseconds; 504 when it passes.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
    },
    "traceparent": {
        "name": "traceparent",
        "in": "header",
        "required": False,
        "description": "W3C trace context to join.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
}

# status → (component, description, example of the text). Texts are TensorFlow Serving's where it has one.
_ERRORS: dict[str, tuple[str, str, str]] = {
    "400": ("BadRequest", "The body doesn't fit the signature, or the graph refused it.", "Missing 'inputs' or 'instances' key"),
    "401": ("Unauthorized", "No key, or one that isn't known.", "This model needs an API key."),
    "403": ("Forbidden", "The key may not call this model.", "The key's scopes don't include this model."),
    "404": ("NotFound", "No such model or version, or none is ready.", "Servable not found for request: Latest({model})"),
    "408": ("BodyTimeout", "The body didn't arrive in time.", "The request body did not arrive in time."),
    "413": ("TooLarge", "The body is larger than this gateway takes.", "The request body is too large."),
    "429": ("TooMany", "Slow down: your own limit, or a full queue.", "Too many requests."),
    "499": ("Cancelled", "The caller went away before the answer.", "The caller left."),
    "500": ("Internal", "The model or the server failed.", "Internal error."),
    "501": ("Unimplemented", "An element type without a JSON form.", "Conversion of JSON Value: 1 to type: complex64"),
    "503": ("Unavailable", "Daybook can't serve now: no worker, or the record can't be written.", "No worker serves this model now."),
    "504": ("Deadline", "The deadline passed; a call that is late never reaches the model.", "Deadline passed."),
}
PREDICT_ERRORS = ("400", "401", "403", "404", "408", "413", "429", "500", "501", "503", "504")
READ_ERRORS = ("400", "401", "403", "404", "429", "503")
ANSWER_HEADERS = ("Daybook-Record", "Daybook-Leaf", "Daybook-Receipt", "Server-Timing", "traceparent")
_WITH_RETRY = frozenset({"429", "503"})


def header_references(names: Iterable[str]) -> Part:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def references(statuses: Iterable[str]) -> Part:
    return {status: {"$ref": f"#/components/responses/{_ERRORS[status][0]}"} for status in statuses}


def shared(model: str, access: str) -> dict[str, Part]:
    """The error responses as components, with the model's name in their texts."""
    made: dict[str, Part] = {}
    for status in sorted({*PREDICT_ERRORS, *READ_ERRORS}):
        component, description, text = _ERRORS[status]
        headers = ["Daybook-Record", "Daybook-Leaf", "Daybook-Receipt", "Daybook-Error", "Server-Timing", "traceparent"]
        if status in _WITH_RETRY:
            headers.append("Retry-After")
        if status == "401" and access == "open":
            description = "A key was shown that isn't known. (Without any key this model answers too.)"
        made[component] = {
            "description": description,
            "headers": header_references(headers),
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "example": {"error": text.replace("{model}", model)},
                }
            },
        }
    return made
