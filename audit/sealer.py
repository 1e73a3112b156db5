"""The sealer: turns what is ingested into the log. Four moments, and what a crash after each of them costs:

1. *seal*, one transaction on the connection that holds the lock: outbox rows leave, leaves, tiles and rollups come, the head moves
   with `UPDATE … WHERE size = the size read`. A crash before its commit changes nothing, after it loses nothing.
2. *sign* the committed head. The same head gives the same statement, so signing again after a crash is no second history.
3. *sync* tiles and checkpoint to the directory outside the database (`outside`). From here on the log can't go back behind it: a
   database that doesn't reach the outside checkpoint, or disagrees with it, is refused at every start.
4. *publish* in the database, where the site reads it.

Starting is the same code: read the head, hold it against the outside checkpoint, sign and publish what isn't yet. Whatever goes
wrong, the sealer forgets all it knows and starts so again; when two histories are possible it stops (`LogRefused`).
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import numpy as np
import psycopg

from . import checkpoint, merkle, receiptkeys, rollups
from .checkpoint import Checkpoint, Signer
from .outside import DirectoryInUse, OutsideLog
from .tiles import ENTRIES, MAX_ENTRY_BYTES, WIDTH, BadTile, Tile, TileTree, cut, encode_entries, node_reader, tile_width, tiles_between
from .verifier import BadProof, verify_signature

logger = logging.getLogger(__name__)

LOCK_KEY = int.from_bytes(b"daybook1", "big")  # PostgreSQL advisory lock, fits a bigint


class LogRefused(Exception):
    """The log can't go on without a person: what is wrong and what to do. Nothing was changed."""


class LostHead(Exception):
    """Somebody else moved the head: forget everything and read it again."""


@dataclass(frozen=True, slots=True)
class SealerOptions:
    """origin: the log's name. Times are seconds."""

    origin: str
    batch_size: int = 8_192  # leaves per transaction
    checkpoint_interval_s: float = 0.75  # with the scribe's beat, a record in a stream is sealed within a second
    poll_s: float = 0.05
    heartbeat_s: float = 5.0
    retry_s: float = 1.0


class Sealer:
    """One sealer's whole state. Runs in one thread; `stop` may be set from any."""

    def __init__(
        self,
        connect: Callable[[], "psycopg.Connection[Any]"],
        outside: OutsideLog,
        signers: Sequence[Signer],
        options: SealerOptions,
    ) -> None:
        """signers: the log's Ed25519 signer first. `connect` opens a connection in autocommit mode."""
        self._connect = connect
        self._outside = outside
        self._signers = signers
        self._options = options
        self.stop = threading.Event()

    def run(self) -> None:
        """Wait for the lock, then seal until `stop` is set. Raises LogRefused; every other trouble is waited out."""
        while not self.stop.is_set():
            try:
                with self._connect() as connection:
                    if not self._take_lock(connection):
                        return
                    with self._outside.lock():
                        self._seal_until_stopped(connection)
            except LogRefused as refusal:
                self._say_stopped(str(refusal))
                raise
            except (psycopg.Error, OSError, LostHead, DirectoryInUse, BadTile) as error:
                # A broken connection, a full disk, a lost race: what was committed is known only to the database and the directory.
                logger.warning("sealing interrupted, starting again", extra={"error": str(error), "kind": type(error).__name__})
                self._say_stopped(f"interrupted: {error}")
                self.stop.wait(self._options.retry_s)

    def _take_lock(self, connection: "psycopg.Connection[Any]") -> bool:
        """The lock belongs to the session: it ends with the connection on which alone the head is moved."""
        waiting = False
        while not self.stop.is_set():
            (taken,) = _one(connection, "SELECT pg_try_advisory_lock(%s)", [LOCK_KEY])
            if taken:
                return True
            if not waiting:
                logger.info("another sealer is at work, standing by")
                waiting = True
            self.stop.wait(self._options.retry_s)
        return False

    def _seal_until_stopped(self, connection: "psycopg.Connection[Any]") -> None:
        log = OpenLog(connection, self._outside, self._signers, self._options)
        log.hold_against_directory()
        logger.info("sealing", extra={"size": log.size, "origin": self._options.origin})
        while not self.stop.is_set():
            if log.behind or log.due:
                log.seal()
            if log.due and log.unpublished:
                log.publish()
            elif log.silent:
                log.heartbeat()
            if not log.behind:
                # Alone, a record is sealed at the next poll; in a stream of them, all of a second at once.
                self.stop.wait(max(self._options.poll_s, log.next_checkpoint - time.monotonic()))
        # A clean stop leaves nothing committed and unsigned.
        if log.unpublished:
            log.publish()

    def _say_stopped(self, why: str) -> None:
        """Best effort, on a connection of its own: the site shows it."""
        try:
            with self._connect() as connection:
                connection.execute("UPDATE audit_sealerstatus SET state = %s, seen_at = now() WHERE id = 1", [f"stopped: {why}"[:2_000]])
        except psycopg.Error as error:
            logger.warning("the sealer's state could not be stored", extra={"error": str(error)})


class OpenLog:
    """The log under the lock: head, right edge and what isn't published yet. After any exception it must not be used again."""

    def __init__(
        self,
        connection: "psycopg.Connection[Any]",
        outside: OutsideLog,
        signers: Sequence[Signer],
        options: SealerOptions,
    ) -> None:
        """Read head and right edge. Raises LogRefused when the database contradicts itself, or is another log's."""
        checkpoint.check_name(options.origin)
        self._connection = connection
        self._outside = outside
        self._signers = signers
        self._options = options
        self.behind = False  # the last batch was full: more waits
        self.next_checkpoint = 0.0  # monotonic
        self.next_heartbeat = 0.0
        self._set_aside: list[UUID] = []  # outbox rows whose id is sealed with another leaf
        self._oversize: list[UUID] = []  # outbox rows that no bundle can hold
        self._fresh: dict[tuple[int, int], Tile] = {}  # sealed since the last checkpoint
        self._open()

    @property
    def due(self) -> bool:
        """A second has passed since the last checkpoint."""
        return time.monotonic() >= self.next_checkpoint

    @property
    def silent(self) -> bool:
        return time.monotonic() >= self.next_heartbeat

    @property
    def unpublished(self) -> bool:
        return self.size > self._published or not self._signed

    def _open(self) -> None:
        with self._connection.transaction():
            self._connection.execute(
                "INSERT INTO audit_loghead (id, size, root, signed_size) VALUES (1, 0, %s, 0) ON CONFLICT DO NOTHING",
                [merkle.EMPTY_ROOT],
            )
            self._check_identity()
        head = _one(self._connection, "SELECT size, root, signed_size FROM audit_loghead WHERE id = 1")
        self.size: int = head[0]
        self.root: bytes = head[1]
        self.signed_size: int = head[2]
        self._tree = TileTree(self.size, self.read_tile)
        if self._tree.root() != self.root:
            raise LogRefused(f"the tiles in the database don't give the root of its head at size {self.size}: it was tampered with")
        width = tile_width(ENTRIES, self.size // WIDTH, self.size)
        self._bundle = self.read_tile(ENTRIES, self.size // WIDTH, width) if width else b""
        self._published = 0
        self._signed = False

    def hold_against_directory(self) -> None:
        """Before anything is sealed: the directory and the database must be one history. Raises LogRefused."""
        where = self._outside.directory
        note = self._outside.read_checkpoint()
        if note is None:
            if self.signed_size > 0:
                raise LogRefused(
                    f"{where} holds no checkpoint, but one for {self.signed_size} leaves was published: put the directory back, or, if it"
                    " is lost, write it anew from the database with `manage.py restore_log --rebuild-directory`"
                )
            return
        outside = self.read_outside(note)
        if outside.size > self.size:
            raise LogRefused(
                f"the database's log ends at {self.size} leaves, but a checkpoint for {outside.size} was published: the database is"
                f" older than the log in {where}. `manage.py restore_log` rolls it forward from there"
            )
        self.require_agreement(outside)
        if outside.size < self.signed_size:
            raise LogRefused(
                f"{where} is older than the database: its checkpoint has {outside.size} leaves, {self.signed_size} were published; put"
                " the right directory back, or write it anew from the database with `manage.py restore_log --rebuild-directory`"
            )
        self.store_published(outside.size, note)  # a crash may lie between the directory and the database

    def require_agreement(self, outside: Checkpoint) -> None:
        """The database's tree at the size of a checkpoint is the one that it signs. Raises LogRefused."""
        if merkle.tree_root(outside.size, node_reader(self.read_tile, outside.size)) != outside.root:
            raise LogRefused(
                f"the database and the checkpoint in {self._outside.directory} disagree at {outside.size} leaves: going on would fork the"
                " log. Neither may be changed until it is known which one is right"
            )

    def read_outside(self, note: str) -> Checkpoint:
        """What the directory's checkpoint says, if it is this log's. Raises LogRefused."""
        where = self._outside.directory
        try:
            outside = checkpoint.parse(note)
            verify_signature(note, self._signers[0].vkey)
        except (checkpoint.BadCheckpoint, BadProof) as error:
            raise LogRefused(f"the checkpoint in {where} can't be trusted: {error}") from error
        return outside

    def _check_identity(self) -> None:
        """One log, one name, one key: both are fixed when the first checkpoint is signed."""
        vkeys = "".join(f"{signer.vkey}\n" for signer in self._signers)
        row = _find_one(self._connection, "SELECT origin, vkeys FROM audit_sealerstatus WHERE id = 1")
        if row is not None:
            origin, known = row
            if origin != self._options.origin:
                raise LogRefused(f"this database holds the log {origin!r}; LOG_ORIGIN says {self._options.origin!r}")
            if known.split("\n")[0] != self._signers[0].vkey:
                raise LogRefused(f"this log is signed with {known.split(chr(10))[0]}; the key at hand is {self._signers[0].vkey}")
        self._connection.execute(
            "INSERT INTO audit_sealerstatus (id, origin, vkeys, state, seen_at) VALUES (1, %s, %s, 'sealing', now())"
            " ON CONFLICT (id) DO UPDATE SET vkeys = EXCLUDED.vkeys, state = EXCLUDED.state, seen_at = EXCLUDED.seen_at",
            [self._options.origin, vkeys],
        )

    def read_tile(self, level: int, n: int, width: int) -> bytes:
        row = _find_one(self._connection, "SELECT data FROM audit_logtile WHERE level = %s AND n = %s", [level, n])
        if row is None:
            raise LogRefused(f"tile {level}/{n} is missing in the database")
        return cut(level, row[0], width)

    def seal(self) -> int:
        """Seal the next batch, oldest first, in one transaction; returns how many leaves."""
        # Asked twenty times a second: one cheap statement while nothing waits, instead of a transaction.
        if not _one(self._connection, "SELECT EXISTS (SELECT FROM audit_outbox)")[0]:
            self.behind = False
            return 0
        try:
            with self._connection.transaction():
                sealed = self._seal_batch()
        except psycopg.errors.UniqueViolation:
            # A record can't be ingested twice, but a database rolled forward from the directory may meet its journal again.
            return self._drop_sealed()
        # From here on a crash loses nothing: what is committed is signed at the next start.
        self.behind = sealed == self._options.batch_size
        return sealed

    def _seal_batch(self) -> int:
        rows = self._connection.execute(
            _TAKE, [MAX_ENTRY_BYTES, self._set_aside, self._options.batch_size], prepare=True, binary=True
        ).fetchall()
        if not rows:
            return 0
        self.append([row[0] for row in rows], [row[1] for row in rows])
        return len(rows)

    def append(self, record_ids: list[bytes], leaves: list[bytes]) -> None:
        """Give leaves the next places, with all that follows from it. Inside a transaction of the caller's."""
        hashes = merkle.leaf_hashes(leaves)
        self._copy_leaves(record_ids, hashes)
        size = self.size + len(leaves)
        fresh = self._bundles(leaves) + self._tree.append(hashes)
        self._store_tiles(fresh)
        fold = rollups.Fold()
        fold.add(leaves)
        with self._connection.cursor(binary=True) as cursor:
            rollups.write(cursor, fold, size)
            receiptkeys.write(cursor, fold.events)
        root = self._tree.root()
        moved = self._connection.execute(
            "UPDATE audit_loghead SET size = %s, root = %s WHERE id = 1 AND size = %s AND root = %s", [size, root, self.size, self.root]
        )
        if moved.rowcount != 1:
            raise LostHead(f"the head is no longer at {self.size}")
        self.size, self.root = size, root
        self._fresh.update({(tile.level, tile.n): tile for tile in fresh})

    def _copy_leaves(self, ids: list[bytes], hashes: list[bytes]) -> None:
        """`COPY` in binary, packed by NumPy: 0.3 µs a row where psycopg's own row writer takes 3."""
        packed = np.empty(len(ids), dtype=_LEAF_ROW)
        packed["fields"] = 3
        packed["index_bytes"] = 8
        packed["index"] = np.arange(self.size, self.size + len(ids))
        packed["id_bytes"] = 16
        packed["id"] = np.frombuffer(b"".join(ids), dtype="V16")
        packed["hash_bytes"] = merkle.HASH_BYTES
        packed["hash"] = np.frombuffer(b"".join(hashes), dtype="V32")
        with (
            self._connection.cursor() as cursor,
            cursor.copy("COPY audit_logleaf (index, record_id, leaf_hash) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.write(_COPY_HEADER + packed.tobytes() + _COPY_END)

    def _bundles(self, leaves: list[bytes]) -> list[Tile]:
        """The entry bundles that are new or longer."""
        changed: list[Tile] = []
        at = 0
        while at < len(leaves):
            n, width = divmod(self.size + at, WIDTH)
            take = leaves[at : at + WIDTH - width]
            data = (self._bundle if width else b"") + encode_entries(take)
            at += len(take)
            changed.append(Tile(ENTRIES, n, width + len(take), data))
            self._bundle = data
        return changed

    def _store_tiles(self, tiles: list[Tile]) -> None:
        """Insert or widen. A tile that is as wide already was written by somebody else."""
        stored = self._connection.execute(
            """
            INSERT INTO audit_logtile (level, n, width, data)
            SELECT * FROM unnest(%s::smallint[], %s::bigint[], %s::smallint[], %b::bytea[])
            ON CONFLICT (level, n) DO UPDATE SET width = EXCLUDED.width, data = EXCLUDED.data WHERE audit_logtile.width < EXCLUDED.width
            """,
            [
                [tile.level for tile in tiles],
                [tile.n for tile in tiles],
                [tile.width for tile in tiles],
                [tile.data for tile in tiles],
            ],
        )
        if stored.rowcount != len(tiles):
            raise LostHead(f"{len(tiles) - stored.rowcount} tiles at {self.size} were there already")

    def _drop_sealed(self) -> int:
        """Take out of the outbox what is sealed already with the same bytes; set aside, loudly, what is sealed with others."""
        dropped = self._connection.execute(
            """
            DELETE FROM audit_outbox o USING audit_logleaf l
            WHERE o.record_id = l.record_id AND sha256('\\x00'::bytea || o.leaf) = l.leaf_hash
            """
        ).rowcount
        rows = self._connection.execute("SELECT record_id FROM audit_outbox JOIN audit_logleaf USING (record_id)").fetchall()
        self._set_aside = [row[0] for row in rows]
        logger.warning("records were ingested again", extra={"dropped": dropped, "conflicts": [str(i) for i in self._set_aside[:20]]})
        self.next_heartbeat = 0.0
        return 0

    def publish(self) -> None:
        """Sign the committed head, put tiles and checkpoint on the outside disk, then show them."""
        started = time.monotonic()
        note = checkpoint.sign(Checkpoint(self._options.origin, self.size, self.root), self._signers, int(time.time()))
        for level, n, width in tiles_between(self._published, self.size):
            tile = self._fresh.get((level, n))
            data = tile.data if tile is not None and tile.width == width else self.read_tile(level, n, width)
            self._outside.write_tile(level, n, width, data)
        self._outside.write_vkey(self._signers[0].vkey)
        self._outside.sync()
        self._outside.write_checkpoint(note)
        # From here on this head is the least that the log may ever show.
        self.store_published(self.size, note)
        logger.debug("published", extra={"size": self.size, "seconds": time.monotonic() - started})
        self._fresh.clear()
        self.next_checkpoint = started + self._options.checkpoint_interval_s
        self.next_heartbeat = started + self._options.heartbeat_s

    def store_published(self, size: int, note: str) -> None:
        """Show a checkpoint that is in the directory."""
        now = datetime.now(UTC)
        with self._connection.transaction():
            self._connection.execute(
                "INSERT INTO audit_checkpoint (size, note, made_at) VALUES (%s, %s, %s) ON CONFLICT (size) DO NOTHING", [size, note, now]
            )
            self._connection.execute("UPDATE audit_loghead SET signed_size = %s WHERE id = 1 AND signed_size < %s", [size, size])
            self._connection.execute("UPDATE audit_sealerstatus SET state = %s, seen_at = %s WHERE id = 1", [self._state(), now])
        self.signed_size = max(self.signed_size, size)
        self._published, self._signed = size, True

    def heartbeat(self) -> None:
        """Say that the sealer lives, and what it can't seal."""
        oversize = self._connection.execute(
            "SELECT record_id FROM audit_outbox WHERE octet_length(leaf) > %s LIMIT 20", [MAX_ENTRY_BYTES]
        ).fetchall()
        self._oversize = [row[0] for row in oversize]
        self._connection.execute("UPDATE audit_sealerstatus SET state = %s, seen_at = now() WHERE id = 1", [self._state()])
        self.next_heartbeat = time.monotonic() + self._options.heartbeat_s

    def _state(self) -> str:
        parts = ["sealing"]
        if self._set_aside:
            parts.append(f"sealed before with another leaf: {', '.join(map(str, self._set_aside[:20]))}")
        if self._oversize:
            parts.append(f"leaf above {MAX_ENTRY_BYTES} bytes: {', '.join(map(str, self._oversize))}")
        return "; ".join(parts)


# Row by row from the oldest: ids are UUIDv7 with the record's time, so their order is (ts, id) and their index is at hand. The rows are
# found by place, since nobody else deletes here.
_TAKE = """
WITH taken AS (
    DELETE FROM audit_outbox WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM audit_outbox WHERE octet_length(leaf) <= %s AND record_id <> ALL (%s::uuid[]) ORDER BY record_id LIMIT %s))
    RETURNING record_id, leaf)
SELECT uuid_send(record_id), leaf FROM taken ORDER BY record_id
"""

_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_LEAF_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("index_bytes", ">i4"),
        ("index", ">i8"),
        ("id_bytes", ">i4"),
        ("id", "V16"),
        ("hash_bytes", ">i4"),
        ("hash", "V32"),
    ]
)


def _find_one(connection: "psycopg.Connection[Any]", query: LiteralString, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(query, values).fetchone()
    return row


def _one(connection: "psycopg.Connection[Any]", query: LiteralString, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    row = _find_one(connection, query, values)
    assert row is not None
    return row
