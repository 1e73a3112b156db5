"""Acts: what people and processes change or look at, recorded in the transaction of the change itself.

An act is a record like a call: a row and a leaf, waiting in the outbox until it is sealed. The leaf is public and for ever, so it
holds the actor's pseudonym of the month; the name stands in the row. Subject and `details` go into the leaf as they are: no names
of people or of their applications (an application has its number), no paths. What readers of the list need of those is for the row
alone: `application`, `note`.
"""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from . import ids, keys, leaves
from .models import Outbox, Record
from .rowformat import TEXT_LIMITS, clean_text

MAX_DETAILS_BYTES = 8_192

_EPOCH = datetime.fromtimestamp(0, UTC)
_local = threading.local()


class BadAct(ValueError):
    """Details that no leaf can hold."""


def record_act(
    *, kind: str, actor: str, subject: str, details: Mapping[str, Any], address: str = "", application: str = "", note: str = ""
) -> UUID:
    """Record that `actor` did `kind` ("key.revoked") to `subject`; returns the record's id.

    actor: a user name, or "worker:<node>" and the like for a process. subject: what lists and the search field `model` show.
    details: strings, ints, lists and dicts of them, a few kilobytes. application: the name of the one concerned; note: a sentence
    for who reads the record; the leaf has neither. Joins the caller's transaction: both happen or neither.
    Raises BadAct.
    """
    record_id = _new_id()
    ts_us = ids.time_us(record_id)
    ts = _EPOCH + timedelta(microseconds=ts_us)
    actor_type = "system" if ":" in actor else "user"
    kind, subject, actor = clean_text(kind, TEXT_LIMITS["verb"]), clean_text(subject, TEXT_LIMITS["model"]), clean_text(actor, 150)
    leaf = _leaf(kind, subject, {"t": actor_type, "p": _pseudonym(actor, ts)}, details, record_id, ts_us)
    with transaction.atomic():
        Record(
            ts=ts,
            id=UUID(bytes=record_id),
            leaf_hash=leaves.leaf_hash(leaf),
            kind="act",
            verb=kind,
            model=subject,
            outcome="ok",
            actor_type=actor_type,
            user_name=actor,
            application=clean_text(application, TEXT_LIMITS["application"]),
            answer=clean_text(note, TEXT_LIMITS["answer"]),
            address=clean_text(address, TEXT_LIMITS["address"]),
            node=clean_text(settings.NODE, TEXT_LIMITS["node"]),
        ).save(force_insert=True)
        Outbox(record_id=UUID(bytes=record_id), ts=ts, leaf=leaf).save(force_insert=True)
    return UUID(bytes=record_id)


def _leaf(kind: str, subject: str, actor: dict[str, str], details: Mapping[str, Any], record_id: bytes, ts_us: int) -> bytes:
    try:
        given = leaves.canonical(dict(details))
        if len(given) > MAX_DETAILS_BYTES:
            raise BadAct(f"the details of {kind} have {len(given)} bytes, at most {MAX_DETAILS_BYTES} are kept for ever")
        leaf = {"t": "act", "v": leaves.VERSION, "id": ids.text(record_id), "ts": ts_us, "act": kind, "on": subject, "a": actor}
        return leaves.canonical({**leaf, "d": dict(details)})
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, BadAct) else BadAct(f"the details of {kind} don't fit a leaf: {error}") from error


def _new_id() -> bytes:
    """Each thread has a source of its own: they aren't to be shared."""
    if not hasattr(_local, "source"):
        _local.source = ids.IdSource()
    made: bytes = _local.source.new()
    return made


def _pseudonym(actor: str, ts: datetime) -> str:
    return keys.pseudonym(_master_key(Path(settings.MASTER_KEY_FILE)), f"{ts:%Y-%m}", actor)


@lru_cache(maxsize=4)
def _master_key(path: Path) -> bytes:
    return keys.ensure_master_key(path)
