import pytest
from django.test import Client

from catalog.models import Entry, Tag

from .factories import DIGIT_NAMES, DIGITS, make_entry, make_user

pytestmark = pytest.mark.django_db


def test_list_searches_and_counts(client: Client) -> None:
    make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES, access="open", summary="Reads a digit.")
    make_entry("mood", tags=["task:sentiment-analysis"])
    page = client.get("/api/apis/?q=digit").json()
    assert page["total"] == 1
    assert page["results"][0]["slug"] == "digits"
    assert "task:image-classification" in page["results"][0]["tags"]
    assert page["facets"]["access"] == {"open": 1}
    assert client.get("/api/apis/?task=text-classification").json()["results"][0]["slug"] == "mood"


def test_detail_holds_versions_and_reasons(client: Client) -> None:
    make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES)
    entry = client.get("/api/apis/digits/").json()
    assert entry["versions"][0]["version"] == "1"
    assert entry["versions"][0]["signatures"]["serving_default"]["inputs"]["image"]["shape"] == [-1, 8, 8]
    reasons = {tag["key"]: tag["reason"] for tag in entry["tag_reasons"]}
    assert reasons["modality-in:image"].startswith("input image is float32")
    assert entry["openapi_url"].endswith("/catalog/digits/openapi.json")


def test_owner_changes_card_and_tags(client: Client) -> None:
    client.force_login(make_user("ada", "publisher"))
    make_entry("mood")
    answer = client.patch(
        "/api/apis/mood/", {"summary": "For or against.", "tags": ["task:sentiment-analysis"]}, content_type="application/json"
    )
    assert answer.status_code == 200
    assert "task:sentiment-analysis" in answer.json()["tags"]
    assert Entry.objects.get(slug="mood").summary == "For or against."


@pytest.mark.parametrize(
    "body",
    [{"tags": ["task:nonsense"]}, {"lifecycle": "dead"}, {"name": ""}, {"summary": "x" * 201}, {"image_range": "dark"}, ["not an object"]],
)
def test_wrong_changes_are_400_and_change_nothing(client: Client, body: object) -> None:
    client.force_login(make_user("ada", "publisher"))
    make_entry("mood", summary="Before.")
    assert client.patch("/api/apis/mood/", body, content_type="application/json").status_code == 400
    assert Entry.objects.get(slug="mood").summary == "Before."


def test_taxonomy_is_published(client: Client) -> None:
    tags = client.get("/api/tags/?namespace=task").json()
    assert len(tags) == Tag.objects.filter(namespace="task").count() > 60
    by_key = {tag["key"]: tag for tag in tags}
    assert by_key["task:sentiment-analysis"]["parent_key"] == "task:text-classification"
    assert "asr" in by_key["task:automatic-speech-recognition"]["synonyms"]


def test_schema_names_the_catalogs_operations(client: Client) -> None:
    paths = client.get("/api/schema/", headers={"Accept": "application/vnd.oai.openapi+json"}).json()["paths"]
    assert {"/api/apis/", "/api/apis/{slug}/", "/api/tags/"} <= set(paths)
