"""Rows of `audit_record` packed as PostgreSQL binary COPY, once, in the gateway.

An entry's row holds the fields of its format without the count in front and without the last three (segment, offset, length),
which are known only when it is read: the scribe adds both. Every field is a 4-byte length (-1 = NULL) and its bytes. The first
two are always `ts` and `id`, so the outbox row reuses those bytes.

`FORMATS` is the version table: a segment's header names the format of its rows, and COPY names that format's columns, so that a
scribe of today reads what a gateway of yesterday left behind. A format is never changed, only added.
"""

import struct
from dataclasses import dataclass

PLACE_COLUMNS = ("segment", "segment_offset", "segment_length")
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
EPOCH_2000_US = 946_684_800_000_000
ID_FIELDS_BYTES = 4 + 8 + 4 + 16  # ts and id, the start of every row
OUTBOX_COPY = "COPY audit_outbox (ts, record_id, leaf) FROM STDIN (FORMAT binary)"
OUTBOX_FIELDS = (3).to_bytes(2, "big")

# Bounds of text columns in characters. What is longer is cut: a row must always fit.
TEXT_LIMITS = {
    "protocol": 32,
    "verb": 64,
    "model": 128,
    "signature": 128,
    "error": 500,
    "actor_type": 32,
    "key_prefix": 32,
    "application": 128,
    "user_name": 150,
    "address": 64,
    "worker": 128,
    "device": 64,
    "answer": 200,
    "node": 128,
}
LEAF_ERROR_LIMIT = 120

_PLACE = struct.Struct("!i16siqii")


@dataclass(frozen=True, slots=True)
class RowFormat:
    """The columns of one format, `ts` and `id` first, the place columns last."""

    number: int
    columns: tuple[str, ...]

    @property
    def copy_sql(self) -> str:
        return f"COPY audit_record ({', '.join(self.columns)}) FROM STDIN (FORMAT binary)"

    @property
    def field_count(self) -> bytes:
        return len(self.columns).to_bytes(2, "big")


_ID = ("ts", "id", "leaf_hash")
_NUMBERS = ("request_bytes", "response_bytes", "rows", "total_us", "queue_us", "model_us", "batch_id", "batch_size", "batch_index")
_CALL = ("kind", "protocol", "verb", "model", "version", "signature", "artifact", "outcome", "status")
_ACTOR = ("actor_type", "key_prefix", "application", "user_name", "address")

FORMATS = {
    # 0: before aggregates of refusals, devices and answers in words.
    0: RowFormat(0, (*_ID, *_NUMBERS, *_CALL, "error", *_ACTOR, "worker", "node", *PLACE_COLUMNS)),
    1: RowFormat(1, (*_ID, *_NUMBERS, "count", "trace", *_CALL, "error", *_ACTOR, "worker", "device", "answer", "node", *PLACE_COLUMNS)),
}
CURRENT = FORMATS[1]

_NULL = b"\xff\xff\xff\xff"

# ts, id, leaf_hash, _NUMBERS, count
_FIXED = struct.Struct("!iq" + "i16s" + "i32s" + "ii" * 3 + "iq" + "ii" * 2 + "iq" + "ii" * 2 + "ii")


def clean_text(text: str, limit: int) -> str:
    """Text that PostgreSQL and a leaf take: no NUL, no lone surrogates, at most `limit` characters."""
    text = text[:limit]
    if text.isascii():
        return text.replace("\0", "\ufffd") if "\0" in text else text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def text_field(text: str) -> bytes:
    """A text field; `text` is clean already."""
    data = text.encode()
    return len(data).to_bytes(4, "big") + data


def bytes_field(data: bytes | None) -> bytes:
    return _NULL if data is None else len(data).to_bytes(4, "big") + data


def int_field(number: int | None, size: int) -> bytes:
    """An integer field of 2, 4 or 8 bytes, clamped to its range."""
    if number is None:
        return _NULL
    bound = 1 << (8 * size - 1)
    return size.to_bytes(4, "big") + max(-bound, min(bound - 1, number)).to_bytes(size, "big", signed=True)


def pack_fixed(ts_us: int, record_id: bytes, leaf_hash: bytes, numbers: tuple[int, ...]) -> bytes:
    """The leading fields: ts, id, leaf_hash, the nine `_NUMBERS` and count. Raises struct.error for numbers out of range."""
    return _pack_fixed(ts_us, record_id, leaf_hash, *numbers)


def _pack_fixed(
    ts_us: int,
    record_id: bytes,
    leaf_hash: bytes,
    request_bytes: int,
    response_bytes: int,
    rows: int,
    total_us: int,
    queue_us: int,
    model_us: int,
    batch_id: int,
    batch_size: int,
    batch_index: int,
    count: int,
) -> bytes:
    # fmt: off
    return _FIXED.pack(
        8, ts_us - EPOCH_2000_US, 16, record_id, 32, leaf_hash,
        4, request_bytes, 4, response_bytes, 4, rows, 8, total_us, 4, queue_us, 4, model_us,
        8, batch_id, 4, batch_size, 4, batch_index, 4, count,
    )
    # fmt: on


def place_fields(segment: bytes, offset: int, length: int) -> bytes:
    return _PLACE.pack(16, segment, 8, offset, 4, length)


def row_time_us(row: bytes | memoryview) -> int:
    """µs since 1970 of a packed row."""
    return int.from_bytes(row[4:12], "big", signed=True) + EPOCH_2000_US


def row_id(row: bytes | memoryview) -> bytes:
    return bytes(row[16:32])
