"""The query language, and what it finds for whom."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.http import Http404
from hypothesis import given
from hypothesis import strategies as st

from audit import access, database, ids, querysets, search
from audit.histogram import histogram
from audit.models import Record
from audit.querysets import BadCursor, Cursor, SearchTooBroad
from audit.search import Identifier, Interval, ModelRef, SearchError, Text, parse, quote, with_term, without_term

from .calls import make_refusal, make_time_id
from .logs import hash_leaf, ingest, make_leaf_call, open_log, seal_all

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000


def values(text: str) -> Any:
    (term,) = parse(text, NOW).terms
    return term.values[0] if len(term.values) == 1 else term.values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model:digits", ModelRef(Text("digits"), None)),
        ("model:digits@3", ModelRef(Text("digits"), 3)),
        ("model:dig*", ModelRef(Text("dig", prefix=True), None)),
        ('model:"a b@3"', ModelRef(Text("a b@3"), None)),
        ("outcome:ok,timeout", (Text("ok"), Text("timeout"))),
        ("status:404", Interval(404, 404)),
        ("status:5xx", Interval(500, 599)),
        ("status:>=400", Interval(400, None)),
        ("status:<400", Interval(None, 399)),
        ("status:400..404", Interval(400, 404)),
        ("latency:>50ms", Interval(50_001, None)),
        ("latency:1.5s..", Interval(1_500_000, None)),
        ("latency:<=20", Interval(None, 20_000)),
        ("queue:250us", Interval(250, 250)),
        ("request:>1kB", Interval(1_001, None)),
        ('caller:"my app"', Text("my app")),
        (r'caller:"a \"b\" c"', Text('a "b" c')),
        ("app:demo", Text("demo")),
        ("0192f0c1-2345-7abc-8def-0123456789ab", Identifier(bytes.fromhex("0192f0c123457abc8def0123456789ab"))),
        ("4bf92f3577b34da6a3ce929d0e0e4736", Identifier(bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736"))),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Identifier(bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736"))),
        ("ab" * 32, Identifier(b"\xab" * 32)),
    ],
)
def test_values_read_as_they_are_written(text: str, value: Any) -> None:
    assert values(text) == value


def test_a_query_is_a_list_of_terms_with_their_places() -> None:
    text = '  model:digits -outcome:ok  since:2h until:2026-11-22T11:00 caller:"x y" '
    query = parse(text, NOW)
    assert [(term.field, term.negated, text[term.start : term.end]) for term in query.terms] == [
        ("model", False, "model:digits"),
        ("outcome", True, "-outcome:ok"),
        ("caller", False, 'caller:"x y"'),
    ]
    assert (query.since, query.until) == (NOW - timedelta(hours=2), NOW - timedelta(hours=1))
    assert parse("", NOW).terms == ()
    assert parse("since:3d since:1h", NOW).since == NOW - timedelta(hours=1), "the narrower bound holds"
    assert parse("since:2026-11-22T13:30+02:00", NOW).since == NOW - timedelta(minutes=30)


def test_ids_without_a_field_are_told_apart() -> None:
    query = parse("0192f0c123457abc8def0123456789ab", NOW)
    assert query.identifier("record") is not None
    assert query.identifier("trace") is None
    assert parse("4bf92f3577b34da6a3ce929d0e0e4736", NOW).identifier("trace") is not None


@pytest.mark.parametrize(
    ("text", "message", "start", "end"),
    [
        ("modle:x", "did you mean model:?", 0, 7),
        ("model:x outcome:timout", "did you mean timeout?", 8, 22),
        ("hello", "neither a record id nor a trace", 0, 5),
        ("timeout", "such as outcome:timeout", 0, 7),
        ('caller:"open', "not closed", 7, 12),
        ('x:"a"b', "no field x:", 0, 6),
        ('caller:"a"b', "follows the closing quote", 0, 11),
        ('caller:a"b"', "inside a value", 0, 11),
        ("caller:a,,b", "missing between commas", 0, 11),
        ("status:abc", "not a number", 0, 10),
        ("status:5..4", "its start is above its end", 0, 11),
        ("latency:5parsecs", "no unit known here (us, µs, ms, s, m)", 0, 16),
        ("rows:99999999999999999999", "not a number", 0, 25),
        ("latency:99999999999999999m", "too large", 0, 26),
        ("model:@3", "name is missing", 0, 8),
        ("model:a@", "version after @ is missing", 0, 8),
        ("model:a@b", "not a number", 0, 9),
        ("model:", "no value", 0, 6),
        ("since:soon", "neither an age", 0, 10),
        ("since:999999w", "too long ago", 0, 13),
        ("-since:1h", "use until:", 0, 9),
        ("since:1h until:2h", "nothing can match", 0, 17),
        ("record:123", "not a record id", 0, 10),
        ("trace:zz", "32 hex digits", 0, 8),
        ("model:a\0", "NUL", 7, 8),
        ("x" * 1_001, "more than 1000", 1_000, 1_001),
        ("model:a " * 31, "more than 30 terms", 240, 248),
    ],
)
def test_faults_are_told_with_their_place(text: str, message: str, start: int, end: int) -> None:
    with pytest.raises(SearchError) as caught:
        parse(text, NOW)
    assert message in caught.value.message
    assert (caught.value.start, caught.value.end) == (start, end)


@given(st.text(max_size=60))
def test_no_text_does_worse_than_a_search_error(text: str) -> None:
    try:
        query = parse(text, NOW)
    except SearchError as error:
        place = (0, error.start, error.end, len(text))
        assert list(place) == sorted(place)  # either outcome is right
    else:
        querysets.apply(query, Record.objects.all()).query.sql_with_params()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_quoted_values_read_back(value: str) -> None:
    assert values(f"caller:{quote(value)}") == Text(value)
    assert values(with_term("", "user", value)) == Text(value)


def test_terms_are_added_once_and_cut_out_again() -> None:
    text = with_term("model:digits", "outcome", "timeout")
    assert text == "model:digits outcome:timeout"
    assert with_term(text, "outcome", "timeout") == text
    assert with_term("caller:ab", "caller", "a") == "caller:ab caller:a"
    assert with_term("", "caller", "x y", negated=True) == '-caller:"x y"'
    assert without_term(text, parse(text, NOW).terms[0]) == "outcome:timeout"
    assert without_term(text, parse(text, NOW).terms[1]) == "model:digits"


def test_cursors_travel_as_text() -> None:
    cursor = Cursor(NOW + timedelta(microseconds=7), uuid4())
    assert Cursor.parse(str(cursor)) == cursor
    for text in ("", "x", str(cursor)[:-1], str(cursor) + "AAAA", "é" * 32, "=" * 32):
        with pytest.raises(BadCursor):
            Cursor.parse(text)


# Against the database


@pytest.fixture
def connection() -> Iterator["psycopg.Connection[Any]"]:
    with database.connect() as opened:
        yield opened


def make_user(name: str, *permissions: str) -> User:
    user = User.objects.create_user(name)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions, content_type__app_label="audit"))
    return User.objects.get(pk=user.pk)


def found(text: str, user: User, **options: Any) -> list[UUID]:
    return [record.id for record in querysets.search(parse(text, NOW), user, **options).records]


def at(seconds: float, **changes: Any) -> Any:
    return make_leaf_call(record_id=make_time_id(NOW_US + round(seconds * 1_000_000)), **changes)


@pytest.mark.django_db(transaction=True)
def test_every_field_finds_what_it_names(connection: "psycopg.Connection[Any]") -> None:
    auditor = make_user("olga", "view_record")
    trace = bytes(range(100, 116))
    special = at(
        -10, model="digits", version=3, signature="classify", outcome="timeout", status=504, protocol="oip_rest", verb="infer",
        application="night shift", key_prefix="dbk_99999999", user="bo", actor_type="try-it", address="10.1.2.0/24", answer="seven",
        error="deadline passed", worker="worker-9", device="gpu:0", total_us=80_000, queue_us=7_000, model_us=9_000, rows=42,
        batch_size=64, request_bytes=123_456, response_bytes=9_999, trace=trace,
    )  # fmt: skip
    others = [at(-20), make_refusal(record_id=make_time_id(NOW_US - 30_000_000))]
    leaves = ingest(connection, [special, *others])
    wanted = UUID(bytes=special.record_id)
    for text in (
        "model:digits", "model:digits@3", "model:dig*", "version:3", "version:>2", "signature:classify", "outcome:timeout", "status:504",
        "status:5xx", "protocol:oip_rest", "verb:infer", 'application:"night shift"', "key:dbk_99999999", "user:bo", "caller:bo",
        'caller:"night shift"', "caller:dbk_9*", "actor:try-it", "address:10.1.2.0/24", "answer:seven", 'error:"deadline*"',
        'error:"deadline passed"',
        "worker:worker-9", "device:gpu:0", "latency:>50ms", "latency:80ms", "queue:7ms..8ms", "compute:>=9ms", "rows:42", "batch:64",
        "request:>100kB", "response:9999", trace.hex(), str(wanted), hash_leaf(leaves[0]).hex(), "since:15s", "-model:half_plus_two",
        "model:digits,none outcome:ok,timeout", "kind:prediction -outcome:ok", "since:2026-11-22T11:59:45Z until:2026-11-22T12:00Z",
    ):  # fmt: skip
        if text == 'error:"deadline*"':
            assert found(text, auditor) == [], "a quoted star is a star"
        else:
            assert found(text, auditor) == [wanted], text
    assert found("kind:refusal", auditor) == [UUID(bytes=others[1].record_id)]
    assert found("version:3 model:none", auditor) == []
    assert found("rows:>99999999999", auditor) == []
    assert len(found("rows:<99999999999", auditor)) == 3


@pytest.mark.django_db(transaction=True)
def test_pages_follow_one_another_without_gaps(connection: "psycopg.Connection[Any]") -> None:
    auditor = make_user("olga", "view_record")
    calls = [at(-n // 3) for n in range(25)]
    ingest(connection, calls)
    expected = [UUID(bytes=call.record_id) for call in sorted(calls, key=lambda call: call.record_id, reverse=True)]
    assert found("", auditor, limit=25) == expected
    seen: list[UUID] = []
    cursor = None
    while True:
        page = querysets.search(search.EMPTY, auditor, before=cursor, limit=4)
        seen += [record.id for record in page.records]
        if (cursor := page.older) is None:
            break
    assert seen == expected
    newer = querysets.search(search.EMPTY, auditor, after=page_cursor(expected[9]))
    assert [record.id for record in newer.records] == expected[:9]


def page_cursor(record_id: UUID) -> Cursor:
    return Cursor(Record.objects.get(id=record_id).ts, record_id)


@pytest.mark.django_db(transaction=True)
def test_a_page_costs_one_query_however_long_it_is(connection: "psycopg.Connection[Any]", django_assert_num_queries: Any) -> None:
    auditor = make_user("olga", "view_record")
    auditor.has_perm("audit.view_record")
    ingest(connection, [at(-n) for n in range(30)])
    with django_assert_num_queries(5):  # begin, time limit, the page, time limit, commit
        querysets.search(parse("model:half_plus_two", NOW), auditor, limit=30)


@pytest.mark.django_db(transaction=True)
def test_people_see_their_own_records_and_auditors_all(connection: "psycopg.Connection[Any]") -> None:
    mine, other = at(-1, user="ada"), at(-2, user="bo")
    ingest(connection, [mine, other, at(-3, user="", application="", key_prefix="")])
    ada, olga = make_user("ada"), make_user("olga", "view_record", "view_payload")
    assert found("", ada) == [UUID(bytes=mine.record_id)]
    assert found("user:bo", ada) == []
    assert len(found("", olga)) == 3
    assert access.get_record(ada, UUID(bytes=mine.record_id)).user_name == "ada"
    for record_id in (UUID(bytes=other.record_id), uuid4(), UUID(bytes=ids.new_id())):
        with pytest.raises(Http404):
            access.get_record(ada, record_id)
    assert not access.visible_records(AnonymousUser()).exists()
    ada.is_active = False
    assert not access.visible_records(ada).exists()
    record = access.get_record(olga, UUID(bytes=other.record_id))
    assert access.may_view_payload(olga, record)
    assert access.may_view_payload(User.objects.create_user("bo"), record)
    assert not access.may_view_payload(make_user("paul", "view_record"), record)
    assert not access.may_view_payload(AnonymousUser(), record)


@pytest.mark.django_db(transaction=True)
def test_a_search_that_takes_too_long_is_given_up(connection: "psycopg.Connection[Any]", monkeypatch: pytest.MonkeyPatch) -> None:
    auditor = make_user("olga", "view_record")
    ingest(connection, [at(-n) for n in range(3)])
    with connection.transaction():
        connection.execute("LOCK TABLE audit_record IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SearchTooBroad, match="add since"), querysets.time_limit(50):
            list(Record.objects.all())
    assert len(found("", auditor)) == 3


@pytest.mark.django_db(transaction=True)
def test_the_histogram_counts_from_rollups_or_says_that_it_does_not(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    auditor, ada = make_user("olga", "view_record"), make_user("ada")
    ingest(connection, [at(-60 * n, outcome="ok" if n % 2 else "timeout", user="bo") for n in range(1, 31)] + [at(-90, user="ada")])
    seal_all(open_log(connection, tmp_path))
    exact = histogram(parse("since:1h", NOW), 60, user=auditor, now=NOW)
    assert (exact.count, exact.tree_size, len(exact.bars)) == (31, 31, 60)
    assert sum(bar.failed for bar in exact.bars) == 15
    counted = histogram(parse("since:1h status:200", NOW), 60, user=auditor, now=NOW)
    assert (counted.count, counted.tree_size, counted.complete_since) == (31, None, None)
    assert histogram(parse("since:1h outcome:timeout -model:digits", NOW), 60, user=auditor, now=NOW).count == 15
    own = histogram(parse("since:1h", NOW), 60, user=ada, now=NOW)
    assert (own.count, own.tree_size) == (1, None), "rollups know nothing of who may see what"
    assert histogram(parse("until:2026-11-22T11:45 since:1h", NOW), 6, user=auditor, now=NOW).count == 15
    assert histogram(parse("since:2026-11-23", NOW), 6, user=auditor, now=NOW).bars == ()
