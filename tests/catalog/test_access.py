"""Who sees and changes which entry, on every door of the catalog."""

import pytest
from django.test import Client

from catalog.models import Entry, Team

from .factories import make_entry, make_user

pytestmark = pytest.mark.django_db

PAGES = ("/catalog/{}/", "/catalog/{}/openapi.json", "/api/apis/{}/")


def client_of(name: str | None, role: str = "viewer") -> Client:
    client = Client()
    if name is not None:
        client.force_login(make_user(name, role))
    return client


@pytest.fixture
def _entries() -> None:
    make_user("owner", "publisher")
    for visibility in ("public", "internal", "owners"):
        make_entry(visibility, actor="owner", visibility=visibility, access="open")


@pytest.mark.usefixtures("_entries")
@pytest.mark.parametrize(
    ("name", "role", "seen"),
    [
        (None, "", {"public"}),
        ("vera", "viewer", {"public", "internal"}),
        ("paul", "publisher", {"public", "internal"}),
        ("aude", "auditor", {"public", "internal"}),
    ],
)
def test_everybody_sees_what_is_theirs_to_see(name: str | None, role: str, seen: set[str]) -> None:
    client = client_of(name, role)
    for slug in ("public", "internal", "owners", "missing"):
        for page in PAGES:
            assert client.get(page.format(slug)).status_code == (200 if slug in seen else 404), (slug, page)
    assert {row["slug"] for row in client.get("/api/apis/").json()["results"]} == seen
    listed = client.get("/catalog/").content.decode()
    assert {slug for slug in ("public", "internal", "owners") if f'href="/catalog/{slug}/"' in listed} == seen
    suggested = client.get("/catalog/-/suggestions/?q=o").content.decode()
    assert ("/catalog/owners/" in suggested) == ("owners" in seen)
    public = client.get("/llms.txt").content.decode()
    assert "/catalog/public/" in public
    assert "/catalog/internal/" not in public


@pytest.mark.usefixtures("_entries")
def test_owners_see_and_edit_their_own() -> None:
    client = Client()
    client.force_login(Entry.objects.get(slug="owners").owner)  # type: ignore[arg-type]
    assert client.get("/catalog/owners/").status_code == 200
    assert client.get("/catalog/owners/edit/").status_code == 200


@pytest.mark.usefixtures("_entries")
def test_team_members_see_and_edit_what_their_team_owns() -> None:
    member = make_user("mia", "publisher")
    team = Team.objects.create(slug="vision", name="Vision")
    team.members.add(member)
    Entry.objects.filter(slug="owners").update(team=team)
    client = Client()
    client.force_login(member)
    assert client.get("/catalog/owners/").status_code == 200
    assert client.get("/catalog/owners/edit/").status_code == 200


@pytest.mark.usefixtures("_entries")
@pytest.mark.parametrize(("name", "role"), [("vera", "viewer"), ("paul", "publisher"), ("olga", "operator"), ("aude", "auditor")])
def test_nobody_edits_what_is_not_theirs(name: str, role: str) -> None:
    client = client_of(name, role)
    assert client.get("/catalog/public/edit/").status_code == 404
    assert client.post("/catalog/public/edit/", {"name": "mine"}).status_code == 404
    assert client.patch("/api/apis/public/", {"summary": "mine"}, content_type="application/json").status_code == 404
    assert Entry.objects.get(slug="public").summary == ""


@pytest.mark.usefixtures("_entries")
def test_visitors_edit_nothing() -> None:
    client = Client()
    assert client.get("/catalog/public/edit/").status_code == 302
    assert client.patch("/api/apis/public/", {"summary": "mine"}, content_type="application/json").status_code in {401, 403}


@pytest.mark.usefixtures("_entries")
def test_an_owner_who_lost_the_role_edits_nothing() -> None:
    owner = Entry.objects.get(slug="public").owner
    assert owner is not None
    owner.groups.clear()
    client = Client()
    client.force_login(owner)
    assert client.get("/catalog/public/edit/").status_code == 404
