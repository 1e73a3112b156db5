"""Questions about many entries."""

from typing import TYPE_CHECKING, Any, Self

from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from .models import Entry  # noqa: F401  (named in a string)


class EntryQuerySet(models.QuerySet["Entry"]):
    def visible_to(self, user: Any) -> Self:
        """Those that `user` (also an anonymous one) may see. Who may publish sees none but their own hidden ones either."""
        if user.is_superuser:
            return self
        if not user.is_authenticated:
            return self.filter(visibility="public")
        return self.filter(Q(visibility__in=("public", "internal")) | owned_by(user))

    def editable_by(self, user: Any) -> Self:
        """Those whose card and tags `user` may change: the owner and the team, if they may publish at all."""
        if user.is_superuser:
            return self
        if not user.has_perm("catalog.publish_entry"):
            return self.none()
        return self.filter(owned_by(user))

    def with_lists(self) -> Self:
        """For lists: owner, team and tags in three queries, whatever the number of rows."""
        return self.select_related("owner", "team").prefetch_related("entry_tags__tag").defer("search", "card")


def owned_by(user: Any) -> Q:
    """A subquery rather than a join, so that rows don't repeat."""
    return Q(owner=user.pk) | Q(team__in=user.teams.values("pk"))
