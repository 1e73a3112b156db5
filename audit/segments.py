"""Reading journal segments while their writers write them: how far one may read, and what a bad group means.

Pure reading: no database. `Follower.read` gives the groups that may be ingested now; the caller moves `position` when it has.
"""

import logging
import os
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from . import journal, rowformat
from .files import is_locked
from .journal import Group, NotASegment, SegmentHeader

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
_STUCK_S = 1.0
_ZERO_GROUP = bytes(journal.GROUP_BYTES)


class End(Enum):
    """Why no more groups follow."""

    NOT_YET = "not yet"  # the writer lives, or there is more to read
    CLEAN = "clean"  # the writer closed the segment
    TORN = "torn"  # the writer died; what follows, if anything, was never acknowledged


@dataclass(frozen=True, slots=True)
class Reading:
    """What may be ingested now.

    position: where reading goes on once these are ingested. damage: places of acknowledged bytes that cannot be read.
    """

    groups: list[Group]
    position: int
    end: End
    damage: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Survey:
    bytes: int
    records: int
    oldest_us: int  # 0 when nothing waits


@dataclass(slots=True)
class _Parsed:
    groups: list[Group]
    damage: list[int]
    is_cut: bool  # stopped because no more bytes were loaded
    is_bad: bool  # stopped at bytes that are no group and not zero


class Follower:
    """One segment file being read. One thread."""

    def __init__(self, path: Path) -> None:
        """Raises NotASegment, or OSError."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        try:
            self.header: SegmentHeader = journal.decode_header(os.pread(self._fd, journal.HEADER_BYTES, 0))
        except NotASegment:
            os.close(self._fd)
            raise
        self.position = journal.HEADER_BYTES
        self.void_from: int | None = None
        self.is_dead = False
        self._seed = journal.crc_seed(self.header.segment)
        self._announced = journal.HEADER_BYTES
        self._stuck: tuple[int, float] = (0, 0.0)
        self._is_peeked = False
        self._surveyed = (journal.HEADER_BYTES, 0)  # offset, and records between position and it

    def close(self) -> None:
        os.close(self._fd)

    def check_alive(self) -> bool:
        """Whether the writer lives. Once it is dead it stays so, and what it left in the page cache is synced."""
        if not self.is_dead and not is_locked(self._fd):
            os.fsync(self._fd)  # whole groups that were never synced count: nobody can have been told that they do not
            self.is_dead = True
        return not self.is_dead

    def find_voids(self) -> list[tuple[bytes, int]]:
        """The failed ranges that this segment's first group voids, once: (segment, offset)."""
        if self._is_peeked:
            return []
        data = memoryview(os.pread(self._fd, 64 * 1024, journal.HEADER_BYTES))
        group = journal.find_group(data, 0, journal.HEADER_BYTES, self._seed)
        if group is None or group.is_marker:
            self._is_peeked = self.is_dead or journal.group_length(data, 0) > len(data)  # a void group is small
            return []
        self._is_peeked = True
        try:
            return [journal.decode_void(entry) for entry in journal.iterate_entries(group) if entry.type == journal.EntryType.VOID]
        except journal.DamagedEntry:  # a void group is made of voids alone: this is another
            return []

    def read(self) -> Reading:
        """The groups from `position` on that may be ingested. Call `check_alive` before, and look for voids in between."""
        if not self.is_dead and self._is_idle():
            return Reading([], self.position, End.NOT_YET)
        found = self._parse(*self._load(READ_BYTES))
        if self.is_dead and found.is_bad:  # look for what follows the bad group in all of the file
            found = self._parse(*self._load(1 << 62))
        limit = self.void_from if self.void_from is not None else 1 << 62
        bound = limit if self.is_dead else min(limit, self._announced)
        taken = [group for group in found.groups if group.end <= bound]
        position = taken[-1].end if taken else self.position
        end = End.NOT_YET
        if self.is_dead and (len(taken) < len(found.groups) or not found.is_cut):
            is_clean = self.void_from is not None or (bool(taken) and taken[-1].is_end)
            end = End.CLEAN if is_clean else End.TORN
        return Reading(taken, position, end, [place for place in found.damage if place < position])

    def _is_idle(self) -> bool:
        head = memoryview(os.pread(self._fd, journal.GROUP_BYTES, self.position))
        return head in (_ZERO_GROUP, b"") or (
            journal.group_length(head, 0) == journal.GROUP_BYTES and bool(journal.unpack_group(head)[4] & journal.FLAG_MARKER)
        )

    def _parse(self, data: memoryview, size: int) -> _Parsed:
        """All whole groups in `data`, which starts at `position`; beyond damage too."""
        base = self.position
        found = _Parsed([], [], is_cut=False, is_bad=False)
        at = 0
        while True:
            last = None
            for last in journal.iterate_groups(data[at:], base + at, self._seed):
                self._announced = max(self._announced, last.synced)
                if not last.is_marker:
                    found.groups.append(last)
                    at = last.end - base
            if last is not None and (last.is_end or last.is_marker):
                break
            if self._is_cut(data, at, base, size):
                found.is_cut = True
                break
            following = self._find_beyond_damage(data, at, base)
            if following is None:
                found.is_bad = data[at : at + journal.GROUP_BYTES] not in (_ZERO_GROUP, b"")
                break
            found.damage.append(base + at)
            at = following.offset - base
        return found

    def survey(self) -> Survey:
        """What waits behind `position`, from group headers alone: cheap enough while the database is down."""
        offset, records = self._surveyed
        if offset < self.position:
            offset, records = self.position, 0
        limit = self.void_from if self.void_from is not None else 1 << 62
        while offset < limit:
            head = memoryview(os.pread(self._fd, journal.GROUP_BYTES, offset))
            length = journal.group_length(head, 0)
            _, _, _, _, flags, count, _ = journal.unpack_group(head) if length else (0,) * 7
            if not length or flags & journal.FLAG_MARKER:
                break
            offset += length
            records += count
        self._surveyed = (offset, records)
        waiting = min(offset, limit) - self.position
        return Survey(waiting, records, self._time_at(self.position)) if waiting > 0 else Survey(0, 0, 0)

    def moved_to(self, position: int) -> None:
        """The groups before `position` are ingested."""
        if position != self.position:
            self.position = position
            self._surveyed = (position, 0)

    def _load(self, limit: int) -> tuple[memoryview, int]:
        """Up to `limit` bytes from `position` on, but the whole first group where it is there; and the file's size."""
        size = os.fstat(self._fd).st_size
        data = os.pread(self._fd, min(limit, max(0, size - self.position)), self.position)
        first = journal.group_length(memoryview(data), 0)
        if len(data) < first <= size - self.position:
            data = os.pread(self._fd, first, self.position)
        return memoryview(data), size

    def _is_cut(self, data: memoryview, at: int, base: int, size: int) -> bool:
        """Whether reading stopped only because no more bytes were loaded."""
        more = base + len(data) < size
        length = journal.group_length(data, at)
        return more and (len(data) - at < journal.GROUP_BYTES or (at > 0 and len(data) - at < length <= size - base - at))

    def _find_beyond_damage(self, data: memoryview, at: int, base: int) -> Group | None:
        """The next whole group behind a bad one, when the bad one had been acknowledged.

        A living writer may be in the middle of writing it: only what stays bad for a while is damage there.
        """
        if not self.is_dead:
            if data[at : at + journal.GROUP_BYTES] in (_ZERO_GROUP, b""):
                return None
            place, since = self._stuck
            if place != base + at:
                self._stuck = (base + at, time.monotonic())
                return None
            if time.monotonic() - since < _STUCK_S:
                return None
        following = journal.resync(data, at + 1, base, self._seed)
        if following is None or following.synced <= base + at:
            return None  # nothing behind it says that it was synced: a torn tail
        return following

    def _time_at(self, position: int) -> int:
        """The time of the first record in the group at `position`, 0 when unreadable."""
        head = os.pread(self._fd, journal.GROUP_BYTES + journal.ENTRY_BYTES + 32, position)
        row = head[journal.GROUP_BYTES + journal.ENTRY_BYTES :]
        if len(row) < 32 or row[:4] != b"\0\0\0\x08":
            return self.header.created_us
        return rowformat.row_time_us(row)
