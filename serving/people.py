"""People and their roles: accounts made, roles given and taken away.

The acts name a person by number (`person:7`): a leaf is for ever, so there is no name in it. The people page shows the number.
"""

import secrets
from collections.abc import Collection

from django.contrib.auth.models import Group, User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet

from audit.acts import record_act

from .roles import ROLES


class InvalidPerson(ValueError):
    """What was asked of a person can't be; `field` names what is wrong and the message what was expected."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def roles_of(person: User) -> list[str]:
    """In the order of ROLES; groups that are no roles of ours left out."""
    held = {group.name for group in person.groups.all()}
    return [role for role in ROLES if role in held]


def subject_of(person: User) -> str:
    """How the daybook names a person."""
    return f"person:{person.pk}"


def add_person(*, name: str, roles: Collection[str], actor: str, email: str = "") -> tuple[User, str]:
    """Make an account. Returns it with its first password, which is kept nowhere and shown once.

    Raises InvalidPerson for a name that is taken or can't be one, and for an unknown role.
    """
    _check_roles(roles)
    if User.objects.filter(username__iexact=name).exists():
        raise InvalidPerson("name", f"{name!r} is taken, expected a new name")
    password = secrets.token_urlsafe(12)
    person = User(username=name, email=email)
    person.set_password(password)
    try:
        person.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidPerson({"username": "name"}.get(field, field), messages[0]) from error
    with transaction.atomic():
        person.save(force_insert=True)
        record_act(kind="person.added", actor=actor, subject=subject_of(person), details={})
        set_roles(person=person, roles=roles, actor=actor)
    return person, password


def set_roles(*, person: User, roles: Collection[str], actor: str) -> None:
    """Make `roles` the roles that `person` holds. They hold from the person's next request on.

    Raises InvalidPerson for an unknown role, and when nobody would be left who may give roles.
    """
    _check_roles(roles)
    with transaction.atomic():
        groups = {group.name: group for group in Group.objects.select_for_update().filter(name__in=ROLES).order_by("pk")}
        held = set(person.groups.values_list("name", flat=True)) & set(ROLES)
        given, taken = sorted(set(roles) - held), sorted(held - set(roles))
        if not given and not taken:
            return
        if "admin" in taken and not _other_admins(person).exists():
            raise InvalidPerson("roles", f"{person.get_username()} is the last administrator; make somebody else one first")
        person.groups.add(*(groups[role] for role in given))
        person.groups.remove(*(groups[role] for role in taken))
        record_act(kind="person.roles", actor=actor, subject=subject_of(person), details={"given": given, "taken": taken})


def _other_admins(person: User) -> QuerySet[User]:
    admins = Q(groups__name="admin") | Q(is_superuser=True)
    return User.objects.filter(admins, is_active=True).exclude(pk=person.pk)


def _check_roles(roles: Collection[str]) -> None:
    for role in roles:
        if role not in ROLES:
            raise InvalidPerson("roles", f"{role!r} is unknown, expected some of {', '.join(ROLES)}")
