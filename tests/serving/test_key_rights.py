"""What a key may do at the management API: its owner's rights, within its own."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from catalog.models import Entry
from serving.models import APIKey, Deployment

from .factories import make_deployment, make_key, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada(tmp_path: Path) -> User:
    """An operator who owns two deployments."""
    ada = make_user("ada", "operator")
    make_deployment(tmp_path, "digits")
    make_deployment(tmp_path, "risk")
    return ada


def client_with(owner: User, **rights: Any) -> APIClient:
    _, text = make_key(owner, **rights)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return client


def test_changing_what_is_served_takes_the_scope_operate(ada: User, tmp_path: Path) -> None:
    client = client_with(ada, scopes=("api",))
    answers = [
        client.post("/api/deployments/", {"name": "new", "base_path": str(tmp_path)}, format="json"),
        client.patch("/api/deployments/digits/", {"policy": "all"}, format="json"),
        client.delete("/api/deployments/digits/"),
    ]
    assert [answer.status_code for answer in answers] == [403] * 3
    assert all("lacks the scope 'operate'" in answer.json()["detail"] for answer in answers)
    assert client.get("/api/deployments/").status_code == 200
    assert set(Deployment.objects.values_list("name", "policy")) == {("digits", "latest:1"), ("risk", "latest:1")}


def test_the_scope_operate_opens_deployments_and_nothing_else(ada: User) -> None:
    client = client_with(ada, scopes=("operate",))
    assert client.get("/api/deployments/digits/").status_code == 200
    assert client.patch("/api/deployments/digits/", {"policy": "all"}, format="json").status_code == 200
    closed = [
        client.get("/api/keys/"),
        client.post("/api/keys/", {"application": 1}, format="json"),
        client.get("/api/applications/"),
        client.get("/api/records/"),
        client.get(f"/api/records/{uuid4()}/payload/"),
        client.get("/api/apis/"),
        client.get("/api/people/"),
        client.patch("/api/access/digits/", {"access": "open"}, format="json"),
    ]
    assert [answer.status_code for answer in closed] == [403] * len(closed)


@pytest.mark.parametrize("scope", ["predict", "metadata"])
def test_a_key_for_calling_opens_nothing_of_the_management_api(ada: User, scope: str) -> None:
    client = client_with(ada, scopes=(scope,))
    for path in ("/api/deployments/", "/api/keys/", "/api/records/", "/api/apis/", "/api/tags/"):
        assert client.get(path).status_code == 403, path


def test_a_key_issues_no_more_than_it_has(ada: User) -> None:
    client = client_with(ada, scopes=("api", "predict"), apis=("digits",))
    application = APIKey.objects.get().application_id

    def issued(**rights: Any) -> int:
        return client.post("/api/keys/", {"application": application, **rights}, format="json").status_code

    assert issued(scopes=["predict"], apis=["digits"]) == 201
    assert issued(scopes=["api", "predict"], apis=["digits"]) == 201
    assert issued(scopes=["operate"], apis=["digits"]) == 403
    assert issued(apis=["digits"]) == 403  # predict and metadata when nothing is said
    assert issued(scopes=["predict"]) == 403  # all APIs when nothing is said
    assert issued(scopes=["predict"], apis=["risk"]) == 403
    assert issued(scopes=["predict"], apis=["*"]) == 403
    assert APIKey.objects.count() == 3


def test_a_key_that_ends_issues_none_that_outlives_it(ada: User) -> None:
    end = timezone.now() + timedelta(hours=1)
    client = client_with(ada, scopes=("api", "predict"), expires_at=end)
    application = APIKey.objects.get().application_id

    def issued(expires_at: str | None) -> int:
        wanted = {"application": application, "scopes": ["predict"], "expires_at": expires_at}
        return client.post("/api/keys/", wanted, format="json").status_code

    assert issued(None) == 403
    assert issued((end + timedelta(seconds=1)).isoformat()) == 403
    assert issued(end.isoformat()) == 201


def test_a_key_does_not_rotate_one_that_may_do_more(ada: User) -> None:
    client = client_with(ada, scopes=("api",))
    stronger, _ = make_key(ada, scopes=("api", "operate"))
    weaker, _ = make_key(ada, scopes=("api",), apis=("digits",))
    assert client.post(f"/api/keys/{stronger.prefix}/rotate/").status_code == 403
    assert client.post(f"/api/keys/{weaker.prefix}/rotate/").status_code == 201
    assert APIKey.objects.count() == 4


def test_a_key_changes_only_the_apis_that_it_names(ada: User, tmp_path: Path) -> None:
    client = client_with(ada, scopes=("api", "operate"), apis=("digits",))
    assert client.patch("/api/deployments/digits/", {"policy": "all"}, format="json").status_code == 200
    assert client.patch("/api/apis/digits/", {"summary": "Digits"}, format="json").status_code == 200
    refused = [
        client.patch("/api/deployments/risk/", {"policy": "all"}, format="json"),
        client.delete("/api/deployments/risk/"),
        client.post("/api/deployments/", {"name": "new", "base_path": str(tmp_path)}, format="json"),
        client.patch("/api/apis/risk/", {"summary": "Risk"}, format="json"),
        client.patch("/api/access/risk/", {"access": "open"}, format="json"),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert (Entry.objects.get(slug="risk").access, Entry.objects.get(slug="risk").summary) == ("key", "")


def test_who_is_signed_in_is_bound_by_no_key(ada: User) -> None:
    client = APIClient()
    client.force_login(ada)
    assert client.patch("/api/deployments/digits/", {"policy": "all"}, format="json").status_code == 200
    application = make_key(ada)[0].application_id
    assert client.post("/api/keys/", {"application": application, "scopes": ["operate"]}, format="json").status_code == 201
