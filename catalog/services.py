"""Changes to the catalog. Each appends its act to the daybook in its own transaction and brings the entry's index up to date."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone

from audit.acts import record_act
from audit.figures import by_model

from .descriptions import describe_entry
from .figures import DAYS
from .models import SLUG, Entry, EntryTag, EntryVersion, Example, Tag, Team
from .openapi.tagging import derive_tags
from .search import index_entry, prominence
from .signatures import decode_signatures

CARD_FIELDS = frozenset(
    {
        "name", "provider", "summary", "card", "intended_use", "out_of_scope", "limitations", "training_data", "evaluation", "licence",
        "interface_licence", "data_licence", "provenance", "energy", "class_names", "feature_names", "image_range",
    }
)  # fmt: skip
STATE_FIELDS = frozenset({"lifecycle", "visibility"})


class InvalidEntry(ValueError):
    """What was asked of an entry can't be; `field` names what is wrong and the message what was expected."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class ReportedVersion:
    """A version in the state that serving reports."""

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


def publish_served_entry(
    *,
    name: str,
    actor: str,
    summary: str = "",
    tags: Sequence[str] = (),
    access: str = "key",
    title: str = "",
    team: str = "",
    class_names: Sequence[str] = (),
    **card: Any,
) -> Entry:
    """Give a model that is served as `name` its entry, or bring the one back that was retired under this name.

    title: what people call it; the name at first. tags: keys such as `task:image-classification`. class_names: of the scores it
    gives, in their order. card: further fields of CARD_FIELDS and STATE_FIELDS. What isn't given stays as it was. The actor
    becomes owner of a new entry when a user has that name. Raises InvalidEntry.
    """
    _check_name(name)
    _check_choice("access", access, Entry.Access.values)
    _check_fields(card, CARD_FIELDS | STATE_FIELDS)
    owner = get_user_model().objects.filter(username=actor).first()
    with transaction.atomic():
        entry, created = Entry.objects.get_or_create(
            slug=name, defaults={"name": name, "kind": Entry.Kind.SERVED, "owner": owner, "access": access}
        )
        if not created and entry.kind != Entry.Kind.SERVED:
            raise InvalidEntry("name", f"{name!r} is an outside API in the catalog, expected another name")
        entry.access = access
        entry.deployment_name = name
        if entry.is_retired:
            entry.lifecycle = Entry.Lifecycle.PRODUCTION
        if summary:
            entry.summary = summary
        if title:
            entry.name = title
        if class_names:
            entry.class_names = list(class_names)
        if team:
            entry.team = Team.objects.get_or_create(slug=team, defaults={"name": team})[0]
        for field, value in card.items():
            setattr(entry, field, value)
        entry.save()
        _add_tags(entry, tags, EntryTag.Source.MANUAL, "given when it was published")
        index_entry(entry)
        record_act(kind="entry.published", actor=actor, subject=name, details={"access": access, "tags": sorted(tags), "new": int(created)})
    return entry


def record_version(*, name: str, version: int, artifact: str, signatures: Mapping[str, Any]) -> EntryVersion | None:
    """Take down that a version is ready: its signatures (in the form of `signatures.encode_signatures`) and what follows from them.

    Safe to repeat: every worker reports the same version. Returns None when no entry has that name (it was never published).
    No act of its own: the caller's `version.state` act names version and artifact.
    """
    with transaction.atomic():
        entry = Entry.objects.select_for_update(of=("self",)).filter(slug=name).first()
        if entry is None:
            return None
        rows = EntryVersion.objects.filter(entry=entry, version=version)
        current = rows.first()
        if current is not None and (current.artifact, current.signatures) == (artifact, signatures):
            return current
        rows.filter(artifact="").delete()
        rows.exclude(artifact=artifact).update(state="END")  # the directory was overwritten: the number means other bytes now
        row = rows.filter(artifact=artifact).first() or EntryVersion(entry=entry, version=version, artifact=artifact)
        row.signatures = dict(signatures)
        row.state, row.error_code, row.error_message, row.state_at = "AVAILABLE", "OK", "", timezone.now()
        decoded = decode_signatures(signatures)
        row.openapi = describe_entry(entry, decoded, version=version, gateway_url=settings.GATEWAY_URL)
        row.openapi_sha256 = hashlib.sha256(orjson.dumps(row.openapi, option=orjson.OPT_SORT_KEYS)).hexdigest()
        row.save()
        _derive(entry)
        index_entry(entry)
    return row


def record_states(*, name: str, versions: Sequence[ReportedVersion], labels: Mapping[str, int], default_version: int | None) -> None:
    """Take down what serving says of all versions of a model, those that failed to load too. Writes only what changed."""
    with transaction.atomic():
        entry = Entry.objects.select_for_update(of=("self",)).filter(slug=name).first()
        if entry is None:
            return
        current: dict[int, EntryVersion] = {}
        for row in EntryVersion.objects.filter(entry=entry).defer("openapi", "signatures").order_by("version", "state_at"):
            current[row.version] = row  # the last one of a number
        reported = {version.version: version for version in versions}
        for number, version in reported.items():
            row = current.pop(number) if number in current else EntryVersion(entry=entry, version=number)
            _set_state(row, version.state, version.error_code, version.error_message)
        for row in current.values():
            _set_state(row, "END", row.error_code, row.error_message)
        if (entry.labels, entry.default_version) != (dict(labels), default_version):
            entry.labels = dict(labels)
            entry.default_version = default_version
            entry.save(update_fields=["labels", "default_version", "updated_at"])
            index_entry(entry)


def update_card(*, entry: Entry, actor: str, **fields: Any) -> Entry:
    """Change what an entry says of itself. Raises InvalidEntry for a field that isn't the card's."""
    _check_fields(fields, CARD_FIELDS | STATE_FIELDS)
    changed = {field: value for field, value in fields.items() if getattr(entry, field) != value}
    if not changed:
        return entry
    if changed.get("lifecycle") == Entry.Lifecycle.RETIRED and entry.deployment_name:
        raise InvalidEntry("lifecycle", f"{entry.slug} is still served; it retires when its deployment is removed")
    with transaction.atomic():
        for field, value in changed.items():
            setattr(entry, field, value)
        entry.save(update_fields=[*changed, "updated_at"])
        if "class_names" in changed:
            _derive(entry)
        index_entry(entry)
        record_act(kind="entry.card", actor=actor, subject=entry.slug, details={"fields": sorted(changed)})
    return entry


def set_access(*, entry: Entry, access: str, actor: str) -> Entry:
    """Change who may call. Serving publishes its snapshot in the same transaction, so its service is the one to call this."""
    _check_choice("access", access, Entry.Access.values)
    with transaction.atomic():
        before, entry.access = entry.access, access
        entry.save(update_fields=["access", "updated_at"])
        index_entry(entry)
        record_act(kind="entry.access", actor=actor, subject=entry.slug, details={"from": before, "to": access})
    return entry


def set_tags(*, entry: Entry, tags: Sequence[str], actor: str) -> None:
    """Make `tags` (keys) the entry's tags: proposed ones among them are confirmed, the others rejected for good.

    Raises InvalidEntry for a tag that the taxonomy lacks.
    """
    wanted = _find_tags(tags)
    with transaction.atomic():
        for row in EntryTag.objects.filter(entry=entry).select_related("tag"):
            if row.tag.key in wanted:
                del wanted[row.tag.key]
                if row.source in {EntryTag.Source.DERIVED, EntryTag.Source.REJECTED}:
                    row.source = EntryTag.Source.CONFIRMED
                    row.save(update_fields=["source"])
            elif row.source == EntryTag.Source.MANUAL:
                row.delete()
            elif row.source != EntryTag.Source.REJECTED:
                row.source = EntryTag.Source.REJECTED
                row.save(update_fields=["source"])
        EntryTag.objects.bulk_create(
            EntryTag(entry=entry, tag=tag, source=EntryTag.Source.MANUAL, reason=f"set by {actor}") for tag in wanted.values()
        )
        index_entry(entry)
        record_act(kind="entry.tags", actor=actor, subject=entry.slug, details={"tags": sorted(tags)})


def set_examples(*, entry: Entry, examples: Sequence[Mapping[str, Any]], actor: str) -> None:
    """Replace the entry's examples: mappings with `name`, `request` and optionally `response`, `note`. Raises InvalidEntry."""
    names = [str(example.get("name", "")) for example in examples]
    if "" in names or len(set(names)) < len(names):
        raise InvalidEntry("examples", "each example needs a name of its own")
    if not all(isinstance(example.get("request"), Mapping) for example in examples):
        raise InvalidEntry("examples", "each example needs a request, a predict body as a JSON object")
    with transaction.atomic():
        Example.objects.filter(entry=entry).delete()
        Example.objects.bulk_create(
            Example(
                entry=entry,
                name=example["name"],
                request=example["request"],
                response=example.get("response"),
                note=example.get("note", ""),
                position=position,
            )
            for position, example in enumerate(examples)
        )
        record_act(kind="entry.examples", actor=actor, subject=entry.slug, details={"names": names[:50]})


def retire(*, name: str, actor: str) -> None:
    """Mark an entry as no longer served. Its page stays, with history and records; search hides it unless asked."""
    with transaction.atomic():
        entry = Entry.objects.select_for_update(of=("self",)).filter(slug=name).first()
        if entry is None or entry.is_retired:
            return
        entry.lifecycle = Entry.Lifecycle.RETIRED
        entry.default_version = None
        entry.labels = {}
        entry.deployment_name = ""
        entry.save(update_fields=["lifecycle", "default_version", "labels", "deployment_name", "updated_at"])
        EntryVersion.objects.filter(entry=entry).exclude(state="END").update(state="END", state_at=timezone.now())
        index_entry(entry)
        record_act(kind="entry.retired", actor=actor, subject=name, details={})


def refresh_figures(*, now: datetime) -> int:
    """Take calls and p95 of the last 30 days from the log's rollups into the entries, and their prominence from these.

    Returns how many changed.
    """
    figures = {row.model: row.summary for row in by_model(now - timedelta(days=DAYS), now)}
    changed = []
    for entry in Entry.objects.only("slug", "calls", "p95_us", "prominence", "lifecycle", "updated_at").iterator():
        summary = figures.get(entry.slug)
        calls, p95_us = (summary.count, summary.p95_us) if summary else (0, None)
        stands_out = prominence(calls, entry.lifecycle, entry.updated_at, now=now)
        # A thousandth a day is freshness fading: not worth a write each minute.
        if (entry.calls, entry.p95_us) != (calls, p95_us) or abs(entry.prominence - stands_out) > 0.005:
            entry.calls, entry.p95_us, entry.prominence = calls, p95_us, stands_out
            changed.append(entry)
    Entry.objects.bulk_update(changed, ["calls", "p95_us", "prominence"], batch_size=500)
    return len(changed)


def _derive(entry: Entry) -> None:
    """Propose the tags that follow from the signatures of the newest ready version; withdraw proposals that no longer follow."""
    newest = EntryVersion.objects.filter(entry=entry).exclude(artifact="").first()
    if newest is None:
        return
    derived = {tag.key: tag.reason for tag in derive_tags(newest.decoded_signatures(), class_names=entry.class_names)}
    tags = _find_tags(derived)
    EntryTag.objects.filter(entry=entry, source=EntryTag.Source.DERIVED).exclude(tag__in=tags.values()).delete()
    known = set(EntryTag.objects.filter(entry=entry).values_list("tag_id", flat=True))
    own_task = EntryTag.objects.filter(entry=entry, tag__namespace="task", source=EntryTag.Source.MANUAL).exists()
    EntryTag.objects.bulk_create(
        EntryTag(entry=entry, tag=tag, source=EntryTag.Source.DERIVED, reason=derived[key][:300])
        for key, tag in tags.items()
        if tag.pk not in known and not (tag.namespace == "task" and own_task)  # what the owner says of the task stands
    )


def _add_tags(entry: Entry, keys: Sequence[str], source: EntryTag.Source, reason: str) -> None:
    for tag in _find_tags(keys).values():
        EntryTag.objects.update_or_create(entry=entry, tag=tag, defaults={"source": source, "reason": reason})


def _find_tags(keys: Sequence[str] | Mapping[str, Any]) -> dict[str, Tag]:
    """Tags by key. Raises InvalidEntry when one isn't in the taxonomy."""
    wanted = {tuple(key.split(":", 1)) for key in keys if ":" in key}
    found = {
        tag.key: tag
        for tag in Tag.objects.filter(namespace__in={pair[0] for pair in wanted}, slug__in={pair[1] for pair in wanted})
        if tag.key in set(keys)
    }
    if missing := sorted(set(keys) - set(found)):
        raise InvalidEntry("tags", f"the taxonomy has no {missing[0]!r}, expected namespace:slug such as task:image-classification")
    return found


def _set_state(row: EntryVersion, state: str, error_code: str, error_message: str) -> None:
    is_new = row._state.adding
    if not is_new and (row.state, row.error_code or "OK", row.error_message) == (state, error_code or "OK", error_message):
        return
    row.state, row.error_code, row.error_message, row.state_at = state, error_code, error_message, timezone.now()
    row.save(update_fields=None if is_new else ["state", "error_code", "error_message", "state_at"])


def _check_name(name: str) -> None:
    if not SLUG.regex.match(name):  # type: ignore[union-attr]
        raise InvalidEntry("name", f"{name!r} won't do: {SLUG.message}")


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidEntry(field, f"{value!r} won't do, expected one of {', '.join(choices)}")


def _check_fields(fields: Mapping[str, Any], allowed: frozenset[str]) -> None:
    if unknown := sorted(set(fields) - allowed):
        raise InvalidEntry(unknown[0], f"can't be changed here, expected some of {', '.join(sorted(allowed))}")
    if "lifecycle" in fields:
        _check_choice("lifecycle", fields["lifecycle"], Entry.Lifecycle.values)
    if "visibility" in fields:
        _check_choice("visibility", fields["visibility"], Entry.Visibility.values)
