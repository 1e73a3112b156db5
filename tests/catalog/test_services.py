import pytest
from django.contrib.auth.models import User

from audit.models import Outbox, Record
from catalog import services
from catalog.models import Entry, EntryTag, EntryVersion
from catalog.services import InvalidEntry, ReportedVersion
from catalog.signatures import encode_signatures

from .factories import DIGIT_NAMES, DIGITS, HALF_PLUS_TWO, make_entry, make_user, signature, spec

pytestmark = pytest.mark.django_db


def acts() -> list[str]:
    """Kinds of the acts so far; each is sealed too, since its leaf waits in the outbox."""
    records = list(Record.objects.filter(kind="act").order_by("ts"))
    assert Outbox.objects.filter(record_id__in=[record.id for record in records]).count() == len(records)
    return [record.verb for record in records]


def tag_sources(entry: Entry) -> dict[str, str]:
    return {row.tag.key: row.source for row in EntryTag.objects.filter(entry=entry).select_related("tag")}


def test_publishing_makes_an_entry_owned_by_its_publisher() -> None:
    user = make_user("ada", "publisher")
    entry = services.publish_served_entry(name="m", actor="ada", summary="Does it.", tags=["task:translation"], access="open", team="nlp")
    assert (entry.slug, entry.name, entry.owner, entry.access, entry.kind) == ("m", "m", user, "open", "served")
    assert entry.team is not None
    assert tag_sources(entry) == {"task:translation": "manual"}
    assert acts() == ["entry.published"]


def test_publishing_again_keeps_what_is_not_given() -> None:
    make_entry("m", summary="First.", signatures=None)
    entry = make_entry("m", access="open", signatures=None)
    assert (entry.summary, entry.access) == ("First.", "open")
    assert Entry.objects.count() == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "-"}, "name"),
        ({"name": "x\n"}, "name"),
        ({"access": "all"}, "access"),
        ({"tags": ["task:nonsense"]}, "tags"),
        ({"tags": ["translation"]}, "tags"),
        ({"lifecycle": "dead"}, "lifecycle"),
        ({"owner": "eve"}, "owner"),
    ],
)
def test_publishing_refuses_and_leaves_nothing(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidEntry) as caught:
        services.publish_served_entry(**{"name": "m", "actor": "ada", **fields})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert not Entry.objects.exists()
    assert acts() == []


def test_an_outside_api_keeps_its_name() -> None:
    Entry.objects.create(slug="m", name="m", kind="outside")
    with pytest.raises(InvalidEntry):
        services.publish_served_entry(name="m", actor="ada")


def test_a_version_brings_its_description_and_tags() -> None:
    entry = make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES)
    version = EntryVersion.objects.get(entry=entry)
    assert version.openapi["openapi"] == "3.1.0"
    assert len(version.openapi_sha256) == 64
    assert tag_sources(entry)["task:image-classification"] == "derived"
    assert entry.default_version == 1
    assert "state:ready" in entry.facets


def test_recording_a_version_twice_changes_nothing() -> None:
    entry = make_entry()
    before = EntryVersion.objects.values().get()
    again = services.record_version(name=entry.slug, version=1, artifact="ab" * 32, signatures=encode_signatures(HALF_PLUS_TWO))
    assert again is not None
    assert EntryVersion.objects.values().get() == before


def test_the_same_number_with_other_bytes_is_kept_apart() -> None:
    entry = make_entry()
    services.record_version(name=entry.slug, version=1, artifact="cd" * 32, signatures=encode_signatures(HALF_PLUS_TWO))
    assert EntryVersion.objects.filter(entry=entry, version=1).count() == 2


def test_bytes_that_come_back_are_the_current_ones_again() -> None:
    entry = make_entry()
    other = {"serving_default": signature({"z": spec(-1)}, {"y": spec(-1)})}
    services.record_version(name=entry.slug, version=1, artifact="cd" * 32, signatures=encode_signatures(other))
    services.record_version(name=entry.slug, version=1, artifact="ab" * 32, signatures=encode_signatures(HALF_PLUS_TWO))
    rows = list(EntryVersion.objects.filter(entry=entry))
    assert [(row.artifact[:2], row.state) for row in rows] == [("ab", "AVAILABLE"), ("cd", "END")]


def test_a_version_of_an_unknown_name_is_no_error() -> None:
    assert services.record_version(name="nobody", version=1, artifact="", signatures={}) is None


def test_states_follow_what_serving_reports() -> None:
    entry = make_entry()
    services.record_states(
        name=entry.slug,
        versions=[ReportedVersion(2, "END", "DATA_LOSS", "truncated"), ReportedVersion(1, "UNLOADING")],
        labels={"stable": 1},
        default_version=None,
    )
    rows = {row.version: row for row in EntryVersion.objects.filter(entry=entry)}
    assert (rows[2].state, rows[2].error_message, rows[2].is_failed) == ("END", "truncated", True)
    assert rows[1].state == "UNLOADING"
    entry.refresh_from_db()
    assert (entry.labels, entry.default_version) == ({"stable": 1}, None)
    assert "state:not-ready" in entry.facets
    services.record_states(name=entry.slug, versions=[], labels={}, default_version=None)
    assert set(EntryVersion.objects.filter(entry=entry).values_list("state", flat=True)) == {"END"}


def test_a_version_that_failed_first_becomes_ready() -> None:
    entry = make_entry(signatures=None)
    services.record_states(name=entry.slug, versions=[ReportedVersion(1, "LOADING")], labels={}, default_version=None)
    services.record_version(name=entry.slug, version=1, artifact="ab" * 32, signatures=encode_signatures(HALF_PLUS_TWO))
    row = EntryVersion.objects.get(entry=entry)
    assert (row.state, row.artifact) == ("AVAILABLE", "ab" * 32)


def test_what_the_owner_says_of_the_task_stands() -> None:
    entry = make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES, tags=["task:optical-character-recognition"])
    assert "task:image-classification" not in tag_sources(entry)


def test_rejected_tags_are_never_proposed_again() -> None:
    entry = make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES)
    services.set_tags(entry=entry, tags=["modality-in:image", "domain:science"], actor="ada")
    sources = tag_sources(entry)
    assert sources["modality-in:image"] == "confirmed"
    assert sources["domain:science"] == "manual"
    assert sources["task:image-classification"] == "rejected"
    services.record_version(name="digits", version=2, artifact="ef" * 32, signatures=encode_signatures(DIGITS))
    assert tag_sources(entry)["task:image-classification"] == "rejected"
    entry.refresh_from_db()
    assert "task:image-classification" not in entry.facets
    assert acts()[-1] == "entry.tags"


def test_proposals_that_no_longer_follow_are_withdrawn() -> None:
    entry = make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES)
    text = {"serving_default": signature({"text": spec(-1, dtype="DT_STRING")}, {"y": spec(-1)})}
    services.record_version(name="digits", version=2, artifact="ef" * 32, signatures=encode_signatures(text))
    assert "modality-in:image" not in tag_sources(entry)
    assert "modality-in:text" in tag_sources(entry)


def test_the_card_changes_and_says_so_once() -> None:
    entry = make_entry()
    services.update_card(entry=entry, actor="ada", summary="New words.", licence="MIT")
    services.update_card(entry=entry, actor="ada", summary="New words.")
    assert acts().count("entry.card") == 1
    with pytest.raises(InvalidEntry):
        services.update_card(entry=entry, actor="ada", access="open")


def test_what_is_served_cannot_be_called_retired() -> None:
    with pytest.raises(InvalidEntry):
        services.update_card(entry=make_entry(), actor="ada", lifecycle="retired")


def test_access_changes_by_its_own_service() -> None:
    entry = services.set_access(entry=make_entry(), access="open", actor="ada")
    entry.refresh_from_db()
    assert entry.access == "open"
    assert "access:open" in entry.facets
    assert acts()[-1] == "entry.access"


def test_retiring_keeps_the_page_and_its_history() -> None:
    entry = make_entry(labels={"stable": 1})
    services.retire(name=entry.slug, actor="ada")
    services.retire(name=entry.slug, actor="ada")
    entry.refresh_from_db()
    assert (entry.lifecycle, entry.default_version, entry.labels) == ("retired", None, {})
    assert EntryVersion.objects.get(entry=entry).state == "END"
    assert acts().count("entry.retired") == 1
    assert make_entry(entry.slug, signatures=None).lifecycle == "production"


def test_examples_need_names_and_requests() -> None:
    entry = make_entry()
    services.set_examples(entry=entry, examples=[{"name": "a", "request": {"instances": [1.0]}}], actor="ada")
    assert entry.examples.get().request == {"instances": [1.0]}
    for wrong in (
        [{"name": "", "request": {}}],
        [{"name": "a", "request": {}}, {"name": "a", "request": {}}],
        [{"name": "a", "request": [1]}],
    ):
        with pytest.raises(InvalidEntry):
            services.set_examples(entry=entry, examples=wrong, actor="ada")
    assert entry.examples.count() == 1


def test_owner_leaves_and_the_entry_stays() -> None:
    make_user("ada", "publisher")
    entry = make_entry()
    User.objects.get(username="ada").delete()
    entry.refresh_from_db()
    assert entry.owner is None
