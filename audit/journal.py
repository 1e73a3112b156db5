"""The form of a journal segment: header, groups, entries. Pure functions over bytes; `writer` writes them, the scribe reads.

    segment = header (512 bytes), group, group, …, zeros up to the preallocated size
    group   = magic, CRC, sequence, length, flags, count, synced | entry, entry, …
    entry   = length, type, row length, leaf length | row | leaf | attachment

A group's `synced` announces that all bytes of the file before that offset are on the disk. While a writer lives (it holds the
file's lock) a reader goes no further than the highest offset announced: what follows may still fail, and its calls be answered
503. An idle writer announces its last group with a *marker*, an empty group that the next group overwrites; a marker is
therefore never counted as read. The CRC is seeded with the segment's UUID, so that bytes of another segment are never taken.

A reader of a dead writer's segment takes whole groups as far as they go. What follows the last announced offset is a torn tail:
no answer waited for it. A group that cannot be read *before* an announced offset is damage: acknowledged records are lost there.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"DAYBOOK\x01"
HEADER_BYTES = 512
SUFFIX = ".seg"

GROUP_MAGIC = b"DGRP"
GROUP_MAX_BYTES = 256 * 1024  # one larger entry travels alone
FLAG_MARKER = 1  # announces only; overwritten by the next group
FLAG_END = 2  # the writer closed the segment: nothing follows

_HEADER = struct.Struct("!8sHH16s16sQHH")  # magic, row format, header bytes, segment, start, created µs, node bytes, origin bytes
_GROUP = struct.Struct("!4sIQIHHQ")  # magic, crc, sequence, payload bytes, flags, entries, synced
_GROUP_TAIL = struct.Struct("!QIHHQ")  # what the CRC covers of it
GROUP_BYTES = _GROUP.size
_CRC_START = 8
_ENTRY = struct.Struct("!IBBHI")  # entry bytes, type, reserved, row bytes, leaf bytes
ENTRY_BYTES = _ENTRY.size


class EntryType(IntEnum):
    RECORD = 1  # a row and its leaf, in the attachment the encrypted payload parts
    VOID = 2  # attachment: segment UUID, offset: groups from there on were answered 503


_VOID = struct.Struct("!16sQ")


class NotASegment(ValueError):
    """The file has no whole header."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    segment: bytes  # UUID, 16 bytes
    start: bytes  # UUID of the gateway's start, 16 bytes; one writer's segments share it
    row_format: int
    created_us: int
    node: str
    origin: str


@dataclass(frozen=True, slots=True)
class Group:
    offset: int
    end: int
    sequence: int
    flags: int
    count: int
    synced: int
    payload: memoryview

    @property
    def is_marker(self) -> bool:
        return bool(self.flags & FLAG_MARKER)

    @property
    def is_end(self) -> bool:
        return bool(self.flags & FLAG_END)


class Entry(NamedTuple):
    """One entry, its slices still in the group's memory. `offset` and `length` are its place in the segment."""

    type: int
    offset: int
    length: int
    row: memoryview
    leaf: memoryview
    attachment: memoryview


def encode_header(header: SegmentHeader) -> bytes:
    """512 bytes; node and origin together are cut to what fits."""
    node = header.node.encode()[:128]
    origin = header.origin.encode()[:256]
    head = _HEADER.pack(MAGIC, header.row_format, HEADER_BYTES, header.segment, header.start, header.created_us, len(node), len(origin))
    body = (head + node + origin).ljust(HEADER_BYTES - 4, b"\0")
    return body + zlib.crc32(body).to_bytes(4, "big")


def decode_header(data: bytes) -> SegmentHeader:
    """Raises NotASegment."""
    body = data[: HEADER_BYTES - 4]
    if len(data) < HEADER_BYTES or data[:8] != MAGIC or zlib.crc32(body) != int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "big"):
        raise NotASegment("no whole segment header")
    _, row_format, _, segment, start, created_us, node_bytes, origin_bytes = _HEADER.unpack_from(data)
    node = data[_HEADER.size : _HEADER.size + node_bytes]
    origin = data[_HEADER.size + node_bytes : _HEADER.size + node_bytes + origin_bytes]
    return SegmentHeader(segment, start, row_format, created_us, node.decode(errors="replace"), origin.decode(errors="replace"))


def crc_seed(segment: bytes) -> int:
    return zlib.crc32(segment)


def encode_group(seed: int, sequence: int, entries: Sequence[bytes], synced: int, flags: int = 0) -> list[bytes]:
    """The buffers of one group, to be written with one `pwritev`: its header and the joined entries."""
    payload = entries[0] if len(entries) == 1 else b"".join(entries)
    tail = _GROUP_TAIL.pack(sequence, len(payload), flags, len(entries), synced)
    crc = zlib.crc32(payload, zlib.crc32(tail, seed))
    return [GROUP_MAGIC + crc.to_bytes(4, "big") + tail, payload]


def find_group(data: memoryview, at: int, base: int, seed: int) -> Group | None:
    """The whole group that starts at `data[at]`, None when there is none. `base` is the file offset of `data[0]`."""
    if len(data) - at < GROUP_BYTES:
        return None
    magic, crc, sequence, length, flags, count, synced = _GROUP.unpack_from(data, at)
    end = at + GROUP_BYTES + length
    if magic != GROUP_MAGIC or end > len(data) or zlib.crc32(data[at + _CRC_START : end], seed) != crc:
        return None
    return Group(base + at, base + end, sequence, flags, count, synced, data[at + GROUP_BYTES : end])


def group_length(data: memoryview, at: int) -> int:
    """How long the group at `data[at]` says it is, 0 when no group header is there. Not checked against its CRC."""
    if len(data) - at < GROUP_BYTES or data[at : at + 4] != GROUP_MAGIC:
        return 0
    return GROUP_BYTES + int.from_bytes(data[at + 16 : at + 20], "big")


def iterate_groups(data: memoryview, base: int, seed: int, sequence: int | None = None) -> Iterator[Group]:
    """Groups from the start of `data` on, markers included, as long as they are whole and follow one another.

    sequence: what the first must be, None for any.
    """
    at = 0
    while (group := find_group(data, at, base, seed)) is not None and sequence in (None, group.sequence):
        yield group
        sequence = group.sequence + 1
        at = group.end - base
        if group.is_marker or group.is_end:
            return


def resync(data: memoryview, start: int, base: int, seed: int) -> Group | None:
    """The next whole group at or after `data[start]`, to go on behind damage."""
    raw = data.obj if isinstance(data.obj, bytes) and len(data) == len(data.obj) else bytes(data)
    at = raw.find(GROUP_MAGIC, start)
    while at >= 0:
        if (group := find_group(data, at, base, seed)) is not None:
            return group
        at = raw.find(GROUP_MAGIC, at + 1)
    return None


def encode_entry(type_: int, row: bytes, leaf: bytes, attachment: bytes = b"") -> bytes:
    length = ENTRY_BYTES + len(row) + len(leaf) + len(attachment)
    return _ENTRY.pack(length, type_, 0, len(row), len(leaf)) + row + leaf + attachment


pack_entry_head = _ENTRY.pack  # (length, type, 0, row bytes, leaf bytes): for the recorder, which joins once
unpack_group = _GROUP.unpack_from  # (magic, crc, sequence, payload bytes, flags, entries, synced)


def encode_void(segment: bytes, offset: int) -> bytes:
    """An entry that voids what a failed segment holds from `offset` on."""
    return encode_entry(EntryType.VOID, b"", b"", _VOID.pack(segment, offset))


def decode_void(entry: Entry) -> tuple[bytes, int]:
    segment, offset = _VOID.unpack(entry.attachment)
    return segment, offset


def iterate_entries(group: Group) -> Iterator[Entry]:
    """The entries of a group. Raises DamagedEntry where lengths don't add up, which only a wrong writer can cause."""
    payload = group.payload
    base = group.offset + GROUP_BYTES
    at = 0
    size = len(payload)
    while at < size:
        entry = decode_entry(payload[at:], base + at)
        yield entry
        at += entry.length


class DamagedEntry(ValueError):
    pass


def decode_entry(data: memoryview, offset: int) -> Entry:
    """The entry at the start of `data`. Raises DamagedEntry when its lengths don't add up."""
    if len(data) < ENTRY_BYTES:
        raise DamagedEntry(f"{len(data)} bytes at {offset} are no entry")
    length, type_, _, row_bytes, leaf_bytes = _ENTRY.unpack_from(data)
    row_end = ENTRY_BYTES + row_bytes
    leaf_end = row_end + leaf_bytes
    if not leaf_end <= length <= len(data):
        raise DamagedEntry(f"entry at {offset} says {length} bytes, {row_bytes} of them row and {leaf_bytes} leaf; {len(data)} are there")
    return Entry(type_, offset, length, data[ENTRY_BYTES:row_end], data[row_end:leaf_end], data[leaf_end:length])
