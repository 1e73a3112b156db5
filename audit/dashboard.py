"""The dashboard: few figures, each a fold of the sealed log, each with a way to the records behind it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

from django.conf import settings
from django.db import connection
from django.db.models import DateTimeField, F, Func, Min, Sum, Value
from django.urls import reverse

from . import charts, figures, words
from .backlog import Backlog, read_backlog
from .contexts import SPANS, records_url
from .figures import ANSWERED, ModelFigures, Summary, TreeState
from .models import Rollup
from .querysets import SearchTooBroad, time_limit
from .search import quote

RANGES = {
    "1h": ("last hour", 3_600, 60),
    "6h": ("last 6 hours", 21_600, 300),
    "24h": ("last 24 hours", 86_400, 900),
    "7d": ("last 7 days", 604_800, 7_200),
    "30d": ("last 30 days", 2_592_000, 21_600),
}
"""name in the address → (words, seconds, seconds of one step)"""

DECISION_RECORDS = 20_000
ROW_LIMIT = 20


@dataclass(frozen=True, slots=True)
class RangeLink:
    label: str
    url: str
    is_on: bool


@dataclass(frozen=True, slots=True)
class ModelRow:
    figures: ModelFigures
    series: str  # the model's colour, as everywhere
    share: str  # of all calls, percent for the SVG
    spark: charts.Sparkline
    url: str
    failed_url: str
    focus_url: str


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    outcome: str
    label: str
    explanation: str
    kind: str
    count: int
    percent: str
    share: float
    url: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one model answered, in words; `num_records` of them were counted."""

    model: str
    series: str
    num_records: int
    bars: tuple[charts.Bar, ...]
    url: str


@dataclass(frozen=True, slots=True)
class DashboardPage:
    title: str
    range: str
    words: str
    since: datetime
    until: datetime
    ranges: tuple[RangeLink, ...]
    model: str
    models: tuple[str, ...]
    summary: Summary
    before: Summary  # the same length of time, just earlier
    tree: TreeState
    backlog: Backlog | None  # of this node's journal
    rows: tuple[ModelRow, ...]
    outcomes: tuple[OutcomeRow, ...]
    traffic: charts.Spec
    latency: charts.Spec
    decisions: tuple[Decisions, ...]
    records_url: str
    failed_url: str
    slow_url: str

    @property
    def is_empty(self) -> bool:
        return self.summary.count == 0

    @property
    def change(self) -> float | None:
        """How much more or less was called than in the time before, as a share of that; None where nothing was."""
        return (self.summary.count - self.before.count) / self.before.count if self.before.count else None


def dashboard_page(range_name: str, model: str, *, now: datetime) -> DashboardPage:
    """`range_name` one of `RANGES`, anything else picks the shortest that holds all there is, a day at most."""
    known = figures.models_called(now - timedelta(days=30))
    chosen = model if model in known else ""
    name = range_name if range_name in RANGES else _fitting_range(now)
    label, seconds, step_s = RANGES[name]
    until = now
    since = now - timedelta(seconds=seconds)
    only = chosen or None
    colours = charts.series_of(known)
    summary = figures.summary(only, since, until)
    traffic = figures.traffic_series(since=since, until=until, step_s=step_s, model=only)
    latency = figures.latency_series(since=since, until=until, step_s=step_s, model=only)
    term = f"model:{quote(chosen)} " if chosen else ""
    window = f"{term}since:{name}"
    return DashboardPage(
        title=chosen or "The daybook",
        range=name,
        words=label,
        since=since,
        until=until,
        ranges=tuple(RangeLink(span, _url(other, chosen), other == name) for other, span in SPANS),
        model=chosen,
        models=tuple(known),
        summary=summary,
        before=figures.summary(only, since - timedelta(seconds=seconds), since),
        tree=figures.tree_state(now),
        backlog=read_backlog(Path(settings.JOURNAL_DIR)),
        rows=tuple(_rows(since, until, step_s, chosen, name, colours)),
        outcomes=tuple(_outcomes(since, until, only, window)),
        traffic=charts.traffic_chart(traffic, step_s, _version_starts(since, until, only)),
        latency=charts.latency_chart(latency, step_s),
        decisions=tuple(_decisions(since, until, only, name, colours)),
        records_url=records_url(window),
        failed_url=records_url(f"{window} outcome:{','.join(figures.FAILED)}"),
        slow_url=records_url(f"{window} latency:>={max(1, (summary.p99_us or 0) // 1000)}ms"),
    )


def _url(range_name: str, model: str) -> str:
    return f"{reverse('audit:dashboard')}?{urlencode({'range': range_name} | ({'model': model} if model else {}))}"


def _fitting_range(now: datetime) -> str:
    oldest = Rollup.objects.aggregate(oldest=Min("bucket"))["oldest"]
    if oldest is None:
        return "24h"
    age = (now - oldest).total_seconds()
    return next((name for name, (_, seconds, _) in RANGES.items() if age < seconds), "24h") if age < 86_400 else "24h"


def _rows(since: datetime, until: datetime, step_s: int, model: str, range_name: str, colours: Mapping[str, str]) -> Sequence[ModelRow]:
    found = [row for row in figures.by_model(since, until, by_version=bool(model)) if not model or row.model == model][:ROW_LIMIT]
    sparks = _traffic_by_model(since, until, step_s, by_version=bool(model), names=[row.model for row in found])
    most = max((row.summary.count for row in found), default=1)
    rows = []
    for row in found:
        name = f"model:{quote(row.model)}" + ("" if row.version is None else f"@{row.version}")
        rows.append(
            ModelRow(
                figures=row,
                series=colours.get(row.model, charts.OTHER_SERIES),
                share=f"{100 * row.summary.count / most:.2f}",
                spark=charts.sparkline(sparks[row.model, row.version], f"{row.model}: calls over the {RANGES[range_name][0]}"),
                url=records_url(f"{name} since:{range_name}"),
                failed_url=records_url(f"{name} outcome:{','.join(figures.FAILED)} since:{range_name}"),
                focus_url=_url(range_name, row.model),
            )
        )
    return rows


def _traffic_by_model(
    since: datetime, until: datetime, step_s: int, *, by_version: bool, names: Sequence[str]
) -> dict[tuple[str, int | None], list[int]]:
    """Calls per step of each model, one query for all of them. About 40 points a line are enough at its size."""
    step = timedelta(seconds=max(step_s, 60 * round((until - since).total_seconds() / 40 / 60)))
    start = since.replace(second=0, microsecond=0)
    num_steps = -(-(until - start) // step)
    place = Func(Value(step), F("bucket"), Value(start), function="date_bin", output_field=DateTimeField())
    keys = ("model", "version") if by_version else ("model",)
    rows = (
        Rollup.objects.filter(bucket__gte=start, bucket__lt=until, model__in=names)
        .annotate(at=place)
        .values_list(*keys, "at")
        .annotate(n=Sum("count"))
    )
    found: dict[tuple[str, int | None], list[int]] = defaultdict(lambda: [0] * num_steps)
    for name, *version, at, n in rows:
        key = (name, version[0] if version and version[0] != Rollup.NO_VERSION else None)
        found[key][(at - start) // step] = n
    return found


def _outcomes(since: datetime, until: datetime, model: str | None, window: str) -> Sequence[OutcomeRow]:
    found = figures.by_outcome(since, until, model)
    whole = sum(row.count for row in found)
    return [
        OutcomeRow(
            outcome=row.outcome,
            label=words.OUTCOMES.get(row.outcome, row.outcome),
            explanation=words.EXPLANATIONS.get(row.outcome, ""),
            kind=words.outcome_kind(row.outcome),
            count=row.count,
            percent=f"{100 * row.count / whole:.2f}",
            share=row.count / whole,
            url=records_url(f"{window} outcome:{row.outcome}"),
        )
        for row in found
    ]


def _version_starts(since: datetime, until: datetime, model: str | None) -> list[tuple[datetime, str]]:
    """Versions whose first call lies in the time shown, looking back as far again: markers on the traffic."""
    rows = Rollup.objects.filter(bucket__gte=since - (until - since), bucket__lt=until, version__gt=Rollup.NO_VERSION)
    if model:
        rows = rows.filter(model=model)
    firsts = list(rows.values_list("model", "version").annotate(first=Min("bucket")).order_by("first"))
    started = {name for name, _, first in firsts if first < since}
    # A model that is new altogether is no change of version.
    return [(first, f"{name}@{version}") for name, version, first in firsts if first >= since and name in started][:12]


_LONGEST_LABEL = 24


def _decisions(since: datetime, until: datetime, model: str | None, range_name: str, colours: Mapping[str, str]) -> Sequence[Decisions]:
    """Labels that the newest records answered, of the first row each. Rollups don't hold them, hence the bound and the count shown."""
    condition = "AND model = %(model)s" if model else ""
    sql = f"""
        SELECT model, answer, COUNT(*) FROM (
            SELECT model, regexp_replace(answer, '{words.BEHIND_LABEL}', '') AS answer FROM audit_record
            WHERE ts >= %(since)s AND ts < %(until)s AND kind = 'prediction' AND answer <> '' AND outcome = ANY(%(answered)s) {condition}
            ORDER BY ts DESC, id DESC LIMIT {DECISION_RECORDS}
        ) AS newest GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
    """
    try:
        with time_limit(2_000), connection.cursor() as cursor:
            cursor.execute(sql, {"since": since, "until": until, "answered": list(ANSWERED), "model": model})
            rows = cursor.fetchall()
    except SearchTooBroad:
        return []
    by_model: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, answer, n in rows:
        by_model[name].append((answer, n))
    found = []
    decisions = {name: answers for name, answers in by_model.items() if all(_is_label(answer) for answer, _ in answers)}
    for name, answers in sorted(decisions.items(), key=lambda item: -sum(n for _, n in item[1]))[:4]:
        total = sum(n for _, n in answers)
        shown: list[tuple[str, float]] = [(answer, 100 * n / total) for answer, n in answers[:10]]
        if rest := sum(n for _, n in answers[10:]):
            shown.append((f"{len(answers) - 10} others", 100 * rest / total))
        found.append(
            Decisions(
                name,
                colours.get(name, charts.OTHER_SERIES),
                total,
                tuple(charts.label_bars(shown, unit=" %", digits=1)),
                records_url(f"model:{quote(name)} since:{range_name}"),
            )
        )
    return found


def _is_label(answer: str) -> bool:
    """A number with a fraction is measured and a sentence is written, not decided: bars of how often each occurred would say nothing."""
    if len(answer) > _LONGEST_LABEL:
        return False
    try:
        return float(answer).is_integer() and "e" not in answer.lower()
    except ValueError:
        return True
