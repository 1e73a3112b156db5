"""Finding entries: the index of one entry, the state of a search as its URL, the ranking, the counts beside the facets.

Ranking, deterministic: an exact name first, then names that begin with the query, then `text * prominence`. Text weighs name and owner
(A), tags and their synonyms (B), signatures (C), summary and card (D). Prominence is
`(1 + 0.15 * log10(1 + calls) + 0.1 * freshness) * lifecycle`, where freshness falls from 1 to 0 over a year and deprecated entries count
half; it is kept in a column, so that the first page of a large catalog comes from an index. Retired entries are hidden unless the
lifecycle facet asks for them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib.postgres.search import SearchQuery, SearchRank, SearchVector, TrigramSimilarity, TrigramWordSimilarity
from django.db import connection, transaction
from django.db.models import Case, Count, F, Func, IntegerField, Q, Value, When
from django.db.models.functions import Greatest, Lower
from django.http import QueryDict
from django.utils import timezone

from .models import Entry, EntryTag, EntryVersion, Tag
from .querysets import EntryQuerySet

TAG_FACETS = ("task", "modality-in", "modality-out", "domain", "framework", "language", "licence", "risk")
FIELD_FACETS = ("kind", "access", "state", "lifecycle")
FACETS = (*TAG_FACETS, *FIELD_FACETS)
SORTS = {"relevance": "Best match", "calls": "Most called", "newest": "Newest", "name": "Name"}
PAGE_SIZE = 20
LAST_PAGE = 100_000
MAX_QUERY = 200
MAX_ALIKE = 60
_CARD_CHARS = 50_000
_WEIGHTS = [0.1, 0.2, 0.4, 1.0]  # D, C, B, A
ALIKE = 0.35  # a likeness from which a name is taken for what was meant
_REMOTE = 0.25


# The index


def index_entry(entry: Entry) -> None:
    """Write the search vector, the facet keys and the prominence of one entry. Call after any change to it, its tags or versions."""
    tags = list(Tag.objects.filter(entry_tags__entry=entry).exclude(entry_tags__source=EntryTag.Source.REJECTED).select_related("parent"))
    ancestors = [tag.parent for tag in tags if tag.parent is not None]
    newest = EntryVersion.objects.filter(entry=entry).exclude(artifact="").first()
    names = [entry.name, entry.slug, re.sub(r"[_.\-]+", " ", entry.slug), entry.provider]
    names += [entry.team.name] if entry.team else []
    names += [entry.owner.get_username()] if entry.owner else []
    words = " ".join(" ".join((tag.label, tag.slug, *tag.synonyms)) for tag in [*tags, *ancestors])
    signatures = " ".join(
        " ".join((name, *signature.inputs, *signature.outputs))
        for name, signature in (newest.decoded_signatures() if newest else {}).items()
    )
    prose = " ".join((entry.summary, entry.card[:_CARD_CHARS], entry.intended_use, entry.training_data, " ".join(entry.class_names)))
    vector = (
        SearchVector(Value(" ".join(names)), weight="A", config="simple")
        + SearchVector(Value(" ".join(names)), weight="A", config="english")
        + SearchVector(Value(words), weight="B", config="english")
        + SearchVector(Value(signatures.replace("_", " ")), weight="C", config="simple")
        + SearchVector(Value(prose), weight="D", config="english")
    )
    facets = {tag.key for tag in tags} | {tag.key for tag in ancestors}
    facets |= {f"kind:{entry.kind}", f"access:{entry.access}", f"lifecycle:{entry.lifecycle}"}
    facets.add("state:ready" if entry.default_version is not None else "state:not-ready")
    now = timezone.now()
    Entry.objects.filter(pk=entry.pk).update(
        search=vector, facets=sorted(facets), prominence=prominence(entry.calls, entry.lifecycle, entry.updated_at, now=now)
    )


def prominence(calls: int, lifecycle: str, updated_at: datetime, *, now: datetime) -> float:
    """How much an entry stands out before any word is typed: by use, freshness and state."""
    freshness = min(1.0, max(0.0, 1 - (now - updated_at) / timedelta(days=365)))
    state = {"deprecated": 0.5, "retired": 0.3}.get(lifecycle, 1.0)
    return round((1 + 0.15 * math.log10(1 + calls) + 0.1 * freshness) * state, 4)


# The state of a search


@dataclass(frozen=True, slots=True)
class Search:
    """A search as its URL says it. `chosen` maps a facet to its chosen values: any of them inside a facet, all facets together."""

    text: str = ""
    chosen: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sort: str = "relevance"
    page: int = 1

    @classmethod
    def from_query(cls, query: QueryDict) -> "Search":
        """Reads leniently: what isn't understood is left out, since people edit URLs."""
        chosen = {facet: tuple(dict.fromkeys(v for v in query.getlist(facet) if v)) for facet in FACETS}
        sort = query.get("sort", "")
        page = query.get("page", "")
        return cls(
            text=query.get("q", "").replace("\0", "").strip()[:MAX_QUERY],
            chosen={facet: values for facet, values in chosen.items() if values},
            sort=sort if sort in SORTS else "relevance",
            page=_page_number(page),
        )

    def as_query(self) -> str:
        """The query string, without a leading `?`; defaults are left out, so equal searches have equal URLs."""
        pairs = [("q", self.text)] if self.text else []
        pairs += [(facet, value) for facet in FACETS for value in self.chosen.get(facet, ())]
        pairs += [("sort", self.sort)] if self.sort != "relevance" else []
        pairs += [("page", str(self.page))] if self.page > 1 else []
        return urlencode(pairs)

    def toggled(self, facet: str, value: str) -> "Search":
        """The search with one facet value added or taken away, on its first page."""
        values = self.chosen.get(facet, ())
        values = tuple(v for v in values if v != value) if value in values else (*values, value)
        chosen = {**self.chosen, facet: values}
        return replace(self, chosen={f: v for f, v in chosen.items() if v}, page=1)

    def without(self, facet: str) -> "Search":
        return replace(self, chosen={f: v for f, v in self.chosen.items() if f != facet}, page=1)

    @property
    def is_empty(self) -> bool:
        return not self.text and not self.chosen


def _page_number(text: str) -> int:
    """From 1 to `LAST_PAGE`; int() refuses more than 4,300 digits, so length is looked at first."""
    if not (text.isascii() and text.isdigit()):
        return 1
    return max(1, min(int(text), LAST_PAGE)) if len(text) <= 18 else LAST_PAGE


# Finding


def find(entries: EntryQuerySet, search: Search) -> EntryQuerySet:
    """The entries that a search means, unordered: those that hold its words, or a name that holds its text."""
    found = _only_chosen(entries, search)
    if not search.text:
        return found
    pattern = search.text.lower()
    return found.alias(lower_slug=Lower("slug"), lower_name=Lower("name")).filter(
        Q(search=_parsed(search.text)) | Q(lower_slug__contains=pattern) | Q(lower_name__contains=pattern)
    )


def find_alike(entries: EntryQuerySet, text: str) -> list[tuple[int, float]]:
    """Keys of the entries whose names look like `text`, with how much (0.25 to 1), best first; for a search that holds nothing.

    At most MAX_ALIKE. The operator is what the trigram indexes know, and its threshold is a setting of the transaction: comparing
    the value instead reads the whole table (50,000 entries: 546 ms against 7).
    """
    alike: Any = entries.exclude(lifecycle="retired").alias(lower_slug=Lower("slug"), lower_name=Lower("name"))
    value = text.lower()
    alike = alike.filter(Q(lower_slug__trigram_word_similar=value) | Q(lower_name__trigram_word_similar=value)).annotate(
        likeness=Greatest(TrigramWordSimilarity(value, "lower_slug"), TrigramWordSimilarity(value, "lower_name")),
        closeness=Greatest(TrigramSimilarity("lower_slug", value), TrigramSimilarity("lower_name", value)),
    )
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('pg_trgm.word_similarity_threshold', %s, true)", [str(_REMOTE)])
        return list(alike.order_by("-likeness", "-closeness", "-calls", "slug").values_list("pk", "likeness")[:MAX_ALIKE])


def ranked(found: EntryQuerySet, search: Search, *, alike: Sequence[int] = ()) -> EntryQuerySet:
    """`found` in the order that the search asks for; ties by name, so that pages never overlap. alike: an order of keys to keep."""
    if search.sort == "name":
        return found.order_by(Lower("name"), "slug")
    if search.sort == "newest":
        return found.order_by("-created_at", "slug")
    if search.sort == "calls":
        return found.order_by("-calls", "slug")
    if alike:
        return found.order_by(Case(*(When(pk=pk, then=place) for place, pk in enumerate(alike)), output_field=IntegerField()))
    if not search.text:
        return found.order_by("-prominence", "slug")
    text = search.text.lower()
    tier = Case(
        When(Q(slug__iexact=text) | Q(name__iexact=text), then=2),
        When(Q(slug__istartswith=text) | Q(name__istartswith=text), then=1),
        default=0,
        output_field=IntegerField(),
    )
    words = SearchRank(F("search"), _parsed(search.text), weights=_WEIGHTS)
    return found.annotate(tier=tier, rank=words * F("prominence")).order_by("-tier", "-rank", "-prominence", "slug")


def count_facets(entries: EntryQuerySet, search: Search) -> dict[str, dict[str, int]]:
    """Facet → value → how many entries it would leave. Each facet's counts follow the other facets, not its own choice.

    One query for all facets that have no choice, and one for each that has.
    """
    counts: dict[str, dict[str, int]] = {facet: {} for facet in FACETS}
    for value, number in _unnested(find(entries, search)):
        facet, _, slug = value.partition(":")
        if facet in counts and facet not in search.chosen:
            counts[facet][slug] = number
    for facet in search.chosen:
        for value, number in _unnested(find(entries, search.without(facet))):
            name, _, slug = value.partition(":")
            if name == facet:
                counts[facet][slug] = number
    return counts


def _only_chosen(entries: EntryQuerySet, search: Search) -> EntryQuerySet:
    for facet, values in search.chosen.items():
        entries = entries.filter(facets__overlap=[f"{facet}:{value}" for value in values])
    return entries if "lifecycle" in search.chosen else entries.exclude(lifecycle="retired")


def _parsed(text: str) -> SearchQuery:
    """Words as people write them (quotes, minus, or), or all of them as beginnings of words while somebody still types."""
    query = SearchQuery(text, search_type="websearch", config="english")
    beginnings = [f"{word}:*" for word in re.findall(r"\w+", text.lower())]
    if beginnings and not re.search(r'["-]', text):
        query = query | SearchQuery(" & ".join(beginnings), search_type="raw", config="simple")
    return query


def _unnested(entries: EntryQuerySet) -> list[tuple[str, int]]:
    rows = entries.annotate(facet=Func(F("facets"), function="unnest")).order_by().values("facet").annotate(number=Count("pk"))
    return [(row["facet"], row["number"]) for row in rows]
