"""From an entry to its OpenAPI document: gathers what the pure generator wants to know."""

from collections.abc import Mapping
from typing import Any

from .models import Entry
from .openapi.generate import CallExample, ServedModel, describe
from .signatures import Signature


def describe_entry(
    entry: Entry, signatures: Mapping[str, Signature], *, gateway_url: str, version: int | None = None, with_examples: bool = False
) -> dict[str, Any]:
    """The document for all versions of an entry, or for one `version`.

    with_examples: also the owner's examples (stored documents leave them out: they belong to the entry, and change without a version).
    """
    ready = sorted((row.version for row in entry.versions.all() if row.state == "AVAILABLE"), reverse=True)
    examples = entry.examples.all() if with_examples else ()
    return describe(
        ServedModel(
            name=entry.slug,
            versions=tuple(ready),
            labels=entry.labels,
            signatures=signatures,
            default_version=entry.default_version,
            access=entry.access,  # type: ignore[arg-type]  # one of the three by the model's choices
            gateway_url=gateway_url,
            title=entry.name,
            summary=entry.summary,
            licence=entry.licence,
            examples=tuple(CallExample(row.name, row.request, row.note) for row in examples),
            version=version,
        )
    )
