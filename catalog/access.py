"""Who may see and change entries: functions that return the thing or raise 404."""

from typing import Any

from django.http import Http404

from .models import Entry, Subscription
from .querysets import owned_by


def get_entry(user: Any, slug: str) -> Entry:
    """Raises Http404 alike for what isn't there and for what `user` may not see."""
    entry = Entry.objects.visible_to(user).select_related("owner", "team").filter(slug=slug).first()
    if entry is None:
        raise Http404(f"No API is named {slug!r}.")
    return entry


def get_editable_entry(user: Any, slug: str) -> Entry:
    """Raises Http404 also when `user` may see the entry but doesn't own it."""
    entry = Entry.objects.editable_by(user).select_related("owner", "team").filter(slug=slug).first()
    if entry is None:
        raise Http404(f"No API that you may change is named {slug!r}.")
    return entry


def may_edit(user: Any, entry: Entry) -> bool:
    return Entry.objects.editable_by(user).filter(pk=entry.pk).exists()


def may_see_errors(user: Any, entry: Entry) -> bool:
    """Why a version failed names files and machines: that is for who can do something about it."""
    return user.has_perm("serving.operate_deployment") or may_edit(user, entry)


def may_try(user: Any, entry: Entry) -> bool:
    """Whether the gateway takes a try-it token of this user: the site's side of `serving.gateway.auth.authorize`."""
    if entry.access == Entry.Access.OPEN:
        return True
    if not user.is_authenticated:
        return False
    if entry.access == Entry.Access.KEY or user.is_superuser:
        return True
    approved = Subscription.objects.filter(entry=entry, asked_by=user.get_username(), state=Subscription.State.APPROVED)
    return approved.exists() or Entry.objects.filter(owned_by(user), pk=entry.pk).exists()
