"""Who calls, and may they.

Three things decide: whether the model is there for the caller at all (`sees`), the access that its owner gave it, and the key's own
scopes and APIs.

A key comes as `Authorization: Bearer <key>`, as `Basic` (the key as password, or as user without one) or as `X-API-Key`; the site's
try-it sends a token instead. Looking a key up costs one SHA-256, once: `Authenticator` remembers the header's text for as long as
its snapshot lives, so a revoked key ends with the snapshot that lacks it. Only good keys are remembered: a flood of wrong ones
can't push them out.

Texts never quote a key, and don't tell an unknown key from a revoked one.
"""

import binascii
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final, Literal, Protocol

from serving.snapshot import EMPTY, Deployment, Key, Limits, Snapshot

from . import tryit
from .errors import Forbidden, NotReady, Unauthenticated

ActorType = Literal["key", "anonymous", "try-it"]

NO_LIMITS: Final = Limits()
_MAX_REMEMBERED: Final = 10_000
_MAX_KEY: Final = 512


class Headers(Protocol):
    """The request's headers as the server gives them; names in lower case."""

    def get(self, key: str, default: None = None) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `meter` names whom limits are counted for; `apis`, `scopes` and `subscriptions` are what it may do."""

    actor_type: ActorType
    meter: str
    limits: Limits
    key_prefix: str = ""
    application: str = ""
    user: str = ""
    scopes: frozenset[str] = frozenset()
    apis: frozenset[str] = frozenset()
    subscriptions: frozenset[str] = frozenset()
    expires_us: int | None = None

    @property
    def has_limits(self) -> bool:
        return self.limits is not NO_LIMITS


class Authenticator:
    """The callers of one snapshot. Owned by the loop."""

    def __init__(self, snapshot: Snapshot = EMPTY) -> None:
        self._snapshot = snapshot
        self._known: dict[str, Caller] = {}

    def authenticate(self, headers: Headers, client: str, now_us: Callable[[], int]) -> Caller:
        """The caller, anonymous without any key. Raises Unauthenticated for one that is not valid.

        client: the peer's address as the server gives it, with port.
        """
        credential = headers.get("authorization") or headers.get("x-api-key")
        if credential is None:
            token = headers.get("daybook-try-it")
            if token is not None:
                return self._try_it(token, headers.get("origin"), now_us())
            return self._anonymous(address_of(client))
        caller = self._known.get(credential)
        if caller is None:
            caller = self._look_up(credential)
        if caller.expires_us is not None and now_us() >= caller.expires_us:
            raise Unauthenticated("The API key has expired.")
        return caller

    def _look_up(self, credential: str) -> Caller:
        text = key_text(credential)
        key = self._snapshot.keys.get(sha256(text.encode("utf-8", "surrogateescape")).hexdigest()) if text else None
        if key is None:
            raise Unauthenticated("The API key is not valid.")
        caller = _caller_of(key)
        if len(self._known) < _MAX_REMEMBERED:
            self._known[credential] = caller
        return caller

    def _anonymous(self, address: str) -> Caller:
        return Caller("anonymous", f"address:{address}", self._snapshot.open_limits)

    def _try_it(self, token: str, origin: str | None, now_us: int) -> Caller:
        site = self._snapshot.site_origin
        if origin is not None and origin != site:
            raise Unauthenticated("A try-it token is used from another site.")
        try:
            found = tryit.verify(token, secret=self._snapshot.try_it_secret, origin=site, now_us=now_us)
        except tryit.InvalidTryIt as error:
            raise Unauthenticated(f"The try-it token is not valid: {error}.") from None
        return Caller(
            "try-it",
            f"user:{found.user}",
            self._snapshot.open_limits,
            application="try-it",
            user=found.user,
            scopes=frozenset(("predict", "metadata")),
            apis=frozenset((found.api,)),
            expires_us=found.expires_us,
        )


def _caller_of(key: Key) -> Caller:
    limited = key.limits.requests_per_second or key.limits.concurrency
    return Caller(
        "key",
        f"key:{key.prefix}",
        key.limits if limited else NO_LIMITS,
        key_prefix=key.prefix,
        application=key.application,
        user=key.user,
        scopes=frozenset(key.scopes),
        apis=frozenset(key.apis),
        subscriptions=frozenset(key.subscriptions),
        expires_us=key.expires_us,
    )


def key_text(credential: str) -> str:
    """The key within an `Authorization` or `X-API-Key` header; empty when there is none."""
    scheme, space, rest = credential.strip().partition(" ")
    if not space:
        return scheme[:_MAX_KEY] if scheme.lower() not in ("bearer", "basic") else ""
    rest = rest.strip()
    if len(rest) > 2 * _MAX_KEY:
        return ""
    match scheme.lower():
        case "bearer":
            return rest
        case "basic":
            try:
                user, _, password = b64decode(rest, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return ""
            return password or user
        case _:
            return ""


def sees(caller: Caller, deployment: Deployment) -> bool:
    """Whether a model is there for this caller, as in the catalog. Where it isn't, answers are those of a model that nobody deployed."""
    match deployment.visibility:
        case "public":
            return True
        case "internal":
            return caller.actor_type != "anonymous"
        case _:
            return caller.user in deployment.seen_by  # an anonymous caller has no name, and nobody has an empty one


def authorize(caller: Caller, deployment: Deployment, scope: str, *, snapshot_is_stale: bool) -> None:
    """Raises Unauthenticated, Forbidden, or NotReady, when this caller may not do this with this model.

    scope: "predict" or "metadata". An `open` model answers everybody who shows no key, and every valid key.
    """
    if deployment.access == "open":
        if caller.actor_type == "anonymous" or not caller.scopes.isdisjoint((scope, "*")):
            return
        raise Forbidden(_no_scope(caller, scope))
    if snapshot_is_stale:
        raise NotReady("The gateway has not been able to confirm its keys for too long.", retry_after=5.0)
    if caller.actor_type == "anonymous":
        raise Unauthenticated(f"The model {deployment.name} needs an API key.")
    if caller.scopes.isdisjoint((scope, "*")):
        raise Forbidden(_no_scope(caller, scope))
    if caller.apis.isdisjoint((deployment.name, "*")):
        raise Forbidden(f"{_name(caller)} may not use the model {deployment.name}.")
    if deployment.access == "subscription" and not _is_approved(caller, deployment):
        raise Forbidden(f"{_name(caller)} is of no application that the owner of the model {deployment.name} has approved.")


def is_listed(caller: Caller, deployment: Deployment) -> bool:
    """Whether a model is in this caller's list: it sees the model, and its rights reach it."""
    if not sees(caller, deployment):
        return False
    if deployment.access == "open":
        return True
    reached = not caller.apis.isdisjoint((deployment.name, "*"))
    return reached and (deployment.access == "key" or _is_approved(caller, deployment))


def _is_approved(caller: Caller, deployment: Deployment) -> bool:
    """A key needs its application's approval, its owner's own too: the list of approvals says who calls. People may try what is
    theirs, and what an application of theirs is approved for."""
    if caller.actor_type == "try-it":
        return caller.user in deployment.subscribers or caller.user in deployment.seen_by
    return deployment.name in caller.subscriptions


def _no_scope(caller: Caller, scope: str) -> str:
    return f"{_name(caller)} lacks the scope {scope}."


def _name(caller: Caller) -> str:
    return f"The API key {caller.key_prefix}" if caller.actor_type == "key" else "The try-it token"


def address_of(client: str) -> str:
    """The address within `host:port` or `[host]:port`."""
    host, _, _ = client.rpartition(":")
    return host.strip("[]") or client


def truncate_address(address: str) -> str:
    """What the record keeps of an address, 192.0.2.0/24 or 2001:db8:1::/48; empty for what is neither (a Unix socket)."""
    parts = address.split(".")
    if len(parts) == 4 and all(part.isdecimal() for part in parts):
        return ".".join(parts[:3]) + ".0/24"
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return ""
    if found.ipv4_mapped is not None:
        return truncate_address(str(found.ipv4_mapped))
    return f"{IPv6Address(int(found) >> 80 << 80)}/48"
