"""What the list and its parts show, made ready so that templates only loop and choose."""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from django.core.cache import cache
from django.urls import reverse

from audit.charts import Sparkline, sparkline

from .figures import daily_calls
from .models import Entry, EntryTag, Namespace, Tag
from .querysets import EntryQuerySet
from .search import ALIKE, FACETS, PAGE_SIZE, SORTS, Search, count_facets, find, find_alike, ranked

FACET_LABELS = {**dict(Namespace.choices), "kind": "Kind", "access": "Who may call", "state": "Now", "lifecycle": "Lifecycle"}
VALUE_LABELS = {
    "kind": {"served": "Served here", "outside": "Outside"},
    "access": {"open": "Everybody", "key": "Keys", "subscription": "Subscribers"},
    "state": {"ready": "Ready", "not-ready": "Not ready"},
    "lifecycle": dict(Entry.Lifecycle.choices),
}
SHOWN_VALUES = 8
COUNTS_KEPT_FROM = 5_000  # entries
COUNTS_KEPT_S = 20
OPEN_FACETS = frozenset({"task", "modality-in", "state", "access"})


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, and whether it is what was looked for."""

    text: str
    found: bool


@dataclass(frozen=True, slots=True)
class EntryRow:
    entry: Entry
    url: str
    name: list[Piece]
    summary: list[Piece]
    words: list[str]  # task, what it takes → gives, framework
    spark: Sparkline | None
    is_ready: bool


@dataclass(frozen=True, slots=True)
class FacetValue:
    label: str
    count: int
    is_chosen: bool
    url: str


@dataclass(frozen=True, slots=True)
class FacetList:
    name: str
    label: str
    is_open: bool
    values: list[FacetValue]
    more: list[FacetValue]


@dataclass(frozen=True, slots=True)
class Chip:
    facet: str
    label: str
    remove_url: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A way out of a search without results."""

    label: str
    url: str
    count: int | None = None


@dataclass(frozen=True, slots=True)
class PageLink:
    number: int | None  # None: pages are left out here
    url: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class SortLink:
    label: str
    url: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class CatalogPage:
    search: Search
    total: int
    first: int
    last: int
    rows: list[EntryRow]
    facets: list[FacetList]
    chips: list[Chip]
    sorts: list[SortLink]
    pages: list[PageLink]
    previous_url: str
    next_url: str
    clear_url: str
    is_fuzzy: bool  # nothing held the words; these are names that look alike
    nearest: list[Offer]
    drops: list[Offer]
    is_empty_catalog: bool
    may_publish: bool
    hidden: list[tuple[str, str]] = field(default_factory=list)  # what the search form must carry along


def catalog_page(user: Any, search: Search, *, now: datetime) -> CatalogPage:
    """The page of one search. Counts, rows, tags and sparklines: a fixed number of queries for any number of entries."""
    entries = Entry.objects.visible_to(user)
    found = find(entries, search)
    total = found.count()
    near = find_alike(entries, search.text) if not total and search.text else []
    alike = [pk for pk, likeness in near if likeness >= ALIKE]
    if alike:
        # From here on these entries are the whole catalog and the words are gone.
        entries = entries.filter(pk__in=alike)
        found = find(entries, replace(search, text=""))
        total = found.count()
    is_fuzzy = total > 0 and bool(alike)
    num_pages = max(1, -(-total // PAGE_SIZE))
    search = replace(search, page=min(search.page, num_pages))
    start = (search.page - 1) * PAGE_SIZE
    shown = list(ranked(found, search, alike=alike).with_lists()[start : start + PAGE_SIZE])
    counts = count_facets(entries, replace(search, text="")) if alike else _counts(entries, search, user)
    labels = _tag_labels(counts, search)
    return CatalogPage(
        search=search,
        total=total,
        first=start + 1 if total else 0,
        last=start + len(shown),
        rows=_rows(shown, search, now=now),
        facets=_facets(counts, labels, search),
        chips=_chips(labels, search),
        sorts=[
            SortLink(
                label if search.text or sort != "relevance" else "Recommended",
                _url(replace(search, sort=sort, page=1)),
                sort == search.sort,
            )
            for sort, label in SORTS.items()
        ],
        pages=_pages(search, num_pages),
        previous_url=_url(replace(search, page=search.page - 1)) if search.page > 1 else "",
        next_url=_url(replace(search, page=search.page + 1)) if search.page < num_pages else "",
        clear_url=_url(Search(text=search.text, sort=search.sort)),
        is_fuzzy=is_fuzzy,
        nearest=_nearest([pk for pk, _ in near[:3]]) if not total and near else [],
        drops=_drops(Entry.objects.visible_to(user), labels, search) if not total else [],
        is_empty_catalog=not total and search.is_empty,
        may_publish=user.has_perm("catalog.publish_entry"),
        hidden=[
            *((facet, value) for facet in FACETS for value in search.chosen.get(facet, ())),
            *([("sort", search.sort)] if search.sort != "relevance" else []),
        ],
    )


def _counts(entries: EntryQuerySet, search: Search, user: Any) -> dict[str, dict[str, int]]:
    """The counts beside the facets. In a large catalog those of searches without words are up to COUNTS_KEPT_S old.

    50,000 entries hold half a million facet values, 0.13 s to count; everybody's first page asks for the same.
    """
    size: int = cache.get_or_set("catalog-size", Entry.objects.count, 60)  # type: ignore[assignment]  # a count is never None
    if search.text or size < COUNTS_KEPT_FROM:
        return count_facets(entries, search)
    who = "all" if user.is_superuser else str(user.pk) if user.is_authenticated else "visitor"
    key = f"catalog-counts:{who}:{sha256(replace(search, page=1, sort='relevance').as_query().encode()).hexdigest()}"
    kept: dict[str, dict[str, int]] | None = cache.get(key)
    if kept is None:
        kept = count_facets(entries, search)
        cache.set(key, kept, COUNTS_KEPT_S)
    return kept


def mark(text: str, query: str) -> list[Piece]:
    """`text` in pieces, with the words that begin like one of the query's told apart."""
    words = [re.escape(word) for word in re.findall(r"\w+", query) if len(word) > 1]
    if not words or not text:
        return [Piece(text, False)]
    parts = re.split(rf"(\b(?:{'|'.join(words)})\w*)", text, flags=re.IGNORECASE)
    return [Piece(part, bool(place % 2)) for place, part in enumerate(parts) if part]


def words_of(entry: Entry) -> list[str]:
    """An entry's tags as a reader would say them: the task, what goes in and comes out, the framework."""
    by_namespace: dict[str, list[str]] = {}
    for row in entry.entry_tags.all():
        if row.source != EntryTag.Source.REJECTED and row.tag.slug not in {"other", "general"}:  # they tell nobody anything
            by_namespace.setdefault(row.tag.namespace, []).append(row.tag.label)
    words = list(by_namespace.get("task", []))
    takes, gives = by_namespace.get("modality-in", []), by_namespace.get("modality-out", [])
    if takes or gives:
        words.append(f"{', '.join(takes).lower() or '?'} → {', '.join(gives).lower() or '?'}")
    words += by_namespace.get("domain", []) + by_namespace.get("framework", []) + by_namespace.get("licence", [])
    return words


def _rows(entries: list[Entry], search: Search, *, now: datetime) -> list[EntryRow]:
    calls = daily_calls([entry.slug for entry in entries], now=now)
    return [
        EntryRow(
            entry=entry,
            url=entry.get_absolute_url(),
            name=mark(entry.name, search.text),
            summary=mark(entry.summary, search.text),
            words=words_of(entry),
            spark=sparkline(calls[entry.slug]) if any(calls[entry.slug]) else None,
            is_ready=entry.default_version is not None,
        )
        for entry in entries
    ]


def _tag_labels(counts: dict[str, dict[str, int]], search: Search) -> dict[str, dict[str, str]]:
    slugs = {slug for values in counts.values() for slug in values} | {slug for values in search.chosen.values() for slug in values}
    labels: dict[str, dict[str, str]] = {facet: dict(VALUE_LABELS.get(facet, {})) for facet in FACETS}
    for tag in Tag.objects.filter(slug__in=slugs).only("namespace", "slug", "label"):
        labels.setdefault(tag.namespace, {})[tag.slug] = tag.label
    return labels


def _facets(counts: dict[str, dict[str, int]], labels: dict[str, dict[str, str]], search: Search) -> list[FacetList]:
    made = []
    for facet in FACETS:
        chosen = search.chosen.get(facet, ())
        numbers = {**dict.fromkeys(chosen, 0), **counts[facet]}
        if not chosen and (len(numbers) < 2 and facet != "task"):
            continue  # a facet that can't narrow anything is noise
        values = [
            FacetValue(labels[facet].get(slug, slug), number, slug in chosen, _url(search.toggled(facet, slug)))
            for slug, number in sorted(numbers.items(), key=lambda item: (item[0] not in chosen, -item[1], item[0]))
        ]
        if values:
            is_open = facet in OPEN_FACETS or bool(chosen)
            made.append(FacetList(facet, FACET_LABELS[facet], is_open, values[:SHOWN_VALUES], values[SHOWN_VALUES:]))
    return made


def _chips(labels: dict[str, dict[str, str]], search: Search) -> list[Chip]:
    return [
        Chip(FACET_LABELS[facet].lower(), labels[facet].get(value, value), _url(search.toggled(facet, value)))
        for facet in FACETS
        for value in search.chosen.get(facet, ())
    ]


def _nearest(keys: list[int]) -> list[Offer]:
    return [Offer(entry.name, entry.get_absolute_url()) for entry in by_keys(keys)]


def by_keys(keys: list[int]) -> list[Entry]:
    """Entries in the order of their keys."""
    found = Entry.objects.in_bulk(keys)
    return [found[key] for key in keys if key in found]


def _drops(entries: Any, labels: dict[str, dict[str, str]], search: Search) -> list[Offer]:
    """What would be left without one of the filters, or without the words."""
    offers = []
    for facet, values in search.chosen.items():
        without = search.without(facet)
        number = find(entries, without).count()
        if number:
            names = " or ".join(labels[facet].get(value, value) for value in values)
            offers.append(Offer(f"without {FACET_LABELS[facet].lower()} {names}", _url(without), number))
    if search.text and search.chosen:
        without = replace(search, text="", page=1)
        number = find(entries, without).count()
        if number:
            offers.append(Offer(f"without the words “{search.text}”", _url(without), number))
    return offers


def _pages(search: Search, num_pages: int) -> list[PageLink]:
    """First, last, and two on either side of the current page."""
    if num_pages == 1:
        return []
    near = {1, num_pages, *range(search.page - 2, search.page + 3)}
    links: list[PageLink] = []
    for number in sorted(n for n in near if 1 <= n <= num_pages):
        if links and links[-1].number is not None and number > links[-1].number + 1:
            links.append(PageLink(None, "", False))
        links.append(PageLink(number, _url(replace(search, page=number)), number == search.page))
    return links


def _url(search: Search) -> str:
    """Relative to the list's address, where all of them stand: a page has some hundred, and `reverse` would take a fifth of its time."""
    query = search.as_query()
    return f"?{query}" if query else reverse("catalog:list")
