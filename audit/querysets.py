"""Searching records: a parsed query applied to what a user may see. Keyset pages, no OFFSET, no COUNT, no payloads."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from uuid import UUID

from django.db import OperationalError, connection, transaction
from django.db.models import Q, QuerySet

from . import search as language
from .access import Viewer, id_times, visible_records
from .models import Record
from .search import Identifier, Interval, ModelRef, Query, Term, Text, Value

TIMEOUT_MS = 5_000
MAX_LIMIT = 500


class SearchTooBroad(Exception):
    """The database gave up after `TIMEOUT_MS`: the query needs a time or a model to narrow it."""


class BadCursor(ValueError):
    """A page cursor that we didn't make."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place between two records in the order (ts, id)."""

    ts: datetime
    id: UUID

    def __str__(self) -> str:
        micros = (self.ts - _EPOCH) // timedelta(microseconds=1)
        return urlsafe_b64encode(micros.to_bytes(8, "big", signed=True) + self.id.bytes).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises BadCursor."""
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            if len(raw) != 24:
                raise ValueError(f"{len(raw)} bytes")
            ts = _EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big", signed=True))
            return cls(ts, UUID(bytes=raw[8:]))
        except (ValueError, OverflowError) as error:
            raise BadCursor(f"{text[:60]!r} is not a page cursor") from error


_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records newest first. `older` continues below the last one, `newer` above the first; None where that side is the end."""

    records: list[Record]
    older: Cursor | None
    newer: Cursor | None


def search(query: Query, user: Viewer, *, before: Cursor | None = None, after: Cursor | None = None, limit: int = 100) -> RecordPage:
    """One page of what matches and `user` may see: the newest, those older than `before`, or those newer than `after`.

    Raises SearchTooBroad when the database needs longer than `TIMEOUT_MS`.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    matching = apply(query, visible_records(user))
    if after is not None:
        rows = matching.filter(pk__gt=(after.ts, after.id)).order_by("ts", "id")
    else:
        rows = matching.order_by("-ts", "-id")
        if before is not None:
            rows = rows.filter(pk__lt=(before.ts, before.id))
    with time_limit():
        found = list(rows[: limit + 1])
    more = len(found) > limit
    records = found[:limit]
    if after is not None:
        records.reverse()
    if not records:
        return RecordPage([], None, None)
    first, last = records[0], records[-1]
    has_older = more if after is None else True
    has_newer = more if after is not None else before is not None
    return RecordPage(
        records,
        older=Cursor(last.ts, last.id) if has_older else None,
        newer=Cursor(first.ts, first.id) if has_newer else None,
    )


@contextmanager
def time_limit(milliseconds: int = TIMEOUT_MS) -> Iterator[None]:
    """Let the database give up on what runs inside. Raises SearchTooBroad then."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(milliseconds)])
            yield
            # LOCAL lasts until the outermost transaction's end, which may not be this one.
            cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) != "57014":  # query_canceled
            raise
        raise SearchTooBroad(f"no answer within {milliseconds / 1000:g} s; add since: or model:") from error


def apply(query: Query, records: QuerySet[Record]) -> QuerySet[Record]:
    """The records that match, unordered."""
    condition = Q()
    if query.since is not None:
        condition &= Q(ts__gte=query.since)
    if query.until is not None:
        condition &= Q(ts__lt=query.until)
    for term in query.terms:
        matches = reduce(or_, (_CONDITIONS[term.field](value) for value in term.values))
        condition &= ~matches if term.negated else matches
    return records.filter(condition)


def _text(*columns: str) -> Callable[[Value], Q]:
    def condition(value: Value) -> Q:
        assert isinstance(value, Text)
        lookup = "startswith" if value.prefix else "exact"
        return reduce(or_, (Q((f"{column}__{lookup}", value.value)) for column in columns))

    return condition


# What a column of this type can hold: PostgreSQL refuses to compare beyond it.
_SMALL, _INT, _BIG = (1 << 15) - 1, (1 << 31) - 1, (1 << 63) - 1


def _number(column: str, largest: int) -> Callable[[Value], Q]:
    def condition(value: Value) -> Q:
        assert isinstance(value, Interval)
        if value.low is not None and value.low > largest:
            return Q(pk__in=[])
        low = Q() if value.low is None else Q((f"{column}__gte", value.low))
        high = Q() if value.high is None or value.high > largest else Q((f"{column}__lte", value.high))
        return low & high if low & high else Q((f"{column}__gte", 0))

    return condition


def _model(value: Value) -> Q:
    assert isinstance(value, ModelRef)
    name = _text("model")(value.name)
    return name if value.version is None else name & Q(version=value.version)


def _record(value: Value) -> Q:
    assert isinstance(value, Identifier)
    record_id = UUID(bytes=value.value)
    times = id_times(record_id)
    return Q(pk__in=[]) if times is None else Q(ts__gte=times[0], ts__lt=times[1], id=record_id)


def _bytes(column: str) -> Callable[[Value], Q]:
    def condition(value: Value) -> Q:
        assert isinstance(value, Identifier)
        return Q((column, value.value))

    return condition


_CONDITIONS: dict[str, Callable[[Value], Q]] = {
    "model": _model,
    "version": _number("version", _BIG),
    "signature": _text("signature"),
    "outcome": _text("outcome"),
    "status": _number("status", _SMALL),
    "kind": _text("kind"),
    "protocol": _text("protocol"),
    "verb": _text("verb"),
    "caller": _text("application", "key_prefix", "user_name"),
    "application": _text("application"),
    "key": _text("key_prefix"),
    "user": _text("user_name"),
    "actor": _text("actor_type"),
    "address": _text("address"),
    "answer": _text("answer"),
    "error": _text("error"),
    "worker": _text("worker"),
    "device": _text("device"),
    "node": _text("node"),
    "latency": _number("total_us", _BIG),
    "queue": _number("queue_us", _INT),
    "compute": _number("model_us", _INT),
    "rows": _number("rows", _INT),
    "batch": _number("batch_size", _INT),
    "request": _number("request_bytes", _INT),
    "response": _number("response_bytes", _INT),
    "record": _record,
    "trace": _bytes("trace"),
    "leaf": _bytes("leaf_hash"),
}
assert _CONDITIONS.keys() == language.FIELDS.keys()


def rollup_condition(term: Term) -> Q | None:
    """The same condition over `Rollup`, None where rollups don't know the field."""
    columns = {"model": _model, "version": _number("version", _BIG), "outcome": _text("outcome")}
    condition = columns.get(term.field)
    if condition is None:
        return None
    matches = reduce(or_, (condition(value) for value in term.values))
    return ~matches if term.negated else matches
