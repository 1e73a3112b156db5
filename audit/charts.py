"""Drawings made in Python: small ones as SVG geometry, large ones as Vega-Lite specifications (Altair).

The browser draws the specifications with the interpreter (no `eval`), reports turn the very same into SVG. Colours are *names* of
tokens ("accent", "series-3"): js/vega-chart.js resolves them, so that one specification serves paper and lamp.
"""

from collections.abc import Sequence
from dataclasses import dataclass


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


def label_bars(values: Sequence[tuple[str, float]], *, whole: float | None = None, unit: str = "") -> list[Bar]:
    """Bars for labelled values ≥ 0. `whole` is the value of a full bar: 1.0 for probabilities, None for the largest value."""
    full = whole if whole is not None else max((value for _, value in values), default=0.0)
    top = max((value for _, value in values), default=0.0)
    return [
        Bar(
            label,
            f"{100 * min(1.0, max(0.0, value / full)) if full > 0 else 0:.2f}",
            f"{_number(value)}{unit}",
            is_top=value == top and value > 0,
        )
        for label, value in values
    ]


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"
