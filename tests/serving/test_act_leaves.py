"""Leaves are for ever and for everybody (P4): no act names a person, an application or a place on disk in its leaf."""

import ast
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from audit.errors import PayloadUnavailable
from audit.models import Outbox, Record
from audit.viewing import view_payload
from catalog.models import Entry, Subscription
from catalog.services import set_access, set_examples, set_tags, update_card
from demo.seed import seed_people
from serving.keys import delete_application, revoke_key, rotate_key
from serving.people import add_person, set_roles
from serving.services import change_deployment, remove_deployment, retry_deployment
from serving.subscriptions import ask_subscription, decide_subscription

from .factories import make_deployment, make_key, make_user
from .test_services import report, status

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).parents[2]
PERSON, APPLICATION = "lovelace", "notebook"


def kinds_in_the_source() -> set[str]:
    """The first words of every call of `record_act`."""
    kinds = set()
    for package in ("audit", "catalog", "config", "demo", "serving"):
        for path in (ROOT / package).rglob("*.py"):
            kinds |= set(_kinds(ast.parse(path.read_text())))
    return kinds


def _kinds(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "record_act":
            for keyword in node.keywords:
                if keyword.arg == "kind" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


def do_everything(tmp_path: Path) -> None:
    """One act of each kind, with names that can be told from everything else."""
    person = make_user(PERSON, "publisher")
    key, _ = make_key(person)
    successor, _ = rotate_key(key=key, actor=PERSON)
    revoke_key(key=successor, actor=PERSON)
    other, _ = add_person(name=f"{PERSON}-2", roles=["viewer"], actor=PERSON)
    set_roles(person=other, roles=["operator"], actor=PERSON)
    deployment = make_deployment(tmp_path)
    entry = Entry.objects.get(slug=deployment.name)
    set_access(entry=entry, access="subscription", actor=PERSON)
    asked = ask_subscription(entry=entry, application=key.application, actor=PERSON)
    decide_subscription(subscription=asked, state=Subscription.State.APPROVED, actor=PERSON)
    delete_application(application=key.application, actor=PERSON)
    set_tags(entry=entry, tags=["task:other"], actor=PERSON)
    set_examples(entry=entry, examples=[{"name": "one", "request": {"instances": [1]}}], actor=PERSON)
    update_card(entry=entry, actor=PERSON, summary=f"made by {PERSON}")
    change_deployment(deployment=deployment, actor=PERSON, base_path=str(tmp_path), anywhere=True)
    retry_deployment(deployment=deployment, actor=PERSON)
    report(error_code="NOT_FOUND", error_message=f"there is no directory {tmp_path}")
    report(status(state="END", error_code="NOT_FOUND", error_message=f"no saved_model.pb in {tmp_path}/1"))
    remove_deployment(deployment=deployment, actor=PERSON)
    seed_people(tmp_path / "people", say=lambda text: None)
    look_at_a_payload()


def look_at_a_payload() -> None:
    act = Record.objects.filter(kind="act").first()
    assert act is not None
    with pytest.raises(PayloadUnavailable):
        view_payload(record=act, user=make_user("babbage", "auditor"), address="::1")


def test_no_leaf_of_any_act_names_people_applications_or_paths(tmp_path: Path) -> None:
    do_everything(tmp_path)
    leaves = {said["act"]: leaf for leaf in map(bytes, Outbox.objects.values_list("leaf", flat=True)) if (said := orjson.loads(leaf))}
    assert kinds_in_the_source() <= leaves.keys()
    for leaf in map(bytes, Outbox.objects.values_list("leaf", flat=True)):
        for name in (PERSON, APPLICATION, "babbage", "auditor", str(tmp_path), "/tmp", "directory "):
            assert name.encode() not in leaf, leaf


def test_the_rows_say_what_the_leaves_leave_out(tmp_path: Path) -> None:
    do_everything(tmp_path)
    for verb in ("application.created", "application.deleted", "key.issued", "key.rotated", "key.revoked"):
        assert set(Record.objects.filter(verb=verb).values_list("application", "user_name")) == {(APPLICATION, PERSON)}
    assert Record.objects.get(verb="deployment.changed").answer == str(tmp_path)
    assert Record.objects.get(verb="version.state").answer == f"no saved_model.pb in {tmp_path}/1"
