"""Payloads for the site: from a record's row to what was sent and answered."""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from django.conf import settings

from . import keys, payloads
from .errors import PayloadElsewhere, PayloadErased, PayloadUnavailable
from .models import JournalSegment, PayloadKey, Record
from .payloads import Payload
from .store import PayloadStore


def payload_store() -> PayloadStore:
    return PayloadStore(getattr(settings, "PAYLOAD_STORE", "") or f"file://{settings.VAR_DIR}/payloads")


def read_payload(record: Record) -> Payload:
    """Request, response and leaf of a record, checked against its leaf hash, its ciphertext digests and its commitments.

    Raises PayloadUnavailable: PayloadErased when the key was destroyed, PayloadElsewhere while the segment is still on another
    node. Viewing a payload is an act: the caller records it.
    """
    if record.segment is None:
        raise PayloadUnavailable("this record was not written by a gateway and has no payload")
    data = _read_entry(record)
    return payloads.open_entry(data, bytes(record.leaf_hash), _secrets(Path(settings.JOURNAL_DIR)))


def _read_entry(record: Record) -> bytes:
    offset, length = record.segment_offset, record.segment_length
    try:
        fd = os.open(Path(settings.JOURNAL_DIR) / f"{record.segment}.seg", os.O_RDONLY)
    except FileNotFoundError:
        pass
    else:
        try:
            data = os.pread(fd, length, offset)
        finally:
            os.close(fd)
        if len(data) == length:
            return data
    segment = JournalSegment.objects.filter(uuid=str(record.segment)).first()
    if segment is None:
        raise PayloadUnavailable("the record's journal segment is not known")
    if segment.state != JournalSegment.State.SHIPPED:
        raise PayloadElsewhere(f"the payload is still in the journal of node {segment.node}, which ships it within a minute or two")
    try:
        return payload_store().read(segment.path, offset, length)
    except OSError as error:
        raise PayloadUnavailable(f"the payload store can't be read: {error}") from error


def _secrets(directory: Path) -> Callable[[bytes], bytes]:
    opened: dict[bytes, bytes] = {}

    def get_secret(key_id: bytes) -> bytes:
        if key_id not in opened:
            opened[key_id] = _unwrap(key_id, directory)
        return opened[key_id]

    return get_secret


def _unwrap(key_id: bytes, directory: Path) -> bytes:
    row = PayloadKey.objects.filter(key_id=UUID(bytes=key_id)).first()
    if row is not None and row.wrapped is None:
        raise PayloadErased(f"the payload was erased on {row.destroyed_at:%Y-%m-%d}" if row.destroyed_at else "the payload was erased")
    found = (row.scope, bytes(row.wrapped)) if row is not None and row.wrapped is not None else _find_in_journal(key_id, directory)
    if found is None:
        raise PayloadUnavailable("the payload's key is not known")
    scope, wrapped = found
    try:
        return keys.unwrap_key(keys.load_master_key(Path(settings.MASTER_KEY_FILE)), key_id, scope, wrapped)
    except (OSError, keys.BadMasterKey) as error:
        raise PayloadUnavailable(f"the payload's key can't be opened: {error}") from error


def _find_in_journal(key_id: bytes, directory: Path) -> tuple[str, bytes] | None:
    """A key that the scribe has not taken over yet."""
    for path in directory.glob(f"*{keys.SUFFIX}"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        for key in keys.iterate_keys(data):
            if key.key_id == key_id:
                return key.scope, key.wrapped
    return None
