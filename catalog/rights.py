"""Who may see and call entries, as values for the door: `visible_to` and the approvals, without the database."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from django.contrib.auth import get_user_model
from django.db.models import Q

from .models import Entry, Subscription


@dataclass(frozen=True, slots=True)
class Rights:
    """seen_by: user names to whom the entry is there whatever its visibility. approved: (owner's user name, application)."""

    access: str = Entry.Access.KEY.value
    visibility: str = Entry.Visibility.PUBLIC.value
    seen_by: tuple[str, ...] = ()
    approved: tuple[tuple[str, str], ...] = ()


def rights_of(names: Collection[str]) -> dict[str, Rights]:
    """By name; in a few queries for any number of names. Names are listed only where they decide something."""
    approved = _approved(names)
    return {
        entry.slug: Rights(
            access=entry.access,
            visibility=entry.visibility,
            seen_by=_seen_by(entry) if entry.visibility == "owners" or entry.access == "subscription" else (),
            approved=tuple(sorted(approved[entry.pk])) if entry.access == "subscription" else (),
        )
        for entry in Entry.objects.filter(slug__in=names).only("slug", "access", "visibility", "owner", "team")
    }


def _seen_by(entry: Entry) -> tuple[str, ...]:
    """Owner, team and superusers; the same people as in `EntryQuerySet.visible_to`."""
    people = Q(pk=entry.owner_id) | Q(is_superuser=True)
    if entry.team_id is not None:
        people |= Q(teams=entry.team_id)
    names = get_user_model().objects.filter(people, is_active=True).values_list("username", flat=True)
    return tuple(sorted(set(names)))


def _approved(names: Collection[str]) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    rows = Subscription.objects.filter(entry__slug__in=names, state=Subscription.State.APPROVED)
    for entry, user, application in rows.values_list("entry_id", "asked_by", "application"):
        found[entry].append((user, application))
    return found
