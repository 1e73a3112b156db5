from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from audit import database
from audit.models import Record
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
    assert f"/keys/applications/{key.application_id}/" not in client.get("/keys/").content.decode()
    key.refresh_from_db()
    assert key.revoked_at is None


def test_an_admin_may_revoke_anybodys_key() -> None:
    key, _ = make_key(make_user("grace"))
    sign_in("admin").post(f"/keys/{key.prefix}/revoke/")
    key.refresh_from_db()
    assert key.revoked_at is not None


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
