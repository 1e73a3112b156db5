from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from catalog.contexts import catalog_page, mark
from catalog.models import Entry
from catalog.search import FACETS, Search, count_facets, find, find_alike, prominence, ranked

from .factories import DIGIT_NAMES, DIGITS, make_entry

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def slugs(text: str, **chosen: tuple[str, ...]) -> list[str]:
    search = Search(text=text, chosen={name.replace("_", "-"): values for name, values in chosen.items()})
    return [entry.slug for entry in ranked(find(Entry.objects.all(), search), search)]


@pytest.fixture
def _entries(db: None) -> None:
    make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES, summary="Reads a handwritten digit.", access="open", calls=50)
    make_entry("digits_large", summary="A larger one.", tags=["task:image-classification"], calls=90_000)
    make_entry("danish-large", summary="Danish words.", tags=["task:translation", "language:multilingual"])
    make_entry(
        "mood", summary="Says whether a review of digits is for or against.", tags=["task:sentiment-analysis"], lifecycle="deprecated"
    )
    make_entry("old", summary="Handwritten letters.", signatures=None, lifecycle="retired")


@pytest.mark.usefixtures("_entries")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("digits", ["digits", "digits_large", "mood"]),  # the exact name first though others are called more, then the prefix
        ("DIGITS", ["digits", "digits_large", "mood"]),
        ("nish-lar", ["danish-large"]),  # part of a word
        ("handwr", ["digits"]),  # somebody still types; the retired one stays hidden
        ("translate", ["danish-large"]),
        ('"larger one"', ["digits_large"]),
        ("digits -handwritten", ["digits_large", "mood"]),
        ("zebra", []),
        ("':* & | !", []),
        ("\\", []),
        ("%", []),
    ],
)
def test_words_find(text: str, found: list[str]) -> None:
    assert slugs(text) == found


@pytest.mark.usefixtures("_entries")
def test_synonyms_and_parents_of_tags_find() -> None:
    assert set(slugs("picture")) == {"digits", "digits_large"}
    assert set(slugs("classification")) == {"digits", "digits_large", "mood"}


@pytest.mark.usefixtures("_entries")
def test_typing_errors_find_what_looks_alike() -> None:
    page = catalog_page(AnonymousUser(), Search(text="dgits"), now=NOW)
    assert page.is_fuzzy
    assert [row.entry.slug for row in page.rows] == ["digits", "digits_large"]
    narrowed = catalog_page(AnonymousUser(), Search(text="dgits", chosen={"access": ("open",)}), now=NOW)
    assert [row.entry.slug for row in narrowed.rows] == ["digits"]
    assert {facet.name: [(value.label, value.count) for value in facet.values] for facet in narrowed.facets}["access"] == [
        ("Everybody", 1),
        ("Keys", 1),
    ]
    [(key, likeness), *_] = find_alike(Entry.objects.all(), "danich")
    assert Entry.objects.get(pk=key).slug == "danish-large"
    assert 0.25 <= likeness < 1


@pytest.mark.usefixtures("_entries")
def test_facets_are_any_of_one_and_all_together() -> None:
    assert set(slugs("", task=("image-classification", "translation"))) == {"digits", "digits_large", "danish-large"}
    assert slugs("", task=("image-classification",), access=("open",)) == ["digits"]
    assert set(slugs("", task=("text-classification",))) == {"mood"}  # a task holds its kinds
    assert slugs("", lifecycle=("retired",)) == ["old"]


@pytest.mark.usefixtures("_entries")
def test_counts_follow_the_other_facets_not_their_own() -> None:
    entries = Entry.objects.all()
    counts = count_facets(entries, Search(chosen={"task": ("translation",)}))
    assert counts["task"]["image-classification"] == 2
    assert counts["task"]["translation"] == 1
    assert counts["access"] == {"key": 1}
    for facet, values in count_facets(entries, Search()).items():
        for value, number in values.items():
            assert number == find(entries, Search(chosen={facet: (value,)})).count(), (facet, value)


@pytest.mark.usefixtures("_entries")
def test_use_and_state_move_equal_texts() -> None:
    make_entry("a_busy", summary="Counts sheep.", calls=100_000)
    make_entry("b_idle", summary="Counts sheep.")
    make_entry("c_gone", summary="Counts sheep.", calls=100_000, lifecycle="deprecated")
    assert slugs("sheep") == ["a_busy", "b_idle", "c_gone"]


def test_prominence_grows_with_use_and_fades_with_age() -> None:
    fresh = prominence(0, "production", NOW, now=NOW)
    assert fresh == 1.1
    assert prominence(999, "production", NOW, now=NOW) == pytest.approx(1.55)
    assert prominence(0, "production", NOW - timedelta(days=400), now=NOW) == 1.0
    assert prominence(0, "deprecated", NOW, now=NOW) == fresh / 2


@pytest.mark.usefixtures("_entries")
def test_sorts() -> None:
    search = Search(sort="name")
    names = [entry.slug for entry in ranked(find(Entry.objects.all(), search), search)]
    assert names == sorted(names)
    search = Search(sort="calls")
    assert ranked(find(Entry.objects.all(), search), search)[0].slug == "digits_large"


@pytest.mark.usefixtures("_entries")
def test_pages_neither_repeat_nor_skip() -> None:
    for number in range(45):
        make_entry(f"copy-{number}", summary="Counts sheep.", signatures=None)
    seen: list[str] = []
    for number in (1, 2, 3):
        page = catalog_page(AnonymousUser(), Search(text="sheep", page=number), now=NOW)
        assert page.total == 45
        seen += [row.entry.slug for row in page.rows]
    assert len(seen) == len(set(seen)) == 45
    assert catalog_page(AnonymousUser(), Search(text="sheep", page=99), now=NOW).search.page == 3


@pytest.mark.usefixtures("_entries")
def test_a_search_without_results_offers_ways_out() -> None:
    page = catalog_page(AnonymousUser(), Search(text="danish", chosen={"task": ("image-classification",)}), now=NOW)
    assert page.total == 0
    assert {(offer.label, offer.count) for offer in page.drops} == {
        ("without task Image classification", 1),
        ("without the words “danish”", 2),
    }
    assert catalog_page(AnonymousUser(), Search(), now=NOW).is_empty_catalog is False


def test_an_empty_catalog_says_so(db: None) -> None:
    assert catalog_page(AnonymousUser(), Search(), now=NOW).is_empty_catalog


@given(
    st.text(max_size=20).map(lambda text: text.replace("\0", "").strip()),
    st.dictionaries(st.sampled_from(FACETS), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True).map(tuple)),
    st.sampled_from(["relevance", "name", "calls", "newest"]),
    st.integers(1, 500),
)
def test_the_url_holds_the_whole_state(text: str, chosen: dict[str, tuple[str, ...]], sort: str, page: int) -> None:
    search = Search(text, chosen, sort, page)
    assert Search.from_query(QueryDict(search.as_query())) == search


def test_urls_that_people_edited_are_read_leniently() -> None:
    search = Search.from_query(QueryDict("q=%00x&page=-4&sort=evil&task=&task=a&task=a&unknown=1&page=9999999999999999999999"))
    assert search == Search(text="x", chosen={"task": ("a",)}, page=100_000)
    assert Search.from_query(QueryDict("page=²")).page == 1
    assert Search.from_query(QueryDict("page=" + "9" * 5_000)).page == 100_000  # more digits than int() takes


def test_found_words_are_marked() -> None:
    assert [(piece.text, piece.found) for piece in mark("Reads digits <b>", "dig (x")] == [
        ("Reads ", False),
        ("digits", True),
        (" <b>", False),
    ]
    assert [piece.text for piece in mark("plain", "")] == ["plain"]
