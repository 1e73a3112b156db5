"""The operator's own check of the whole log, with what only the database has: `manage.py verify_log`.

It reads one snapshot of the database and holds everything against everything: entries and tiles, tiles and roots, every checkpoint
ever published and the tree, the directory outside and the tree, each leaf and its row, rows and leaves in number, rollups and
their fold. Signatures are checked with a key from outside the database: whoever can rewrite a log can sign it anew and write the
new key beside it, so what the database says of its key is one more claim to check. An auditor who doesn't trust the operator uses
`daybook-verify` instead.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import psycopg
from psycopg.rows import dict_row

from . import checkpoint, ids, merkle, rollups, rowcheck
from .outside import OutsideLog
from .rowcheck import Pseudonym
from .tiles import ENTRIES, WIDTH, BadTile, decode_entries, tile_path, tile_width
from .verifier import BadProof, verify_signature

MAX_PROBLEMS = 100

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(slots=True)
class Report:
    """What was checked and what didn't hold. `problems` are sentences, at most `MAX_PROBLEMS`; `num_problems` counts all."""

    leaves: int = 0
    checkpoints: int = 0
    rows: int = 0
    quarantined: int = 0
    unsealed: int = 0
    gap_calls: int = 0  # calls refused unrecorded, as `gap` leaves say
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0

    @property
    def holds(self) -> bool:
        return self.num_problems == 0

    def add(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """vkeys: (where it stands, the log's vkey) from every place but the database, the most trusted first; all must be the same.

    node and pseudonym: callers of that node's leaves are checked too. figures: compare rollups with their fold.
    """

    origin: str
    vkeys: Sequence[tuple[str, str]] = ()
    node: str = ""
    pseudonym: Pseudonym | None = None
    figures: bool = True


Progress = Callable[[int, int], None]


class LogCheck:
    """One run over one snapshot; not to be reused."""

    def __init__(self, connection: "psycopg.Connection[Any]", outside: OutsideLog, options: CheckOptions) -> None:
        """`connection` is in autocommit mode and used for nothing else."""
        self._connection = connection
        self._outside = outside
        self._options = options
        self._report = Report()
        self._outside_note: str | None = None
        self._frontier = merkle.Frontier()
        self._rows: dict[int, bytes] = {}  # per level: hashes of the unfinished tile
        self._fold = rollups.Fold()

    def run(self, progress: Progress) -> Report:
        """`progress` is told leaves done and in all, now and then."""
        # First the directory: what is published was committed before, so the snapshot taken next reaches it.
        self._outside_note = self._outside.read_checkpoint()
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            head = self._connection.execute("SELECT size, root, signed_size FROM audit_loghead WHERE id = 1").fetchone()
            size, root, signed_size = head or (0, merkle.EMPTY_ROOT, 0)
            expected = self._checkpoints(size, signed_size)
            for n in range(-(-size // WIDTH)):
                self._check_tile(n, size, expected)
                if n % 64 == 0:
                    self._fold.settle()
                    progress(min((n + 1) * WIDTH, size), size)
            self._take_checkpoints(expected, size)
            if self._frontier.root() != bytes(root):
                self._report.add(f"the head says another root than the {size} leaves give")
            self._check_edges(size)
            self._check_numbers(size)
            if self._options.figures:
                self._check_figures()
        progress(size, size)
        return self._report

    # Tree

    def _checkpoints(self, size: int, signed_size: int) -> dict[int, list[tuple[str, bytes]]]:
        """Roots that must come up, by size: every checkpoint ever published, and the one in the directory."""
        vkey = self._vkey()
        stored = self._connection.execute("SELECT size, note FROM audit_checkpoint").fetchall()
        notes = [("the published checkpoint", note) for _, note in stored]
        if (note := self._outside_note) is not None:
            notes.append((f"the checkpoint in {self._outside.directory}", note))
        elif signed_size:
            self._report.add(f"{self._outside.directory} holds no checkpoint, though one for {signed_size} leaves was published")
        expected: dict[int, list[tuple[str, bytes]]] = {}
        for name, note in notes:
            try:
                said = checkpoint.parse(note)
                if vkey is None:
                    raise BadProof("there is no key to check it with")
                verify_signature(note, vkey)
            except (checkpoint.BadCheckpoint, BadProof) as error:
                self._report.add(f"{name} doesn't hold: {error}")
                continue
            if said.origin != self._options.origin:
                self._report.add(f"{name} for {said.size} leaves is of the log {said.origin}, not {self._options.origin}")
            if said.size > size:
                self._report.add(f"{name} has {said.size} leaves, the database only {size}: it is older than the log")
                continue
            expected.setdefault(said.size, []).append((name, said.root))
            self._report.checkpoints += 1
        if signed_size not in {size for size, _ in stored} | {0}:
            self._report.add(f"the head says that {signed_size} leaves are published, but there is no such checkpoint")
        return expected

    def _vkey(self) -> str | None:
        """The key that everything must be signed with; what says another one is a problem of its own."""
        row = self._connection.execute("SELECT vkeys FROM audit_sealerstatus WHERE id = 1").fetchone()
        claims = list(self._options.vkeys)
        if row is not None:
            claims.append(("the database", row[0].split("\n")[0]))
        if not claims:
            return None
        trusted_by, vkey = claims[0]
        if not self._options.vkeys:
            self._report.add("no place outside the database says what the log's key is: give the one that you know with --vkey")
        for place, claimed in claims[1:]:
            if claimed != vkey:
                self._report.add(f"{place} says that the log's key is {claimed[:120]}, {trusted_by} {vkey}")
        return vkey

    def _take_checkpoints(self, expected: dict[int, list[tuple[str, bytes]]], size: int) -> None:
        for name, root in expected.pop(size, ()):
            if self._frontier.root() != root:
                self._report.add(f"{name} for {size} leaves signs another tree: the log was changed after it was published")

    def _check_tile(self, n: int, size: int, expected: dict[int, list[tuple[str, bytes]]]) -> None:
        """Entries, hashes, places and rows of up to 256 leaves."""
        width = tile_width(0, n, size)
        hashes = self._read_tile(0, n, width)
        try:
            entries = decode_entries(self._read_tile(ENTRIES, n, width))
        except BadTile as error:
            self._report.add(f"{tile_path(ENTRIES, n, width)}: {error}")
            entries = []
        if len(entries) != width:
            self._report.add(f"{tile_path(ENTRIES, n, width)} has {len(entries)} entries, not {width}")
        places = self._connection.execute(
            "SELECT index, record_id, leaf_hash FROM audit_logleaf WHERE index >= %s AND index < %s ORDER BY index",
            [n * WIDTH, n * WIDTH + width],
            binary=True,
        ).fetchall()
        if [place[0] for place in places] != list(range(n * WIDTH, n * WIDTH + width)):
            self._report.add(f"the places {n * WIDTH} to {n * WIDTH + width - 1} are not all filled once")
        leaf_hashes = [hashes[at : at + merkle.HASH_BYTES] for at in range(0, len(hashes), merkle.HASH_BYTES)]
        for at, (entry, leaf_hash) in enumerate(zip(merkle.leaf_hashes(entries), leaf_hashes, strict=False)):
            if entry != leaf_hash:
                self._report.add(f"entry {n * WIDTH + at} doesn't hash to its place in {tile_path(0, n, width)}")
        for index, record_id, leaf_hash in places:
            if leaf_hashes[index - n * WIDTH : index - n * WIDTH + 1] != [leaf_hash]:
                self._report.add(f"record {record_id} has another leaf hash than place {index} of the tree")
        self._check_rows({place[1]: entries[place[0] - n * WIDTH] for place in places if place[0] - n * WIDTH < len(entries)})
        for at, leaf_hash in enumerate(leaf_hashes):
            self._take_checkpoints(expected, n * WIDTH + at)
            self._frontier.append([leaf_hash])
        self._grow(0, hashes)
        self._report.leaves += len(entries)
        if self._options.figures:
            self._fold.add(entries)
            self._fold.events.clear()

    def _grow(self, level: int, hashes: bytes) -> None:
        """A full tile's root must stand in the level above."""
        if len(hashes) < WIDTH * merkle.HASH_BYTES:
            return
        above = self._rows.get(level + 1, b"") + merkle.perfect_root(hashes)
        self._rows[level + 1] = above
        if len(above) == WIDTH * merkle.HASH_BYTES:
            n = (self._frontier.size >> 8 * (level + 2)) - 1
            if self._read_tile(level + 1, n, WIDTH) != above:
                self._report.add(f"{tile_path(level + 1, n)} doesn't hold the roots of the tiles below it")
            self._rows[level + 1] = b""
            self._grow(level + 1, above)

    def _check_edges(self, size: int) -> None:
        for level, hashes in self._rows.items():
            width = len(hashes) // merkle.HASH_BYTES
            n = size >> 8 * (level + 1)
            if width and self._read_tile(level, n, width) != hashes:
                self._report.add(f"{tile_path(level, n, width)} doesn't hold the roots of the tiles below it")

    def _read_tile(self, level: int, n: int, width: int) -> bytes:
        row = self._connection.execute(
            "SELECT width, data FROM audit_logtile WHERE level = %s AND n = %s", [level, n], binary=True
        ).fetchone()
        if row is None or row[0] != width:
            self._report.add(
                f"{tile_path(level, n, width)} is missing" if row is None else f"{tile_path(level, n, width)} has width {row[0]}"
            )
            return b""
        return bytes(row[1])

    # Rows

    def _check_rows(self, leaves: dict[UUID, bytes]) -> None:
        """Each leaf has its row, or stands in quarantine, and both say the same."""
        wanted = sorted(leaves)
        found = self._rows_of(wanted)
        missing = [record_id for record_id in wanted if record_id not in found]
        kept = {}
        if missing:
            kept = dict(
                self._connection.execute("SELECT record_id, leaf FROM audit_quarantine WHERE record_id = ANY(%s)", [missing]).fetchall()
            )
        for record_id, leaf in leaves.items():
            self._count(leaf)
            if (row := found.get(record_id)) is not None:
                self._report.rows += 1
                pseudonym = self._options.pseudonym if row["node"] == self._options.node else None
                if wrong := rowcheck.differences(row, leaf, pseudonym):
                    self._report.add(f"the row of record {record_id} was changed: {', '.join(wrong)} differ from its leaf")
            elif record_id in kept:
                self._report.quarantined += 1
                if bytes(kept[record_id]) != leaf:
                    self._report.add(f"the quarantined record {record_id} was changed: it differs from its leaf")
            else:
                self._report.add(f"the row of record {record_id} is gone, and no leaf explains why")

    def _rows_of(self, record_ids: list[UUID]) -> dict[UUID, dict[str, Any]]:
        if not record_ids:
            return {}
        times = [_EPOCH + timedelta(microseconds=ids.time_us(record_id.bytes)) for record_id in record_ids]
        with self._connection.cursor(row_factory=dict_row, binary=True) as cursor:
            cursor.execute(
                f"SELECT {', '.join(rowcheck.COLUMNS)} FROM audit_record"
                " WHERE ts BETWEEN %s AND %s AND (ts, id) IN (SELECT * FROM unnest(%s::timestamptz[], %s::uuid[]))",
                [min(times), max(times), times, record_ids],
            )
            return {row["id"]: row for row in cursor}

    def _count(self, leaf: bytes) -> None:
        try:
            said = orjson.loads(leaf)
            kind = str(said["t"])
            if kind == "gap":
                self._report.gap_calls += int(said["d"]["calls"])
        except (ValueError, KeyError, TypeError):
            kind = "unreadable"
        self._report.kinds[kind] += 1

    # Numbers

    def _check_numbers(self, size: int) -> None:
        """Nothing beside the log: no place beyond the head, no row that neither is sealed nor waits."""
        for (index,) in self._each("SELECT index FROM audit_logleaf WHERE index >= %s ORDER BY index LIMIT 5", [size]):
            self._report.add(f"place {index} is filled beyond the head at {size}")
        for record_id, ts in self._each(
            """
            SELECT r.id, r.ts FROM audit_record r
            WHERE NOT EXISTS (SELECT FROM audit_logleaf l WHERE l.record_id = r.id)
              AND NOT EXISTS (SELECT FROM audit_outbox o WHERE o.record_id = r.id) LIMIT 20
            """
        ):
            self._report.add(f"record {record_id} of {ts:%Y-%m-%d %H:%M} is neither sealed nor waiting: it came in behind the log's back")
        for (record_id,) in self._each("SELECT record_id FROM audit_outbox JOIN audit_logleaf USING (record_id) LIMIT 20"):
            self._report.add(f"record {record_id} is sealed and waits to be sealed with another leaf")
        for uuid, path in self._each("SELECT uuid, path FROM audit_journalsegment WHERE state = 'damaged' LIMIT 20"):
            self._report.add(f"journal segment {uuid} ({path}) lost acknowledged records to damage")
        ((self._report.unsealed,),) = self._each("SELECT COUNT(*) FROM audit_outbox")

    def _each(self, query: str, values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
        return iter(self._connection.execute(query.encode(), list(values)).fetchall())

    def _check_figures(self) -> None:
        """Every stored rollup is the fold of the leaves, and none is missing."""
        stored = self._connection.execute(
            "SELECT bucket, model, version, outcome, caller, count, total_us, queue_us, model_us, sketch FROM audit_rollup", binary=True
        )
        cells = self._fold.cells
        for bucket, model, version, outcome, caller, count, total_us, queue_us, model_us, sketch in stored:
            key = ((bucket - _EPOCH) // timedelta(minutes=1), model, version, outcome, caller)
            cell = cells.pop(key, rollups.Cell())
            figures = (cell.count, cell.total_us, cell.queue_us, cell.model_us)
            if figures != (count, total_us, queue_us, model_us) or cell.sketch().encode() != bytes(sketch):
                self._report.add(f"the figures of {model or 'no model'} at {bucket:%Y-%m-%d %H:%M} ({outcome}) aren't the fold of the log")
        for minute, model, _, outcome, _ in list(cells)[:20]:
            at = _EPOCH + timedelta(minutes=minute)
            self._report.add(f"the figures of {model or 'no model'} at {at:%Y-%m-%d %H:%M} ({outcome}) are missing")
