"""Tiles: how the tree is stored, published and read back (C2SP tlog-tiles v0.1.0, commit 5ba5ee8).

Tile n of level L holds the hashes of the 256 perfect subtrees of 256**L leaves that follow leaf n * 256**(L+1); a hash stands in
level L only once its 256 below are complete. A narrower tile is a prefix of the wider one, so each is stored once, at the width
it has now, and any published width is cut from it. Entry bundles (`ENTRIES`) hold the leaves of a level-0 tile, each behind its
length in two bytes.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from . import merkle

WIDTH = 256
TILE_BYTES = WIDTH * merkle.HASH_BYTES
ENTRIES = -1  # the "level" of entry bundles
MAX_LEVEL = 7  # 256**8 leaves fill 64 bits
MAX_ENTRY_BYTES = 0xFFFF

# The first `width` hashes of tile n of a level, concatenated.
ReadTile = Callable[[int, int, int], bytes]


class BadTile(ValueError):
    """A path, tile or bundle that breaks the format."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile as it stands: `data` holds `width` hashes, or for level `ENTRIES` as many entries."""

    level: int
    n: int
    width: int
    data: bytes


def tile_width(level: int, n: int, size: int) -> int:
    """How many hashes tile n of `level` has in a tree of `size` leaves: 0..256."""
    return max(0, min(WIDTH, (size >> 8 * max(level, 0)) - n * WIDTH))


def tile_path(level: int, n: int, width: int = WIDTH) -> str:
    """The path below the log's prefix, such as `tile/0/x001/x234/067.p/8`."""
    groups = [f"{n % 1000:03d}"]
    while n >= 1000:
        n //= 1000
        groups.append(f"x{n % 1000:03d}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{'entries' if level == ENTRIES else level}/{'/'.join(reversed(groups))}{partial}"


_PATH = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?")


def parse_tile_path(path: str) -> tuple[int, int, int]:
    """The (level, n, width) of a path as `tile_path` makes it. Raises BadTile on anything else, other spellings included."""
    match = _PATH.fullmatch(path)
    if not match or not path.isascii():
        raise BadTile(f"not a tile path: {path[:80]!r}")
    level = ENTRIES if match[1] == "entries" else int(match[1])
    n = int(match[2].replace("x", "").replace("/", ""))
    width = int(match[3] or WIDTH)
    if tile_path(level, n, width) != path or width > WIDTH:
        raise BadTile(f"not a tile path: {path[:80]!r}")
    return level, n, width


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """Raises BadTile when an entry is longer than two bytes can say."""
    try:
        return b"".join([struct.pack(">H", len(entry)) + entry for entry in entries])
    except struct.error as error:
        raise BadTile(f"an entry has {max(map(len, entries))} bytes, more than {MAX_ENTRY_BYTES}") from error


def decode_entries(bundle: bytes) -> list[bytes]:
    """Raises BadTile when the bundle ends inside an entry."""
    entries: list[bytes] = []
    at, end = 0, len(bundle)
    while at < end:
        if at + 2 > end:
            raise BadTile("the bundle ends inside a length")
        stop = at + 2 + (bundle[at] << 8 | bundle[at + 1])
        if stop > end:
            raise BadTile("the bundle ends inside an entry")
        entries.append(bundle[at + 2 : stop])
        at = stop
    return entries


def cut(level: int, data: bytes, width: int) -> bytes:
    """The first `width` hashes or entries of a tile's bytes. Raises BadTile when it has fewer."""
    if level != ENTRIES:
        if len(data) < width * merkle.HASH_BYTES:
            raise BadTile(f"the tile has {len(data) // merkle.HASH_BYTES} hashes, not {width}")
        return data[: width * merkle.HASH_BYTES]
    at = 0
    for _ in range(width):
        if at + 2 > len(data):
            raise BadTile(f"the bundle has fewer than {width} entries")
        at += 2 + (data[at] << 8 | data[at + 1])
    if at > len(data):
        raise BadTile("the bundle ends inside an entry")
    return data[:at]


def tiles_between(old: int, new: int) -> Iterator[tuple[int, int, int]]:
    """(level, n, width) of all hash tiles and bundles that a tree of `new` leaves has and one of `old` has not."""
    for level in range(ENTRIES, MAX_LEVEL + 1):
        shift = 8 * max(level, 0)
        first, last = old >> shift, new >> shift
        if first == last:
            if level > 0:
                return
            continue
        for n in range(first // WIDTH, (last - 1) // WIDTH + 1):
            yield level, n, tile_width(level, n, new)


def node_reader(read_tile: ReadTile, size: int) -> merkle.ReadNode:
    """Reads nodes of a tree of `size` leaves from its tiles, each tile once."""
    cache: dict[tuple[int, int], bytes] = {}

    def read_node(height: int, index: int) -> bytes:
        level, inner = divmod(height, 8)
        first = index << inner  # the node's first hash in its level
        n, at = divmod(first, WIDTH)
        data = cache.get((level, n))
        if data is None:
            width = tile_width(level, n, size)
            data = cache[level, n] = read_tile(level, n, width)
            if len(data) != width * merkle.HASH_BYTES:
                raise BadTile(f"tile {tile_path(level, n, width)} has {len(data)} bytes")
        hashes = data[at * merkle.HASH_BYTES : (at + (1 << inner)) * merkle.HASH_BYTES]
        if len(hashes) != merkle.HASH_BYTES << inner:
            raise BadTile(f"node {height}/{index} is not in a tree of {size}")
        return merkle.perfect_root(hashes)

    return read_node


class TileTree:
    """The right edge of the tree: per level the hashes of its unfinished tile. Appends batches, gives the tiles they change."""

    def __init__(self, size: int, read_tile: ReadTile) -> None:
        """Take up a tree of `size` leaves. Raises BadTile when `read_tile` can't give its unfinished tiles."""
        self.size = size
        self._edge: list[bytes] = []
        for level in range(MAX_LEVEL + 1):
            n, width = divmod(size >> 8 * level, WIDTH)
            edge = read_tile(level, n, width) if width else b""
            if len(edge) != width * merkle.HASH_BYTES:
                raise BadTile(f"tile {tile_path(level, n, width)} has {len(edge)} bytes, not {width * merkle.HASH_BYTES}")
            self._edge.append(edge)

    def append(self, hashes: Sequence[bytes]) -> list[Tile]:
        """Add leaf hashes; returns every hash tile that is new or wider, in the order of levels."""
        changed: list[Tile] = []
        fresh = b"".join(hashes)
        before = self.size
        self.size += len(hashes)
        for level in range(MAX_LEVEL + 1):
            if not fresh:
                break
            n = (before >> 8 * level) // WIDTH
            data = self._edge[level] + fresh
            full: list[bytes] = []
            for at in range(0, len(data) - TILE_BYTES + 1, TILE_BYTES):
                tile = data[at : at + TILE_BYTES]
                changed.append(Tile(level, n, WIDTH, tile))
                full.append(merkle.perfect_root(tile))
                n += 1
            edge = data[len(full) * TILE_BYTES :]
            self._edge[level] = edge
            if edge:
                changed.append(Tile(level, n, len(edge) // merkle.HASH_BYTES, edge))
            fresh = b"".join(full)
        return changed

    def root(self) -> bytes:
        """The root, from the edge alone: each tile's hashes are perfect subtrees, widest levels leftmost."""
        frontier = merkle.Frontier()
        for level in range(MAX_LEVEL, -1, -1):
            edge = self._edge[level]
            at, count = 0, len(edge) // merkle.HASH_BYTES
            for bit in range(7, -1, -1):
                if count >> bit & 1:
                    stop = at + (merkle.HASH_BYTES << bit)
                    frontier.push(8 * level + bit, merkle.perfect_root(edge[at:stop]))
                    at = stop
        return frontier.root()
