"""What the page of one model shows, made ready so that the template only loops and chooses."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils.safestring import SafeString

from audit.charts import Sparkline, sparkline
from audit.drawings import Exchange, draw_exchange, likeliest
from audit.figures import SealedCalls, Summary, sealed_calls, summary

from . import markdown
from .access import may_edit, may_see_errors, may_try
from .changes import Change, changes_of
from .contexts import words_of
from .descriptions import describe_entry
from .figures import DAYS, daily_calls
from .models import Entry, EntryTag, EntryVersion, Example
from .openapi.examples import request_example
from .signatures import DEFAULT_SIGNATURE, Signature
from .snippets import BODY_FILE, Snippet, predict_url, snippets
from .try_it import Form, make_form

TEXT_FIELDS = {
    "intended_use": "Intended use",
    "out_of_scope": "Out of scope",
    "limitations": "Limits",
    "training_data": "Training data",
    "provenance": "Provenance",
    "licence": "Licence of the model",
    "interface_licence": "Licence of the interface",
    "data_licence": "Licence of the data",
    "energy": "Energy",
}
_SHOWN_BODY = 2_000


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output, in words."""

    name: str
    type_name: str
    shape_text: str
    is_optional: bool
    names: list[str]


@dataclass(frozen=True, slots=True)
class SignatureRows:
    name: str
    is_default: bool
    method: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    is_callable: bool
    batched: bool


@dataclass(frozen=True, slots=True)
class VersionRow:
    version: EntryVersion
    kind: str  # of the status mark
    state: str  # in words
    labels: list[str]
    is_default: bool
    num_signatures: int
    openapi_url: str


@dataclass(frozen=True, slots=True)
class Pin:
    """A way to name the version in the URL."""

    label: str
    url: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class UseSection:
    """Code for one way to name the version."""

    pins: list[Pin]
    url: str
    snippets: list[Snippet]
    with_key: bool
    needs_file: bool


@dataclass(frozen=True, slots=True)
class CardField:
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class OperationRow:
    method: str
    path: str
    summary: str
    description: str
    parameters: list[dict[str, Any]]
    statuses: list[str]


@dataclass(frozen=True, slots=True)
class StatusRow:
    status: str
    text: str
    example: str


@dataclass(frozen=True, slots=True)
class ExampleText:
    """A stored example, for pages that can't ask: drawn where its form is known, and as text."""

    name: str
    note: str
    request: str
    response: str
    exchange: Exchange | None


@dataclass(frozen=True, slots=True)
class ModelPage:
    entry: Entry
    words: list[str]
    tags: list[EntryTag]
    is_ready: bool
    is_loading: bool
    callable_name: str
    day: Summary
    month: Summary
    sealed: SealedCalls  # of the month
    spark: Sparkline | None
    may_edit: bool
    may_see_errors: bool
    may_try: bool  # as they are now
    forms: list[Form]
    try_it: dict[str, Any]
    example_texts: list[ExampleText]
    use: UseSection | None
    card: SafeString | str
    card_fields: list[CardField]
    num_stated: int
    signatures: list[SignatureRows]
    operations: list[OperationRow]
    statuses: list[StatusRow]
    versions: list[VersionRow]
    changes: list[Change]
    gateway_url: str

    @property
    def success(self) -> float:
        """0..1 of the day's calls that weren't refused for the caller's own reasons."""
        tried = self.day.answered + self.day.failed
        return self.day.answered / tried if tried else 0.0


def model_page(user: Any, entry: Entry, *, pin: str, now: datetime) -> ModelPage:
    """`pin` is what the reader wants the code to name: "", a version's number, or a label."""
    versions = list(entry.versions.defer("openapi").all())
    current = current_version(entry, versions)
    signatures = current.decoded_signatures() if current else {}
    examples = list(entry.examples.all())
    tags = [row for row in entry.entry_tags.select_related("tag") if row.source != EntryTag.Source.REJECTED]
    month = summary(entry.slug, now - timedelta(days=DAYS), now)
    calls = daily_calls([entry.slug], now=now)[entry.slug]
    fields = [CardField(label, getattr(entry, name)) for name, label in TEXT_FIELDS.items()]
    forms = _forms(entry, signatures, examples)
    document = describe_entry(entry, signatures, gateway_url=settings.GATEWAY_URL)
    return ModelPage(
        entry=entry,
        words=words_of(entry),
        tags=tags,
        is_ready=entry.default_version is not None,
        is_loading=any(row.state in {"START", "LOADING"} for row in versions),
        callable_name=f"{entry.slug}@{entry.default_version}" if entry.default_version is not None else entry.slug,
        day=summary(entry.slug, now - timedelta(days=1), now),
        month=month,
        sealed=sealed_calls(entry.slug, now - timedelta(days=DAYS), now),
        spark=sparkline(calls, f"calls a day, {DAYS} days") if any(calls) else None,
        may_edit=may_edit(user, entry),
        may_see_errors=may_see_errors(user, entry),
        may_try=may_try(user, entry),
        forms=forms,
        try_it=_try_it(user, entry, forms, examples),
        example_texts=[_example_text(row) for row in examples],
        use=use_section(entry, signatures, versions, examples, pin=pin),
        card=markdown.render(entry.card) if entry.card else "",
        card_fields=fields,
        num_stated=sum(bool(field.text) for field in fields) + bool(entry.evaluation),
        signatures=_signature_rows(entry, signatures),
        operations=_operations(document),
        statuses=_statuses(document),
        versions=[_version_row(entry, row) for row in versions],
        changes=changes_of(entry.slug, with_actors=user.is_authenticated),
        gateway_url=settings.GATEWAY_URL,
    )


def current_version(entry: Entry, versions: list[EntryVersion]) -> EntryVersion | None:
    """The version that the page speaks of: the default one, otherwise the newest that was ever ready."""
    known = [row for row in versions if row.artifact]
    return next((row for row in known if row.version == entry.default_version), known[0] if known else None)


def use_section(
    entry: Entry, signatures: Mapping[str, Signature], versions: list[EntryVersion], examples: list[Example], *, pin: str
) -> UseSection | None:
    """None when nothing can be called in JSON: code for what doesn't answer would only mislead."""
    if entry.is_retired or not any(signature.callable_as_json for signature in signatures.values()):
        return None
    body = _example_body(signatures, examples)
    ready = [row.version for row in versions if row.state == "AVAILABLE"]
    version = next((number for number in ready if str(number) == pin), None)  # compared as text: digits may be of any length
    label = pin if pin in entry.labels else ""
    url = predict_url(settings.GATEWAY_URL, entry.slug, version=version, label=label)
    names = ["", *sorted(entry.labels), *map(str, ready)]
    chosen = str(version) if version is not None else label
    base = reverse("catalog:detail", args=[entry.slug])
    pins = [
        Pin(f"version {name}" if name.isdigit() else name or "newest", f"{base}?pin={name}#use" if name else f"{base}#use", name == chosen)
        for name in names
    ]
    made = snippets(url, body, with_key=entry.access != Entry.Access.OPEN)
    return UseSection(pins, url, made, entry.access != Entry.Access.OPEN, BODY_FILE in made[0].code)


def _example_body(signatures: Mapping[str, Signature], examples: list[Example]) -> dict[str, Any] | None:
    if examples:
        return dict(examples[0].request)
    ordered = sorted(signatures.items(), key=lambda item: (item[0] != DEFAULT_SIGNATURE, item[0]))
    for name, signature in ordered:
        body = request_example(name, signature, row_form=True) or request_example(name, signature, row_form=False)
        if body is not None:
            return body
    return None


def _example_text(row: Example) -> ExampleText:
    def text(value: Any) -> str:
        written = json.dumps(value, ensure_ascii=False)
        return written if len(written) <= _SHOWN_BODY else f"{written[:_SHOWN_BODY]} …"

    answer = "" if row.response is None else text(row.response)
    return ExampleText(row.name, row.note, text(row.request), answer, _draw_example(row))


def _draw_example(row: Example) -> Exchange | None:
    response = None if row.response is None else json.dumps(row.response).encode()
    exchange = draw_exchange(json.dumps(row.request).encode(), response)
    if exchange is None:
        return None
    shortened = [
        replace(one, response=tuple(replace(drawing, bars=likeliest(drawing.bars)) for drawing in one.response)) for one in exchange.rows
    ]
    return replace(exchange, rows=tuple(shortened))  # several examples stand beside each other, as rows do


def _forms(entry: Entry, signatures: Mapping[str, Signature], examples: list[Example]) -> list[Form]:
    forms = []
    for name, signature in sorted(signatures.items(), key=lambda item: (item[0] != DEFAULT_SIGNATURE, item[0])):
        own = next((row.request for row in examples if (row.request.get("signature_name") or DEFAULT_SIGNATURE) == name), None)
        example = own or request_example(name, signature, row_form=True) or request_example(name, signature, row_form=False)
        form = make_form(name, signature, feature_names=entry.feature_names or {}, image_range=entry.image_range or [], example=example)
        if form is not None:
            forms.append(form)
    return forms


def _try_it(user: Any, entry: Entry, forms: list[Form], examples: list[Example]) -> dict[str, Any]:
    """What the browser needs to ask and to draw the answer."""
    return {
        "model": entry.slug,
        "url": predict_url(settings.GATEWAY_URL, entry.slug),
        "token_url": "/serving/try-it-token/" if user.is_authenticated else "",
        "record_url": "/audit/records/" if user.is_authenticated else "",
        "proof_url": "/log/proof/",
        "class_names": entry.class_names,
        "forms": [asdict(form) for form in forms],
        "examples": [
            {
                "name": row.name,
                "note": row.note,
                "request": row.request,
                "response": row.response,
                "signature": row.request.get("signature_name") or DEFAULT_SIGNATURE,
            }
            for row in examples
        ],
    }


def _signature_rows(entry: Entry, signatures: Mapping[str, Signature]) -> list[SignatureRows]:
    feature_names = entry.feature_names or {}
    rows = []
    for name, signature in sorted(signatures.items(), key=lambda item: (item[0] != DEFAULT_SIGNATURE, item[0])):
        inputs = [
            Tensor(alias, spec.type_name, spec.shape_text, alias in signature.defaults, list(feature_names.get(alias, ())))
            for alias, spec in signature.inputs.items()
        ]
        outputs = []
        for alias, spec in signature.outputs.items():
            fits = bool(entry.class_names and spec.shape and spec.shape[-1] == len(entry.class_names))
            outputs.append(Tensor(alias, spec.type_name, spec.shape_text, False, list(entry.class_names) if fits else []))
        method = signature.method_name.rpartition("/")[2] or "predict"
        rows.append(SignatureRows(name, name == DEFAULT_SIGNATURE, method, inputs, outputs, signature.callable_as_json, signature.batched))
    return rows


def _operations(document: Mapping[str, Any]) -> list[OperationRow]:
    """The operations of the generated document, so that page and document can't differ."""
    shared = document["components"]["parameters"]
    return [
        OperationRow(
            method=method.upper(),
            path=path,
            summary=operation["summary"],
            description=operation.get("description", ""),
            parameters=[
                shared[parameter["$ref"].rpartition("/")[2]] if "$ref" in parameter else parameter
                for parameter in (*item.get("parameters", ()), *operation.get("parameters", ()))
            ],
            statuses=list(operation["responses"]),
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post"}
    ]


def _statuses(document: Mapping[str, Any]) -> list[StatusRow]:
    """Every error that some operation names, once."""
    names: dict[str, str] = {}
    for item in document["paths"].values():
        for operation in (item[method] for method in ("get", "post") if method in item):
            names |= {status: answer["$ref"].rpartition("/")[2] for status, answer in operation["responses"].items() if "$ref" in answer}
    rows = []
    for status, name in sorted(names.items()):
        answer = document["components"]["responses"][name]
        rows.append(StatusRow(status, answer["description"], answer["content"]["application/json"]["example"]["error"]))
    return rows


def _version_row(entry: Entry, row: EntryVersion) -> VersionRow:
    kinds = {"AVAILABLE": "ok", "LOADING": "busy", "START": "busy", "UNLOADING": "busy"}
    words = {"AVAILABLE": "available", "LOADING": "loading", "START": "starting", "UNLOADING": "unloading", "END": "unloaded"}
    kind = "fail" if row.is_failed else kinds.get(row.state, "idle")
    return VersionRow(
        version=row,
        kind=kind,
        state="failed to load" if row.is_failed and row.state != "AVAILABLE" else words.get(row.state, "not seen yet"),
        labels=sorted(label for label, number in entry.labels.items() if number == row.version),
        is_default=row.version == entry.default_version and row.state == "AVAILABLE",
        num_signatures=len(row.signatures),
        openapi_url=f"{reverse('catalog:openapi', args=[entry.slug])}?version={row.version}" if row.artifact else "",
    )
