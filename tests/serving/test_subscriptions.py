"""Access on approval: asked for, decided, published to gateways, and seen by nobody whom it doesn't concern."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from audit.models import Record
from catalog.models import Entry, Subscription
from serving.keys import create_application, delete_application
from serving.models import APIKey
from serving.publication import current
from serving.subscriptions import InvalidSubscription, ask_subscription, decide_subscription, set_access

from .factories import make_deployment, make_key, make_user

pytestmark = pytest.mark.django_db

State = Subscription.State


@pytest.fixture
def owner(tmp_path: Path) -> User:
    """The owner of `half_plus_two`, which is on approval."""
    ada = make_user("ada", "publisher")
    make_deployment(tmp_path, access="subscription")
    return ada


@pytest.fixture
def key(owner: User) -> APIKey:
    """A key of vera's application."""
    return make_key(make_user("vera"))[0]


def entry() -> Entry:
    return Entry.objects.get(slug="half_plus_two")


def opened(key: APIKey) -> tuple[str, ...]:
    """What gateways are told that this key's application was approved for."""
    snapshot = current()
    assert snapshot is not None
    return snapshot.keys[key.sha256].subscriptions


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def api_of(person: User) -> APIClient:
    client = APIClient()
    client.force_authenticate(person)
    return client


def test_gateways_learn_an_approval_and_its_end(key: APIKey) -> None:
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    assert opened(key) == ()
    decide_subscription(subscription=subscription, state=State.APPROVED, actor="ada")
    assert opened(key) == ("half_plus_two",)
    snapshot = current()
    assert snapshot is not None
    assert snapshot.deployments["half_plus_two"].subscribers == ("vera",)
    assert snapshot.deployments["half_plus_two"].seen_by == ("ada",)
    decide_subscription(subscription=subscription, state=State.ENDED, actor="ada")
    assert opened(key) == ()
    verbs = Record.objects.filter(verb__startswith="subscription.").order_by("ts", "id").values_list("verb", "model")
    assert list(verbs) == [(f"subscription.{state}", "half_plus_two") for state in ("asked", "approved", "ended")]


def test_an_application_of_the_same_name_elsewhere_gains_nothing(key: APIKey) -> None:
    other, _ = make_key(make_user("grace"))
    assert other.application.name == key.application.name
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    decide_subscription(subscription=subscription, state=State.APPROVED, actor="ada")
    assert (opened(key), opened(other)) == (("half_plus_two",), ())


def test_an_application_made_anew_under_its_old_name_asks_again(key: APIKey) -> None:
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    decide_subscription(subscription=subscription, state=State.APPROVED, actor="ada")
    name, vera = key.application.name, key.application.owner
    delete_application(application=key.application, actor="vera")
    create_application(name=name, owner=vera, actor="vera")
    new, _ = make_key(vera)
    assert opened(new) == ()
    subscription.refresh_from_db()
    assert subscription.state == State.ENDED


def test_an_approval_counts_only_while_access_is_on_approval(key: APIKey) -> None:
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    decide_subscription(subscription=subscription, state=State.APPROVED, actor="ada")
    set_access(entry=entry(), access="key", actor="ada")
    snapshot = current()
    assert snapshot is not None
    assert (snapshot.deployments["half_plus_two"].access, opened(key)) == ("key", ())
    with pytest.raises(InvalidSubscription, match="half_plus_two needs no approval"):
        ask_subscription(entry=entry(), application=key.application, actor="vera")
    set_access(entry=entry(), access="subscription", actor="ada")
    assert opened(key) == ("half_plus_two",)


def test_asking_twice_changes_nothing_and_a_refusal_can_be_asked_about_again(key: APIKey) -> None:
    def asked() -> Subscription:
        return ask_subscription(entry=entry(), application=key.application, actor="vera", reason="to halve")

    first = asked()
    assert asked() == first
    assert Record.objects.filter(verb="subscription.asked").count() == 1
    decide_subscription(subscription=first, state=State.REFUSED, actor="ada")
    with pytest.raises(InvalidSubscription, match="is refused already"):
        decide_subscription(subscription=first, state=State.REFUSED, actor="ada")
    assert (asked().state, asked().reason) == (State.ASKED, "to halve")


def test_one_asks_and_the_owner_approves_on_the_page(owner: User, key: APIKey) -> None:
    vera, ada = signed_in(key.application.owner), signed_in(owner)
    assert "Ask for access" in vera.get("/catalog/half_plus_two/").content.decode()
    answer = vera.post("/catalog/half_plus_two/access/ask/", {"application": key.application_id, "reason": "to halve"})
    assert answer.status_code == 302
    subscription = Subscription.objects.get()
    page = ada.get("/catalog/half_plus_two/access/").content.decode()
    assert f"/subscriptions/{subscription.pk}/approve/" in page
    assert "to halve" in page
    assert "approve/" not in vera.get("/catalog/half_plus_two/access/").content.decode()
    assert ada.post(f"/subscriptions/{subscription.pk}/approve/").status_code == 302
    assert opened(key) == ("half_plus_two",)
    assert vera.post(f"/subscriptions/{subscription.pk}/end/").status_code == 302
    assert opened(key) == ()


@pytest.mark.parametrize("role", ["viewer", "publisher", "auditor", "operator", "admin"])
def test_nobody_decides_for_the_owner(role: str, key: APIKey) -> None:
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    mallory = make_user("mallory", role)
    for decision in ("approve", "refuse", "end"):
        assert signed_in(mallory).post(f"/subscriptions/{subscription.pk}/{decision}/").status_code == 404
        assert api_of(mallory).post(f"/api/subscriptions/{subscription.pk}/{decision}/").status_code == 404
    assert signed_in(mallory).post("/catalog/half_plus_two/access/", {"access": "open"}).status_code == 404
    assert api_of(mallory).patch("/api/access/half_plus_two/", {"access": "open"}, format="json").status_code == 404
    assert api_of(mallory).get("/api/subscriptions/").json() == []
    subscription.refresh_from_db()
    assert (subscription.state, entry().access) == (State.ASKED, "subscription")


def test_one_does_not_approve_oneself(key: APIKey) -> None:
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    vera = key.application.owner
    for decision in ("approve", "refuse"):
        assert signed_in(vera).post(f"/subscriptions/{subscription.pk}/{decision}/").status_code == 403
        assert api_of(vera).post(f"/api/subscriptions/{subscription.pk}/{decision}/").status_code == 403
    subscription.refresh_from_db()
    assert subscription.state == State.ASKED


def test_one_does_not_ask_for_the_application_of_another(key: APIKey) -> None:
    mallory = make_user("mallory")
    answer = signed_in(mallory).post("/catalog/half_plus_two/access/ask/", {"application": key.application_id})
    assert answer.status_code == 422
    asked = api_of(mallory).post("/api/subscriptions/", {"api": "half_plus_two", "application": key.application_id}, format="json")
    assert asked.status_code == 404
    assert not Subscription.objects.exists()


def test_the_api_asks_lists_approves_and_ends(owner: User, key: APIKey) -> None:
    vera, ada = api_of(key.application.owner), api_of(owner)
    asked = vera.post("/api/subscriptions/", {"api": "half_plus_two", "application": key.application_id}, format="json")
    assert (asked.status_code, asked.json()["state"], asked.json()["owner"]) == (201, "asked", "vera")
    number = asked.json()["id"]
    assert [row["id"] for row in ada.get("/api/subscriptions/").json()] == [number]
    assert ada.post(f"/api/subscriptions/{number}/approve/").json()["state"] == "approved"
    assert opened(key) == ("half_plus_two",)
    assert ada.post(f"/api/subscriptions/{number}/approve/").status_code == 400
    assert vera.post(f"/api/subscriptions/{number}/end/").json()["state"] == "ended"
    assert vera.get(f"/api/subscriptions/{number}/").json()["state"] == "ended"


def test_the_owner_changes_access_and_gateways_follow(owner: User) -> None:
    assert signed_in(owner).post("/catalog/half_plus_two/access/", {"access": "open"}).status_code == 302
    snapshot = current()
    assert snapshot is not None
    assert snapshot.deployments["half_plus_two"].access == "open"
    api = api_of(owner)
    assert api.patch("/api/access/half_plus_two/", {"access": "key"}, format="json").json() == {"api": "half_plus_two", "access": "key"}
    assert api.get("/api/access/half_plus_two/").json()["access"] == "key"
    assert api.patch("/api/access/half_plus_two/", {"access": "nobody"}, format="json").status_code == 400
    snapshot = current()
    assert snapshot is not None
    assert snapshot.deployments["half_plus_two"].access == "key"


def test_operators_decide_where_nobody_owns(owner: User, key: APIKey) -> None:
    Entry.objects.update(owner=None)
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    assert signed_in(make_user("olga", "operator")).post(f"/subscriptions/{subscription.pk}/approve/").status_code == 302
    assert opened(key) == ("half_plus_two",)


def test_a_try_it_token_needs_an_approval(owner: User, key: APIKey) -> None:
    def asked(person: User) -> int:
        answer = signed_in(person).post("/serving/try-it-token/", {"api": "half_plus_two"}, content_type="application/json")
        return answer.status_code

    vera = key.application.owner
    assert (asked(owner), asked(vera)) == (200, 403)
    subscription = ask_subscription(entry=entry(), application=key.application, actor="vera")
    assert asked(vera) == 403
    decide_subscription(subscription=subscription, state=State.APPROVED, actor="ada")
    assert asked(vera) == 200
