"""The scribe: one process per node that follows the node's journals and writes what it finds into PostgreSQL.

A pass: look for new segments; see which writers live; read what may be read; ingest it with the positions in one transaction;
close what is finished; take over payload keys. While PostgreSQL is down it goes on looking, so that `backlog.json` tells the
gateways how much waits, and tries again with growing pauses. Whatever dies when: the next pass starts from the positions in the
database, with the same code.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from . import journal, keys
from .backlog import Backlog, read_backlog, write_backlog
from .files import TEMPORARY, is_locked
from .ingest import Alarm, Connection, Ingester, Move, PositionMoved
from .rowformat import FORMATS
from .segments import READ_BYTES, End, Follower, Reading
from .store import PayloadStore, Shipper

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEPT_ALARMS = 20
_LEFTOVER_S = 60.0
# What says that PostgreSQL is not there or not ready (tables that are still being migrated included): wait and try again.
UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)


@dataclass(frozen=True, slots=True)
class ScribeOptions:
    directory: Path
    node: str
    poll_s: float = 0.05
    stream_s: float = 0.2  # while records come in a stream: a pass costs some 3 ms whatever it takes in
    stream_from: int = 10
    backlog_s: float = 0.5
    retry_s: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class _KeyFile:
    """A key journal and how far it is imported."""

    fd: int
    size: int = -1


class Scribe:
    """One scribe's whole state. Runs in one thread; `stop` may be set from any."""

    def __init__(self, connect: Callable[[], Connection], store: PayloadStore, options: ScribeOptions) -> None:
        """connect: a new connection in autocommit mode."""
        self._connect = connect
        self._options = options
        self._directory = options.directory
        self._connection: Connection | None = None
        self._ingester: Ingester | None = None
        self._followers: dict[str, Follower] = {}
        self._unregistered: set[str] = set()  # followers whose position has not been read from the database yet
        self._passed_over: set[str] = set()  # closed, damaged or unreadable files: looked at once
        self._has_more = False  # the last pass stopped because it had read enough
        self._is_file_gone = False  # the database may know segments that are no more
        self._voids: dict[bytes, int] = {}
        self._key_files: dict[str, _KeyFile] = {}
        self._alarms: list[str] = []
        self._seen_alarms: set[tuple[str, str]] = set()
        self._shipper = Shipper(connect, store, options.directory)
        self._backlog_at = 0.0
        self._ahead_at = 0.0
        before = read_backlog(self._directory)
        self._hints: dict[str, int] = {} if before is None else before.positions
        self.records = 0  # ingested since the start
        self.stop = threading.Event()

    def run(self) -> None:
        """Follow until `stop` is set. Raises what is a fault of ours; PostgreSQL's absence is waited out."""
        failures = 0
        self._shipper.start()
        try:
            while not self.stop.is_set():
                started = time.monotonic()
                try:
                    taken = self.step()
                    failures = 0
                except UNAVAILABLE as error:
                    self._disconnect()
                    self._write_backlog(force=True)
                    if failures == 0:
                        logger.warning("postgresql unavailable", extra={"error": str(error).partition("\n")[0]})
                    self.stop.wait(self._options.retry_s[min(failures, len(self._options.retry_s) - 1)])
                    failures += 1
                    continue
                pause = self._beat_s(taken) - (time.monotonic() - started)
                if pause > 0:
                    self.stop.wait(pause)
        finally:
            self._shipper.stop()
            self._disconnect()

    def step(self) -> int:
        """One pass. Returns how many records it ingested. Raises one of UNAVAILABLE when PostgreSQL can't be used."""
        self._scan()
        ingester = self._ready_ingester()
        self._register()
        # Who is dead must be known before voids are looked for: a failing writer makes its void durable before it lets go of the
        # failed segment, so whoever sees that segment unlocked finds the void.
        died = [self._is_dead(follower) for follower in list(self._followers.values())]  # all of them: each is asked
        if any(died):
            self._scan()
            self._register()
        self._find_voids()
        taken = self._ingest(ingester)
        self._import_keys()
        self._write_backlog()
        return taken

    def _beat_s(self, taken: int) -> float:
        """From one pass to the next. Much was there: go on at once. Otherwise a steady beat, so that rows come in bulk."""
        if taken and self._has_more:
            return 0.0
        return self._options.stream_s if taken >= self._options.stream_from else self._options.poll_s

    def step_until_idle(self) -> int:
        """Pass after pass until nothing more can be taken now."""
        total = 0
        while taken := self.step():
            total += taken
        return total

    # Finding files

    def _scan(self) -> None:
        names = set()
        for entry in os.scandir(self._directory):
            if entry.name.endswith(journal.SUFFIX):
                names.add(entry.name)
            elif entry.name.endswith(keys.SUFFIX) and entry.name not in self._key_files:
                self._key_files[entry.name] = _KeyFile(os.open(entry.path, os.O_RDONLY))
            elif entry.name.endswith(TEMPORARY):
                _remove_leftover(entry.path)
        for name in sorted(names - self._followers.keys() - self._passed_over):
            try:
                follower = Follower(self._directory / name)
            except FileNotFoundError:
                continue
            except journal.NotASegment:
                self._passed_over.add(name)
                self._alarm(Alarm("damage", str(_uuid_of(name)), 0, f"{name} has no whole header"))
                continue
            follower.moved_to(self._hints.pop(name, journal.HEADER_BYTES))
            self._followers[name] = follower
            self._unregistered.add(name)
        for name in self._followers.keys() - names:
            self._is_file_gone = True
            self._forget(name)
        self._passed_over &= names

    def _forget(self, name: str) -> None:
        self._followers.pop(name).close()
        self._unregistered.discard(name)

    def _ready_ingester(self) -> Ingester:
        if self._ingester is None:
            self._disconnect()
            self._connection = self._connect()
            self._ingester = Ingester(self._connection, self._options.node)
            self._unregistered = set(self._followers)
            self._is_file_gone = True
            self._ahead_at = 0.0
        if time.monotonic() >= self._ahead_at:
            self._ingester.make_partitions_ahead()
            self._ahead_at = time.monotonic() + 3600
        return self._ingester

    def _disconnect(self) -> None:
        connection, self._connection, self._ingester = self._connection, None, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _execute(self, query: str, parameters: tuple[Any, ...]) -> "psycopg.Cursor[Any]":
        assert self._connection is not None
        return self._connection.execute(query, parameters)

    def _register(self) -> None:
        """Give new segments their row, and take position and void from it."""
        if self._is_file_gone:
            self._miss_files()
        for name in sorted(self._unregistered):
            follower = self._followers[name]
            header = follower.header
            uuid = UUID(bytes=header.segment)
            self._execute(
                "INSERT INTO audit_journalsegment (uuid, node, path, row_format, position, state, created_at)"
                " VALUES (%s, %s, %s, %s, %s, 'open', %s) ON CONFLICT (uuid) DO NOTHING",
                (uuid, header.node, name, header.row_format, journal.HEADER_BYTES, _EPOCH + timedelta(microseconds=header.created_us)),
            )
            row = self._execute("SELECT position, void_from, state FROM audit_journalsegment WHERE uuid = %s", (uuid,)).fetchone()
            assert row is not None
            position, void_from, state = row
            follower.moved_to(position)
            follower.void_from = void_from
            if header.row_format not in FORMATS:
                self._alarm(Alarm("damage", str(uuid), 0, f"row format {header.row_format} is newer than this scribe"))
                state = "damaged"
            if state != "open":
                self._passed_over.add(name)
                self._forget(name)
                if state != "damaged":
                    self._shipper.put(uuid, name)
        self._unregistered.clear()

    def _miss_files(self) -> None:
        """Rows of segments whose file is gone: made ahead and removed unused by their gateway, or lost."""
        rows = self._execute(
            "SELECT uuid, path, position FROM audit_journalsegment WHERE node = %s AND state = 'open'", (self._options.node,)
        ).fetchall()
        for uuid, name, position in rows:
            if (self._directory / name).exists():
                continue
            if position == journal.HEADER_BYTES:
                self._execute("DELETE FROM audit_journalsegment WHERE uuid = %s AND position = %s", (uuid, position))
            else:
                self._execute("UPDATE audit_journalsegment SET state = 'damaged' WHERE uuid = %s", (uuid,))
                self._alarm(Alarm("damage", str(uuid), position, f"{name} is gone before it was finished"))
        self._is_file_gone = False

    def _is_dead(self, follower: Follower) -> bool:
        """Whether its writer is gone, since this pass or before. A segment that can't be synced is left as it is, with an alarm."""
        try:
            return not follower.check_alive()
        except OSError as error:
            uuid = str(UUID(bytes=follower.header.segment))
            self._alarm(Alarm("damage", uuid, follower.position, f"{follower.path.name} can't be synced: {error}"))
            return False

    def _find_voids(self) -> None:
        for follower in self._followers.values():
            for segment, offset in follower.find_voids():
                self._voids[segment] = offset
        for follower in self._followers.values():
            if (offset := self._voids.get(follower.header.segment, -1)) >= 0:
                follower.void_from = offset
                if follower.position > offset:  # a reader went further than the writer had announced
                    text = f"{follower.path.name} was read up to {follower.position}, its writer voided it from {offset}"
                    self._alarm(Alarm("damage", str(UUID(bytes=follower.header.segment)), offset, text))

    # Taking

    def _ingest(self, ingester: Ingester) -> int:
        readings = {name: follower.read() for name, follower in self._followers.items()}
        self._has_more = any(reading.position - self._followers[name].position >= READ_BYTES // 2 for name, reading in readings.items())
        moves: list[Move] = []
        alarms: list[Alarm] = []
        for name, reading in readings.items():
            follower = self._followers[name]
            header = follower.header
            for place in reading.damage:
                alarms.append(Alarm("damage", str(UUID(bytes=header.segment)), place, f"an acknowledged group of {name} is unreadable"))
            if reading.groups:
                moves.append(Move(header.segment, FORMATS[header.row_format], follower.position, reading.position, reading.groups))
        taken = 0
        if moves:
            try:
                ingested = ingester.ingest(moves, alarms)
            except PositionMoved as moved:
                logger.warning("position moved", extra={"reason": str(moved)})
                self._unregistered = set(self._followers)
                self._register()
                return 0
            taken = ingested.records
            self.records += taken
            for alarm in ingested.alarms:
                self._alarm(alarm)
        for name, reading in readings.items():
            self._followers[name].moved_to(reading.position)
            if reading.end is not End.NOT_YET:
                self._close(name, reading)
        return taken

    def _close(self, name: str, reading: Reading) -> None:
        """A segment is finished: everything that was acknowledged is in the database."""
        follower = self._followers[name]
        uuid = UUID(bytes=follower.header.segment)
        is_damaged = any(what == "damage" and segment == str(uuid) for what, segment in self._seen_alarms)
        logger.info("segment finished", extra={"segment": name, "end": reading.end.value, "bytes": follower.position})
        if follower.position == journal.HEADER_BYTES:  # made ahead and never used
            self._execute("DELETE FROM audit_journalsegment WHERE uuid = %s", (uuid,))
            self._forget(name)
            (self._directory / name).unlink(missing_ok=True)
            return
        assert self._connection is not None
        with self._connection.transaction():
            self._execute("SET LOCAL synchronous_commit = on", ())  # makes every commit before it durable too
            self._execute(
                "UPDATE audit_journalsegment SET state = %s WHERE uuid = %s AND position = %s",
                ("damaged" if is_damaged else "closed", uuid, follower.position),
            )
        self._passed_over.add(name)
        self._forget(name)
        if not is_damaged:
            self._shipper.put(uuid, name)

    def _import_keys(self) -> None:
        """Take payload keys over; a key journal goes when its gateway is gone and all its keys are durable here."""
        for name, file in list(self._key_files.items()):
            is_living = is_locked(file.fd)
            size = os.fstat(file.fd).st_size
            if size == file.size and is_living:
                continue
            data = os.pread(file.fd, size, 0)
            node = keys.decode_key_header(data)
            assert self._connection is not None
            with self._connection.transaction():
                if not is_living:
                    self._execute("SET LOCAL synchronous_commit = on", ())
                for key in keys.iterate_keys(data) if node is not None else ():
                    self._execute(
                        "INSERT INTO audit_payloadkey (key_id, scope, node, wrapped, created_at) VALUES (%s, %s, %s, %s, %s)"
                        " ON CONFLICT (key_id) DO NOTHING",
                        (UUID(bytes=key.key_id), key.scope, node, key.wrapped, _EPOCH + timedelta(microseconds=key.created_us)),
                    )
            file.size = size
            if not is_living:
                os.close(file.fd)
                del self._key_files[name]
                (self._directory / name).unlink(missing_ok=True)

    # Telling

    def _alarm(self, alarm: Alarm) -> None:
        if (alarm.what, alarm.segment) in self._seen_alarms:
            return
        self._seen_alarms.add((alarm.what, alarm.segment))
        logger.error("journal alarm", extra={"what": alarm.what, "segment": alarm.segment, "offset": alarm.offset, "text": alarm.text})
        self._alarms = [*self._alarms, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {alarm.what}: {alarm.text}"][-_KEPT_ALARMS:]

    def _write_backlog(self, force: bool = False) -> None:
        if not force and time.monotonic() < self._backlog_at:
            return
        self._backlog_at = time.monotonic() + self._options.backlog_s
        with suppress(OSError):
            self._scan()
        surveys = {name: follower.survey() for name, follower in self._followers.items()}
        waiting = [survey for survey in surveys.values() if survey.bytes]
        backlog = Backlog(
            time_us=time.time_ns() // 1000,
            bytes=sum(survey.bytes for survey in waiting),
            records=sum(survey.records for survey in waiting),
            oldest_us=min((survey.oldest_us for survey in waiting), default=0),
            positions={name: follower.position for name, follower in self._followers.items()},
            alarms=tuple(self._alarms),
        )
        try:
            write_backlog(self._directory, backlog)
        except OSError as error:
            logger.error("backlog file not written", extra={"error": str(error)})


def _uuid_of(name: str) -> UUID:
    try:
        return UUID(name.removesuffix(journal.SUFFIX))
    except ValueError:
        return UUID(int=0)


def _remove_leftover(path: str) -> None:
    """Files that a crash left half made. Nothing in them was ever promised."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if time.time() - os.fstat(fd).st_mtime > _LEFTOVER_S and not is_locked(fd):
            os.unlink(path)
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)
