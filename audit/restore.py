"""Bringing database and directory together again, when a person has decided which of the two is right.

`roll_forward`: the database was restored from a backup (or lost): the directory, whose checkpoint counts, gives it the leaves that
it lacks. Rows of calls come back through the scribe, whose journal positions went back with the database; rows of acts, which
have no journal, are written from their leaves. `rebuild_directory`: the directory was lost: the database writes it anew.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import psycopg

from . import ids, merkle
from .checkpoint import Checkpoint
from .leaves import leaf_hash
from .outside import OutsideLog
from .sealer import LOCK_KEY, LogRefused, OpenLog
from .tiles import ENTRIES, WIDTH, cut, decode_entries, node_reader, tile_width, tiles_between
from .verifier import BadProof, parse_vkey, verify_log, verify_signature

_EPOCH = datetime.fromtimestamp(0, UTC)

Progress = Callable[[int, int], None]
FindName = Callable[[str, str], str]  # (month, pseudonym) → user name, "" where nobody's


def take_lock(connection: "psycopg.Connection[Any]") -> None:
    """Raises LogRefused while a sealer is at work."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone()
    if row is None or not row[0]:
        raise LogRefused("a sealer is at work on this database: stop it first")


def roll_forward(
    connection: "psycopg.Connection[Any]", log: OpenLog, outside: OutsideLog, vkey: str, find_name: FindName, progress: Progress
) -> int:
    """Append what the directory has and the database hasn't; returns how many leaves. Raises LogRefused, and changes nothing then.

    The whole directory is verified first. The batches are transactions of their own: interrupted, it goes on where it was.
    """
    note = outside.read_checkpoint()
    if note is None:
        raise LogRefused(f"{outside.directory} holds no checkpoint: there is nothing to restore from")
    target = log.read_outside(note)
    if target.size <= log.size:
        log.require_agreement(target)
        return 0
    try:
        saved = _own_checkpoints(connection, log.size)
        verify_log(outside.directory, [parse_vkey(vkey)], saved=saved)
    except BadProof as error:
        raise LogRefused(f"{outside.directory} doesn't hold: {error}") from error
    _require_beginning(log, outside, target)
    start = log.size
    while log.size < target.size:
        n, done = divmod(log.size, WIDTH)
        entries = decode_entries(outside.read_tile(ENTRIES, n, tile_width(ENTRIES, n, target.size)))[done:]
        record_ids = [_record_id(entry, log.size + at) for at, entry in enumerate(entries)]
        with connection.transaction():
            connection.execute("DELETE FROM audit_outbox WHERE record_id = ANY (%s)", [[UUID(bytes=i) for i in record_ids]])
            log.append(record_ids, entries)
            _write_act_rows(connection, entries, find_name)
        progress(log.size - start, target.size - start)
    log.require_agreement(target)
    log.store_published(target.size, note)
    return target.size - start


def rebuild_directory(connection: "psycopg.Connection[Any]", log: OpenLog, outside: OutsideLog, vkey: str, progress: Progress) -> int:
    """Write the published log from the database into the directory; returns its size. Raises LogRefused.

    Only where the directory has nothing that the database hasn't: its checkpoint, if there is one, must be a beginning.
    """
    if (note := outside.read_checkpoint()) is not None:
        found = log.read_outside(note)
        if found.size > log.size:
            raise LogRefused(f"{outside.directory} reaches {found.size} leaves, the database only {log.size}: roll it forward instead")
        log.require_agreement(found)
    row = connection.execute("SELECT note FROM audit_checkpoint WHERE size = %s", [log.signed_size]).fetchone()
    if row is None:
        raise LogRefused("the database has no published checkpoint to put there")
    try:
        published = verify_signature(row[0], vkey)
    except BadProof as error:
        raise LogRefused(f"the database's last checkpoint can't be trusted: {error}") from error
    log.require_agreement(Checkpoint(published.origin, published.size, published.root))
    for level, n, width in tiles_between(0, published.size):
        outside.write_tile(level, n, width, log.read_tile(level, n, width))
        if level == ENTRIES:
            progress(n * WIDTH + width, published.size)
    outside.write_vkey(vkey)
    outside.sync()
    outside.write_checkpoint(row[0])
    return published.size


def _own_checkpoints(connection: "psycopg.Connection[Any]", size: int) -> list[str]:
    """The database's own last checkpoint: the directory must continue it."""
    rows = connection.execute("SELECT note FROM audit_checkpoint WHERE size <= %s ORDER BY size DESC LIMIT 1", [size]).fetchall()
    return [note for (note,) in rows]


def _require_beginning(log: OpenLog, outside: OutsideLog, target: Checkpoint) -> None:
    """The database's head is an earlier size of the directory's tree."""

    def read_tile(level: int, n: int, width: int) -> bytes:
        return cut(level, outside.read_tile(level, n, tile_width(level, n, target.size)), width)

    if merkle.tree_root(log.size, node_reader(read_tile, log.size)) != log.root:
        raise LogRefused(
            f"the database's {log.size} leaves are not the beginning of the log in {outside.directory}: one of them was changed"
        )


def _record_id(entry: bytes, index: int) -> bytes:
    try:
        return UUID(orjson.loads(entry)["id"]).bytes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogRefused(f"entry {index} in the directory names no record") from error


def _write_act_rows(connection: "psycopg.Connection[Any]", entries: Iterable[bytes], find_name: FindName) -> None:
    for entry in entries:
        if b'"t":"act"' not in entry:
            continue
        said = orjson.loads(entry)
        record_id = UUID(said["id"])
        ts = _EPOCH + timedelta(microseconds=ids.time_us(record_id.bytes))
        connection.execute(
            "INSERT INTO audit_record (ts, id, leaf_hash, kind, verb, model, outcome, actor_type, user_name)"
            " VALUES (%s, %s, %s, 'act', %s, %s, 'ok', %s, %s) ON CONFLICT DO NOTHING",
            [ts, record_id, leaf_hash(entry), said["act"], said["on"], said["a"]["t"], find_name(f"{ts:%Y-%m}", said["a"]["p"])],
        )
