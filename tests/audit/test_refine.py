"""Queries changed by clicks: what comes out is read by `search.parse` as what was meant."""

from datetime import UTC, datetime, timedelta

import pytest

from audit import refine
from audit.search import ModelRef, Query, Text, parse

NOW = datetime(2026, 11, 22, 14, 3, 27, 184_000, tzinfo=UTC)


def read(text: str) -> Query:
    return parse(text, NOW)


def test_a_brushed_time_replaces_the_times_of_the_query() -> None:
    since = NOW - timedelta(minutes=5)
    text = refine.with_times("since:7d model:digits until:2026-11-22T00:00Z -status:2xx", since, NOW)
    assert text == "model:digits -status:2xx since:2026-11-22T13:58:27.184Z until:2026-11-22T14:03:27.184Z"
    assert (read(text).since, read(text).until) == (since, NOW)


def test_a_time_inside_a_value_is_no_time() -> None:
    text = 'error:"not since:2h" since:1h'
    assert [found[:2] for found in refine.times_in(text)] == [("since", "1h")]


def test_removing_a_time_leaves_the_rest() -> None:
    [(name, value, rest)] = refine.times_in("model:a since:2h outcome:ok")
    assert (name, value, rest) == ("since", "2h", "model:a outcome:ok")


def test_a_second_value_joins_the_first() -> None:
    text = refine.toggled(read("model:digits since:2h"), "model", "risk")
    assert text == "model:digits,risk since:2h"
    [term] = read(text).terms
    assert term.values == (ModelRef(Text("digits"), None), ModelRef(Text("risk"), None))


def test_a_value_asked_for_is_taken_back() -> None:
    assert refine.toggled(read("outcome:ok,timeout since:2h"), "outcome", "ok") == "outcome:timeout since:2h"
    assert refine.toggled(read("outcome:ok since:2h"), "outcome", "ok") == "since:2h"


def test_a_value_beside_more_than_plain_values_becomes_a_term_of_its_own() -> None:
    assert refine.toggled(read("model:digits@3"), "model", "risk") == "model:digits@3 model:risk"


@pytest.mark.parametrize("value", ["my app", 'quo"ted', "back\\slash", "a,b", "star*", "a:b", "1..2"])
def test_odd_values_survive_the_way_through_a_query(value: str) -> None:
    text = refine.toggled(read("since:2h"), "application", value)
    assert refine.has_value(read(text), "application", value)
    assert refine.toggled(read(text), "application", value) == "since:2h"


def test_an_excluded_value_is_not_asked_for() -> None:
    assert not refine.has_value(read("-model:digits"), "model", "digits")
