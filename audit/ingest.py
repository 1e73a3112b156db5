"""Rows from journal groups into PostgreSQL: COPY, outbox and position in one transaction.

However often a group is offered, it is ingested once: the segment's position moves by `UPDATE … WHERE position = old` in the
transaction that holds its rows. Commits are asynchronous (`synchronous_commit = off`): what a crash of PostgreSQL takes back it
takes back together with the position, and the journal still has it; before a segment leaves the journal its state is written
with a synchronous commit, which makes all before it durable as well.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import psycopg

from . import ids, journal, partitions, rowformat
from .entries import encode_event
from .journal import Group
from .rowformat import COPY_HEADER, COPY_TRAILER, FORMATS, ID_FIELDS_BYTES, OUTBOX_COPY, OUTBOX_FIELDS, RowFormat

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]

_DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PARTITION_LOCK = int.from_bytes(b"daybook2", "big")
_RETRY_PARTITION_S = 60.0
_RECORD = int(journal.EntryType.RECORD)
_VOID = int(journal.EntryType.VOID)
# What PostgreSQL says about a row, not about itself: only these are worth looking for the guilty one.
_REFUSED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProtocolViolation, psycopg.errors.ProgramLimitExceeded)


class PositionMoved(Exception):
    """Another scribe was here, or PostgreSQL lost its last commits: read the position again."""


@dataclass(frozen=True, slots=True)
class Move:
    """Groups of one segment to be ingested, and the position they move it from and to."""

    segment: bytes
    row_format: RowFormat
    old: int
    new: int
    groups: Sequence[Group]


class Item(NamedTuple):
    """A record on its way into the table. A tuple: there are 10,000 a second."""

    segment: bytes
    row_format: RowFormat
    offset: int
    length: int
    row: bytes | memoryview  # without place fields
    leaf: bytes | memoryview

    @property
    def record_id(self) -> bytes:
        return rowformat.row_id(self.row)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something a person must know. `what` is one of a few words; it becomes a leaf `journal.<what>`."""

    what: str  # damage, quarantine, partition
    segment: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Ingested:
    records: int
    alarms: tuple[Alarm, ...]


class Ingester:
    """Writes for one connection. `node` names the scribe in the events it records."""

    def __init__(self, connection: Connection, node: str) -> None:
        self._connection = connection
        self._node = node
        self._days: set[date] = set()  # that have a partition
        self._not_before: dict[date, float] = {}
        self._alarmed: set[tuple[bytes, str]] = set()
        connection.execute("SET synchronous_commit = off")
        self._read_partitions()

    def ingest(self, moves: Sequence[Move], alarms: Iterable[Alarm] = ()) -> Ingested:
        """Take all moves or none. Raises PositionMoved, and psycopg.OperationalError when PostgreSQL can't.

        alarms: found while reading; they are recorded in the same transaction.
        """
        items, broken, voids = _items(moves)
        found = list(alarms)
        found += self._make_partitions(items)
        found += [Alarm("quarantine", str(UUID(bytes=item.segment)), item.offset, "an entry's lengths do not add up") for item in broken]
        try:
            with self._connection.transaction():
                self._move(moves, voids)
                if items:
                    self._copy(items)
                self._finish(broken, found)
        except _REFUSED as error:
            logger.warning("copy refused", extra={"error": str(error), "records": len(items)})
            with self._connection.transaction():
                self._move(moves, voids)
                self._copy_apart(items, found)
                self._finish(broken, found)
        return Ingested(len(items), tuple(found))

    def _move(self, moves: Sequence[Move], voids: Sequence[tuple[bytes, int]]) -> None:
        # First, so that of two scribes the second waits here, before it has copied anything in vain.
        for move in moves:
            moved = self._connection.execute(
                "UPDATE audit_journalsegment SET position = %s WHERE uuid = %s AND position = %s",
                (move.new, UUID(bytes=move.segment), move.old),
            )
            if moved.rowcount != 1:
                raise PositionMoved(f"segment {UUID(bytes=move.segment)} is not at {move.old}")
        for segment, offset in voids:
            self._connection.execute(
                "UPDATE audit_journalsegment SET void_from = LEAST(COALESCE(void_from, %s), %s) WHERE uuid = %s",
                (offset, offset, UUID(bytes=segment)),
            )

    def _copy(self, items: Sequence[Item]) -> None:
        by_format: dict[int, list[bytes | memoryview]] = {}
        outbox: list[bytes | memoryview] = [COPY_HEADER]
        for item in items:
            row_format = item.row_format
            rows = by_format.setdefault(row_format.number, [COPY_HEADER])
            rows += (row_format.field_count, item.row, rowformat.place_fields(item.segment, item.offset, item.length))
            outbox += (OUTBOX_FIELDS, item.row[:ID_FIELDS_BYTES], len(item.leaf).to_bytes(4, "big"), item.leaf)
        with self._connection.cursor() as cursor:
            for number, rows in by_format.items():
                rows.append(COPY_TRAILER)
                with cursor.copy(FORMATS[number].copy_sql) as copy:
                    copy.write(b"".join(rows))
            outbox.append(COPY_TRAILER)
            with cursor.copy(OUTBOX_COPY) as copy:
                copy.write(b"".join(outbox))

    def _copy_apart(self, items: Sequence[Item], alarms: list[Alarm]) -> None:
        """Bisect: what PostgreSQL takes goes in, the guilty record into quarantine."""
        if not items:
            return
        try:
            with self._connection.transaction():
                self._copy(items)
            return
        except _REFUSED as error:
            if len(items) == 1:
                self._quarantine(items[0], error)
                text = f"record {UUID(bytes=items[0].record_id)} refused: {_first_line(error)}"
                alarms.append(Alarm("quarantine", str(UUID(bytes=items[0].segment)), items[0].offset, text))
                return
        middle = len(items) // 2
        self._copy_apart(items[:middle], alarms)
        self._copy_apart(items[middle:], alarms)

    def _quarantine(self, item: Item, error: Exception) -> None:
        """Keep a refused record as bytes. Its leaf is sealed like any other, unless it is in the log already."""
        record_id = UUID(bytes=item.record_id)
        ts = _find_time(rowformat.row_time_us(item.row))
        self._connection.execute(
            "INSERT INTO audit_quarantine (record_id, ts, row_format, row, leaf, error, segment, segment_offset, segment_length,"
            " created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, now()) ON CONFLICT (segment, segment_offset) DO NOTHING",
            (
                record_id,
                ts,
                item.row_format.number,
                bytes(item.row),
                bytes(item.leaf),
                _first_line(error),
                UUID(bytes=item.segment),
                item.offset,
                item.length,
            ),
        )
        if item.leaf:
            self._connection.execute(
                "INSERT INTO audit_outbox (record_id, ts, leaf) SELECT %s, COALESCE(%s, now()), %s"
                " WHERE NOT EXISTS (SELECT 1 FROM audit_logleaf WHERE record_id = %s) ON CONFLICT (record_id) DO NOTHING",
                (record_id, ts, bytes(item.leaf), record_id),
            )

    def _finish(self, broken: Sequence[Item], alarms: Sequence[Alarm]) -> None:
        for item in broken:
            self._quarantine(item, ValueError("the entry's lengths do not add up"))
        if events := [event for alarm in alarms if (event := self._event(alarm)) is not None]:
            self._copy(events)

    def _event(self, alarm: Alarm) -> Item | None:
        """The alarm as a record of its own, one per segment and kind: the log says what the journal could not give it."""
        segment = UUID(alarm.segment).bytes
        if (segment, alarm.what) in self._alarmed:
            return None
        self._alarmed.add((segment, alarm.what))
        details = {"segment": alarm.segment, "offset": alarm.offset, "text": rowformat.clean_text(alarm.text, 300)}
        entry, _ = encode_event(f"journal.{alarm.what}", ids.IdSource().new(), self._node, details)
        decoded = journal.decode_entry(memoryview(entry), 0)
        return Item(bytes(16), rowformat.CURRENT, 0, 0, decoded.row, decoded.leaf)

    def _read_partitions(self) -> None:
        with self._connection.cursor() as cursor:
            names = partitions.existing_partitions(cursor)
        today = datetime.now(UTC).date()
        span = range(-partitions.DAYS_BACK, partitions.DAYS_AHEAD + 1)
        days = (today + timedelta(days=offset) for offset in span)
        self._days = {day for day in days if partitions.partition_name(day) in names}

    def make_partitions_ahead(self) -> None:
        """Today and some days on. Called at start and now and then."""
        today = datetime.now(UTC).date()
        for offset in range(partitions.DAYS_AHEAD + 1):
            self._make_partition(today + timedelta(days=offset))

    def _make_partitions(self, items: Sequence[Item]) -> list[Alarm]:
        """See to the partitions of these records' days; alarm for those that DEFAULT must take."""
        days: dict[int, Item] = {}
        for item in items:
            days.setdefault(rowformat.row_time_us(item.row) // _DAY_US, item)
        alarms = []
        today = datetime.now(UTC).date()
        for number, item in days.items():
            day = _find_day(number)
            if day in self._days:
                continue
            if day is None or not partitions.wants_partition(day, today) or not self._make_partition(day):
                text = f"records of {day or 'no known day'} went to the default partition"
                alarms.append(Alarm("partition", str(UUID(bytes=item.segment)), item.offset, text))
        return alarms

    def _make_partition(self, day: date) -> bool:
        """Whether the day has its partition now. What failed is tried again after a while, not with every batch."""
        if day in self._days:
            return True
        if time.monotonic() < self._not_before.get(day, 0.0):
            return False
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_PARTITION_LOCK,))  # another scribe may be making it
                partitions.create_partition(cursor, day)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.IntegrityError) as error:
            # A long reader holds the table, or DEFAULT holds rows of that day already: DEFAULT takes these, too.
            logger.warning("partition not made", extra={"day": str(day), "error": _first_line(error)})
            self._not_before[day] = time.monotonic() + _RETRY_PARTITION_S
            return False
        self._days.add(day)
        return True


def _items(moves: Sequence[Move]) -> tuple[list[Item], list[Item], list[tuple[bytes, int]]]:
    """Records, entries that cannot be taken apart, and voided ranges."""
    items: list[Item] = []
    broken: list[Item] = []
    voids: list[tuple[bytes, int]] = []
    for move in moves:
        for group in move.groups:
            try:
                for entry in journal.iterate_entries(group):
                    if entry.type == _RECORD and len(entry.row) >= ID_FIELDS_BYTES:
                        items.append(Item(move.segment, move.row_format, entry.offset, entry.length, entry.row, entry.leaf))
                    elif entry.type == _VOID:
                        voids.append(journal.decode_void(entry))
                    else:
                        raise journal.DamagedEntry(f"entry of type {entry.type} at {entry.offset}")
            except journal.DamagedEntry:
                broken.append(_broken(move, group, items))
    return items, broken, voids


def _broken(move: Move, group: Group, items: Sequence[Item]) -> Item:
    """The rest of a group behind its last good entry, under an id made from its place."""
    start = group.offset + journal.GROUP_BYTES
    last = items[-1] if items and items[-1].segment == move.segment and items[-1].offset >= start else None
    offset = last.offset + last.length if last is not None else start
    identifier = uuid5(UUID(bytes=move.segment), str(offset)).bytes
    rest = bytes(group.payload[offset - start :])
    row = b"\0\0\0\x08" + bytes(8) + b"\0\0\0\x10" + identifier + rest
    return Item(move.segment, move.row_format, offset, len(rest), row, b"")


def _find_time(time_us: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return None


def _find_day(number: int) -> date | None:
    try:
        return (_EPOCH + timedelta(days=number)).date()
    except OverflowError:
        return None


def _first_line(error: Exception) -> str:
    return rowformat.clean_text(str(error).partition("\n")[0], 300)
