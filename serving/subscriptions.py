"""Who may call: an entry's access, and the approvals of applications where access is `subscription`.

A subscription names its application by value, as owner and name: `asked_by` is the application's owner, whoever typed. Every change
publishes the snapshot in its own transaction, so gateways follow within a second.
"""

from typing import Any

from django.db import transaction

from audit.acts import record_act
from catalog import services as catalog_services
from catalog.models import Entry, Subscription

from .models import Application
from .publication import publish

State = Subscription.State

# What each decision makes of which states. An approval that was refused or ended can be given without being asked for again.
_DECISIONS: dict[State, frozenset[State]] = {
    State.APPROVED: frozenset({State.ASKED, State.REFUSED, State.ENDED}),
    State.REFUSED: frozenset({State.ASKED}),
    State.ENDED: frozenset({State.ASKED, State.APPROVED}),
}


class InvalidSubscription(ValueError):
    """What was asked of a subscription can't be; the message says why."""


def set_access(*, entry: Entry, access: str, actor: str) -> None:
    """Change who may call `entry`. Approvals stay, and count again when access is `subscription` again. Raises InvalidEntry."""
    with transaction.atomic():
        catalog_services.set_access(entry=entry, access=access, actor=actor)
        publish()


def ask_subscription(*, entry: Entry, application: Application, actor: str, reason: str = "") -> Subscription:
    """Ask the owner of `entry` to let `application` call it. Asking twice changes nothing. Raises InvalidSubscription."""
    if entry.access != Entry.Access.SUBSCRIPTION:
        raise InvalidSubscription(f"{entry.slug} needs no approval: {entry.get_access_display().lower()}")
    with transaction.atomic():
        subscription, made = Subscription.objects.get_or_create(
            entry=entry, application=application.name, asked_by=application.owner.get_username(), defaults={"reason": reason}
        )
        if not made and not _move(subscription, State.ASKED, {State.REFUSED, State.ENDED}, reason):
            return subscription
        _record(subscription, actor)
    return subscription


def decide_subscription(*, subscription: Subscription, state: State, actor: str) -> None:
    """Approve, refuse or end. Raises InvalidSubscription for a decision that the present state doesn't allow."""
    with transaction.atomic():
        if not _move(subscription, state, _DECISIONS[state]):
            raise InvalidSubscription(f"{subscription.application} is {subscription.get_state_display()} already")
        _record(subscription, actor)
        publish()


def end_subscriptions_of(*, application: Application, actor: str) -> None:
    """End all of an application that goes away: one that comes later under its name asks for itself. The caller publishes."""
    rows = Subscription.objects.filter(application=application.name, asked_by=application.owner.get_username())
    for subscription in rows.filter(state__in=_DECISIONS[State.ENDED]).select_related("entry"):
        if _move(subscription, State.ENDED, _DECISIONS[State.ENDED]):
            _record(subscription, actor)


def _move(subscription: Subscription, state: State, allowed: Any, reason: str | None = None) -> bool:
    """A conditional update: of two decisions at one time, one finds the state that it was made for."""
    changes: dict[str, Any] = {"state": state} if reason is None else {"state": state, "reason": reason}
    moved = Subscription.objects.filter(pk=subscription.pk, state__in=allowed).update(**changes)
    subscription.refresh_from_db()
    return bool(moved)


def _record(subscription: Subscription, actor: str) -> None:
    record_act(
        kind=f"subscription.{subscription.state}",
        actor=actor,
        subject=subscription.entry.slug,
        details={"subscription": subscription.pk},
        application=subscription.application,
    )
