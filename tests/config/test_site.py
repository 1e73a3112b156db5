"""What the site answers around the apps' pages: health, headers, the API's description and reference."""

from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.test import Client
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.django_db


def test_healthz_needs_nothing(client: Client) -> None:
    assert client.get("/healthz").content == b"ok\n"


def test_readyz_when_database_and_redis_are_there(client: Client, redis_server: str) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "missing": []})


def test_readyz_names_what_is_missing(client: Client, settings: object) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"  # type: ignore[attr-defined]  # pytest-django's fixture
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["missing"]) == (503, ["redis"])


def test_metrics_say_how_the_log_stands(client: Client) -> None:
    answer = client.get("/metrics")
    found = {family.name: family for family in text_string_to_metric_families(answer.content.decode())}
    assert found["daybook_database_up"].samples[0].value == 1
    assert found["daybook_log_leaves"].samples[0].value == 0
    assert found["daybook_workers_live"].samples[0].value == 0


def test_content_security_policy_allows_no_inline_code_and_names_the_gateway(client: Client) -> None:
    policy = client.get("/healthz").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["script-src"] == directives["style-src"] == "'self'"
    gateway = urlsplit(settings.GATEWAY_URL)
    assert directives["connect-src"] == f"'self' {gateway.scheme}://{gateway.netloc}"


def test_description_of_the_management_api_is_valid_openapi(client: Client) -> None:
    document = client.get("/api/schema/", {"format": "json"}).json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert set(document["components"]["securitySchemes"]) == {"key", "cookieAuth"}
    assert {"/api/apis/", "/api/records/", "/api/records/{id}/", "/api/deployments/", "/api/keys/"} <= set(document["paths"])


def test_reference_shows_every_operation(client: Client) -> None:
    document = client.get("/api/schema/", {"format": "json"}).json()
    page = client.get("/api/docs/").content.decode()
    operations = [operation["operationId"] for item in document["paths"].values() for key, operation in item.items() if key != "parameters"]
    assert [name for name in operations if f'id="{name}"' not in page] == []


def test_sign_up_is_closed_unless_opened(client: Client) -> None:
    assert b"password1" not in client.get("/accounts/signup/").content


def test_unknown_key_is_told_so_by_the_management_api(client: Client) -> None:
    answer = client.get("/api/keys/", headers={"Authorization": "Bearer dbk_00000000_x"})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
