"""Every route of the site, walked from the resolver, asked by a visitor, each role and somebody who owns nothing of it.

The table below is the whole policy as outsiders see it. A route that it lacks fails the test: whoever adds one says who may use it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from catalog.models import Entry, Tag
from serving.subscriptions import ask_subscription
from tests.serving.factories import make_deployment, make_key, make_user

pytestmark = pytest.mark.django_db

ROLES = ("viewer", "publisher", "operator", "auditor", "admin")
NO_RECORD = "01890000-0000-7000-8000-000000000000"


def row(visitor: int, viewer: int, publisher: int, operator: int, auditor: int, admin: int) -> dict[str, int]:
    return dict(zip(("visitor", *ROLES), (visitor, viewer, publisher, operator, auditor, admin), strict=True))


def alike(visitor: int, signed_in: int) -> dict[str, int]:
    return row(visitor, *[signed_in] * 5)


PUBLIC = alike(200, 200)
SIGNED_IN = alike(302, 200)  # visitors are sent to sign in
NOT_THERE = alike(302, 404)  # of somebody else
API_SIGNED_IN = alike(401, 200)
API_NOT_THERE = alike(401, 404)
OPERATORS = row(302, 403, 403, 200, 403, 200)
ADMINS = row(302, 403, 403, 403, 403, 200)

# What GET answers, by route. Objects in the URLs are `owner`'s, which none of those asking is.
READS: dict[str, dict[str, int]] = {
    "": PUBLIC,
    "search/": alike(302, 302),
    "healthz": PUBLIC,
    "metrics": PUBLIC,
    "llms.txt": PUBLIC,
    "api/schema/": PUBLIC,
    "api/docs/": PUBLIC,
    "catalog/": PUBLIC,
    "catalog/-/suggestions/": PUBLIC,
    "catalog/<str:slug>/": PUBLIC,
    "catalog/<str:slug>/openapi.json": PUBLIC,
    "catalog/<str:slug>/edit/": NOT_THERE,
    "catalog/<str:slug>/access/": SIGNED_IN,
    "catalog/<str:slug>/access/ask/": alike(405, 405),
    "api/apis/": PUBLIC,
    "api/apis/<slug>/": PUBLIC,
    "api/tags/": PUBLIC,
    "api/tags/<pk>/": PUBLIC,
    "serving/": SIGNED_IN,
    "serving/register/": row(302, 403, 200, 200, 403, 200),
    "serving/try-it-token/": alike(405, 405),
    "serving/<str:name>/": OPERATORS,
    "serving/<str:name>/remove/": OPERATORS,
    "serving/<str:name>/retry/": alike(405, 405),
    "keys/": SIGNED_IN,
    "keys/applications/<int:pk>/": row(302, 404, 404, 404, 404, 200),
    "keys/applications/<int:pk>/delete/": alike(405, 405),
    "keys/<str:prefix>/revoke/": alike(405, 405),
    "keys/<str:prefix>/rotate/": alike(405, 405),
    "subscriptions/<pk>/<decision>/": alike(405, 405),
    "people/": ADMINS,
    "people/<str:name>/": ADMINS,
    "api/deployments/": row(401, 403, 403, 200, 403, 200),
    "api/deployments/<name>/": row(401, 403, 403, 200, 403, 200),
    "api/deployments/<name>/retry/": alike(401, 405),
    "api/workers/": row(401, 403, 403, 200, 403, 200),
    "api/applications/": API_SIGNED_IN,
    "api/applications/<pk>/": alike(401, 405),
    "api/keys/": API_SIGNED_IN,
    "api/keys/<prefix>/": row(401, 404, 404, 404, 404, 200),
    "api/keys/<prefix>/rotate/": alike(401, 405),
    "api/access/<slug>/": API_SIGNED_IN,
    "api/subscriptions/": API_SIGNED_IN,
    "api/subscriptions/<pk>/": API_NOT_THERE,
    "api/subscriptions/<pk>/approve/": alike(401, 405),
    "api/subscriptions/<pk>/refuse/": alike(401, 405),
    "api/subscriptions/<pk>/end/": alike(401, 405),
    "api/people/": row(401, 403, 403, 403, 403, 200),
    "api/people/<name>/": row(401, 403, 403, 403, 403, 200),
    "audit/": row(302, 302, 302, 200, 200, 200),  # others are sent to their records
    "audit/records/": SIGNED_IN,
    "audit/records/new/": SIGNED_IN,
    "audit/records/<uuid:record_id>": NOT_THERE,
    "audit/verify/": PUBLIC,
    "api/records/": API_SIGNED_IN,
    "api/records/<uuid:pk>/": API_NOT_THERE,
    "api/records/<uuid:pk>/payload/": API_NOT_THERE,
}

# What changes answer to a body with nothing of use in it. 400 and 422, of a form that lacks its fields, say that one was let in.
CHANGES: dict[str, dict[str, int]] = {
    "POST catalog/<str:slug>/edit/": NOT_THERE,
    "POST catalog/<str:slug>/access/": NOT_THERE,
    "POST catalog/<str:slug>/access/ask/": alike(302, 422),
    "POST serving/register/": row(302, 403, 422, 422, 403, 422),
    "POST serving/try-it-token/": alike(302, 400),
    "POST serving/<str:name>/": row(302, 403, 403, 422, 403, 422),
    "POST serving/<str:name>/remove/": row(302, 403, 403, 422, 403, 422),
    "POST serving/<str:name>/retry/": row(302, 403, 403, 302, 403, 302),
    "POST keys/": alike(302, 422),
    "POST keys/applications/<int:pk>/": row(302, 404, 404, 404, 404, 403),  # a key acts as its owner: nobody makes another's
    "POST keys/applications/<int:pk>/delete/": row(302, 404, 404, 404, 404, 302),
    "POST keys/<str:prefix>/revoke/": row(302, 404, 404, 404, 404, 302),
    "POST keys/<str:prefix>/rotate/": row(302, 404, 404, 404, 404, 403),
    "POST subscriptions/<pk>/<decision>/": NOT_THERE,
    "POST audit/records/<uuid:record_id>": NOT_THERE,
    "POST people/": row(302, 403, 403, 403, 403, 422),
    "POST people/<str:name>/": row(302, 403, 403, 403, 403, 200),
    "POST api/deployments/": row(401, 403, 400, 400, 403, 400),
    "POST api/deployments/<name>/retry/": row(401, 403, 403, 202, 403, 202),
    "POST api/applications/": alike(401, 400),
    "POST api/keys/": alike(401, 400),
    "POST api/keys/<prefix>/rotate/": row(401, 404, 404, 404, 404, 403),
    "POST api/subscriptions/": alike(401, 400),
    "POST api/subscriptions/<pk>/approve/": API_NOT_THERE,
    "POST api/subscriptions/<pk>/refuse/": API_NOT_THERE,
    "POST api/subscriptions/<pk>/end/": API_NOT_THERE,
    "POST api/people/": row(401, 403, 403, 403, 403, 400),
    "PATCH api/apis/<slug>/": API_NOT_THERE,
    "PATCH api/access/<slug>/": API_NOT_THERE,
    "PATCH api/deployments/<name>/": row(401, 403, 403, 200, 403, 200),
    "PATCH api/people/<name>/": row(401, 403, 403, 403, 403, 400),
    "DELETE api/deployments/<name>/": row(401, 403, 403, 204, 403, 204),
    "DELETE api/applications/<pk>/": row(401, 404, 404, 404, 404, 204),
    "DELETE api/keys/<prefix>/": row(401, 404, 404, 404, 404, 204),
}

# Judged elsewhere: allauth's own pages; the log's files, which are public or by LOG_ENTRIES (tests/audit/test_log_views.py); readiness,
# which depends on servers.
ELSEWHERE = ("accounts/", "log/", "readyz")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Values for the parts of URLs: an entry on approval, a deployment, an application, a key and a request for access, all of `owner`."""
    owner = make_user("ada", "publisher")
    make_deployment(tmp_path, access="subscription")
    key, _ = make_key(owner)
    entry = Entry.objects.get()
    subscription = ask_subscription(entry=entry, application=key.application, actor="ada")
    return {
        "entry": entry.slug,
        "application": str(key.application_id),
        "key": key.prefix,
        "subscription": str(subscription.pk),
        "person": "ada",
        "tag": str(Tag.objects.values_list("pk", flat=True)[0]),  # the taxonomy comes with the migrations
    }


def routes() -> Iterator[str]:
    """Every route in the notation of the tables."""

    def walk(patterns: list[Any], above: str) -> Iterator[str]:
        for pattern in patterns:
            route = above + str(pattern.pattern)
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, route)
            else:
                assert isinstance(pattern, URLPattern)
                yield re.sub(r"\(\?P<(\w+)>[^)]+\)", r"<\1>", route).replace("^", "").removesuffix("$").removesuffix("\\Z")

    yield from walk(get_resolver().url_patterns, "")


def url_of(route: str, places: dict[str, str]) -> str:
    """The address of the owner's thing that a route is about."""
    first = next((word for word in ("tags", "subscriptions", "applications", "keys", "people", "records") if word in route), "entry")
    thing = {"tags": "tag", "people": "person", "records": "", "entry": "entry"}.get(first, first.removesuffix("s"))
    value = places.get(thing, NO_RECORD)
    return "/" + re.sub(r"<[^>]+>", lambda found: "approve" if found[0] == "<decision>" else value, route)


def client_of(who: str, **options: Any) -> Client:
    client = Client(**options)
    if who != "visitor":
        client.force_login(make_user(f"some-{who}", who))
    return client


def ask(client: Client, method: str, url: str) -> Any:
    """The answer; what it changed is undone."""
    body, kind = (b"{}", "application/json") if url.startswith("/api/") else (b"nothing=", "application/x-www-form-urlencoded")
    with transaction.atomic():
        answer: Any = client.generic(method, url, body, kind)
        transaction.set_rollback(True)
    return answer


def test_every_route_is_listed() -> None:
    found = {route for route in routes() if not route.startswith(ELSEWHERE)}
    assert found - set(READS) == set(), "say in READS who may use it"
    assert set(READS) - found == set(), "gone: take it out of READS"
    assert {door.split(" ", 1)[1] for door in CHANGES} - found == set()


@pytest.mark.parametrize("who", ["visitor", *ROLES])
def test_reading_is_for_whom_the_table_says(who: str, places: dict[str, str]) -> None:
    client = client_of(who)
    found = {route: ask(client, "GET", url_of(route, places)).status_code for route in READS}
    assert found == {route: expected[who] for route, expected in READS.items()}


@pytest.mark.parametrize("who", ["visitor", *ROLES])
def test_changing_is_for_whom_the_table_says(who: str, places: dict[str, str]) -> None:
    client = client_of(who)
    found = {}
    for door in CHANGES:
        method, route = door.split(" ", 1)
        found[door] = ask(client, method, url_of(route, places)).status_code
    assert found == {door: expected[who] for door, expected in CHANGES.items()}


def test_nothing_else_changes_anything(places: dict[str, str]) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    doors = [f"{method} {route}" for route in READS for method in ("POST", "PUT", "PATCH", "DELETE")]
    found = {
        door: ask(client, door.split(" ")[0], url_of(door.split(" ", 1)[1], places)).status_code for door in doors if door not in CHANGES
    }
    assert {door: status for door, status in found.items() if status != 405} == {}


def test_the_owner_is_let_in_where_others_find_nothing(places: dict[str, str]) -> None:
    client = Client()
    client.force_login(User.objects.get(username="ada"))
    hidden = [route for route, expected in READS.items() if expected["publisher"] == 404 and "record" not in route]
    assert hidden
    assert {route: ask(client, "GET", url_of(route, places)).status_code for route in hidden} == dict.fromkeys(hidden, 200)


@pytest.mark.parametrize("door", CHANGES)
def test_each_door_that_changes_something_wants_the_csrf_token(door: str, places: dict[str, str]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    method, route = door.split(" ", 1)
    answer = ask(client, method, url_of(route, places))
    assert answer.status_code == 403
    assert "CSRF" in answer.content.decode()
