"""Tokens that let a signed-in person try a model from its page without a key.

    <payload>.<mac>      both base64url without padding
    payload              JSON object: u user, a API, o origin of the site, e expiry (µs since 1970, UTC)
    mac                  HMAC-SHA256 of the payload's base64url text under the snapshot's `try_it_secret`

The site mints (`mint`), the gateway verifies (`verify`); both know the secret, nobody else does. A token opens one API for one
person from one origin, for five minutes at most.
"""

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final

import msgspec

HEADER: Final = "Daybook-Try-It"
TRY_IT_SECONDS: Final = 300

_MAX_TOKEN: Final = 2048


class InvalidTryIt(ValueError):
    """A token that opens nothing; the message says why, without quoting it."""


@dataclass(frozen=True, slots=True)
class TryIt:
    user: str
    api: str
    origin: str
    expires_us: int


class _Payload(msgspec.Struct, frozen=True):
    u: str
    a: str
    o: str
    e: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Payload).decode


def mint(*, secret: str, user: str, api: str, origin: str, now_us: int | None = None, lifetime_s: int = TRY_IT_SECONDS) -> str:
    """A token. Raises ValueError for a lifetime beyond five minutes, or without a secret."""
    if not secret or not 0 < lifetime_s <= TRY_IT_SECONDS:
        raise ValueError(f"a try-it token needs a secret and lives 1 to {TRY_IT_SECONDS} s, not {lifetime_s}")
    now = time.time_ns() // 1000 if now_us is None else now_us
    text = _base64url(_encode(_Payload(user, api, origin, now + lifetime_s * 1_000_000)))
    return f"{text}.{_base64url(_mac(secret, text))}"


def verify(token: str, *, secret: str, origin: str, now_us: int) -> TryIt:
    """What a token says. Raises InvalidTryIt when it is forged, damaged, of another site, or not of these five minutes."""
    text, dot, mac = token.partition(".")
    if not secret or not dot or len(token) > _MAX_TOKEN or not token.isascii():
        raise InvalidTryIt("not a try-it token")
    if not hmac.compare_digest(_base64url(_mac(secret, text)), mac):
        raise InvalidTryIt("the token's signature is wrong")
    try:
        payload = _decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.DecodeError):
        raise InvalidTryIt("not a try-it token") from None
    if payload.o != origin:
        raise InvalidTryIt("the token is of another site")
    if payload.e <= now_us:
        raise InvalidTryIt("the token has expired")
    if payload.e > now_us + TRY_IT_SECONDS * 1_000_000 + _SKEW_US:
        raise InvalidTryIt("the token is from the future")
    return TryIt(payload.u, payload.a, payload.o, payload.e)


_SKEW_US: Final = 5_000_000  # site and gateway may be two machines


def _mac(secret: str, text: str) -> bytes:
    return hmac.digest(secret.encode(), text.encode(), hashlib.sha256)


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
