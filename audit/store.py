"""The payload store: closed segments as they are, in a directory or any other place that fsspec knows.

Segments are immutable and hold ciphertext only; what erases a payload is the destruction of its key. A segment leaves the journal
directory when the store has all of it and the database knows.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, cast
from uuid import UUID

import fsspec
from fsspec.implementations.local import LocalFileSystem

from . import ids
from .ingest import Connection

logger = logging.getLogger(__name__)

_COPY_STEP = 1 << 20


class PayloadStore:
    """A place for segments. Any thread.

    url: anything fsspec opens, `file:///var/daybook/payloads` or `s3://bucket/daybook`.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = cast("tuple[Any, str]", fsspec.core.url_to_fs(url))

    def key(self, uuid: UUID) -> str:
        """Where a segment lies: by the day in its UUIDv7."""
        day = time.strftime("%Y/%m/%d", time.gmtime(ids.time_us(uuid.bytes) // 1_000_000))
        return f"segments/{day}/{uuid}.seg"

    def put(self, path: Path, key: str) -> None:
        """Store a whole file; durable, and all of it, when this returns. Raises OSError."""
        target = f"{self._root}/{key}"
        if isinstance(self._fs, LocalFileSystem):
            _place_durably(path, Path(target))
        else:
            self._fs.put_file(str(path), target)
        if (stored := self._fs.size(target)) != (size := path.stat().st_size):
            raise OSError(f"{target} has {stored} bytes of {size}")

    def read(self, key: str, offset: int, length: int) -> bytes:
        """A range of a stored segment. Raises FileNotFoundError, OSError."""
        return cast(bytes, self._fs.cat_file(f"{self._root}/{key}", start=offset, end=offset + length))


def _place_durably(source: Path, target: Path) -> None:
    """The finished segment under another name, or a copy of it where the store is another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)  # nobody writes to it any more
        _sync(temporary)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        _copy_durably(source, temporary)
    os.replace(temporary, target)
    if temporary.exists():  # both were the same file already: then a rename does nothing
        temporary.unlink()
    directory = target.parent
    while directory != directory.parent:  # also the entries of directories that were new
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
        if not directory.name.isdigit():
            break
        directory = directory.parent


def _copy_durably(source: Path, target: Path) -> None:
    """Copy in small synced steps: one large flush would hold up the journal's syncs on the same disk."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while data := reader.read(_COPY_STEP):
            writer.write(data)
            writer.flush()
            os.fdatasync(writer.fileno())
        os.fsync(writer.fileno())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Shipper:
    """A thread that takes closed segments to the store, one after the other, for as long as it takes."""

    def __init__(self, connect: Callable[[], Connection], store: PayloadStore, directory: Path) -> None:
        self._connect = connect
        self._store = store
        self._directory = directory
        self._queue: SimpleQueue[tuple[UUID, str]] = SimpleQueue()
        self._known: set[UUID] = set()  # owned by the scribe's thread
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, uuid: UUID, name: str) -> None:
        if uuid not in self._known:
            self._known.add(uuid)
            self._queue.put((uuid, name))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the segment in hand and stop; the rest is shipped by the next scribe."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def ship_waiting(self) -> None:
        """Ship all that waits, on the caller's thread."""
        with suppress(Empty):
            while True:
                self.ship(*self._queue.get_nowait())

    def ship(self, uuid: UUID, name: str) -> None:
        """Store one segment, say so in the database, remove it. Safe to repeat from any point. Raises what store and database raise."""
        path = self._directory / name
        key = self._store.key(uuid)
        with self._connect() as connection:
            row = connection.execute("SELECT state FROM audit_journalsegment WHERE uuid = %s", (uuid,)).fetchone()
            if row is None or row[0] not in ("closed", "shipped"):
                logger.error("segment not closed, not shipped", extra={"segment": name})
                return
            if row[0] == "closed":
                self._store.put(path, key)
                connection.execute("UPDATE audit_journalsegment SET state = 'shipped', path = %s WHERE uuid = %s", (key, uuid))
        path.unlink(missing_ok=True)
        logger.info("segment shipped", extra={"segment": name, "key": key})

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                uuid, name = self._queue.get(timeout=0.2)
            except Empty:
                continue
            pause = 0.5
            while not self._stop.is_set():
                try:
                    self.ship(uuid, name)
                    break
                except Exception as error:  # a store's own errors have no common base; none of them may cost the segment
                    logger.warning("segment not shipped yet", extra={"segment": name, "error": str(error).partition("\n")[0]})
                    self._stop.wait(pause)
                    pause = min(30.0, pause * 2)
