"""What the page of an API's access shows, ready to render."""

from dataclasses import dataclass
from typing import Any

from catalog.models import Entry, Subscription

from .access import manages_entry, subscriptions_of
from .models import Application

_MARKS = {"approved": "ok", "asked": "busy", "refused": "fail", "ended": "idle"}


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    subscription: Subscription
    mark: str
    may_approve: bool
    may_refuse: bool
    may_end: bool


@dataclass(frozen=True, slots=True)
class AccessPage:
    """`rows`: for who decides all of them, for others those of their own applications."""

    entry: Entry
    manages: bool
    takes_subscriptions: bool
    has_applications: bool
    rows: tuple[SubscriptionRow, ...]


def access_page(user: Any, entry: Entry) -> AccessPage:
    manages = manages_entry(user, entry)
    return AccessPage(
        entry=entry,
        manages=manages,
        takes_subscriptions=entry.access == Entry.Access.SUBSCRIPTION,
        has_applications=Application.objects.filter(owner_id=user.pk).exists(),
        rows=tuple(_row(row, manages=manages) for row in subscriptions_of(user).filter(entry=entry)),
    )


def _row(subscription: Subscription, *, manages: bool) -> SubscriptionRow:
    state = subscription.state
    return SubscriptionRow(
        subscription=subscription,
        mark=_MARKS[state],
        may_approve=manages and state != "approved",
        may_refuse=manages and state == "asked",
        may_end=state == "approved" or (state == "asked" and not manages),
    )
