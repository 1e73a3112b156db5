"""What the daybook's list and dashboard show, ready to render: numbers, words, geometry and addresses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

from django.urls import reverse

from . import charts, refine, search, words
from .access import Viewer
from .facets import Facet, facets
from .histogram import Histogram, histogram
from .models import LogHead, LogLeaf, Record, Rollup
from .querysets import Cursor, RecordPage
from .record import CALL_KINDS
from .search import Query

LIST_LIMIT = 100
SPANS = (("1h", "1 h"), ("6h", "6 h"), ("24h", "24 h"), ("7d", "7 d"), ("30d", "30 d"))


# Lines of the ledger


@dataclass(frozen=True, slots=True)
class Line:
    """One record in a list. `seal` is durable, sealed or broken; `index` its place in the log."""

    record: Record
    seal: str
    index: int | None
    subject: str
    outcome: str
    kind: str
    answer: str
    behind_answer: str  # its score, and how many more rows there were
    caller: str
    url: str
    act: str  # what was done, without on what
    is_call: bool


@dataclass(frozen=True, slots=True)
class Day:
    date: date
    lines: tuple[Line, ...]

    @property
    def rows(self) -> int:
        return len(self.lines)


def lines(records: Sequence[Record]) -> list[Line]:
    """Two queries for the seals of all."""
    leaves = {leaf.record_id: leaf for leaf in LogLeaf.objects.filter(record_id__in=[record.id for record in records])}
    signed_size = LogHead.objects.values_list("signed_size", flat=True).first() or 0
    return [line(record, leaves.get(record.id), signed_size) for record in records]


def line(record: Record, leaf: LogLeaf | None, signed_size: int) -> Line:
    answer, behind_answer = words.answer(record)
    return Line(
        record=record,
        seal=seal(record, leaf, signed_size),
        index=leaf.index if leaf else None,
        subject=words.subject(record),
        outcome=words.outcome(record),
        kind=words.outcome_kind(record.outcome),
        answer=answer,
        behind_answer=behind_answer,
        caller=words.caller(record),
        url=record_url(record.id),
        act=words.act(record),
        is_call=record.kind in CALL_KINDS,
    )


def seal(record: Record, leaf: LogLeaf | None, signed_size: int) -> str:
    """Sealed is what a signed checkpoint covers. A row whose leaf hash is another than the log's was changed after sealing."""
    if leaf is None:
        return "durable"
    if bytes(leaf.leaf_hash) != bytes(record.leaf_hash):
        return "broken"
    return "sealed" if leaf.index < signed_size else "durable"


def days(drawn: Iterable[Line]) -> list[Day]:
    """Lines, newest first, under their dates (UTC)."""
    found: list[tuple[date, list[Line]]] = []
    for one in drawn:
        on = one.record.ts.astimezone(UTC).date()
        if not found or found[-1][0] != on:
            found.append((on, []))
        found[-1][1].append(one)
    return [Day(on, tuple(of_day)) for on, of_day in found]


# Addresses: all state of the list is in its URL


def record_url(record_id: UUID) -> str:
    return reverse("audit:record", args=[record_id])


def records_url(q: str, **parameters: str) -> str:
    given = {"q": q, **parameters}
    text = urlencode({name: value for name, value in given.items() if value})
    return reverse("audit:records") + (f"?{text}" if text else "")


# The list


@dataclass(frozen=True, slots=True)
class Chip:
    name: str
    value: str
    remove_url: str


@dataclass(frozen=True, slots=True)
class FacetValue:
    value: str
    label: str
    count: int
    is_on: bool
    url: str
    exclude_url: str


@dataclass(frozen=True, slots=True)
class FacetColumn:
    field: str
    title: str
    values: tuple[FacetValue, ...]
    sampled: int | None


@dataclass(frozen=True, slots=True)
class Span:
    label: str
    url: str
    is_on: bool


@dataclass(frozen=True, slots=True)
class RecordsPage:
    text: str
    title: str
    chips: tuple[Chip, ...]
    spans: tuple[Span, ...]
    days: tuple[Day, ...]
    num_lines: int
    histogram: charts.DrawnHistogram
    facets: tuple[FacetColumn, ...]
    older_url: str
    newest_url: str  # set on pages other than the first
    watch_url: str  # asks for what came after the first line; set on the first page of a query that is open to now
    is_filtered: bool


@dataclass(frozen=True, slots=True)
class BrokenQuery:
    """A query that can't be read, divided at its fault."""

    text: str
    before: str
    fault: str
    after: str
    message: str


def broken_query(text: str, error: search.SearchError) -> BrokenQuery:
    start, end = min(error.start, len(text)), min(error.end, len(text))
    return BrokenQuery(text, text[:start], text[start:end] or " ", text[end:], error.message[:1].upper() + error.message[1:])


def records_page(query: Query, page: RecordPage, user: Viewer, *, now: datetime, before: Cursor | None) -> RecordsPage:
    drawn = lines(page.records)
    since = query.since or _assumed_since(page, now)
    until = min(query.until or now, now)
    spanned = replace(query, since=since)
    drawn_histogram = histogram(spanned, 72, user=user, now=now) if since < until else Histogram((), None, None)
    counted = facets(query, user, since=since, until=until) if since < until else ()
    newest = page.records[0] if page.records else None
    return RecordsPage(
        text=query.text,
        title=query.text or "Records",
        chips=tuple(_chips(query)),
        spans=tuple(_spans(query)),
        days=tuple(days(drawn)),
        num_lines=len(drawn),
        histogram=charts.draw_histogram(drawn_histogram, lambda bar: records_url(refine.with_times(query.text, bar.since, bar.until))),
        facets=tuple(_facet_column(query, facet) for facet in counted),
        older_url=records_url(query.text, before=str(page.older)) if page.older and len(drawn) == LIST_LIMIT else "",
        newest_url=records_url(query.text) if before else "",
        watch_url=_watch_url(query, newest) if before is None and query.until is None else "",
        is_filtered=bool(query.terms or query.since or query.until),
    )


def _watch_url(query: Query, newest: Record | None) -> str:
    parameters = {"q": query.text, "after": str(Cursor(newest.ts, newest.id)) if newest else ""}
    return f"{reverse('audit:records-new')}?{urlencode({name: value for name, value in parameters.items() if value})}"


def _assumed_since(page: RecordPage, now: datetime) -> datetime:
    """How far the drawing reaches when the query names no time: to the page's oldest record if that is all there is, else a day, or as
    far as the log goes back."""
    if not page.records:
        return now - timedelta(hours=24)
    oldest = page.records[-1].ts - timedelta(seconds=1)
    if len(page.records) < LIST_LIMIT or page.older is None:
        return min(now - timedelta(minutes=30), oldest)
    began = Rollup.objects.order_by("bucket").values_list("bucket", flat=True).first() or oldest
    return min(max(now - timedelta(hours=24), began), oldest)


def _chips(query: Query) -> Iterable[Chip]:
    for term in query.terms:
        text = query.text[term.start : term.end]
        name, colon, value = text.partition(":")
        yield Chip(f"{name}:" if colon else "", value if colon else text, records_url(search.without_term(query.text, term)))
    for name, value, rest in refine.times_in(query.text):
        yield Chip(f"{name}:", value, records_url(rest))


def _spans(query: Query) -> Iterable[Span]:
    given = {name: value for name, value, _ in refine.times_in(query.text)}
    rest = refine.without_times(query.text)
    for value, label in SPANS:
        yield Span(label, records_url(f"{rest} since:{value}".strip()), given == {"since": value})
    yield Span("all", records_url(rest), not given)


_TITLES = {"model": "Model", "outcome": "Outcome", "application": "Application"}


def _facet_column(query: Query, facet: Facet) -> FacetColumn:
    return FacetColumn(
        facet.field,
        _TITLES[facet.field],
        tuple(
            FacetValue(
                value,
                words.OUTCOMES.get(value, value) if facet.field == "outcome" else value,
                count,
                is_on=refine.has_value(query, facet.field, value),
                url=records_url(refine.toggled(query, facet.field, value)),
                exclude_url=records_url(search.with_term(query.text, facet.field, value, negated=True)),
            )
            for value, count in facet.values
        ),
        facet.sampled,
    )


# Timing, drawn as one bar


@dataclass(frozen=True, slots=True)
class TimingPart:
    """`start` and `width` are percentages of the whole, as text for SVG."""

    name: str
    label: str
    us: int
    start: str
    width: str


@dataclass(frozen=True, slots=True)
class TimingBar:
    parts: tuple[TimingPart, ...]
    total_us: int


def timing_bar(*, total_us: int, queue_us: int, model_us: int, batch_us: int = 0, record_us: int = 0) -> TimingBar:
    """Door (what is left of `total_us`), queue, batch, model, record; parts of 0 µs are left out, except the model's.

    `record_us` is the commit, which comes after what `total_us` measures; pass 0 where it isn't known.
    """
    inside = queue_us + batch_us + model_us
    door_us = max(0, total_us - inside)
    named = (
        ("door", "door: parse, check, pack", door_us),
        ("queue", "queue", queue_us),
        ("batch", "batch", batch_us),
        ("model", "model", model_us),
        ("record", "record", record_us),
    )
    whole = max(1, door_us + inside + record_us)
    parts = []
    start = 0.0
    for name, label, us in named:
        if us <= 0 and name != "model":
            continue
        width = 100 * us / whole
        parts.append(TimingPart(name, label, us, f"{start:.2f}", f"{max(width, 0.4):.2f}"))
        start += width
    return TimingBar(tuple(parts), total_us + record_us)
