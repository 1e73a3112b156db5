"""Disks that fail: true implementations of `JournalDirectory` with a handle for faults."""

import errno
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from audit.files import DiskDirectory, JournalFile

_PAGE = 4096
_SECTOR = 512


class PowerCut(OSError):
    """The machine is off: nothing more happens."""


class _MemoryFile:
    """What the page cache shows, and what the platters hold."""

    def __init__(self, disk: "PowerCutDisk", header: bytes, size: int) -> None:
        self._disk = disk
        self.cache = bytearray(max(size, len(header)))
        self.cache[: len(header)] = header
        self.durable = bytes(self.cache)
        self.dirty: set[int] = set()

    def write_at(self, buffers: Sequence[bytes], offset: int) -> None:
        data = b"".join(buffers)
        with self._disk.operation("write"):
            self._apply(data, offset)

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> None:
        self.write_at(buffers, offset)
        self.sync()

    def _apply(self, data: bytes, offset: int) -> None:
        if len(self.cache) < offset + len(data):
            self.cache.extend(bytes(offset + len(data) - len(self.cache)))
        self.cache[offset : offset + len(data)] = data
        self.dirty.update(range(offset // _PAGE, (offset + len(data) - 1) // _PAGE + 1))

    def sync(self) -> None:
        with self._disk.operation("sync"):
            self.durable = bytes(self.cache)
            self.dirty.clear()

    def truncate(self, size: int) -> None:
        with self._disk.operation("truncate"):
            del self.cache[size:]
            self.dirty.update(range(size // _PAGE, len(self.durable) // _PAGE + 1))

    def close(self) -> None:
        pass

    def after_power_cut(self, chance: random.Random) -> bytes:
        """Synced bytes as they were; of each page written since, any mixture of its old and new sectors, or none."""
        found = bytearray(self.durable)
        for page in self.dirty:
            fate = chance.random()
            for start in range(page * _PAGE, (page + 1) * _PAGE, _SECTOR):
                new = bytes(self.cache[start : start + _SECTOR])
                if new and (fate < 0.4 or (fate < 0.7 and chance.random() < 0.5)):
                    if len(found) < start + len(new):
                        found.extend(bytes(start + len(new) - len(found)))
                    found[start : start + len(new)] = new
        return bytes(found)


class _Operation:
    """One step to the disk; the power may fail in the middle of it."""

    def __init__(self, disk: "PowerCutDisk", fault: str) -> None:
        self._disk = disk
        self._fault = fault

    def __enter__(self) -> None:
        if self._fault == "cut before":
            self._disk.is_off = True
        if self._disk.is_off:
            self._disk.lock.release()
            raise PowerCut(errno.EIO, "power cut")
        if self._fault == "fails":
            self._disk.lock.release()
            raise OSError(errno.EIO, "input/output error")

    def __exit__(self, *error: object) -> None:
        if self._fault == "cut after":
            self._disk.is_off = True
        self._disk.lock.release()
        if self._fault in ("cut after", "fails but done"):
            raise OSError(errno.EIO, "input/output error")


class PowerCutDisk:
    """A disk in memory that goes off at operation number `cut_at`; operations in `failing` return EIO, done or not."""

    def __init__(self, cut_at: int, failing: dict[int, str] | None = None, chance: random.Random | None = None) -> None:
        self.files: dict[str, _MemoryFile] = {}
        self.is_off = False
        self.lock = threading.Lock()
        self._count = 0
        self._cut_at = cut_at
        self._failing = failing or {}
        self._chance = chance or random.Random(0)

    def operation(self, what: str) -> _Operation:
        self.lock.acquire()  # released by the operation
        self._count += 1
        fault = self._failing.get(self._count, "")
        if self._count >= self._cut_at:
            fault = "cut after" if self._chance.random() < 0.5 and what != "sync" else "cut before"
        return _Operation(self, fault)

    def create(self, name: str, header: bytes, size: int = 0, zero_fill: bool = False) -> JournalFile:
        with self.operation("create"):
            assert name not in self.files
            file = self.files[name] = _MemoryFile(self, header, size)
        return file

    def remove(self, name: str) -> None:
        with self.operation("remove"):
            del self.files[name]

    def free_bytes(self) -> int:
        return 1 << 40

    def write_survivors(self, path: Path, chance: random.Random) -> None:
        """What is found after the power is back."""
        for name, file in self.files.items():
            (path / name).write_bytes(file.after_power_cut(chance))


class _FaultyFile:
    def __init__(self, disk: "FaultyDisk", file: JournalFile) -> None:
        self._disk = disk
        self._file = file
        self._is_failed = False

    def write_at(self, buffers: Sequence[bytes], offset: int) -> None:
        self._file.write_at(buffers, offset)
        self._check(self._disk.on_write)

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> None:
        self.write_at(buffers, offset)
        self.sync()

    def sync(self) -> None:
        assert not self._is_failed, "a descriptor that failed was synced again"
        self._check(self._disk.on_sync)
        self._file.sync()

    def _check(self, fault: Callable[[], None]) -> None:
        try:
            fault()
        except OSError:
            self._is_failed = True
            raise

    def truncate(self, size: int) -> None:
        if self._disk.can_truncate:
            self._file.truncate(size)
        else:
            raise OSError(errno.EIO, "input/output error")

    def close(self) -> None:
        self._file.close()


def _nothing() -> None:
    pass


class FaultyDisk(DiskDirectory):
    """A real directory; `on_write`, `on_sync` and `on_create` may raise or wait."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.on_write: Callable[[], None] = _nothing
        self.on_sync: Callable[[], None] = _nothing
        self.on_create: Callable[[], None] = _nothing
        self.can_truncate = True
        self.free: int | None = None

    def create(self, name: str, header: bytes, size: int = 0, zero_fill: bool = False) -> JournalFile:  # type: ignore[override]
        self.on_create()
        return _FaultyFile(self, super().create(name, header, size, zero_fill))

    def free_bytes(self) -> int:
        return super().free_bytes() if self.free is None else self.free

    def heal(self) -> None:
        self.on_write = self.on_sync = self.on_create = _nothing


def raise_error(number: int, times: int = 1 << 30) -> Callable[[], None]:
    """A fault that raises OSError `number` the first `times` times."""
    left = times

    def fail() -> None:
        nonlocal left
        if left > 0:
            left -= 1
            raise OSError(number, "injected")

    return fail


def wait_for(event: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        with suppress(TimeoutError):
            event.wait(20)

    return wait
