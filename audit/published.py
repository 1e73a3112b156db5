"""What of the log is published, read from the database: checkpoint, tiles, proofs. Nothing beyond the last checkpoint is shown."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from uuid import UUID

from . import merkle, verifier
from .models import Checkpoint, LogHead, LogLeaf, LogTile, Outbox
from .tiles import ENTRIES, WIDTH, BadTile, cut, decode_entries, node_reader, tile_width

PROOF_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Published:
    """The last published checkpoint, as signed, and the tree that it signs."""

    size: int
    note: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Proof:
    """A record's place in the log and the way from it to a published root, the leaf's sibling first."""

    index: int
    leaf_hash: bytes
    hashes: tuple[bytes, ...]
    published: Published

    @property
    def text(self) -> str:
        """`c2sp.org/tlog-proof@v1`, what `daybook-verify proof` reads."""
        lines = [PROOF_HEADER, f"index {self.index}", *(b64encode(value).decode() for value in self.hashes)]
        return "\n".join(lines) + "\n\n" + self.published.note


@cache
def verifier_source() -> bytes:
    """`daybook-verify` as the one file that it is."""
    return Path(verifier.__file__).read_bytes()


def find_checkpoint() -> Published | None:
    """None until the sealer has published for the first time."""
    signed_size = LogHead.objects.filter(id=1).values_list("signed_size", flat=True).first()
    if signed_size is None:
        return None
    row = Checkpoint.objects.filter(size=signed_size).first()
    return None if row is None else Published(row.size, row.note, row.made_at)


def find_proof(record_id: UUID) -> Proof | None:
    """None while the record isn't covered by a published checkpoint."""
    leaf = LogLeaf.objects.filter(record_id=record_id).first()
    published = find_checkpoint()
    if leaf is None or published is None or leaf.index >= published.size:
        return None
    read_node = node_reader(read_tile, published.size)
    hashes = merkle.inclusion_proof(leaf.index, published.size, read_node)
    return Proof(leaf.index, bytes(leaf.leaf_hash), tuple(hashes), published)


def find_leaf(record_id: UUID) -> bytes | None:
    """A record's leaf bytes, sealed or still waiting for it."""
    index = LogLeaf.objects.filter(record_id=record_id).values_list("index", flat=True).first()
    if index is None:
        waiting = Outbox.objects.filter(record_id=record_id).values_list("leaf", flat=True).first()
        return None if waiting is None else bytes(waiting)
    return read_entry(index)


def read_entry(index: int) -> bytes:
    """The leaf at a place of the committed log. Raises BadTile when it isn't there."""
    n, at = divmod(index, WIDTH)
    return decode_entries(read_tile(ENTRIES, n, at + 1))[at]


def read_tile(level: int, n: int, width: int) -> bytes:
    """A tile or bundle at any width that it has reached. Raises BadTile when it hasn't."""
    data = LogTile.objects.filter(level=level, n=n).values_list("data", flat=True).first()
    if data is None:
        raise BadTile(f"there is no tile {level}/{n}")
    return cut(level, bytes(data), width)


def is_published(level: int, n: int, width: int, size: int) -> bool:
    """Whether a tree of `size` leaves has this tile at this width, or had it at a smaller size."""
    return 1 <= width <= tile_width(level, n, size)


def prove_consistency(old: int, new: int) -> Sequence[bytes]:
    """Between two sizes of the committed log. Raises merkle.ProofUnavailable, BadTile."""
    return merkle.consistency_proof(old, new, node_reader(read_tile, new))
