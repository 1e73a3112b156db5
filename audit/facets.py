"""Counts beside the record list: by model, outcome and key. Exact from rollups where those know every field asked for, otherwise
counted among the newest matching records and said to be so."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, Sum

from .access import Viewer, sees_all_records, visible_records
from .models import Rollup
from .querysets import apply, rollup_condition, time_limit
from .search import Query

RECORD_LIMIT = 5_000
VALUE_LIMIT = 12

FIELDS = (("model", "model", "model"), ("outcome", "outcome", "outcome"), ("key", "caller", "key_prefix"))
"""(name in queries, column of rollups, column of records)"""


@dataclass(frozen=True, slots=True)
class Facet:
    field: str
    values: tuple[tuple[str, int], ...]  # value, calls; most frequent first


@dataclass(frozen=True, slots=True)
class Facets:
    """`sampled` is None when the counts are exact, otherwise how many of the newest records were counted."""

    facets: tuple[Facet, ...]
    sampled: int | None


def facets(query: Query, user: Viewer, *, since: datetime, until: datetime) -> Facets:
    """What matches in [since, until). A field's own terms don't narrow its own counts, so that another value can be added.

    Raises querysets.SearchTooBroad.
    """
    conditions = {term: rollup_condition(term) for term in query.terms}
    if sees_all_records(user) and None not in conditions.values():
        return Facets(tuple(_from_rollups(query, name, column, since, until) for name, column, _ in FIELDS), None)
    return _from_records(query, user, since, until)


def _from_rollups(query: Query, field: str, column: str, since: datetime, until: datetime) -> Facet:
    others = [rollup_condition(term) or Q() for term in query.terms if term.field != field]
    rows = Rollup.objects.filter(*others, bucket__gte=since.replace(second=0, microsecond=0), bucket__lt=until)
    counted = rows.values_list(column).annotate(n=Sum("count")).order_by("-n", column)
    with time_limit():
        return Facet(field, tuple((value, n) for value, n in counted[: VALUE_LIMIT + 1] if value)[:VALUE_LIMIT])


def _from_records(query: Query, user: Viewer, since: datetime, until: datetime) -> Facets:
    matching = apply(query, visible_records(user)).filter(ts__gte=since, ts__lt=until).order_by("-ts", "-id")
    with time_limit():
        rows = list(matching.values_list(*(column for _, _, column in FIELDS), "count")[:RECORD_LIMIT])
    counters: list[Counter[str]] = [Counter() for _ in FIELDS]
    for *values, n in rows:
        for counter, value in zip(counters, values, strict=True):
            if value:
                counter[value] += n
    found = (Facet(name, tuple(counter.most_common(VALUE_LIMIT))) for (name, _, _), counter in zip(FIELDS, counters, strict=True))
    return Facets(tuple(found), len(rows) if len(rows) == RECORD_LIMIT else None)
