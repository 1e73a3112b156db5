"""Drawings made in Python: small ones as SVG geometry, large ones as Vega-Lite specifications (Altair).

The browser draws the specifications with the interpreter (no `eval`), reports turn the very same into SVG. Colours are *names* of
tokens ("accent", "series-3"): js/vega-chart.js resolves them, so that one specification serves paper and lamp.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any

from .figures import LatencyPoint, TrafficPoint
from .histogram import Bar as HistogramBar
from .histogram import Histogram

Spec = dict[str, Any]
MODEL_SERIES = (2, 4, 5, 6, 7)  # 1 is the accent ("answered"), 3 is as good as amber ("warning"), 8 is grey
PLOT_PX = 200


OTHER_SERIES = "series-8"  # of what isn't among them


def series_of(names: Iterable[str]) -> dict[str, str]:
    """The colours of models that are shown together, as names of tokens.

    Each takes the colour that the digest of its name says, or the next one that is free while there is one: of the same names
    (all models called lately, say) every page makes the same colours.
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        first = sha256(name.encode()).digest()[1] % len(MODEL_SERIES)
        wanted = [f"series-{MODEL_SERIES[(first + step) % len(MODEL_SERIES)]}" for step in range(len(MODEL_SERIES))]
        taken = set(found.values())
        found[name] = next((colour for colour in (*wanted, OTHER_SERIES) if colour not in taken), wanted[0])
    return found


@dataclass(frozen=True, slots=True)
class Sparkline:
    """`points` attributes inside a 96 × 24 box; both empty when there is nothing to draw."""

    line: str
    area: str
    title: str


def sparkline(values: Sequence[float], title: str = "") -> Sparkline:
    """A line from zero: bars of traffic may not exaggerate. One value is a flat line."""
    if not any(values):
        return Sparkline("", "", title)
    top = max(values)
    step = 96 / max(1, len(values) - 1)
    shown = list(values) if len(values) > 1 else [values[0], values[0]]
    points = [f"{min(96.0, index * step):.1f},{22.5 - 21 * value / top:.1f}" for index, value in enumerate(shown)]
    if len(values) == 1:
        points[1] = f"96,{points[0].split(',')[1]}"
    line = " ".join(points)
    return Sparkline(line, f"0,24 {line} 96,24", title or f"at most {top:,.0f}")


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar list. `percent` is the drawn width of 100, `text` what is written."""

    label: str
    percent: str
    text: str
    is_top: bool


def label_bars(values: Sequence[tuple[str, float]], *, whole: float | None = None, unit: str = "", digits: int | None = None) -> list[Bar]:
    """Bars for labelled values ≥ 0. `whole` is the value of a full bar: 1.0 for probabilities, None for the largest value."""
    full = whole if whole is not None else max((value for _, value in values), default=0.0)
    top = max((value for _, value in values), default=0.0)
    return [
        Bar(
            label,
            f"{100 * min(1.0, max(0.0, value / full)) if full > 0 else 0:.2f}",
            f"{_number(value) if digits is None else f'{value:.{digits}f}'}{unit}",
            is_top=value == top and value > 0,
        )
        for label, value in values
    ]


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"


# The histogram above the record list


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """One bar in percent of the drawing: answered at the bottom, refused above it, failed (oxblood) on top."""

    x: str
    width: str
    answered_y: str
    answered_height: str
    refused_y: str
    refused_height: str
    failed_y: str
    failed_height: str
    title: str
    url: str
    since: str
    until: str


@dataclass(frozen=True, slots=True)
class Tick:
    x: str
    label: str


@dataclass(frozen=True, slots=True)
class DrawnHistogram:
    bars: tuple[DrawnBar, ...]
    ticks: tuple[Tick, ...]
    total: int
    failed: int
    top: int  # calls of the highest bar
    since: datetime | None
    until: datetime | None
    tree_size: int | None
    complete_since: datetime | None


def draw_histogram(histogram: Histogram, url: Callable[[HistogramBar], str]) -> DrawnHistogram:
    bars = histogram.bars
    if not bars:
        return DrawnHistogram((), (), 0, 0, 0, None, None, histogram.tree_size, histogram.complete_since)
    top = max(bar.count for bar in bars)
    width = 100 / len(bars)
    drawn = []
    for place, bar in enumerate(bars):
        if not bar.count:
            continue
        # A bar is never thinner than a hair: one failure among thousands must be seen.
        heights = [max(100 * part / top, 2.5) if part else 0.0 for part in (bar.answered, bar.refused, bar.failed)]
        scale = min(1.0, 100 / sum(heights))
        answered, refused, failed = (height * scale for height in heights)
        drawn.append(
            DrawnBar(
                x=f"{place * width + width * 0.08:.3f}%",
                width=f"{width * 0.84:.3f}%",
                answered_y=f"{100 - answered:.2f}%",
                answered_height=f"{answered:.2f}%",
                refused_y=f"{100 - answered - refused:.2f}%",
                refused_height=f"{refused:.2f}%",
                failed_y=f"{100 - answered - refused - failed:.2f}%",
                failed_height=f"{failed:.2f}%",
                title=_bar_title(bar),
                url=url(bar),
                since=bar.since.isoformat(),
                until=bar.until.isoformat(),
            )
        )
    return DrawnHistogram(
        bars=tuple(drawn),
        ticks=_ticks(bars[0].since, bars[-1].until),
        total=histogram.count,
        failed=sum(bar.failed for bar in bars),
        top=top,
        since=bars[0].since,
        until=bars[-1].until,
        tree_size=histogram.tree_size,
        complete_since=histogram.complete_since,
    )


def _bar_title(bar: HistogramBar) -> str:
    form = (
        "%H:%M:%S" if bar.until - bar.since < timedelta(minutes=1) else "%H:%M" if bar.until - bar.since < timedelta(days=1) else "%-d %b"
    )
    parts = [f"{bar.since:%-d %b %H:%M} – {bar.until:{form}} UTC", f"{bar.answered:,} answered"]
    if bar.refused:
        parts.append(f"{bar.refused:,} refused")
    if bar.failed:
        parts.append(f"{bar.failed:,} failed")
    return "\n".join(parts)


_TICK_STEPS_S = (10, 30, 60, 300, 600, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000)


def _ticks(since: datetime, until: datetime) -> tuple[Tick, ...]:
    """At most eight round times, midnights as dates."""
    span = (until - since).total_seconds()
    step = next((step for step in _TICK_STEPS_S if span / step <= 8), _TICK_STEPS_S[-1])
    first = -(-int(since.timestamp()) // step) * step
    ticks = []
    for at in range(first, int(until.timestamp()) + 1, step):
        place = 100 * (at - since.timestamp()) / span
        if not 2 <= place <= 97:
            continue
        moment = datetime.fromtimestamp(at, UTC)
        midnight = moment.hour == moment.minute == moment.second == 0
        ticks.append(Tick(f"{place:.2f}%", f"{moment:%-d %b}" if midnight else f"{moment:%H:%M:%S}" if step < 60 else f"{moment:%H:%M}"))
    return tuple(ticks)


# Vega-Lite specifications. Made by Altair once per process, which checks them against the schema (10 ms); only data is put in after.


def traffic_chart(points: Sequence[TrafficPoint], step_s: int, version_starts: Sequence[tuple[datetime, str]]) -> Spec:
    """Calls per step as stacked bars from zero: answered, refused, failed."""
    step = timedelta(seconds=step_s)
    rows = [
        {"since": _iso(point.at), "until": _iso(point.at + step), "group": group, "calls": n, "term": term}
        for point in points
        for group, n, term in (
            ("answered", point.answered, "outcome:ok,cached,shadow"),
            ("refused", point.refused, "outcome:rejected,too_many,cancelled"),
            ("failed", point.failed, "outcome:model_error,timeout,unavailable,stream_aborted"),
        )
        if n
    ]
    starts = [{"at": _iso(at), "name": name} for at, name in version_starts]
    span = [{"since": _iso(points[0].at), "until": _iso(points[-1].at + step)}] if points else []
    shown = {row["group"] for row in rows}
    names = [{"at": span[0]["until"], "group": group} for group in GROUPS if group in shown] if span else []
    return {**_traffic_template(), "datasets": {"traffic": rows, "starts": starts, "span": span, "names": names}}


GROUPS = ("answered", "refused", "failed")  # as they stand on one another


@cache
def _traffic_template() -> Spec:
    import altair as alt  # 0.4 s, and only the site draws

    groups, colours = list(GROUPS), ["accent", "warn", "fail"]
    bars = (
        alt.Chart(alt.NamedData("traffic"))
        .mark_bar(orient="vertical", cursor="pointer", stroke="paper", strokeWidth=0.5)
        .encode(
            x=alt.X("since:T", title=None, axis=_time_axis(alt), scale=alt.Scale(type="utc", padding=0, nice=False)),
            x2="until:T",
            y=alt.Y(
                "calls:Q",
                title=None,
                stack="zero",
                axis=alt.Axis(
                    tickCount=4, tickMinStep=1, labelExpr="datum.value < 10000 ? format(datum.value, ',d') : format(datum.value, '~s')"
                ),
            ),
            color=alt.Color("group:N", scale=alt.Scale(domain=groups, range=colours), legend=None),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("since:T", title="from", format="%-d %b %H:%M", formatType="utc"),
                alt.Tooltip("group:N", title="outcome"),
                alt.Tooltip("calls:Q", format=","),
            ],
        )
        .transform_calculate(order="indexof(['answered', 'refused', 'failed'], datum.group)")
    )
    frame = alt.Chart(alt.NamedData("span")).mark_rule(opacity=0).encode(x="since:T", x2="until:T")
    starts = alt.Chart(alt.NamedData("starts")).encode(x="at:T")
    rules = starts.mark_rule(color="quiet", strokeDash=[2, 3])
    names = starts.mark_text(align="left", dx=4, dy=2, baseline="top", color="quiet", fontSize=11).encode(y=alt.value(0), text="name:N")
    labels = [
        alt.Chart(alt.NamedData("names"))
        .transform_filter(f"datum.group === '{group}'")
        .mark_text(align="left", dx=8, fontSize=12, fontWeight=500, color=colour)
        .encode(x="at:T", y=alt.value(PLOT_PX - 8 - 16 * place), text="group:N")
        for place, (group, colour) in enumerate(zip(groups, colours, strict=True))
    ]
    return _spec(alt.layer(frame, bars, rules, names, *labels).properties(width=800, height=PLOT_PX, padding=_PADDING))


def latency_chart(points: Sequence[LatencyPoint], step_s: int) -> Spec:
    """Three quantiles as lines with their names at the end. A wide spread is drawn on a logarithmic axis, and says so by its ticks."""
    step = timedelta(seconds=step_s)
    rows: list[dict[str, Any]] = []
    lasts: list[dict[str, Any]] = []
    for name in ("p50", "p95", "p99"):
        last = None
        for point in points:
            value = getattr(point, f"{name}_us")
            rows.append(
                {
                    "at": _iso(point.at + step / 2),
                    "since": _iso(point.at),
                    "until": _iso(point.at + step),
                    "quantile": name,
                    "ms": None if value is None else max(value, 1) / 1000,
                    "calls": point.count,
                }
            )
            last = rows[-1] if value is not None else last
        if last:
            lasts.append({**last, "text": f"{name}  {last['ms']:.3g} ms"})
    values = [row["ms"] for row in rows if row["ms"]] or [1.0]
    logarithmic = max(values) / min(values) > 25
    low, high = _bounds(min(values), max(values), logarithmic)
    span = [{"since": _iso(points[0].at), "until": _iso(points[-1].at + step)}] if points else []
    return {
        **_latency_template(logarithmic, low, high),
        "datasets": {"latency": rows, "lasts": _apart(lasts, logarithmic, low, high), "span": span},
    }


def _apart(lasts: list[dict[str, Any]], logarithmic: bool, low: float, high: float) -> list[dict[str, Any]]:
    """Give each name at the end of its line a height ("label", in the axis' unit) that keeps 15 px from the others."""
    if not lasts:
        return []

    def pixels(value: float) -> float:
        return PLOT_PX * (math.log(value / low) / math.log(high / low) if logarithmic else value / high)

    def value(height: float) -> float:
        return low * (high / low) ** (height / PLOT_PX) if logarithmic else high * height / PLOT_PX

    heights: list[float] = []
    for last in sorted(lasts, key=lambda item: float(item["ms"])):
        heights.append(max(pixels(last["ms"]), heights[-1] + 15 if heights else 0.0))
        last["label"] = value(heights[-1])
    return lasts


def _bounds(low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """Ends of the axis in ms: from zero, or from one round value to another, so that only a few forms of it exist."""
    if logarithmic:
        low = next(step for step in reversed(_STEPS) if step <= low or step == _STEPS[0])
        return low, next((step for step in _STEPS if step >= high), high)
    return 0.0, next((half for step in _STEPS for half in (step, step * 1.5, step * 2) if half >= high), high)


_STEPS = tuple(round(digit * 10.0**power, 6) for power in range(-3, 7) for digit in (1, 3))


@lru_cache(maxsize=64)
def _latency_template(logarithmic: bool, low: float, high: float) -> Spec:
    import altair as alt

    names = ["p50", "p95", "p99"]
    color = alt.Color("quantile:N", scale=alt.Scale(domain=names, range=["accent", "series-2", "ink"]), legend=None)
    scale = alt.Scale(type="log" if logarithmic else "linear", domain=[low, high], nice=False)
    ticks = [step for step in _STEPS if low <= step <= high]
    axis = alt.Axis(labelExpr="format(datum.value, '~g') + ' ms'", **({"values": ticks} if logarithmic else {"tickCount": 4}))
    base = alt.Chart(alt.NamedData("latency")).encode(
        x=alt.X("at:T", title=None, axis=_time_axis(alt), scale=alt.Scale(type="utc", padding=0, nice=False)),
        y=alt.Y("ms:Q", title=None, scale=scale, axis=axis),
        color=color,
    )
    tooltip = [
        alt.Tooltip("since:T", title="from", format="%-d %b %H:%M", formatType="utc"),
        alt.Tooltip("quantile:N"),
        alt.Tooltip("ms:Q", title="ms", format=",.3~r"),
        alt.Tooltip("calls:Q", title="answered calls", format=","),
    ]
    lines = base.mark_line(interpolate="monotone", strokeWidth=1.75)
    dots = base.mark_point(filled=True, size=14, opacity=1, cursor="pointer").encode(tooltip=tooltip)
    hits = base.mark_point(filled=True, size=180, opacity=0, cursor="pointer").encode(tooltip=tooltip)
    ends = (
        alt.Chart(alt.NamedData("lasts"))
        .mark_text(align="left", dx=8, fontSize=12, fontWeight=500)
        .encode(x="at:T", y=alt.Y("label:Q", scale=scale), text="text:N", color=color)
    )
    frame = alt.Chart(alt.NamedData("span")).mark_rule(opacity=0).encode(x="since:T", x2="until:T")
    return _spec(alt.layer(frame, lines, hits, dots, ends).properties(width=800, height=PLOT_PX, padding=_PADDING))


# The same for all charts over time, so that an hour stands at the same place in each; at the right stand the names of lines.
_PADDING = {"left": 48, "right": 84, "top": 8, "bottom": 24}


def _time_axis(alt: Any) -> Any:
    """UTC, few ticks, dates at midnight."""
    label = "utchours(datum.value) + utcminutes(datum.value) == 0 ? utcFormat(datum.value, '%-d %b') : utcFormat(datum.value, '%H:%M')"
    return alt.Axis(labelExpr=label, tickCount=8, labelOverlap=True, labelFlush=False)


def _spec(chart: Any) -> Spec:
    spec: Spec = chart.to_dict()
    spec.pop("config", None)  # the page's own theme
    spec["autosize"] = {"type": "none"}  # js/vega-chart.js gives the width that the padding leaves
    return spec


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
