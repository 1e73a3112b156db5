"""The time histogram above the record list: exact from rollups where they know every field asked for, else from the records
themselves, newest first up to a bound and said to be so."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Case, Q, Value, When

from .access import Viewer, sees_all_records, visible_records
from .figures import ANSWERED, REFUSED
from .models import LogHead, Rollup
from .querysets import apply, rollup_condition, time_limit
from .search import Query

DEFAULT_SPAN = timedelta(hours=24)
RECORD_LIMIT = 20_000
"""How many of the newest matching records are counted when rollups can't answer."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Calls in [since, until)."""

    since: datetime
    until: datetime
    answered: int
    refused: int
    failed: int

    @property
    def count(self) -> int:
        return self.answered + self.refused + self.failed


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars of equal width, oldest first. Where `complete_since` is set, records before it were too many to be counted.

    `tree_size` is set where the figures are a fold of the sealed log, None where they were counted from ingested records.
    """

    bars: tuple[Bar, ...]
    tree_size: int | None
    complete_since: datetime | None

    @property
    def count(self) -> int:
        return sum(bar.count for bar in self.bars)


def histogram(query: Query, buckets: int = 60, *, user: Viewer, now: datetime) -> Histogram:
    """What matches and `user` may see, over the query's time (the last day where it names none) in at most `buckets` bars.

    Raises querysets.SearchTooBroad.
    """
    until = min(query.until or now, now)
    since = query.since or until - DEFAULT_SPAN
    if since >= until:
        return Histogram((), None, None)
    starts, width = _bars(since, until, max(1, min(buckets, 500)))
    conditions = [rollup_condition(term) for term in query.terms]
    exact = [condition for condition in conditions if condition is not None]
    if len(exact) == len(conditions) and width >= timedelta(minutes=1) and sees_all_records(user):
        rows = _from_rollups(exact, since, until, starts[0], width)
        size = LogHead.objects.values_list("size", flat=True).first()
        return Histogram(_filled(rows, starts, width), size or 0, None)
    rows, oldest = _from_records(query, user, since, until, starts[0], width)
    return Histogram(_filled(rows, starts, width), None, oldest)


_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)


def _bars(since: datetime, until: datetime, buckets: int) -> tuple[list[datetime], timedelta]:
    """Starts on round times, so that a bar stays the same bar while the page is reloaded."""
    span = (until - since).total_seconds()
    width_s = next((width for width in _WIDTHS_S if span / width <= buckets), 86_400 * -(-span // (86_400 * buckets)))
    first = int(since.timestamp() // width_s * width_s)
    count = int(-(-(until.timestamp() - first) // width_s))
    starts = [datetime.fromtimestamp(first + i * width_s, since.tzinfo) for i in range(count)]
    return starts, timedelta(seconds=width_s)


_Row = tuple[datetime, int, int, int, int, datetime]  # start, answered, refused, failed, rows, the oldest of them


def _from_rollups(conditions: list[Q], since: datetime, until: datetime, origin: datetime, width: timedelta) -> list[_Row]:
    # Rollups know minutes: the first and the last are counted whole.
    rollups = Rollup.objects.filter(*conditions, bucket__gte=since.replace(second=0, microsecond=0), bucket__lt=until)
    sql, params = rollups.annotate(group=_group()).values("bucket", "group", "count").query.sql_with_params()
    return _binned(f'SELECT "bucket" AS ts, "group", "count" FROM ({sql}) AS matching', params, origin, width)


def _from_records(
    query: Query, user: Viewer, since: datetime, until: datetime, origin: datetime, width: timedelta
) -> tuple[list[_Row], datetime | None]:
    records = apply(query, visible_records(user)).filter(ts__gte=since, ts__lt=until)
    newest = records.order_by("-ts", "-id").annotate(group=_group()).values("ts", "group", "count")[:RECORD_LIMIT]
    sql, params = newest.query.sql_with_params()
    with time_limit():
        rows = _binned(f'SELECT ts, "group", "count" FROM ({sql}) AS matching', params, origin, width)
    is_cut = sum(row[4] for row in rows) == RECORD_LIMIT
    return rows, min(row[5] for row in rows) if is_cut else None


def _group() -> Case:
    return Case(When(outcome__in=ANSWERED, then=Value(0)), When(outcome__in=REFUSED, then=Value(1)), default=Value(2))


def _binned(source: str, params: tuple[Any, ...], origin: datetime, width: timedelta) -> list[_Row]:
    values: list[Any] = [width, origin, *params]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT date_bin(%s, ts, %s),
                   COALESCE(SUM("count") FILTER (WHERE "group" = 0), 0)::bigint,
                   COALESCE(SUM("count") FILTER (WHERE "group" = 1), 0)::bigint,
                   COALESCE(SUM("count") FILTER (WHERE "group" = 2), 0)::bigint,
                   COUNT(*),
                   MIN(ts)
            FROM ({source}) AS counted GROUP BY 1
            """,
            values,
        )
        rows: list[_Row] = cursor.fetchall()
        return rows


def _filled(rows: list[_Row], starts: list[datetime], width: timedelta) -> tuple[Bar, ...]:
    found = {row[0]: row[1:4] for row in rows}
    return tuple(Bar(at, at + width, *found.get(at, (0, 0, 0))) for at in starts)
