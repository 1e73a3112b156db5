import json
from pathlib import Path
from typing import Any

import pytest
import redis
from rest_framework.test import APIClient

from audit.models import Record
from serving.models import APIKey, Deployment

from .factories import make_application, make_deployment, make_key, make_user

pytestmark = pytest.mark.django_db


def client_of(role: str = "viewer", name: str = "ada", scopes: tuple[str, ...] = ("api", "operate")) -> APIClient:
    """A client that sends a key of a user with this role."""
    _, text = make_key(make_user(name, role), scopes=scopes)
    return client_with(text)


def client_with(key: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client


def test_a_model_is_deployed_changed_and_removed(tmp_path: Path) -> None:
    client = client_of("operator")
    (tmp_path / "digits").mkdir()
    made = client.post("/api/deployments/", {"name": "digits", "base_path": str(tmp_path / "digits"), "policy": "latest"}, format="json")
    assert made.status_code == 201, made.content
    assert made.json()["policy"] == "latest:1"
    changed = client.patch("/api/deployments/digits/", {"labels": {"stable": 2}, "policy": "all"}, format="json")
    assert (changed.status_code, changed.json()["labels"]) == (200, {"stable": 2})
    assert client.delete("/api/deployments/digits/").status_code == 204
    assert client.get("/api/deployments/digits/").status_code == 404


@pytest.mark.parametrize(
    ("field", "value"), [("name", "other"), ("stateful", True), ("access", "open"), ("summary", "Mine"), ("versions", []), ("typo", 1)]
)
def test_what_cannot_be_changed_is_refused_and_not_described(field: str, value: object, tmp_path: Path) -> None:
    make_deployment(tmp_path)
    answer = client_of("operator").patch("/api/deployments/half_plus_two/", {field: value, "policy": "all"}, format="json")
    assert (answer.status_code, set(answer.json())) == (400, {field})
    assert Deployment.objects.get().policy == "latest:1"
    document = APIClient().get("/api/schema/", {"format": "json"}).json()
    body = document["paths"]["/api/deployments/{name}/"]["patch"]["requestBody"]["content"]["application/json"]["schema"]
    described = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
    assert field not in described
    assert {"policy", "labels", "batching", "timeout_ms"} <= set(described)


def test_a_wrong_field_is_named() -> None:
    answer = client_of("operator").post(
        "/api/deployments/", {"name": "digits", "base_path": "/nowhere/at/all", "policy": "newest"}, format="json"
    )
    assert answer.status_code == 400
    assert "newest" in str(answer.json()["policy"])


@pytest.mark.parametrize(
    ("field", "value"), [("answer_labels", [0, 1, 2]), ("batching", {"max_batch_size": 8.5}), ("weight", 0), ("timeout_ms", 0)]
)
def test_a_wrong_change_leaves_everything_as_it_was(field: str, value: object, tmp_path: Path) -> None:
    make_deployment(tmp_path)
    client = client_of("operator")
    answer = client.patch("/api/deployments/half_plus_two/", {field: value}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, [field])
    made, _ = make_key(make_user("grace"))
    client.force_authenticate(made.application.owner)
    assert client.delete(f"/api/keys/{made.prefix}/").status_code == 204


@pytest.mark.parametrize("role", ["viewer", "auditor"])
def test_viewers_and_auditors_deploy_nothing(role: str, tmp_path: Path) -> None:
    make_deployment(tmp_path)
    client = client_of(role)
    assert client.get("/api/deployments/").status_code == 403
    assert client.post("/api/deployments/", {"name": "m", "base_path": str(tmp_path)}, format="json").status_code == 403
    assert client.delete("/api/deployments/half_plus_two/").status_code == 403
    assert Deployment.objects.count() == 1


def test_a_key_is_made_listed_rotated_and_revoked() -> None:
    ada = make_user("ada")
    client = APIClient()
    client.force_authenticate(ada)
    application = make_application(ada)
    made = client.post("/api/keys/", {"application": application.pk, "scopes": ["predict"]}, format="json")
    assert made.status_code == 201, made.content
    assert made.json()["key"].startswith(made.json()["prefix"])
    assert made["Cache-Control"] == "no-store"
    prefix = made.json()["prefix"]
    assert "key" not in client.get(f"/api/keys/{prefix}/").json()
    assert client.post(f"/api/keys/{prefix}/rotate/").status_code == 201
    assert client.delete(f"/api/keys/{prefix}/").status_code == 204
    assert client.get(f"/api/keys/{prefix}/").json()["state"] == "revoked"
    assert len(client.get("/api/keys/").json()) == 2


def test_keys_of_others_are_not_there() -> None:
    key, _ = make_key(make_user("grace"))
    client = client_of()
    assert client.get(f"/api/keys/{key.prefix}/").status_code == 404
    assert client.delete(f"/api/keys/{key.prefix}/").status_code == 404
    assert client.post(f"/api/keys/{key.prefix}/rotate/").status_code == 404
    assert client.delete(f"/api/applications/{key.application_id}/").status_code == 404
    assert client.post("/api/keys/", {"application": key.application_id}, format="json").status_code == 404
    assert APIKey.objects.get(pk=key.pk).revoked_at is None


def test_a_key_without_the_scope_does_not_open_the_api() -> None:
    answer = client_of(scopes=("predict",)).get("/api/keys/")
    assert answer.status_code == 403
    assert "lacks the scope 'api'" in answer.content.decode()
    assert APIClient().get("/api/keys/", HTTP_AUTHORIZATION="Bearer dbk_wrong").status_code == 401
    assert APIClient().get("/api/keys/").status_code == 401


def test_a_number_that_no_row_can_have_is_not_found() -> None:
    client = client_of()
    for digits in ("9" * 18, "9" * 30, "9" * 5_000):
        assert client.delete(f"/api/applications/{digits}/").status_code == 404


def test_a_failed_model_is_tried_again_by_its_operator(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    assert client_of("operator").post("/api/deployments/half_plus_two/retry/").status_code == 202
    assert Record.objects.filter(verb="deployment.retried", model="half_plus_two").count() == 1
    assert client_of("auditor", "grace").post("/api/deployments/half_plus_two/retry/").status_code == 403


def test_live_workers_are_read_from_redis(redis_client: redis.Redis, settings: Any) -> None:
    prefix = settings.REDIS_PREFIX
    version = {"model": "m", "version": 1, "state": "END", "error": "no graph"}
    shown = {"worker": "w1", "node": "n1", "held": 2, "answered": 7, "versions": [version]}
    redis_client.sadd(f"{prefix}workers", "w1", "w2", "gone")
    redis_client.set(f"{prefix}status:w1", json.dumps(shown))
    redis_client.set(f"{prefix}status:w2", "of another release")
    client = client_of("operator")
    assert client.get("/api/workers/").json() == [{**shown, "versions": [{**version, "version": "1"}]}]
    assert client_of("viewer", "grace").get("/api/workers/").status_code == 403
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert client.get("/api/workers/").status_code == 503
