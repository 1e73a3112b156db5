"""What the pages of people show, ready to render."""

from collections.abc import Collection
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.urls import reverse

from audit.contexts import records_url
from audit.search import quote

from .people import roles_of, subject_of
from .roles import ROLES


@dataclass(frozen=True, slots=True)
class PersonRow:
    person: User
    roles: tuple[str, ...]
    url: str
    acts_url: str  # what was changed about them


@dataclass(frozen=True, slots=True)
class RoleChange:
    """What saving would do."""

    given: tuple[str, ...]
    taken: tuple[str, ...]
    wanted: tuple[str, ...]


def people_page() -> tuple[PersonRow, ...]:
    """Everybody, in two queries."""
    return tuple(
        PersonRow(
            person=person,
            roles=tuple(roles_of(person)),
            url=reverse("serving:person", args=[person.get_username()]),
            acts_url=records_url(f"model:{quote(subject_of(person))}"),
        )
        for person in User.objects.prefetch_related("groups").order_by("username")
    )


def role_change(person: User, wanted: Collection[str]) -> RoleChange:
    held = roles_of(person)
    return RoleChange(
        given=tuple(role for role in ROLES if role in wanted and role not in held),
        taken=tuple(role for role in held if role not in wanted),
        wanted=tuple(wanted),
    )
