"""Accounts and roles: who gives them, what is recorded, and what no way can break."""

from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from rest_framework.test import APIClient

from audit.models import Outbox, Record
from serving.people import InvalidPerson, add_person, roles_of, set_roles

from .factories import make_user

pytestmark = pytest.mark.django_db


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def test_a_role_given_holds_at_once_and_one_taken_is_gone() -> None:
    vera = make_user("vera")
    set_roles(person=vera, roles=["viewer", "operator"], actor="root")
    assert User.objects.get(pk=vera.pk).has_perm("serving.operate_deployment")
    set_roles(person=vera, roles=["viewer"], actor="root")
    assert not User.objects.get(pk=vera.pk).has_perm("serving.operate_deployment")


def test_each_change_is_an_act_without_the_persons_name_in_its_leaf() -> None:
    vera = make_user("vera")
    set_roles(person=vera, roles=["auditor"], actor="root")
    set_roles(person=vera, roles=["auditor"], actor="root")
    record = Record.objects.get(verb="person.roles")
    assert (record.user_name, record.model) == ("root", f"person:{vera.pk}")
    leaf = bytes(Outbox.objects.get(record_id=record.id).leaf)
    assert b'"d":{"given":["auditor"],"taken":["viewer"]}' in leaf
    assert b"vera" not in leaf


def test_somebody_is_always_left_who_may_give_roles() -> None:
    adam = make_user("adam", "admin")
    with pytest.raises(InvalidPerson, match="adam is the last administrator"):
        set_roles(person=adam, roles=[], actor="adam")
    assert roles_of(adam) == ["admin"]
    make_user("eve", "admin")
    set_roles(person=adam, roles=[], actor="adam")
    assert roles_of(User.objects.get(pk=adam.pk)) == []


def test_a_new_account_signs_in_with_the_password_shown() -> None:
    person, password = add_person(name="vera", roles=["publisher"], actor="root")
    assert Client().login(username="vera", password=password)
    assert roles_of(person) == ["publisher"]
    assert list(Record.objects.filter(kind="act").order_by("id").values_list("verb", flat=True)) == ["person.added", "person.roles"]


@pytest.mark.parametrize(("name", "roles"), [("vera", ["viewer"]), ("VERA", []), ("a b", []), ("", []), ("mia", ["king"])])
def test_an_account_that_cannot_be_is_refused(name: str, roles: list[str]) -> None:
    make_user("vera")
    with pytest.raises(InvalidPerson):
        add_person(name=name, roles=roles, actor="root")
    assert User.objects.count() == 1


def test_the_page_asks_before_it_changes_roles() -> None:
    client, vera = signed_in(make_user("adam", "admin")), make_user("vera")
    assert "/people/vera/" in client.get("/people/").content.decode()
    asked = client.post("/people/vera/", {"roles": ["operator"]})
    assert asked.status_code == 200
    assert roles_of(vera) == ["viewer"]
    assert "Given: <strong>operator</strong>" in asked.content.decode()
    assert "Taken away: <strong>viewer</strong>" in asked.content.decode()
    assert client.post("/people/vera/", {"roles": ["operator"], "confirm": "yes"}).status_code == 302
    assert roles_of(User.objects.get(pk=vera.pk)) == ["operator"]


def test_the_page_refuses_to_take_the_last_administrator() -> None:
    answer = signed_in(make_user("adam", "admin")).post("/people/adam/", {"roles": [], "confirm": "yes"})
    assert answer.status_code == 422
    assert "last administrator" in answer.content.decode()


def test_a_first_password_is_shown_once() -> None:
    client = signed_in(make_user("adam", "admin"))
    page = client.post("/people/", {"name": "vera", "roles": ["viewer"]})
    assert page.context["password"] in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    assert page.context["password"] not in client.get("/people/").content.decode()


@pytest.mark.parametrize("role", ["viewer", "publisher", "operator", "auditor"])
def test_only_administrators_see_people_and_give_roles(role: str) -> None:
    person = make_user("vera", role)
    client = signed_in(person)
    assert client.get("/people/").status_code == 403
    assert client.post("/people/", {"name": "mia", "roles": ["admin"]}).status_code == 403
    assert client.post("/people/vera/", {"roles": ["admin"], "confirm": "yes"}).status_code == 403
    api = APIClient()
    api.force_authenticate(person)
    assert api.get("/api/people/").status_code == 403
    assert api.post("/api/people/", {"name": "mia", "roles": ["admin"]}, format="json").status_code == 403
    assert api.patch("/api/people/vera/", {"roles": ["admin"]}, format="json").status_code == 403
    assert api.patch("/api/people/nobody/", {"roles": ["admin"]}, format="json").status_code == 403
    assert roles_of(User.objects.get(pk=person.pk)) == [role]
    assert User.objects.count() == 1


def test_the_api_does_what_the_page_does() -> None:
    client = APIClient()
    client.force_authenticate(make_user("adam", "admin"))
    made = client.post("/api/people/", {"name": "vera", "roles": ["viewer"]}, format="json")
    assert (made.status_code, made.json()["roles"], made["Cache-Control"]) == (201, ["viewer"], "no-store")
    assert Client().login(username="vera", password=made.json()["password"])
    changed = client.patch("/api/people/vera/", {"roles": ["auditor"]}, format="json")
    assert (changed.status_code, changed.json()["roles"]) == (200, ["auditor"])
    assert "password" not in client.get("/api/people/vera/").json()
    assert {row["name"] for row in client.get("/api/people/").json()} == {"adam", "vera"}
    assert client.patch("/api/people/vera/", {"roles": ["king"]}, format="json").status_code == 400
    assert "last administrator" in client.patch("/api/people/adam/", {"roles": []}, format="json").json()["roles"][0]
    assert client.patch("/api/people/nobody/", {"roles": []}, format="json").status_code == 404


def test_the_command_makes_people_gives_roles_and_takes_them() -> None:
    def run(*arguments: str) -> str:
        out = StringIO()
        call_command("set_role", *arguments, stdout=out)
        return out.getvalue().strip()

    password = run("vera", "viewer", "--new")
    assert Client().login(username="vera", password=password)
    assert run("vera", "operator") == "vera: viewer, operator"
    assert run("vera", "viewer", "--take") == "vera: operator"
    with pytest.raises(CommandError, match="there is no 'nobody'; --new makes the account"):
        run("nobody", "viewer")
    with pytest.raises(CommandError, match="'vera' is taken"):
        run("vera", "viewer", "--new")
