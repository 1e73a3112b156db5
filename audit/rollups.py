"""Minute rollups: the fold of call leaves that every figure is made from (P8).

A cell is (minute, model, version, outcome, caller's pseudonym); it adds up calls and times and sketches the latency. Only leaves go in, so
`recompute` gives the same cells from the log alone. The sealer folds each leaf in the transaction that gives it its index: that,
and not a check here, makes the fold happen once per leaf; `tree_size` on a cell says which tree it was last moved at.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import msgspec

from .sketch import Sketch
from .tiles import ENTRIES, WIDTH, decode_entries

CALLS = frozenset({"prediction", "refusal"})
"""The leaves that figures count. Reads are calls that nobody asked a model with: counted, a client that polls a status every second
would be most of the traffic and pull its latency down to the gateway's own."""
NO_VERSION = -1

_MINUTE_US = 60_000_000
_MINUTE = timedelta(minutes=1)
_LONGEST_US = 1 << 40  # twelve days: what a broken clock says beyond it would drown every sum
_MOST_CALLS = (1 << 31) - 1
_BOUND = 1 << 53  # no whole number of a leaf is beyond it
_EPOCH = datetime.fromtimestamp(0, UTC)


class Cursor(Protocol):
    """What psycopg's and Django's cursors have in common."""

    def execute(self, query: Any, params: Any = None) -> Any: ...
    def fetchall(self) -> Any: ...
    def fetchone(self) -> Any: ...


class _Latency(msgspec.Struct):
    t: int = 0
    q: int = 0
    m: int = 0


class _Actor(msgspec.Struct):
    t: str = ""
    p: str = ""


class _Call(msgspec.Struct):
    """What a cell needs of a leaf (`leaves`); msgspec skips the rest without building it."""

    t: str
    ts: int = 0
    m: str = ""
    ver: int = NO_VERSION
    o: str = ""
    cnt: int = 1
    lat: _Latency = msgspec.field(default_factory=_Latency)
    a: _Actor = msgspec.field(default_factory=_Actor)


_decode = msgspec.json.Decoder(_Call).decode

Key = tuple[int, str, int, str, str]  # minute since 1970, model, version, outcome, pseudonym


@dataclass(slots=True)
class Cell:
    """Sums over the calls of one key. Latencies wait as lists, to be sketched at once; `settle` empties them."""

    count: int = 0
    total_us: int = 0
    queue_us: int = 0
    model_us: int = 0
    latencies_us: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    _settled: Sketch = field(default_factory=Sketch)

    def settle(self) -> None:
        """Sketch what waits: a fold over a whole log would otherwise hold every latency."""
        self._settled.add(self.latencies_us, self.weights)
        self.latencies_us.clear()
        self.weights.clear()

    def sketch(self) -> Sketch:
        """Of all latencies so far; the cell's own, not to be changed."""
        self.settle()
        return self._settled


def _storable(text: str) -> str:
    """PostgreSQL's text holds no NUL."""
    return text.replace("\0", "\ufffd")


@dataclass(slots=True)
class Fold:
    """What a run of leaves adds up to. `events` are the leaves that no figure counts, for whoever reads them."""

    cells: dict[Key, Cell] = field(default_factory=dict)
    events: list[bytes] = field(default_factory=list)

    def add(self, leaves: Iterable[bytes]) -> None:
        """A leaf that can't be read as a call changes no figure: it is sealed all the same."""
        cells = self.cells
        for leaf in leaves:
            try:
                call = _decode(leaf)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.events.append(leaf)
                continue
            if call.t not in CALLS or not (-_BOUND <= call.ts <= _BOUND and NO_VERSION <= call.ver <= _BOUND):
                self.events.append(leaf)
                continue
            # Anonymous callers have a pseudonym per address: as many cells as the internet likes, so they share one.
            caller = "" if call.a.t == "anonymous" else call.a.p
            key = (call.ts // _MINUTE_US, call.m, call.ver, call.o, caller)
            cell = cells.get(key)
            if cell is None:
                key = (key[0], _storable(call.m), call.ver, _storable(call.o), _storable(caller))
                cell = cells.setdefault(key, Cell())
            latency = call.lat
            total, count = latency.t, call.cnt
            if not (0 <= total <= _LONGEST_US and 0 <= latency.q <= _LONGEST_US and 0 <= latency.m <= _LONGEST_US):
                total = latency.q = latency.m = 0
            if not 0 < count <= _MOST_CALLS:
                count = 1
            cell.count += count
            cell.total_us += total
            cell.queue_us += latency.q
            cell.model_us += latency.m
            cell.latencies_us.append(total)
            cell.weights.append(count)

    def settle(self) -> None:
        for cell in self.cells.values():
            cell.settle()


def write(cursor: Cursor, fold: Fold, tree_size: int) -> None:
    """Add a fold to the stored cells. The caller holds the log's head, so nobody else moves them."""
    if not fold.cells:
        return
    keys = sorted(fold.cells)
    cells = [fold.cells[key] for key in keys]
    columns = [
        [_EPOCH + timedelta(minutes=key[0]) for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [key[3] for key in keys],
        [key[4] for key in keys],
    ]
    cursor.execute(
        """
        SELECT bucket, model, version, outcome, caller, sketch FROM audit_rollup
        WHERE (bucket, model, version, outcome, caller) IN (
            SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::bigint[], %s::text[], %s::text[]))
        """,
        columns,
    )
    stored = {((bucket - _EPOCH) // _MINUTE, *key): bytes(sketch) for bucket, *key, sketch in cursor.fetchall()}
    sketches: list[bytes] = []
    for key, cell in zip(keys, cells, strict=True):
        sketch = Sketch.decode(stored.get(key, b""))
        sketch.merge(cell.sketch())
        sketches.append(sketch.encode())
    cursor.execute(
        """
        INSERT INTO audit_rollup
            (bucket, model, version, outcome, caller, count, total_us, queue_us, model_us, sketch, tree_size)
        SELECT *, %s::bigint FROM unnest(%s::timestamptz[], %s::text[], %s::bigint[], %s::text[], %s::text[],
                                         %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[])
        ON CONFLICT (bucket, model, version, outcome, caller) DO UPDATE SET
            count = audit_rollup.count + EXCLUDED.count,
            total_us = audit_rollup.total_us + EXCLUDED.total_us,
            queue_us = audit_rollup.queue_us + EXCLUDED.queue_us,
            model_us = audit_rollup.model_us + EXCLUDED.model_us,
            sketch = EXCLUDED.sketch,
            tree_size = EXCLUDED.tree_size
        """,
        [
            tree_size,
            *columns,
            [cell.count for cell in cells],
            [cell.total_us for cell in cells],
            [cell.queue_us for cell in cells],
            [cell.model_us for cell in cells],
            sketches,
        ],
    )


def recompute(cursor: Cursor, since: datetime, until: datetime) -> int:
    """Fold the leaves of the minutes from `since` to `until` anew, and from nothing else; returns how many leaves were read.

    Call it in a transaction. The head stays locked, so the sealer waits: take an hour at a time.
    """
    first, last = (since - _EPOCH) // _MINUTE, -((_EPOCH - until) // _MINUTE)
    cursor.execute("SELECT size FROM audit_loghead WHERE id = 1 FOR UPDATE")
    head = cursor.fetchone()
    if head is None or first >= last:
        return 0
    start, end = (_EPOCH + timedelta(minutes=minute) for minute in (first, last))
    cursor.execute("DELETE FROM audit_rollup WHERE bucket >= %s AND bucket < %s", [start, end])
    # Record ids are UUIDv7 and a leaf's time is its id's: their index finds the bundles of a time.
    cursor.execute(
        "SELECT DISTINCT index / %s FROM audit_logleaf WHERE record_id >= %s AND record_id < %s ORDER BY 1",
        [WIDTH, _least_id(first), _least_id(last)],
    )
    fold = Fold()
    read = 0
    for (n,) in cursor.fetchall():
        cursor.execute("SELECT data FROM audit_logtile WHERE level = %s AND n = %s", [ENTRIES, n])
        leaves = decode_entries(bytes(cursor.fetchone()[0]))
        fold.add(leaves)
        fold.settle()
        fold.events.clear()
        read += len(leaves)
    fold.cells = {key: cell for key, cell in fold.cells.items() if first <= key[0] < last}
    write(cursor, fold, head[0])
    return read


def _least_id(minute: int) -> UUID:
    """Not above any UUIDv7 of that minute or later, above all earlier ones."""
    milliseconds = min(max(0, minute * 60_000), (1 << 48) - 1)
    return UUID(int=milliseconds << 80)
