"""Bearer keys for the management API: the same keys as at the gateway, with the scope `api`."""

from typing import Any

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from .keys import find_key_by_text


class KeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer dbk_…` or `X-API-Key`. The caller acts as the owner of the key's application."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        text = _find_key_text(request)
        if text is None:
            return None
        key = find_key_by_text(text)
        if key is None or not key.application.owner.is_active:
            raise AuthenticationFailed("This key is unknown, expired or revoked.")
        if not {"api", "operate"} & set(key.scopes):
            raise AuthenticationFailed(f"The key {key.prefix} may not use the management API: it lacks the scope 'api'.")
        return key.application.owner, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="daybook"'


def _find_key_text(request: Request) -> str | None:
    scheme, _, value = get_authorization_header(request).decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return request.headers.get("X-API-Key")
