"""Records, outboxes and sealers for tests of the log."""

import random
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import journal, rowformat
from audit.checkpoint import Ed25519Signer, Signer
from audit.entries import CallEncoder
from audit.outside import OutsideLog
from audit.record import Call
from audit.sealer import OpenLog, SealerOptions

from .calls import MASTER_KEY, ORIGIN, make_call

SIGNER = Ed25519Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(sha256(b"the log's key in tests").digest()))
OPTIONS = SealerOptions(origin=ORIGIN, checkpoint_interval_s=0.0, poll_s=0.01, retry_s=0.05)


def make_leaf_call(**changes: Any) -> Call:
    """A call without payloads: what the log is made of."""
    return make_call(**{"request": None, "response": None, **changes})


def encode(calls: Iterable[Call], node: str = "node-1") -> list[tuple[bytes, bytes]]:
    """(row, leaf) of each call, as its gateway writes them."""
    encoder = CallEncoder(node, MASTER_KEY)
    entries = [journal.decode_entry(memoryview(encoder.encode(call, b"", b"")[0]), 0) for call in calls]
    return [(bytes(entry.row), bytes(entry.leaf)) for entry in entries]


def ingest(connection: "psycopg.Connection[Any]", calls: Iterable[Call], *, rows: bool = True) -> list[bytes]:
    """Rows and outbox as the scribe leaves them; returns the leaves in their order."""
    encoded = encode(calls)
    place = rowformat.place_fields(bytes(16), 0, 0)
    row_format = rowformat.CURRENT
    with connection.transaction(), connection.cursor() as cursor:
        if rows:
            body = b"".join(row_format.field_count + row + place for row, _ in encoded)
            with cursor.copy(row_format.copy_sql.encode()) as copy:
                copy.write(rowformat.COPY_HEADER + body + rowformat.COPY_TRAILER)
        body = b"".join(rowformat.OUTBOX_FIELDS + row[: rowformat.ID_FIELDS_BYTES] + rowformat.bytes_field(leaf) for row, leaf in encoded)
        with cursor.copy(rowformat.OUTBOX_COPY.encode()) as copy:
            copy.write(rowformat.COPY_HEADER + body + rowformat.COPY_TRAILER)
    return [leaf for _, leaf in encoded]


def open_log(
    connection: "psycopg.Connection[Any]",
    directory: Path,
    signers: Sequence[Signer] = (SIGNER,),
    options: SealerOptions = OPTIONS,
) -> OpenLog:
    """The log under a sealer's eyes, held against its directory."""
    log = OpenLog(connection, OutsideLog(directory), signers, options)
    log.hold_against_directory()
    return log


def seal_all(log: OpenLog) -> None:
    """Seal what waits and publish it."""
    while log.seal():
        pass
    log.publish()


def naive_root(hashes: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return sha256(b"\x01" + naive_root(hashes[:split]) + naive_root(hashes[split:])).digest()


def growing_roots(hashes: Sequence[bytes]) -> list[bytes]:
    """The root at every size from 0, in one pass."""
    roots = [naive_root([])]
    pile: list[tuple[int, bytes]] = []
    for subtree in hashes:
        height = 0
        while pile and pile[-1][0] == height:
            subtree = sha256(b"\x01" + pile.pop()[1] + subtree).digest()
            height += 1
        pile.append((height, subtree))
        root = pile[-1][1]
        for _, left in reversed(pile[:-1]):
            root = sha256(b"\x01" + left + root).digest()
        roots.append(root)
    return roots


def hash_leaf(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def seeded() -> random.Random:
    """Random inputs print their seed when a test fails."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)
