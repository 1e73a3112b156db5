"""Puts the demo into the database: people in each role, the models with their catalog entries, keys. Safe to repeat.

What can't be read back from the database (passwords, key texts) is kept below VAR_DIR in files that only their owner can read; what
is missing there is made anew.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib.auth.models import Group, User
from django.db import transaction

from audit.acts import record_act
from catalog.models import Entry
from catalog.services import set_examples, update_card
from config.files import read_env_file, write_env_file, write_private
from demo.content import MODELS, DemoModel, demo_models
from serving.keys import create_application, issue_key
from serving.models import APIKey, Application, Deployment
from serving.roles import ROLES
from serving.services import create_deployment

ACTOR = "system:demo"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoKey:
    """variable: its name in the file of keys. owner: a user name, which is a role's name here."""

    variable: str
    application: str
    owner: str
    scopes: tuple[str, ...] = ("predict", "metadata", "api")


KEYS = (
    DemoKey("DAYBOOK_API_KEY", "Demo", "auditor"),
    DemoKey("DAYBOOK_OPERATOR_KEY", "Operations", "operator", ("predict", "metadata", "api", "operate")),
    DemoKey("MAIL_ROOM_KEY", "Mail room", "viewer"),
    DemoKey("CASE_DESK_KEY", "Case desk", "publisher"),
)


def seed(var_dir: Path, *, say: Say) -> None:
    seed_people(var_dir / "demo-users.txt", say=say)
    for model in demo_models():
        seed_model(model, say=say)
    seed_keys(var_dir / "keys" / "demo.env", say=say)


def seed_people(file: Path, *, say: Say) -> None:
    """One user in each role, named after it, with a random password."""
    known = dict(line.split(None, 1) for line in file.read_text().splitlines()) if file.exists() else {}
    passwords = {}
    for role in ROLES:
        user = User.objects.filter(username=role).first()
        password = known.get(role) if user else None
        if password is None:
            password = secrets.token_urlsafe(9)
            with transaction.atomic():
                user = user or User.objects.create_user(role, f"{role}@daybook.invalid")
                user.set_password(password)
                user.save(update_fields=["password"])
                user.groups.add(Group.objects.get(name=role))
                record_act(kind="user.password", actor=ACTOR, subject=f"user {user.pk}", details={}, note=f"made, in the role {role}")
            say(f"made the user {role}")
        passwords[role] = password
    write_private(file, "".join(f"{role:<10} {password}\n" for role, password in passwords.items()))


def seed_model(model: DemoModel, *, say: Say) -> None:
    """Deploy it and describe it, unless it's there: what people changed since the first start is theirs."""
    if Deployment.objects.filter(name=model.name).exists() or Entry.objects.filter(slug=model.name).exists():
        return
    with transaction.atomic():
        create_deployment(
            name=model.name,
            base_path=str(MODELS / model.name),
            actor="publisher",
            summary=model.summary,
            access=model.access,
            tags=model.tags,
            anywhere=True,
            **model.deployment,
        )
        entry = Entry.objects.get(slug=model.name)
        update_card(entry=entry, actor="publisher", **model.card)
        if model.examples:
            set_examples(entry=entry, examples=model.examples, actor="publisher")
    say(f"registered {model.name}")


def answer_examples(ask: Callable[[str, Mapping[str, Any]], Any]) -> int:
    """Put the model's own answer beside each of the demo's examples that has none; how many got one. Safe to repeat.

    ask: gives a model's answer to a predict body, None when it has none. Examples that people wrote or changed are theirs.
    """
    num_answered = 0
    for model in demo_models():
        entry = Entry.objects.filter(slug=model.name).first()
        if entry is None:
            continue
        ours = [example["request"] for example in model.examples]
        examples = [{"name": row.name, "request": row.request, "response": row.response, "note": row.note} for row in entry.examples.all()]
        answers = {}
        for example in examples:
            if example["response"] is None and example["request"] in ours:
                answers[example["name"]] = ask(model.name, example["request"])
        found = {name: answer for name, answer in answers.items() if answer is not None}
        if found:
            answered = [{**example, "response": found.get(example["name"], example["response"])} for example in examples]
            set_examples(entry=entry, examples=answered, actor=ACTOR)
            num_answered += len(found)
    return num_answered


def seed_keys(file: Path, *, say: Say) -> None:
    """The demo's keys, without limits. A key whose text or row is gone is issued anew."""
    texts = read_env_file(file)
    for wanted in KEYS:
        owner = User.objects.get(username=wanted.owner)
        prefix = "_".join(texts.get(wanted.variable, "").split("_")[:2])  # dbk_<public>_<secret>; the secret may hold underscores
        if prefix and APIKey.objects.filter(prefix=prefix, revoked_at=None, application__owner=owner).exists():
            continue
        with transaction.atomic():
            application = Application.objects.filter(owner=owner, name=wanted.application).first() or create_application(
                name=wanted.application, owner=owner, actor=ACTOR
            )
            _, texts[wanted.variable] = issue_key(application=application, actor=ACTOR, scopes=wanted.scopes)
        say(f"issued a key to {wanted.application}")
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_env_file(file, texts)
