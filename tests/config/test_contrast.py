"""Colours of the site against WCAG 2.2: text 4.5 : 1 (1.4.3), controls and drawn lines 3 : 1 (1.4.11), on paper and under the lamp."""

import re
from pathlib import Path

import pytest

TOKENS = (Path(__file__).resolve().parent.parent.parent / "config/static/css/tokens.css").read_text()
COLOURS = {
    name: {"light": light, "dark": dark}
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", TOKENS)
}
GROUNDS = ("paper", "raised", "sunken", "hover", "select")
TEXT = [(ink, ground) for ink in ("ink", "quiet", "accent", "fail", "warn") for ground in GROUNDS]
TEXT += [("on-accent", "accent"), ("on-fail", "fail"), ("ink", "found")]
TEXT += [(ink, wash) for wash in ("accent-wash", "fail-wash", "warn-wash") for ink in ("ink", "quiet")]
TEXT += [("accent-strong", "accent-wash"), ("fail", "fail-wash"), ("warn", "warn-wash")]
LINES = [(name, ground) for name in ("control", *(f"series-{n}" for n in range(1, 9))) for ground in ("paper", "raised")]


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_pairs() -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    found = {pair: round(contrast(COLOURS[pair[0]][scheme], COLOURS[pair[1]][scheme]), 2) for pair in TEXT}
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_controls_can_be_seen(scheme: str) -> None:
    found = {pair: round(contrast(COLOURS[pair[0]][scheme], COLOURS[pair[1]][scheme]), 2) for pair in LINES}
    assert {pair: ratio for pair, ratio in found.items() if ratio < 3} == {}
