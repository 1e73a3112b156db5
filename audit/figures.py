"""Figures for dashboards, all folds of the sealed log (P8): read from `audit_rollup`, whole minutes, no record touched.

Outcomes fall into three groups, everywhere the same: *answered* (ok, cached, shadow), *refused* (the caller's side: rejected,
too_many, cancelled) and *failed* (ours: model_error, timeout, unavailable, stream_aborted). Latencies are of answered calls, in µs,
quantiles within 1 % (`sketch`). `version=None` stands for calls that named or reached no version. Every value carries the tree
size that it was computed at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from .models import Rollup
from .rollups import CALLS
from .sketch import Sketch, merged

ANSWERED = ("ok", "cached", "shadow")
REFUSED = ("rejected", "too_many", "cancelled")
FAILED = ("model_error", "timeout", "unavailable", "stream_aborted")

MAX_POINTS = 2_000


@dataclass(frozen=True, slots=True)
class TrafficPoint:
    """Calls that arrived in [at, at + step)."""

    at: datetime
    answered: int
    refused: int
    failed: int

    @property
    def count(self) -> int:
        return self.answered + self.refused + self.failed


@dataclass(frozen=True, slots=True)
class LatencyPoint:
    """Quantiles of the answered calls that arrived in [at, at + step); None where there were none."""

    at: datetime
    count: int
    p50_us: int | None
    p95_us: int | None
    p99_us: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One model, or all, over a time. Means are over answered calls, None where there were none."""

    since: datetime
    until: datetime
    answered: int
    refused: int
    failed: int
    mean_us: int | None
    mean_queue_us: int | None
    mean_model_us: int | None
    p50_us: int | None
    p95_us: int | None
    p99_us: int | None
    callers: int  # different callers by pseudonym, which changes with the month; all anonymous ones count as one
    tree_size: int

    @property
    def count(self) -> int:
        return self.answered + self.refused + self.failed

    @property
    def failed_share(self) -> float:
        """0..1 of all calls."""
        return self.failed / self.count if self.count else 0.0

    @property
    def per_second(self) -> float:
        seconds = (self.until - self.since).total_seconds()
        return self.count / seconds if seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One row of the table by model."""

    model: str
    version: int | None
    summary: Summary


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    outcome: str
    count: int


@dataclass(frozen=True, slots=True)
class TreeState:
    """Where the log stands, for footers and metrics. Ages are seconds; None: no checkpoint, or no sealer, was ever there."""

    size: int  # committed leaves
    signed_size: int  # of the last published checkpoint
    unsealed: int  # in the outbox, counted up to `UNSEALED_LIMIT`
    checkpoint_at: datetime | None
    checkpoint_age_s: float | None
    sealer_seen_at: datetime | None  # the sealer's last heartbeat
    sealer_state: str  # "sealing", "stopped: …", "" when none ever ran
    origin: str

    @property
    def waiting(self) -> int:
        """Records that no signed checkpoint covers yet, committed leaves among them."""
        return self.size - self.signed_size + self.unsealed

    @property
    def is_all_signed(self) -> bool:
        return 0 < self.size == self.signed_size


@dataclass(frozen=True, slots=True)
class SealedCalls:
    """How many of `total` calls a signed checkpoint covers; whole minutes, so at least so many."""

    sealed: int
    total: int

    @property
    def is_whole(self) -> bool:
        return 0 < self.total == self.sealed


UNSEALED_LIMIT = 100_000

_COLUMNS = """
    COALESCE(SUM(count) FILTER (WHERE outcome = ANY(%(answered)s)), 0)::bigint,
    COALESCE(SUM(count) FILTER (WHERE outcome = ANY(%(refused)s)), 0)::bigint,
    COALESCE(SUM(count) FILTER (WHERE outcome <> ALL(%(answered)s) AND outcome <> ALL(%(refused)s)), 0)::bigint
"""
_GROUPS: dict[str, Any] = {"answered": list(ANSWERED), "refused": list(REFUSED)}


def traffic_series(
    *, since: datetime, until: datetime, step_s: int, model: str | None = None, version: int | None = None
) -> list[TrafficPoint]:
    """Calls per step from `since` to `until`, empty steps included, oldest first.

    `since` and `until` (aware) are rounded down and up to whole steps; `step_s` is a whole number of minutes, at most
    `MAX_POINTS` steps. All models together where `model` is None.
    """
    grid = _grid(since, until, step_s)
    rows = _query(
        f"SELECT {_BIN}, {_COLUMNS} FROM audit_rollup WHERE {_where(model, version)} GROUP BY 1",
        since=grid[0],
        until=grid[-1] + timedelta(seconds=step_s),
        step=timedelta(seconds=step_s),
        model=model,
        version=version,
        **_GROUPS,
    )
    found = {at: TrafficPoint(at, answered, refused, failed) for at, answered, refused, failed in rows}
    return [found.get(at) or TrafficPoint(at, 0, 0, 0) for at in grid]


def latency_series(
    *, since: datetime, until: datetime, step_s: int, model: str | None = None, version: int | None = None
) -> list[LatencyPoint]:
    """Latency quantiles of answered calls per step; the grid is `traffic_series`'s."""
    grid = _grid(since, until, step_s)
    rows = _query(
        f"SELECT {_BIN}, array_agg(sketch) FROM audit_rollup WHERE {_where(model, version)} AND outcome = ANY(%(answered)s) GROUP BY 1",
        since=grid[0],
        until=grid[-1] + timedelta(seconds=step_s),
        step=timedelta(seconds=step_s),
        model=model,
        version=version,
        **_GROUPS,
    )
    found = {at: _latency_point(at, merged(sketches)) for at, sketches in rows}
    return [found.get(at) or LatencyPoint(at, 0, None, None, None) for at in grid]


def summary(model: str | None, since: datetime, until: datetime | None = None, version: int | None = None) -> Summary:
    """One model (None: all) since a moment, rounded down to its minute, until now or `until`."""
    until = until or datetime.now(tz=since.tzinfo)
    rows = _summaries("''::text, 0::bigint", "TRUE", since, until, model, version)
    return rows[0].summary


def by_model(since: datetime, until: datetime | None = None, *, by_version: bool = False) -> list[ModelFigures]:
    """Each model that was called, busiest first; one row per version where `by_version`, otherwise `version` is None."""
    until = until or datetime.now(tz=since.tzinfo)
    columns = f"model, {'version' if by_version else f'{Rollup.NO_VERSION}::bigint'}"
    rows = _summaries(columns, "model <> ''", since, until, None, None, group="GROUP BY 1, 2")
    return sorted(rows, key=lambda row: (-row.summary.count, row.model, row.version or 0))


def by_outcome(since: datetime, until: datetime | None = None, model: str | None = None) -> list[OutcomeCount]:
    """How often each outcome occurred, most frequent first."""
    until = until or datetime.now(tz=since.tzinfo)
    rows = _query(
        f"SELECT outcome, SUM(count)::bigint FROM audit_rollup WHERE {_where(model, None)} GROUP BY 1 ORDER BY 2 DESC, 1",
        since=_minute(since),
        until=until,
        model=model,
    )
    return [OutcomeCount(outcome, count) for outcome, count in rows]


WAITING_SCANNED = 10_000


def sealed_calls(model: str, since: datetime, until: datetime) -> SealedCalls:
    """Calls of one model. Of what waits in the outbox `WAITING_SCANNED` are looked through."""
    (row,) = _query(
        """
        SELECT COALESCE(SUM(count) FILTER (WHERE tree_size <= (SELECT COALESCE(MAX(signed_size), 0) FROM audit_loghead)), 0)::bigint,
               COALESCE(SUM(count), 0)::bigint,
               (SELECT COALESCE(SUM(r.count), 0)::bigint FROM (SELECT ts, record_id FROM audit_outbox LIMIT %(scanned)s) AS o
                JOIN audit_record r ON r.ts = o.ts AND r.id = o.record_id
                WHERE r.model = %(model)s AND r.kind = ANY(%(kinds)s) AND r.ts >= %(since)s AND r.ts < %(until)s)
        FROM audit_rollup WHERE bucket >= %(since)s AND bucket < %(until)s AND model = %(model)s
        """,
        model=model,
        since=_minute(since),
        until=until,
        scanned=WAITING_SCANNED,
        kinds=sorted(CALLS),
    )
    sealed, folded, waiting = row
    return SealedCalls(sealed, folded + waiting)


MAX_MODELS = 500


def models_called(since: datetime) -> list[str]:
    """Names for filters, by name, the first `MAX_MODELS`. From name to name in the index: DISTINCT would read every cell."""
    rows = _query(
        """
        WITH RECURSIVE names AS (
            (SELECT model FROM audit_rollup WHERE model > '' ORDER BY model LIMIT 1)
            UNION ALL
            SELECT (SELECT r.model FROM audit_rollup r WHERE r.model > n.model ORDER BY r.model LIMIT 1) FROM names n
            WHERE n.model IS NOT NULL
        )
        SELECT model FROM names
        WHERE model IS NOT NULL AND EXISTS (SELECT FROM audit_rollup r WHERE r.model = names.model AND r.bucket >= %(since)s)
        ORDER BY 1 LIMIT %(limit)s
        """,
        since=_minute(since),
        limit=MAX_MODELS,
    )
    return [name for (name,) in rows]


def tree_state(now: datetime) -> TreeState:
    """Size, checkpoint and sealer at `now` (aware). One round trip, cheap enough for every page's footer."""
    (row,) = _query(
        """
        SELECT COALESCE(h.size, 0), COALESCE(h.signed_size, 0), c.made_at, s.seen_at, COALESCE(s.state, ''), COALESCE(s.origin, ''),
               (SELECT COUNT(*) FROM (SELECT 1 FROM audit_outbox LIMIT %(limit)s) AS waiting)
        FROM (SELECT 1) AS one
        LEFT JOIN audit_loghead h ON h.id = 1
        LEFT JOIN audit_sealerstatus s ON s.id = 1
        LEFT JOIN audit_checkpoint c ON c.size = h.signed_size
        """,
        limit=UNSEALED_LIMIT,
    )
    size, signed_size, made_at, seen_at, state, origin, unsealed = row
    age = None if made_at is None else max(0.0, (now - made_at).total_seconds())
    return TreeState(size, signed_size, unsealed, made_at, age, seen_at, state, origin)


_BIN = "date_bin(%(step)s, bucket, %(since)s)"


def _where(model: str | None, version: int | None) -> str:
    conditions = ["bucket >= %(since)s", "bucket < %(until)s"]
    if model is not None:
        conditions.append("model = %(model)s")
    if version is not None:
        conditions.append("version = %(version)s")
    return " AND ".join(conditions)


def _query(sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _grid(since: datetime, until: datetime, step_s: int) -> list[datetime]:
    if step_s < 60 or step_s % 60:
        raise ValueError(f"a step of {step_s} s is not whole minutes")
    first = int(since.timestamp()) // step_s * step_s
    count = -(-(until.timestamp() - first) // step_s)
    if not 1 <= count <= MAX_POINTS:
        raise ValueError(f"{count:.0f} steps from {since} to {until}; 1 to {MAX_POINTS} can be drawn")
    start = datetime.fromtimestamp(first, since.tzinfo)
    return [start + timedelta(seconds=step_s * i) for i in range(int(count))]


def _latency_point(at: datetime, sketch: Sketch) -> LatencyPoint:
    return LatencyPoint(at, sketch.count, sketch.quantile(0.5), sketch.quantile(0.95), sketch.quantile(0.99))


def _summaries(
    columns: str, condition: str, since: datetime, until: datetime, model: str | None, version: int | None, group: str = ""
) -> list[ModelFigures]:
    since = _minute(since)
    rows = _query(
        f"""
        SELECT {columns}, {_COLUMNS},
               SUM(total_us) FILTER (WHERE outcome = ANY(%(answered)s))::bigint,
               SUM(queue_us) FILTER (WHERE outcome = ANY(%(answered)s))::bigint,
               SUM(model_us) FILTER (WHERE outcome = ANY(%(answered)s))::bigint,
               array_agg(sketch) FILTER (WHERE outcome = ANY(%(answered)s)),
               COUNT(DISTINCT caller),
               (SELECT COALESCE(MAX(size), 0) FROM audit_loghead)
        FROM audit_rollup WHERE {condition} AND {_where(model, version)} {group}
        """,
        since=since,
        until=until,
        model=model,
        version=version,
        **_GROUPS,
    )
    return [
        ModelFigures(
            name,
            None if row_version == Rollup.NO_VERSION else row_version,
            _summary(since, until, answered, refused, failed, times, merged(sketches or ()), callers, tree_size),
        )
        for name, row_version, answered, refused, failed, *times, sketches, callers, tree_size in rows
    ]


def _summary(
    since: datetime,
    until: datetime,
    answered: int,
    refused: int,
    failed: int,
    times: Sequence[int | None],
    sketch: Sketch,
    callers: int,
    tree_size: int,
) -> Summary:
    total, queue, model = (None if time is None or not answered else time // answered for time in times)
    quantiles = (sketch.quantile(0.5), sketch.quantile(0.95), sketch.quantile(0.99))
    return Summary(since, until, answered, refused, failed, total, queue, model, *quantiles, callers, tree_size)
