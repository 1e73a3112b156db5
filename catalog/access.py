"""Who may see and change entries: functions that return the thing or raise 404."""

from typing import Any

from django.http import Http404

from .models import Entry


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
