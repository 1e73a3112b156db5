"""What happened to an entry: found among many calls, and sealed only when a checkpoint says so."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit import partitions
from audit.acts import record_act
from audit.models import LogHead, LogLeaf, Record
from catalog.changes import changes_of
from config.home import home_page
from tests.catalog.factories import make_user

pytestmark = pytest.mark.django_db

NUM_CALLS = 20_000


def act(verb: str = "entry.card", name: str = "digits") -> Record:
    return Record.objects.get(id=record_act(kind=verb, actor="ada", subject=name, details={}))


def add_calls(since: datetime) -> None:
    """Many calls of one model after its acts, in a partition of their own day."""
    with connection.cursor() as cursor:
        partitions.create_partition(cursor, since.date())
        cursor.execute(
            """
            INSERT INTO audit_record (ts, id, leaf_hash, kind, verb, model)
            SELECT %s::timestamptz + n * interval '1 millisecond', gen_random_uuid(), '', 'prediction', 'predict', 'digits'
            FROM generate_series(1, %s) AS n
            """,
            [since, NUM_CALLS],
        )
        cursor.execute("ANALYZE audit_record")


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each node of a plan that reads a table."""
    if "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


def rows_read(sql: str) -> int:
    """How many rows of records the database looks at for a query, those that it throws away included."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        (found,) = cursor.fetchone()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return sum(round((scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]) for scan in scans(plan))


def queries_of_acts(captured: CaptureQueriesContext) -> list[str]:
    return [query["sql"] for query in captured if "audit_record" in query["sql"] and "'act'" in query["sql"]]


def test_acts_are_found_without_reading_past_calls() -> None:
    for _ in range(5):
        act()
    add_calls(datetime.now(UTC) + timedelta(minutes=1))
    with CaptureQueriesContext(connection) as captured:
        assert len(changes_of("digits", with_actors=True)) == 5
        audited = home_page(make_user("olga", "auditor"), now=datetime.now(UTC) + timedelta(hours=1)).audited
    assert audited is not None
    assert len(audited.acts) == 5
    queries = queries_of_acts(captured)
    assert len(queries) == 2
    for sql in queries:
        assert rows_read(sql) <= 20


def test_a_change_is_sealed_when_a_signed_checkpoint_covers_it() -> None:
    first, second = act("entry.published"), act()
    for index, record in enumerate((first, second)):
        LogLeaf.objects.create(index=index, record_id=record.id, leaf_hash=record.leaf_hash)
    LogHead.objects.update_or_create(id=1, defaults={"size": 2, "signed_size": 1, "root": bytes(32)})
    assert [(change.text, change.seal) for change in changes_of("digits", with_actors=False)] == [
        ("Card changed", "durable"),
        ("Published in the catalog", "sealed"),
    ]


def test_a_row_that_differs_from_its_leaf_is_no_sealed_change() -> None:
    record = act()
    LogLeaf.objects.create(index=0, record_id=record.id, leaf_hash=bytes(32))
    LogHead.objects.update_or_create(id=1, defaults={"size": 1, "signed_size": 1, "root": bytes(32)})
    assert [change.seal for change in changes_of("digits", with_actors=False)] == ["broken"]
