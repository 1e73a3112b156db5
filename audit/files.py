"""The journal's only way to the disk: one small directory object that makes small file objects.

Everything that must survive a power cut goes through `JournalDirectory` and `JournalFile`; a fault fake replaces exactly these.
"""

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

TEMPORARY = ".tmp"
_WRITE_AND_SYNC: int = getattr(os, "RWF_DSYNC", 0)  # Linux: fdatasync of just what is written; 0 where the system lacks it
_FILL_STEP = 1 << 20
_ZEROS = bytes(_FILL_STEP)


class JournalFile(Protocol):
    """An append-only file with one writer. After an error nothing is known about what was written: never sync it again."""

    def write_at(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write all buffers at `offset` with one call where the system takes it so. Raises OSError."""

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> None:
        """The same, and return once it is durable. Raises OSError."""

    def sync(self) -> None:
        """Return once all that was written is durable. Raises OSError."""

    def truncate(self, size: int) -> None: ...

    def close(self) -> None:
        """Close it and give up its lock: from now on readers treat its writer as dead."""


class JournalDirectory(Protocol):
    def create(self, name: str, header: bytes, size: int = 0, zero_fill: bool = False) -> JournalFile:
        """A new locked file that starts with `header`, preallocated to `size`; it is durable, and so is its name. Raises OSError."""

    def remove(self, name: str) -> None: ...

    def free_bytes(self) -> int: ...


class DiskFile:
    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write_at(self, buffers: Sequence[bytes], offset: int) -> None:
        self._write(buffers, offset, 0)

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> None:
        """Written and synced by one system call: beside a busy loop each costs the writer's thread another turn at the GIL."""
        if _WRITE_AND_SYNC:
            self._write(buffers, offset, _WRITE_AND_SYNC)
        else:
            self.write_at(buffers, offset)
            self.sync()

    def _write(self, buffers: Sequence[bytes], offset: int, flags: int) -> None:
        total = sum(map(len, buffers))
        written = os.pwritev(self.fd, buffers, offset, flags)
        if written == total:
            return
        rest = memoryview(b"".join(buffers))
        while written < total:  # a short write: the system says why at the next one
            step = os.pwritev(self.fd, [rest[written:]], offset + written, flags)
            if step == 0:
                raise OSError(errno.ENOSPC, "nothing written")
            written += step

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def close(self) -> None:
        fd, self.fd = self.fd, -1  # a number that is used again must never be reached through this object
        if fd >= 0:
            os.close(fd)


class DiskDirectory:
    """`JOURNAL_DIR` on a real file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def create(self, name: str, header: bytes, size: int = 0, zero_fill: bool = False) -> DiskFile:
        # Under another name until it is whole and locked: a reader that finds a segment unlocked may call its writer dead.
        temporary = self.path / (name + TEMPORARY)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if size:
                os.posix_fallocate(fd, 0, size)
            if zero_fill:
                _fill(fd, size)
            os.pwrite(fd, header, 0)
            os.fsync(fd)
            os.link(temporary, self.path / name)  # unlike rename, fails where the name is taken
            os.unlink(temporary)
            os.fsync(self._fd)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            os.close(fd)
            raise
        return DiskFile(fd)

    def remove(self, name: str) -> None:
        os.unlink(self.path / name)

    def free_bytes(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


def _fill(fd: int, size: int) -> None:
    """Write zeros over a preallocated file, in small synced steps with pauses, so that the live segment's syncs come between.

    Blocks that were only reserved are converted when first written, which costs a journal commit of the file system in each sync.
    """
    for offset in range(0, size, _FILL_STEP):
        os.pwrite(fd, _ZEROS[: size - offset], offset)
        os.fdatasync(fd)
        time.sleep(0.002)


def is_locked(fd: int) -> bool:
    """Whether a living process holds the file's lock. `fd` must be our own, opened apart from the holder's."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
