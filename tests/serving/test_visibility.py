"""Visibility goes as far as the entry's name does: into the snapshot, the serving page, and what is said of failures."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client

from catalog.models import Entry, Team
from catalog.services import ReportedVersion, record_states
from serving.publication import build, current
from serving.snapshot import EMPTY

from .factories import make_deployment, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner(tmp_path: Path) -> User:
    """The owner of three deployments, one of each visibility, named after it."""
    ada = make_user("ada", "publisher")
    for visibility in ("public", "internal", "owners"):
        make_deployment(tmp_path, visibility)
        Entry.objects.filter(slug=visibility).update(visibility=visibility)
    return ada


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def test_the_snapshot_says_who_sees_a_model(owner: User) -> None:
    member, root = make_user("mia"), User.objects.create_superuser("root")
    team = Team.objects.create(slug="vision", name="Vision")
    team.members.add(member)
    Entry.objects.filter(slug="owners").update(team=team)
    deployments = build(EMPTY).deployments
    assert {name: (found.visibility, found.seen_by) for name, found in deployments.items()} == {
        "public": ("public", ()),
        "internal": ("internal", ()),
        "owners": ("owners", ("ada", "mia", root.username)),
    }
    member.is_active = False
    member.save(update_fields=["is_active"])
    assert build(EMPTY).deployments["owners"].seen_by == ("ada", "root")


def test_a_deployment_is_published_with_the_visibility_of_its_entry(owner: User, tmp_path: Path) -> None:
    make_deployment(tmp_path, "another")
    snapshot = current()
    assert snapshot is not None
    assert snapshot.deployments["owners"].visibility == "owners"


@pytest.mark.parametrize(
    ("role", "seen"),
    [
        ("viewer", {"public", "internal"}),
        ("publisher", {"public", "internal"}),
        ("auditor", {"public", "internal"}),
        ("operator", {"public", "internal", "owners"}),
    ],
)
@pytest.mark.usefixtures("owner")
def test_the_serving_page_shows_what_one_may_see(role: str, seen: set[str]) -> None:
    page = signed_in(make_user("vera", role)).get("/serving/").context["page"]
    assert {row.deployment.name for row in page.rows} == seen


def test_owners_see_their_hidden_models_on_the_serving_page(owner: User) -> None:
    page = signed_in(owner).get("/serving/").context["page"]
    assert {row.deployment.name for row in page.rows} == {"public", "internal", "owners"}


def test_why_a_version_failed_is_for_editors_and_operators(owner: User) -> None:
    failed = ReportedVersion(1, "END", "NOT_FOUND", "/srv/models/public/1 is empty")
    record_states(name="public", versions=[failed], labels={}, default_version=None)
    people = {
        None: False,
        make_user("vera"): False,
        make_user("aude", "auditor"): False,
        make_user("olga", "operator"): True,
        owner: True,
    }
    for person, told in people.items():
        client = signed_in(person) if person else Client()
        page, listed = client.get("/catalog/public/").content.decode(), client.get("/api/apis/public/").json()["versions"]
        assert "NOT_FOUND" in page
        assert ("/srv/models" in page) == told
        assert [(row["error_code"], bool(row["error_message"])) for row in listed] == [("NOT_FOUND", told)]
