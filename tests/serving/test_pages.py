from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from audit import database
from audit.models import Record
from catalog.models import Entry
from serving.key_use import find_last_uses
from serving.live import read_batch_sizes
from serving.models import APIKey, Application, Deployment, VersionState, WorkerState
from tests.audit.logs import ingest, make_leaf_call

from .factories import make_deployment, make_key, make_user

pytestmark = pytest.mark.django_db


def sign_in(role: str, name: str = "ada") -> Client:
    client = Client()
    client.force_login(make_user(name, role))
    return client


def test_a_key_is_shown_once_and_only_to_its_maker() -> None:
    client = sign_in("viewer")
    client.post("/keys/", {"name": "notebook"})
    application = Application.objects.get()
    page = client.post(
        f"/keys/applications/{application.pk}/", {"scopes": ["predict"], "requests_per_second": 0, "concurrency": 0, "expires": ""}
    )
    text = page.context["text"]
    assert text in page.content.decode()
    assert page["Cache-Control"].startswith("max-age=0")
    again = client.get(f"/keys/applications/{application.pk}/")
    assert text not in again.content.decode()
    assert APIKey.objects.get().prefix in again.content.decode()


def test_the_applications_of_others_are_not_there() -> None:
    key, _ = make_key(make_user("grace"))
    client = sign_in("viewer")
    assert client.get(f"/keys/applications/{key.application_id}/").status_code == 404
    assert client.post(f"/keys/{key.prefix}/revoke/").status_code == 404
    assert client.post(f"/keys/{key.prefix}/rotate/").status_code == 404
    assert client.post(f"/keys/applications/{key.application_id}/delete/", {"confirm": key.application.name}).status_code == 404
    assert APIKey.objects.count() == 1
    assert f"/keys/applications/{key.application_id}/" not in client.get("/keys/").content.decode()
    key.refresh_from_db()
    assert key.revoked_at is None


def test_an_admin_may_revoke_anybodys_key() -> None:
    key, _ = make_key(make_user("grace"))
    sign_in("admin").post(f"/keys/{key.prefix}/revoke/")
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_nobody_makes_a_key_in_the_name_of_another() -> None:
    key, _ = make_key(make_user("grace"))
    admin = make_user("adam", "admin")
    client, api = Client(), APIClient()
    client.force_login(admin)
    api.force_authenticate(admin)
    page = client.get(f"/keys/applications/{key.application_id}/").content.decode()
    assert "/revoke/" in page
    assert "/rotate/" not in page
    assert "Make a key" not in page
    wanted = {"scopes": ["predict"], "requests_per_second": 0, "concurrency": 0, "expires": ""}
    assert client.post(f"/keys/applications/{key.application_id}/", wanted).status_code == 403
    assert client.post(f"/keys/{key.prefix}/rotate/").status_code == 403
    assert api.post("/api/keys/", {"application": key.application_id}, format="json").status_code == 403
    assert api.post(f"/api/keys/{key.prefix}/rotate/").status_code == 403
    assert APIKey.objects.count() == 1


def test_a_rotated_key_is_shown_once_with_the_end_of_the_old_one() -> None:
    grace = make_user("grace")
    key, _ = make_key(grace, expires_at=timezone.now() + timedelta(days=300))
    client = Client()
    client.force_login(grace)
    page = client.post(f"/keys/{key.prefix}/rotate/")
    assert page.context["text"] in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    key.refresh_from_db()
    assert key.expires_at is not None
    assert f"until {key.expires_at:%Y-%m-%d %H:%M}" in page.content.decode()
    assert page.context["text"] not in client.get(f"/keys/applications/{key.application_id}/").content.decode()


def test_a_key_says_when_it_was_last_used() -> None:
    grace = make_user("grace")
    (used, _), (unused, _) = make_key(grace), make_key(grace)
    now = timezone.now()
    for ago in (timedelta(hours=3), timedelta(hours=1)):
        call = {"kind": "prediction", "model": "digits", "outcome": "ok", "key_prefix": used.prefix, "application": used.application.name}
        Record(ts=now - ago, id=uuid4(), leaf_hash=b"\0" * 32, actor_type="key", user_name="grace", **call).save(force_insert=True)
    uses = find_last_uses(used.application, now=now)
    assert uses == {used.prefix: now - timedelta(hours=1)}
    client = Client()
    client.force_login(grace)
    page = client.get(f"/keys/applications/{used.application_id}/")
    assert [(row.key, row.used_at) for row in page.context["page"].keys] == [(unused, None), (used, now - timedelta(hours=1))]
    assert "not in 30 days" in page.content.decode()


def test_deleting_an_application_asks_for_its_name() -> None:
    client = sign_in("viewer")
    client.post("/keys/", {"name": "notebook"})
    pk = Application.objects.get().pk
    client.post(f"/keys/applications/{pk}/delete/", {"confirm": "note"})
    assert Application.objects.exists()
    client.post(f"/keys/applications/{pk}/delete/", {"confirm": "notebook"})
    assert not Application.objects.exists()


@pytest.mark.parametrize("role", ["viewer", "auditor", "publisher"])
def test_only_operators_change_what_is_served(role: str, tmp_path: Path) -> None:
    make_deployment(tmp_path)
    client = sign_in(role)
    assert client.get("/serving/").status_code == 200
    assert client.get("/serving/half_plus_two/").status_code == 403
    assert client.post("/serving/half_plus_two/remove/", {"confirm": "half_plus_two"}).status_code == 403
    assert Deployment.objects.exists()


REGISTRATION = {"name": "digits", "summary": "Reads a digit.", "policy": "latest:2", "labels": "stable=1", "access": "subscription"}


@pytest.mark.parametrize(("role", "leads_to"), [("publisher", "/catalog/digits/"), ("operator", "/serving/digits/")])
def test_a_model_is_registered_from_the_form(role: str, leads_to: str, tmp_path: Path, settings: Any) -> None:
    settings.MODEL_ROOTS = [tmp_path]
    (tmp_path / "digits").mkdir()
    client = sign_in(role)
    assert client.get("/serving/register/").status_code == 200
    answer = client.post("/serving/register/", {**REGISTRATION, "base_path": str(tmp_path / "digits")})
    assert (answer.status_code, answer["Location"]) == (302, leads_to)
    deployment, entry = Deployment.objects.get(), Entry.objects.get()
    assert (deployment.policy, deployment.labels, deployment.created_by) == ("latest:2", {"stable": 1}, "ada")
    assert (entry.access, entry.summary, entry.owner and entry.owner.username) == ("subscription", "Reads a digit.", "ada")


def test_a_directory_outside_the_model_roots_is_refused_beside_its_field(tmp_path: Path, settings: Any) -> None:
    settings.MODEL_ROOTS = [tmp_path / "models"]
    (tmp_path / "digits").mkdir()
    answer = sign_in("publisher").post("/serving/register/", {**REGISTRATION, "base_path": str(tmp_path / "digits")})
    assert answer.status_code == 422
    assert "is not below one of the model directories" in str(answer.context["form"].errors["base_path"])
    assert not Deployment.objects.exists()


@pytest.mark.parametrize("role", ["viewer", "auditor"])
def test_only_publishers_register(role: str, tmp_path: Path, settings: Any) -> None:
    settings.MODEL_ROOTS = [tmp_path]
    assert sign_in(role).post("/serving/register/", {**REGISTRATION, "base_path": str(tmp_path)}).status_code == 403
    assert not Deployment.objects.exists()


def test_visitors_are_asked_to_sign_in() -> None:
    for path in ("/serving/", "/keys/", "/serving/register/"):
        answer = Client().get(path)
        assert answer.status_code == 302
        assert answer["Location"].startswith("/accounts/login/")


def test_stopping_asks_for_the_name(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    client = sign_in("operator")
    assert client.post("/serving/half_plus_two/remove/", {"confirm": "half"}).status_code == 422
    assert client.post("/serving/half_plus_two/remove/", {"confirm": "half_plus_two"}).status_code == 302
    assert not Deployment.objects.exists()


def test_a_wrong_policy_is_refused_beside_its_field(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    answer = sign_in("operator").post(
        "/serving/half_plus_two/", {"policy": "newest", "labels": "", "timeout_ms": 1000, "batching": '{"max_batch_size": 0}'}
    )
    assert answer.status_code == 422
    assert "is not one of latest:N, all, specific:1,2" in answer.content.decode()


def test_the_list_takes_few_queries(tmp_path: Path, django_assert_max_num_queries: object) -> None:
    for name in ("a", "b", "c", "d"):
        make_deployment(tmp_path, name)
    client = sign_in("operator")
    client.get("/serving/")
    with django_assert_max_num_queries(16):  # type: ignore[operator]
        client.get("/serving/")


def test_reasons_are_told_once_in_words_and_folded(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    worker = WorkerState.objects.create(worker_id="w", node="n", seen_at=timezone.now())
    reason = "not probed: Could not parse example input, value: '8'\n\t [[{{node ParseExample/ParseExampleV2}}]]"
    batching = {"classify": reason, "regress": reason, "draw": "the same rows gave other outputs in a second run", "predict": "equal"}
    signatures = {name: {"batched": name == "predict"} for name in batching}
    VersionState.objects.create(
        worker=worker, deployment=deployment, version=1, state="AVAILABLE", signatures=signatures, batching=batching
    )
    html = sign_in("operator").get("/serving/").content.decode()
    start = html.index('<details class="fold"')
    fold = html[start : html.index("</details>", start)]
    assert "3 of 4 signatures run one request at a time" in fold
    assert fold.count("made-up rows") == fold.count("Could not parse example input") == 1
    assert "classify, regress" in fold
    assert "The same rows gave other outputs in a second run." in fold
    assert "{{node" not in fold
    assert "Could not parse" not in sign_in("viewer", "bob").get("/serving/").content.decode()


@pytest.mark.django_db(transaction=True)
def test_the_batch_size_is_the_mean_of_the_last_minutes_batches(tmp_path: Path) -> None:
    def call(batch_id: int, batch_size: int, model: str = "digits") -> Any:
        return make_leaf_call(model=model, version=2, worker="w", batch_id=batch_id, batch_size=batch_size)

    with database.connect() as connection:
        ingest(connection, [call(1, 3), call(1, 3), call(1, 3), call(2, 1), call(3, 8, "verse")])
    now = Record.objects.latest("ts").ts
    assert read_batch_sizes(["digits", "verse", "risk"], now) == {("digits", 2): 2.0, ("verse", 2): 8.0}
    assert read_batch_sizes(["digits"], now + timedelta(minutes=2)) == {}
    assert read_batch_sizes([], now) == {}


def test_a_try_it_token_is_for_what_its_person_may_see(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    client = sign_in("viewer")
    answer = client.post("/serving/try-it-token/", {"api": "half_plus_two"}, content_type="application/json")
    assert answer.status_code == 200
    assert answer.json()["expires_in"] <= 300
    assert client.post("/serving/try-it-token/", {"api": "nothing"}, content_type="application/json").status_code == 404
    assert client.post("/serving/try-it-token/", "[", content_type="application/json").status_code == 400


def test_what_failed_can_be_loaded_again(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    client = sign_in("operator")
    assert "Load again" not in client.get("/serving/half_plus_two/").content.decode()
    worker = WorkerState.objects.create(worker_id="w1", node="n1", seen_at=Now())
    VersionState.objects.create(worker=worker, deployment=deployment, version=1, state="END", error_code="INTERNAL", error_message="x")
    assert "Load again" in client.get("/serving/half_plus_two/").content.decode()
    assert client.post("/serving/half_plus_two/retry/")["Location"] == "/serving/half_plus_two/"
    assert sign_in("viewer", "grace").post("/serving/half_plus_two/retry/").status_code == 403
