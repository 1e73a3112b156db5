"""The Merkle tree of RFC 6962 §2.1: hashing, growth by whole batches, proofs.

A tree of n leaves is split at the largest power of two below n, so every subtree that is *perfect* (its size a power of two, its
start a multiple of its size) never changes again. Two views of a tree follow from that. A `Frontier` is the list of perfect
subtrees that cover it, largest first (a compact range): enough to append and to know the root. A *tile* is the row of 256
perfect subtrees of one size, see `tiles`: enough to make any proof. Proofs are made here, from nodes; they are checked in
`verifier`, which shares no algorithm with this module (it walks the bits of the index as RFC 9162 §2.1.3.2 and §2.1.4.2 do).

Pure functions over bytes; hashes are raw 32 bytes, indices start at 0.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

# The root of the perfect subtree `index` among those of 2**level leaves.
ReadNode = Callable[[int, int], bytes]


class ProofUnavailable(ValueError):
    """Asked for a proof that can't exist: an index or a size outside the tree."""


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def leaf_hashes(entries: Sequence[bytes]) -> list[bytes]:
    """The leaf hashes of a batch, one tight loop."""
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def parents(hashes: bytes) -> bytes:
    """Hash neighbouring pairs: 2n concatenated hashes in, n out."""
    return b"".join([sha256(b"\x01" + hashes[at : at + 64]).digest() for at in range(0, len(hashes), 64)])


def perfect_root(hashes: bytes) -> bytes:
    """The root over a power of two of concatenated hashes."""
    while len(hashes) > HASH_BYTES:
        hashes = parents(hashes)
    return hashes


def root(hashes: Sequence[bytes]) -> bytes:
    """The tree's root over all leaf hashes, empty allowed."""
    frontier = Frontier()
    frontier.append(hashes)
    return frontier.root()


class Frontier:
    """The perfect subtrees that cover a growing tree: (height, root) from left to right, heights falling.

    Appending n leaves costs n node hashes and change; size and root of any earlier moment are not kept.
    """

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[tuple[int, bytes]] = ()) -> None:
        if [height for height, _ in peaks] != [height for height in range(size.bit_length() - 1, -1, -1) if size >> height & 1]:
            raise ValueError(f"{len(peaks)} peaks don't cover a tree of {size} leaves")
        self.size = size
        self.peaks = list(peaks)

    def append(self, hashes: Sequence[bytes]) -> None:
        """Add leaf hashes. Runs of full alignment are hashed level by level, the rest one by one."""
        at, total = 0, len(hashes)
        while at < total:
            # The largest perfect subtree that may start here and is filled by what is left.
            room = total - at
            height = room.bit_length() - 1
            if self.size:
                height = min(height, (self.size & -self.size).bit_length() - 1)
            width = 1 << height
            self.push(height, perfect_root(b"".join(hashes[at : at + width])))
            at += width

    def push(self, height: int, subtree: bytes) -> None:
        """Add one perfect subtree, which must start at a multiple of its size."""
        if self.size & ((1 << height) - 1):
            raise ValueError(f"a subtree of height {height} can't start at leaf {self.size}")
        self.size += 1 << height
        while self.peaks and self.peaks[-1][0] == height:
            subtree = node_hash(self.peaks.pop()[1], subtree)
            height += 1
        self.peaks.append((height, subtree))

    def root(self) -> bytes:
        if not self.peaks:
            return EMPTY_ROOT
        result = self.peaks[-1][1]
        for _, subtree in reversed(self.peaks[:-1]):
            result = node_hash(subtree, result)
        return result


def range_root(start: int, end: int, read_node: ReadNode) -> bytes:
    """MTH(D[start:end]) for a range as proofs need it: `start` is a multiple of the power of two that covers the range."""
    if end <= start:
        raise ValueError(f"empty range {start}..{end}")
    peaks: list[bytes] = []
    at = start
    while at < end:
        height = (end - at).bit_length() - 1
        peaks.append(read_node(height, at >> height))
        at += 1 << height
    result = peaks.pop()
    while peaks:
        result = node_hash(peaks.pop(), result)
    return result


def _split(size: int) -> int:
    """The largest power of two below `size`, size >= 2."""
    return 1 << ((size - 1).bit_length() - 1)


def tree_root(size: int, read_node: ReadNode) -> bytes:
    return range_root(0, size, read_node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read_node: ReadNode) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 §2.1.1, the leaf's sibling first.

    Raises ProofUnavailable unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ProofUnavailable(f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(middle, end, read_node))
            end = middle
        else:
            path.append(range_root(start, middle, read_node))
            start = middle
    path.reverse()
    return path


def consistency_proof(old: int, new: int, read_node: ReadNode) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 §2.1.2. Empty for old = 0 (as witnesses demand it) and for old = new.

    Raises ProofUnavailable unless 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise ProofUnavailable(f"no consistency proof from size {old} to size {new}")
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, end = 0, new
    whole = True  # the old tree is a complete subtree of the range so far: the verifier knows its root
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_root(middle, end, read_node))
            end = middle
        else:
            path.append(range_root(start, middle, read_node))
            start = middle
            whole = False
    if not whole:
        path.append(range_root(start, end, read_node))
    path.reverse()
    return path
