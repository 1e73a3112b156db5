"""What the frame of every page shows: where one is, which environment this is, how the log stands."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest

from audit.figures import TreeState, tree_state

PLACES = {"catalog": "catalog", "serving": "serving", "audit": "audit", "log": "audit", "keys": "keys"}
TREE_TTL_S = 2.0

try:
    VERSION = version("daybook")
except PackageNotFoundError:  # run from a checkout
    VERSION = "0.1"


@dataclass
class _Kept:
    """The tree's state as of `until` − TTL. Replaced whole; a race between threads costs one more query."""

    state: TreeState | None
    until: float


_kept = _Kept(None, 0.0)


def known_tree() -> TreeState | None:
    """At most `TREE_TTL_S` old: each page has a footer, few of them need a query of their own for it. None without a database."""
    global _kept
    now = time.monotonic()
    if now >= _kept.until:
        try:
            _kept = _Kept(tree_state(datetime.now(UTC)), now + TREE_TTL_S)
        except DatabaseError:
            _kept = _Kept(None, now + TREE_TTL_S)
    return _kept.state


class Frame:
    """Computed only as far as the template asks."""

    version = VERSION

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    @property
    def place(self) -> str:
        return PLACES.get(self._request.path.split("/", 2)[1], "")

    @property
    def environment(self) -> str:
        return str(getattr(settings, "ENVIRONMENT", "")) or ("demo" if settings.DEMO else "")

    @cached_property
    def roles(self) -> str:
        user = self._request.user
        if user.is_superuser:
            return "administrator"
        return ", ".join(user.groups.order_by("name").values_list("name", flat=True))

    @cached_property
    def manages_people(self) -> bool:
        return self._request.user.has_perm("auth.change_user")

    @cached_property
    def tree(self) -> TreeState | None:
        return known_tree()


def frame(request: HttpRequest) -> dict[str, Frame]:
    return {"frame": Frame(request)}
