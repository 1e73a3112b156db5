"""Drawings as numbers: nothing exaggerates, nothing vanishes, and every specification is what the browser's Vega-Lite reads."""

from datetime import UTC, datetime, timedelta

import pytest

from audit import charts
from audit.figures import LatencyPoint, TrafficPoint
from audit.histogram import Bar, Histogram

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STEP = timedelta(minutes=1)


def histogram(*counts: tuple[int, int, int]) -> Histogram:
    return Histogram(tuple(Bar(START + STEP * place, START + STEP * (place + 1), *count) for place, count in enumerate(counts)), 7, None)


def draw(*counts: tuple[int, int, int]) -> charts.DrawnHistogram:
    return charts.draw_histogram(histogram(*counts), lambda bar: f"?{bar.since:%H%M}")


def height(text: str) -> float:
    return float(text.removesuffix("%"))


def test_one_failure_among_thousands_is_seen() -> None:
    [bar] = draw((100_000, 0, 1)).bars
    assert height(bar.failed_height) >= 2
    assert height(bar.answered_height) + height(bar.failed_height) == pytest.approx(100, abs=0.02)
    assert "1 failed" in bar.title


def test_parts_of_a_bar_stand_on_one_another_and_reach_its_height() -> None:
    low, high = draw((25, 15, 10), (100, 0, 0)).bars
    assert height(high.answered_y) == 0
    assert height(low.answered_y) == 75
    assert height(low.refused_y) == height(low.answered_y) - 15
    assert height(low.failed_y) == height(low.refused_y) - 10 == 50


def test_empty_bars_are_not_drawn_but_keep_their_place() -> None:
    drawn = draw((1, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 0))
    assert [bar.url for bar in drawn.bars] == ["?1200", "?1202"]
    assert height(drawn.bars[1].x) == pytest.approx(52)
    assert drawn.total == 2


def test_nothing_at_all_is_drawn_as_nothing() -> None:
    assert charts.draw_histogram(Histogram((), None, None), lambda bar: "").bars == ()


def test_ticks_are_round_and_few() -> None:
    drawn = charts.draw_histogram(
        Histogram(tuple(Bar(START + timedelta(hours=h), START + timedelta(hours=h + 1), 1, 0, 0) for h in range(36)), None, None),
        lambda bar: "",
    )
    assert [tick.label for tick in drawn.ticks] == ["18:00", "23 Nov", "06:00", "12:00", "18:00"]


@pytest.mark.parametrize(("values", "line"), [([], ""), ([0, 0], ""), ([5], "0.0,1.5 96,1.5"), ([0, 10], "0.0,22.5 96.0,1.5")])
def test_sparklines_start_at_zero(values: list[float], line: str) -> None:
    assert charts.sparkline(values).line == line


def test_models_shown_together_differ_and_never_look_like_an_outcome() -> None:
    names = ["digits", "half_plus_two", "letters", "risk", "verse", "a sixth"]
    colours = charts.series_of(names)
    assert len(set(colours.values())) == len(names)
    assert not {"series-1", "series-3"} & set(colours.values())
    assert charts.series_of(reversed(names)) == colours
    many = charts.series_of(f"model-{number}" for number in range(40))
    assert len(many) == 40
    assert not {"series-1", "series-3"} & set(many.values())


def test_traffic_names_only_the_outcomes_that_it_shows() -> None:
    spec = charts.traffic_chart([TrafficPoint(START, 3, 0, 1)], 60, [])
    assert [name["group"] for name in spec["datasets"]["names"]] == ["answered", "failed"]
    assert charts.traffic_chart([], 60, [])["datasets"]["names"] == []


def test_traffic_carries_a_row_per_group_with_calls_and_the_query_behind_it() -> None:
    spec = charts.traffic_chart([TrafficPoint(START, 3, 0, 1), TrafficPoint(START + STEP, 0, 0, 0)], 60, [(START, "digits@2")])
    assert [(row["group"], row["calls"], row["term"]) for row in spec["datasets"]["traffic"]] == [
        ("answered", 3, "outcome:ok,cached,shadow"),
        ("failed", 1, "outcome:model_error,timeout,unavailable,stream_aborted"),
    ]
    assert spec["datasets"]["span"] == [{"since": "2026-11-22T12:00:00Z", "until": "2026-11-22T12:02:00Z"}]
    assert spec["datasets"]["starts"] == [{"at": "2026-11-22T12:00:00Z", "name": "digits@2"}]
    assert spec["$schema"].startswith("https://vega.github.io/schema/vega-lite/v6")


def test_names_at_the_ends_of_lines_keep_their_distance() -> None:
    spec = charts.latency_chart([LatencyPoint(START, 10, 1_000, 29_000, 29_100)], 60)
    labels = sorted(row["label"] for row in spec["datasets"]["lasts"])
    assert len(labels) == 3
    domain = spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
    assert domain[0] <= 1 <= 29.1 <= domain[1]
    assert labels[2] / labels[1] > 1.1


def test_gaps_in_latency_stay_gaps() -> None:
    points = [LatencyPoint(START, 1, 1_000, 2_000, 3_000), LatencyPoint(START + STEP, 0, None, None, None)]
    rows = charts.latency_chart(points, 60)["datasets"]["latency"]
    assert [row["ms"] for row in rows if row["quantile"] == "p50"] == [1.0, None]


def test_charts_of_nothing_are_valid() -> None:
    assert charts.latency_chart([], 60)["datasets"]["lasts"] == []
    assert charts.traffic_chart([], 60, [])["datasets"]["traffic"] == []
