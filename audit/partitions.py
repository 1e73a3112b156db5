"""Day partitions of `audit_record`: made by the migration (now), by the scribe (a missing day, and days ahead).

Plain SQL through whatever cursor is given (Django's or psycopg's), so that migration, scribe and jobs share it. A DEFAULT
partition always exists; a record whose clock is far off lands there and raises an alarm instead of making a partition.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

DAYS_AHEAD = 3  # how far ahead partitions are made
DAYS_BACK = 30  # how old a record may be (a long backlog) and still get a partition of its own


class Cursor(Protocol):
    def execute(self, query: Any, params: Any = None) -> Any: ...
    def fetchall(self) -> Any: ...


def partition_name(day: date) -> str:
    return f"audit_record_d{day:%Y%m%d}"


def wants_partition(day: date, today: date) -> bool:
    """False for days that only a wrong clock or a very old segment can produce: those go to DEFAULT."""
    return today - timedelta(days=DAYS_BACK) <= day <= today + timedelta(days=DAYS_AHEAD)


def existing_partitions(cursor: Cursor) -> set[str]:
    cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_record'::regclass")
    return {name for (name,) in cursor.fetchall()}


def create_partition(cursor: Cursor, day: date) -> None:
    """Make the partition of one UTC day; nothing when it is there.

    Takes a short exclusive lock on `audit_record`, so call it in a transaction of its own with `lock_timeout` set. PostgreSQL
    refuses (check_violation) while DEFAULT holds rows of that day.
    """
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {partition_name(day)} PARTITION OF audit_record"
        f" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
    )
