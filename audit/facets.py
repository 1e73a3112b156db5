"""Counts beside the record list: by model and outcome, exact from rollups where those know every field asked for, otherwise counted
among the newest matching records and said to be so; by application always among the newest, as the sealed leaves name nobody."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, Sum

from .access import Viewer, sees_all_records, visible_records
from .models import Rollup
from .querysets import apply, rollup_condition, time_limit
from .search import Query

RECORD_LIMIT = 5_000
VALUE_LIMIT = 12

FIELDS = ("model", "outcome", "application")
"""Names in queries and of columns alike."""


@dataclass(frozen=True, slots=True)
class Facet:
    """`sampled` is None when the counts are exact, otherwise how many of the newest records were counted."""

    field: str
    values: tuple[tuple[str, int], ...]  # value, calls; most frequent first
    sampled: int | None


def facets(query: Query, user: Viewer, *, since: datetime, until: datetime) -> Sequence[Facet]:
    """What matches in [since, until). From rollups, a field's own terms don't narrow its own counts, so that another value can be added.

    Raises querysets.SearchTooBroad.
    """
    counted = _from_records(query, user, since, until)
    if sees_all_records(user) and all(rollup_condition(term) is not None for term in query.terms):
        return (*(_from_rollups(query, name, since, until) for name in ("model", "outcome")), counted[-1])
    return counted


def _from_rollups(query: Query, field: str, since: datetime, until: datetime) -> Facet:
    others = [rollup_condition(term) or Q() for term in query.terms if term.field != field]
    rows = Rollup.objects.filter(*others, bucket__gte=since.replace(second=0, microsecond=0), bucket__lt=until)
    counted = rows.values_list(field).annotate(n=Sum("count")).order_by("-n", field)
    with time_limit():
        return Facet(field, tuple((value, n) for value, n in counted[: VALUE_LIMIT + 1] if value)[:VALUE_LIMIT], None)


def _from_records(query: Query, user: Viewer, since: datetime, until: datetime) -> Sequence[Facet]:
    matching = apply(query, visible_records(user)).filter(ts__gte=since, ts__lt=until).order_by("-ts", "-id")
    with time_limit():
        rows = list(matching.values_list(*FIELDS, "count")[:RECORD_LIMIT])
    counters: list[Counter[str]] = [Counter() for _ in FIELDS]
    for *values, n in rows:
        for counter, value in zip(counters, values, strict=True):
            if value:
                counter[value] += n
    sampled = len(rows) if len(rows) == RECORD_LIMIT else None
    return tuple(Facet(name, tuple(counter.most_common(VALUE_LIMIT)), sampled) for name, counter in zip(FIELDS, counters, strict=True))
