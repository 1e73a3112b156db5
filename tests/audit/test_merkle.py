"""The tree against published vectors, against the definition word for word, and proofs against the independent verifier."""

from hashlib import sha256

import pytest

from audit import merkle, tiles, verifier

from .logs import naive_root, seeded

# Inputs and results of Certificate Transparency's reference tests (transparency-dev/merkle, testonly/constants.go).
INPUTS = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
CONSISTENCY = {
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def make_hashes(count: int) -> list[bytes]:
    return [sha256(b"leaf %d" % number).digest() for number in range(count)]


class MemoryTiles:
    """Tiles kept as the database keeps them: each once, at its present width."""

    def __init__(self) -> None:
        self.data: dict[tuple[int, int], bytes] = {}

    def read(self, level: int, n: int, width: int) -> bytes:
        return tiles.cut(level, self.data[level, n], width)

    def write(self, changed: list[tiles.Tile]) -> None:
        self.data.update({(tile.level, tile.n): tile.data for tile in changed})


def read_nodes(hashes: list[bytes]) -> merkle.ReadNode:
    return lambda height, index: merkle.perfect_root(b"".join(hashes[index << height : (index + 1) << height]))


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference(size: int) -> None:
    assert merkle.root(merkle.leaf_hashes(INPUTS[:size])).hex() == ROOTS[size]


def test_proofs_are_those_of_the_reference() -> None:
    read_node = read_nodes(merkle.leaf_hashes(INPUTS))
    for (index, size), expected in INCLUSION.items():
        assert [value.hex() for value in merkle.inclusion_proof(index, size, read_node)] == expected
    for (old, new), expected in CONSISTENCY.items():
        assert [value.hex() for value in merkle.consistency_proof(old, new, read_node)] == expected


def test_every_proof_of_small_trees_verifies_and_no_other_does() -> None:
    hashes = make_hashes(34)
    read_node = read_nodes(hashes)
    for size in range(1, 35):
        root = naive_root(hashes[:size])
        assert merkle.root(hashes[:size]) == root
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, read_node)
            verifier.verify_inclusion(index, size, hashes[index], proof, root)
            for other in {(index + 1) % size, size - 1 - index} - {index}:
                with pytest.raises(verifier.BadProof):
                    verifier.verify_inclusion(other, size, hashes[index], proof, root)
            with pytest.raises(verifier.BadProof):
                verifier.verify_inclusion(index, size, hashes[index], [*proof, hashes[0]], root)
            if proof:
                with pytest.raises(verifier.BadProof):
                    verifier.verify_inclusion(index, size, hashes[index], proof[:-1], root)
        alien = sha256(b"not in the tree").digest()
        for old in range(size + 1):
            proof = merkle.consistency_proof(old, size, read_node)
            old_root = naive_root(hashes[:old])
            verifier.verify_consistency(old, size, old_root, root, proof)
            with pytest.raises(verifier.BadProof):
                verifier.verify_consistency(old, size, alien, root, proof)
            with pytest.raises(verifier.BadProof):
                verifier.verify_consistency(old, size, old_root, root, [*proof, hashes[0]])
            for at in range(len(proof)):
                changed = [*proof[:at], alien, *proof[at + 1 :]]
                with pytest.raises(verifier.BadProof):
                    verifier.verify_consistency(old, size, old_root, root, changed)


def test_proofs_outside_the_tree_are_refused() -> None:
    read_node = read_nodes(make_hashes(4))
    for index, size in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(merkle.ProofUnavailable):
            merkle.inclusion_proof(index, size, read_node)
    with pytest.raises(merkle.ProofUnavailable):
        merkle.consistency_proof(4, 3, read_node)


def test_verification_refuses_hashes_of_another_length_and_the_empty_tree() -> None:
    leaf = make_hashes(1)[0]
    for proof, hash_, root in (([b""], leaf, leaf), ([], b"", b""), ([], leaf[:31], leaf[:31])):
        with pytest.raises(verifier.BadProof):
            verifier.verify_inclusion(0, 1, hash_, proof, root)
    with pytest.raises(verifier.BadProof):
        verifier.verify_inclusion(0, 0, merkle.EMPTY_ROOT, [], merkle.EMPTY_ROOT)


def test_growing_in_random_batches_gives_the_same_tree_and_tiles_as_the_definition() -> None:
    rng = seeded()
    hashes = make_hashes(70_000)
    store = MemoryTiles()
    tree = tiles.TileTree(0, store.read)
    size = 0
    while size < len(hashes):
        count = min(rng.choice((1, 2, 255, 256, 257, 5_000, 30_000)), len(hashes) - size)
        store.write(tree.append(hashes[size : size + count]))
        size += count
        if rng.random() < 0.3:
            tree = tiles.TileTree(size, store.read)
        read_node = tiles.node_reader(store.read, size)
        assert tree.root() == merkle.tree_root(size, read_node)
    assert tree.root() == naive_root(hashes)
    # The widths of tlog-tiles' own example.
    widths = {(level, n): len(data) // 32 for (level, n), data in store.data.items()}
    assert len(widths) == 273 + 1 + 1 + 1 + 1
    assert (widths[0, 273], widths[1, 0], widths[1, 1], widths[2, 0]) == (112, 256, 17, 1)
    for index in (0, 255, 256, 65_535, 65_536, 69_999, *rng.sample(range(70_000), 20)):
        proof = merkle.inclusion_proof(index, size, read_node)
        verifier.verify_inclusion(index, size, hashes[index], proof, tree.root())
    for old in (1, 255, 256, 257, 65_536, 69_999, *rng.sample(range(1, 70_000), 10)):
        old_root = merkle.tree_root(old, tiles.node_reader(store.read, old))
        verifier.verify_consistency(old, size, old_root, tree.root(), merkle.consistency_proof(old, size, read_node))


def test_a_frontier_takes_up_where_it_was_left() -> None:
    hashes = make_hashes(300)
    first = merkle.Frontier()
    first.append(hashes[:123])
    second = merkle.Frontier(first.size, first.peaks)
    second.append(hashes[123:])
    assert second.root() == naive_root(hashes)
    with pytest.raises(ValueError, match="don't cover"):
        merkle.Frontier(3, first.peaks)
    with pytest.raises(ValueError, match="can't start"):
        first.push(1, hashes[0])


@pytest.mark.parametrize(
    ("level", "n", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1_234_067, 256, "tile/0/x001/x234/067"),
        (0, 273, 112, "tile/0/273.p/112"),
        (2, 999, 1, "tile/2/999.p/1"),
        (tiles.ENTRIES, 1_000, 7, "tile/entries/x001/000.p/7"),
    ],
)
def test_tile_paths_are_those_of_the_specification(level: int, n: int, width: int, path: str) -> None:
    assert tiles.tile_path(level, n, width) == path
    assert tiles.parse_tile_path(path) == (level, n, width)
    assert verifier.tile_path("entries" if level < 0 else str(level), n, width) == path


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0", "tile/00/000", "tile/0/x000/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/64/000", "tile/0/",
        "tile/0/x001/x234/067/", "tile/-1/000", "tile/data/000", "tile/0/1000", "tile/0/x1/000", "tile/0/00\u0660", "checkpoint", "",
    ],
)  # fmt: skip
def test_other_tile_paths_are_refused(path: str) -> None:
    with pytest.raises(tiles.BadTile):
        tiles.parse_tile_path(path)


def test_bundles_hold_entries_of_every_length() -> None:
    entries = [b"", b"a", bytes(65_535), b"\x00\x01"]
    bundle = tiles.encode_entries(entries)
    assert tiles.decode_entries(bundle) == entries
    assert tiles.cut(tiles.ENTRIES, bundle, 2) == tiles.encode_entries(entries[:2])
    with pytest.raises(tiles.BadTile):
        tiles.encode_entries([bytes(65_536)])
    for broken in (bundle[:-1], bundle + b"\x00", bundle + b"\x00\x02a"):
        with pytest.raises(tiles.BadTile):
            tiles.decode_entries(broken)
    with pytest.raises(tiles.BadTile):
        tiles.cut(tiles.ENTRIES, bundle, 5)


def test_tiles_between_two_sizes_are_those_that_changed() -> None:
    assert list(tiles.tiles_between(255, 257)) == [(-1, 0, 256), (-1, 1, 1), (0, 0, 256), (0, 1, 1), (1, 0, 1)]
    assert list(tiles.tiles_between(5, 5)) == []
    for old, new in ((0, 1), (0, 256), (3, 600), (65_535, 65_537)):
        store = MemoryTiles()
        hashes = make_hashes(new)
        tree = tiles.TileTree(0, store.read)
        store.write(tree.append(hashes[:old]))
        changed = tree.append(hashes[old:])
        assert {(tile.level, tile.n, tile.width) for tile in changed} == {named for named in tiles.tiles_between(old, new) if named[0] >= 0}
