"""Bearer keys for the management API: the same keys as at the gateway.

A key acts as its owner, within its own rights: it needs a scope for what is asked, and changes only APIs that it names. Views say
what they need with two attributes, so that those of other packages can too:

    scope_of_changes    the scope for everything but reading ("api" where a view says nothing); it opens reading too
    names_api           the part of the URL that names an API
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from .keys import find_key_by_text
from .models import APIKey


class KeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer dbk_…` or `X-API-Key`. `request.auth` is the key; None for people who are signed in."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        text = _find_key_text(request)
        if text is None:
            return None
        key = find_key_by_text(text)
        if key is None or not key.application.owner.is_active:
            raise AuthenticationFailed("This key is unknown, expired or revoked.")
        _require_rights(key, request)
        return key.application.owner, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="daybook"'


def _require_rights(key: APIKey, request: Request) -> None:
    """Raises PermissionDenied."""
    context: dict[str, Any] = request.parser_context or {}
    view, reads = context.get("view"), request.method in SAFE_METHODS
    needed = str(getattr(view, "scope_of_changes", "api"))
    if needed not in key.scopes and not (reads and "api" in key.scopes):
        raise PermissionDenied(f"The key {key.prefix} may not do this: it lacks the scope {needed!r}.")
    name = context.get("kwargs", {}).get(getattr(view, "names_api", ""))
    if name is not None and not reads:
        require_reach(key, [name])


def require_reach(key: Any, names: Collection[str]) -> None:
    """Raises PermissionDenied when `key` doesn't reach all these APIs.

    key: `request.auth`, which the stubs take for a token: an APIKey, or None for people who are signed in, who reach all.
    """
    if key is None or "*" in key.apis:
        return
    if beyond := sorted(set(names) - set(key.apis)):
        raise PermissionDenied(f"The key {key.prefix} is for other APIs than {beyond[0]!r}.")


def require_within(key: Any, *, scopes: Collection[str], apis: Collection[str], expires_at: datetime | None = None) -> None:
    """Raises PermissionDenied when `key` would hand out more than it may do itself."""
    if key is None:
        return
    if beyond := sorted(set(scopes) - set(key.scopes)):
        raise PermissionDenied(f"The key {key.prefix} can't give the scope {beyond[0]!r}, which it lacks itself.")
    if key.expires_at is not None and (expires_at is None or expires_at > key.expires_at):
        raise PermissionDenied(f"The key {key.prefix} ends {key.expires_at:%Y-%m-%d %H:%M} and makes none that outlives it.")
    require_reach(key, apis)


def _find_key_text(request: Request) -> str | None:
    scheme, _, value = get_authorization_header(request).decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return request.headers.get("X-API-Key")
