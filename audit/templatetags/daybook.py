"""How values are written on every page: instants, durations, sizes, digests. `{% load daybook %}`.

Thin spaces (U+2009) part a figure from its unit, so that the pair never breaks over a line and the unit can be small and quiet.
All times are UTC, as in the log; the browser adds the reader's own zone on hover (js/times.js).
"""

from datetime import UTC, datetime
from uuid import UUID

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

THIN = "\u2009"


@register.filter
def duration(us: int | float | None) -> SafeString | str:
    """µs as people read them: three significant digits with the unit that fits. "–" for None."""
    if us is None:
        return "–"
    for limit, factor, unit in (
        (1_000, 1, "µs"),
        (1_000_000, 1_000, "ms"),
        (120_000_000, 1_000_000, "s"),
        (7_200_000_000, 60_000_000, "min"),
    ):
        if us < limit:
            return _figure(significant(us / factor), unit)
    return _figure(significant(us / 3_600_000_000), "h")


@register.filter
def size(num_bytes: int | None) -> SafeString | str:
    """Bytes in powers of 1000."""
    if num_bytes is None:
        return "–"
    for limit, factor, unit in ((1_000, 1, "B"), (1_000_000, 1_000, "kB"), (1_000_000_000, 1_000_000, "MB")):
        if num_bytes < limit:
            return _figure(significant(num_bytes / factor), unit)
    return _figure(significant(num_bytes / 1e9), "GB")


@register.filter
def count(n: int | None) -> str:
    """12804 → 12,804; "–" for None."""
    return "–" if n is None else f"{n:,}"


@register.filter
def percent(share: float | None) -> SafeString | str:
    """0..1 as a percentage that never rounds a few failures away: 0.0004 → 0.04 %."""
    if share is None:
        return "–"
    value = share * 100
    if value in (0, 100):
        return _figure(f"{value:.0f}", "%")
    if abs(value) > 999:
        return _figure(f"{value:,.0f}", "%")
    if 99.95 < value < 100:
        return _figure(f"{int(value * 1000) / 1000:g}", "%")
    return _figure(f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}", "%")


@register.filter
def rate(per_second: float | None) -> SafeString | str:
    """Calls a second, or a minute where that reads better."""
    if per_second is None:
        return "–"
    if 0 < per_second < 1:
        return _figure(significant(per_second * 60), "/min")
    return _figure(significant(per_second), "/s")


def significant(value: float) -> str:
    """Three significant digits without an exponent, thousands parted: 3.1, 31.4, 314, 3,140."""
    if value == int(value) and value < 1000:
        return str(int(value))
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def _figure(value: str, unit: str) -> SafeString:
    return format_html("{}{}<small>{}</small>", value, THIN, unit)


@register.simple_tag
def digest(value: bytes | str | UUID | None, what: str = "digest", link: str = "") -> SafeString | str:
    """First 8 … last 4 characters, the whole one on hover and behind the copy button. "–" for nothing."""
    if not value:
        return "–"
    whole = value.hex() if isinstance(value, bytes | bytearray | memoryview) else str(value)
    short = format_html("{}<i>…</i>{}", whole[:8], whole[-4:]) if len(whole) > 16 else format_html("{}", whole)
    shown = format_html('<a href="{}">{}</a>', link, short) if link else short
    return format_html(
        '<span class="digest"><span title="{}">{}</span><copy-button data-text="{}" data-what="{}"></copy-button></span>',
        whole,
        shown,
        whole,
        what,
    )


@register.simple_tag
def clock(value: datetime | None) -> SafeString | str:
    """14:03:27.184, the full instant on hover."""
    return _time(value, f"{value.astimezone(UTC):%H:%M:%S}.{value.microsecond // 1000:03d}") if value else "–"


@register.simple_tag
def instant(value: datetime | None) -> SafeString | str:
    """22 Nov 2026, 14:03:27.184 UTC."""
    return _time(value, f"{value.astimezone(UTC):%-d %b %Y, %H:%M:%S}.{value.microsecond // 1000:03d} UTC") if value else "–"


@register.simple_tag
def day(value: datetime | None) -> SafeString | str:
    """22 November 2026."""
    return _time(value, f"{value.astimezone(UTC):%-d %B %Y}") if value else "–"


@register.simple_tag
def ago(value: datetime | None) -> SafeString | str:
    """ "3 s ago", kept fresh by js/times.js; without scripts the instant itself."""
    if value is None:
        return "never"
    return format_html("<relative-time>{}</relative-time>", _time(value, f"{value.astimezone(UTC):%-d %b, %H:%M} UTC"))


def _time(value: datetime, text: str) -> SafeString:
    utc = value.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', utc.isoformat().replace("+00:00", "Z"), f"{utc:%Y-%m-%d %H:%M:%S.%f} UTC", text
    )
