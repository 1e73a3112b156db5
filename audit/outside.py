"""The published log as plain files, outside the database: `checkpoint`, `vkey`, and every tile and entry bundle in tlog-tiles layout.

Two purposes: anybody can copy the directory and verify it, and the database can be held against it. A checkpoint is published by
writing it here, after everything that it covers is on disk; from that moment on the log can't go back behind it.
"""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType

from .tiles import ENTRIES, WIDTH, BadTile, cut, tile_path

CHECKPOINT = "checkpoint"
VKEY = "vkey"


class DirectoryInUse(Exception):
    """Another process holds the directory's lock."""


class OutsideLog:
    """Reads and writes the directory. One writer at a time, which holds `lock`; readers need nothing."""

    def __init__(self, directory: Path, *, entries_public: bool = True) -> None:
        self.directory = directory
        self._entries_public = entries_public
        self._unsynced: set[Path] = set()  # directories with new names in them

    def lock(self) -> "DirectoryLock":
        """Hold the directory against a second writer, such as a sealer on a copy of the database. Raises DirectoryInUse."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return DirectoryLock(self.directory / ".lock")

    def read_checkpoint(self) -> str | None:
        """The last published checkpoint, None when there never was one."""
        try:
            return (self.directory / CHECKPOINT).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def read_vkey(self) -> str | None:
        """The key as it was published, None when it never was."""
        try:
            return (self.directory / VKEY).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def read_tile(self, level: int, n: int, width: int) -> bytes:
        """A tile or bundle at a published width. Raises BadTile when no file holds that much of it."""
        for candidate in dict.fromkeys((width, WIDTH)):
            with contextlib.suppress(FileNotFoundError):
                return cut(level, (self.directory / tile_path(level, n, candidate)).read_bytes(), width)
        raise BadTile(f"{self.directory / tile_path(level, n, width)} is missing")

    def write_tile(self, level: int, n: int, width: int, data: bytes) -> None:
        """Put a tile into place; on disk for certain only after `sync`. A full tile's partial forms are dropped."""
        path = self.directory / tile_path(level, n, width)
        self._make_directory(path.parent)
        self._write(path, data, 0o644 if level != ENTRIES or self._entries_public else 0o600)
        if width == WIDTH:
            # Allowed by tlog-tiles once the full tile is available, which may be before the next checkpoint names it.
            shutil.rmtree(path.with_name(path.name + ".p"), ignore_errors=True)

    def sync(self) -> None:
        """From here on a power cut loses none of the tiles written so far."""
        for directory in self._unsynced:
            _sync_directory(directory)
        self._unsynced.clear()

    def write_checkpoint(self, note: str) -> None:
        """Publish. On return the checkpoint, and by the caller's `sync` all that it covers, is on disk."""
        self._make_directory(self.directory)
        self._write(self.directory / CHECKPOINT, note.encode(), 0o644)
        _sync_directory(self.directory)

    def write_vkey(self, vkey: str) -> None:
        """The log's own key, for who copies the directory and has it from elsewhere as well."""
        text = vkey + "\n"
        path = self.directory / VKEY
        self._make_directory(path.parent)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            self._write(path, text.encode(), 0o644)

    def _make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make_directory(path.parent)
        path.mkdir(exist_ok=True)
        self._unsynced.add(path.parent)

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        """The file appears whole or not at all, its content synced before its name."""
        temporary = path.with_name(f".{path.name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        self._unsynced.add(path.parent)


class DirectoryLock:
    """An flock held from `with` to its end, or until the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> "DirectoryLock":
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise DirectoryInUse(f"another sealer writes to {self._path.parent}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        os.close(self._descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
