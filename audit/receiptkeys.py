"""Receipt keys as the log announces them: each `gateway.key` leaf becomes a row, which `/log/receipt-keys` lists."""

from base64 import urlsafe_b64decode
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from .receipts import key_id
from .rollups import Cursor

ANNOUNCEMENT = b'"t":"gateway.key"'
_EPOCH = datetime.fromtimestamp(0, UTC)


class _Details(msgspec.Struct):
    key: str


class _Announcement(msgspec.Struct, tag_field="t", tag="gateway.key"):
    """`Recorder._announce_receipt_key` writes it."""

    id: UUID
    ts: int
    node: str
    d: _Details


_decode = msgspec.json.Decoder(_Announcement).decode


def write(cursor: Cursor, events: Iterable[bytes]) -> None:
    """Store the keys that these leaves announce; other leaves, and announcements of no usable key, are passed over."""
    for leaf in events:
        if ANNOUNCEMENT not in leaf:
            continue
        try:
            announced = _decode(leaf)
            public_key = urlsafe_b64decode(announced.d.key + "=")
            started_at = _EPOCH + timedelta(microseconds=announced.ts)
        except (ValueError, OverflowError):  # msgspec's errors are ValueErrors
            continue
        if len(public_key) == 32 and "\0" not in announced.node:
            cursor.execute(
                "INSERT INTO audit_receiptkey (key_id, node, public_key, started_at, record_id) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (key_id) DO NOTHING",
                [key_id(public_key), announced.node, public_key, started_at, announced.id],
            )
