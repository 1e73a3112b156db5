"""Applications and their keys: made, rotated, revoked. The text of a key exists only in the return value of `issue_key`."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from audit.acts import record_act

from .models import APIKey, Application
from .publication import publish
from .subscriptions import end_subscriptions_of

SCOPES = {
    "predict": "call models",
    "metadata": "read states, signatures and descriptions",
    "api": "use the management API as its owner: records and payloads too, all but changing what is served",
    "operate": "register, change and remove served models, where its owner may",
}
DEFAULT_SCOPES = ("predict", "metadata")
ALL_APIS = ("*",)
PREFIX = "dbk_"


class InvalidKey(ValueError):
    """What was asked for can't be a key; the message names the field, the value and what was expected."""


def _subject(application: Application) -> str:
    """How leaves, which are for ever and for everybody, call it: its name may be a person's, or say what somebody works on."""
    return f"application {application.pk}"


def create_application(*, name: str, owner: Any, actor: str) -> Application:
    with transaction.atomic():
        application = Application.objects.create(name=name, owner=owner)
        record_act(kind="application.created", actor=actor, subject=_subject(application), details={}, application=name)
    return application


def delete_application(*, application: Application, actor: str) -> None:
    """Delete it with its keys, which stop working within a second."""
    with transaction.atomic():
        keys, subject = application.keys.count(), _subject(application)
        end_subscriptions_of(application=application, actor=actor)
        application.delete()
        record_act(kind="application.deleted", actor=actor, subject=subject, details={"keys": keys}, application=application.name)
        publish()


def issue_key(
    *,
    application: Application,
    actor: str,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    apis: Sequence[str] = ALL_APIS,
    requests_per_second: int = 0,
    concurrency: int = 0,
    expires_at: datetime | None = None,
) -> tuple[APIKey, str]:
    """Make a key. Returns it with its text, which is kept nowhere: 192 random bits, so plain SHA-256 protects it.

    Raises InvalidKey for an unknown scope or an expiry that has passed.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidKey(f"scope: {scope!r} is unknown, expected some of {', '.join(SCOPES)}")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidKey(f"expires_at: {expires_at:%Y-%m-%d %H:%M} has passed, expected a time to come")
    public = secrets.token_hex(4)
    text = f"{PREFIX}{public}_{secrets.token_urlsafe(24)}"
    with transaction.atomic():
        key = APIKey.objects.create(
            application=application,
            prefix=f"{PREFIX}{public}",
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            scopes=list(scopes),
            apis=list(apis),
            requests_per_second=requests_per_second,
            concurrency=concurrency,
            expires_at=expires_at,
        )
        record_act(
            kind="key.issued",
            actor=actor,
            subject=key.prefix,
            details={"application": application.pk, "scopes": " ".join(scopes)},
            application=application.name,
        )
        publish()
    return key, text


def rotate_key(*, key: APIKey, actor: str, overlap: timedelta = timedelta(hours=24)) -> tuple[APIKey, str]:
    """Make a successor with the same rights; the old key goes on for `overlap`, so that callers can change over."""
    with transaction.atomic():
        end = timezone.now() + overlap
        APIKey.objects.filter(pk=key.pk, revoked_at=None).update(expires_at=min(key.expires_at, end) if key.expires_at else end)
        successor, text = issue_key(
            application=key.application,
            actor=actor,
            scopes=key.scopes,
            apis=key.apis,
            requests_per_second=key.requests_per_second,
            concurrency=key.concurrency,
        )
        record_act(
            kind="key.rotated",
            actor=actor,
            subject=key.prefix,
            details={"successor": successor.prefix},
            application=key.application.name,
        )
        publish()
    return successor, text


def revoke_key(*, key: APIKey, actor: str) -> None:
    """End a key. Revoking a revoked one changes nothing."""
    with transaction.atomic():
        if APIKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()):
            application = key.application
            record_act(
                kind="key.revoked",
                actor=actor,
                subject=key.prefix,
                details={"application": application.pk},
                application=application.name,
            )
            publish()


def find_key_by_text(text: str) -> APIKey | None:
    """The usable key with this text, or None."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return APIKey.objects.usable(timezone.now()).select_related("application__owner").filter(sha256=digest).first()
