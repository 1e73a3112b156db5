"""daybook-verify as an auditor uses it: files in, one line and an exit status out; a changed byte anywhere is found."""

import ast
import json
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from uuid import UUID

import pytest

from audit import database, merkle, receipts, tiles, verifier
from audit.checkpoint import Checkpoint, sign
from audit.outside import OutsideLog

from .calls import ORIGIN
from .logs import SIGNER, encode, hash_leaf, ingest, make_leaf_call, open_log, seal_all, seeded

VERIFIER = Path(verifier.__file__)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published log of 600 leaves, with a checkpoint kept from when it had 100."""
    directory = tmp_path_factory.mktemp("log")
    leaves = [leaf for _, leaf in encode(make_leaf_call() for _ in range(600))]
    write_log(directory, leaves[:100])
    shutil.copy(directory / "checkpoint", directory / "saved")
    write_log(directory, leaves)
    (directory / "leaf").write_bytes(leaves[321])
    return directory


def write_log(directory: Path, leaves: list[bytes]) -> None:
    """By the sealer's own parts, without its database."""
    outside = OutsideLog(directory)
    tree = tiles.TileTree(0, lambda level, n, width: b"")
    for tile in tree.append(merkle.leaf_hashes(leaves)):
        outside.write_tile(tile.level, tile.n, tile.width, tile.data)
    for n in range(-(-len(leaves) // 256)):
        entries = leaves[256 * n : 256 * (n + 1)]
        outside.write_tile(tiles.ENTRIES, n, len(entries), tiles.encode_entries(entries))
    outside.write_vkey(SIGNER.vkey)
    outside.write_checkpoint(sign(Checkpoint(ORIGIN, len(leaves), tree.root()), [SIGNER], 0))


def make_proof(log: Path, index: int, size: int) -> str:
    outside = OutsideLog(log)
    hashes = merkle.inclusion_proof(index, size, tiles.node_reader(outside.read_tile, size))
    lines = [verifier.PROOF_HEADER, f"index {index}", *(b64encode(value).decode() for value in hashes)]
    return "\n".join(lines) + "\n\n" + (log / "checkpoint").read_text()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status and the one line."""
    status = verifier.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).splitlines()
    assert len(lines) == 1
    return status, lines[0]


def test_the_verifier_is_one_file_that_needs_nothing_of_ours() -> None:
    modules = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(VERIFIER.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names | {"cryptography"}


def test_it_runs_as_a_copied_file(log: Path, tmp_path: Path) -> None:
    copy = shutil.copy(VERIFIER, tmp_path / "daybook-verify.py")
    command = [sys.executable, "-I", str(copy), "log", "--vkey", str(log / "vkey"), str(log)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"ok: the log {ORIGIN}: every entry and tile, 600 leaves with root ")


def test_a_proof_holds_and_says_where(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof = tmp_path / "record.tlog-proof"
    proof.write_text(make_proof(log, 321, 600))
    status, line = run(capsys, "proof", "--vkey", log / "vkey", "--leaf", log / "leaf", proof)
    assert (status, line.startswith(f"ok: leaf 321 is in {ORIGIN}, 600 leaves")) == (0, True)


def test_a_proof_with_extra_data_holds(log: Path) -> None:
    text = make_proof(log, 321, 600).replace("index ", "extra aGVsbG8=\nindex ", 1)
    assert verifier.verify_proof(text, (log / "leaf").read_bytes(), [verifier.parse_vkey(SIGNER.vkey)])[0] == 321


def test_every_changed_byte_of_a_proof_or_leaf_is_found(log: Path) -> None:
    keys = [verifier.parse_vkey(SIGNER.vkey)]
    text, leaf = make_proof(log, 321, 600), (log / "leaf").read_bytes()
    verifier.verify_proof(text, leaf, keys)
    for at in range(len(text)):
        for other in {"A", "1", "\n"} - {text[at]}:
            with pytest.raises(verifier.BadProof):
                verifier.verify_proof(text[:at] + other + text[at + 1 :], leaf, keys)
    for at in range(len(leaf)):
        with pytest.raises(verifier.BadProof):
            verifier.verify_proof(text, leaf[:at] + bytes([leaf[at] ^ 1]) + leaf[at + 1 :], keys)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("index 321", "index 0321"),
        ("index 321", "index 321 "),
        ("index 321", "index -1"),
        ("index 321", "index 600"),
        ("index 321\n", ""),
        ("@v1", "@v2"),
        ("index 321\n", "index 321\nAAAA\n"),
    ],
)
def test_malformed_proofs_are_refused(log: Path, old: str, new: str) -> None:
    text = make_proof(log, 321, 600)
    assert old in text
    with pytest.raises(verifier.BadProof):
        verifier.verify_proof(text.replace(old, new, 1), (log / "leaf").read_bytes(), [verifier.parse_vkey(SIGNER.vkey)])


def test_a_log_holds_with_the_checkpoints_kept_from_before(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, line = run(capsys, "log", "--vkey", log / "vkey", "--saved", log / "saved", log)
    assert status == 0
    assert line.endswith("continuing 1 saved checkpoint")


def test_one_changed_byte_in_any_file_of_a_log_is_found(log: Path, tmp_path: Path) -> None:
    rng = seeded()
    keys = [verifier.parse_vkey(SIGNER.vkey)]
    copy = tmp_path / "copy"
    shutil.copytree(log, copy)
    verifier.verify_log(copy, keys)
    needed = [copy / tiles.tile_path(*tile) for tile in tiles.tiles_between(0, 600)]
    assert len(needed) == 7
    for path in [*needed, copy / "checkpoint"]:
        data = path.read_bytes()
        for at in (0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(5))):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(verifier.BadProof):
                verifier.verify_log(copy, keys)
        for cut in (data[:-1], data + b"\x00", b""):
            path.write_bytes(cut)
            with pytest.raises(verifier.BadProof):
                verifier.verify_log(copy, keys)
        path.unlink()
        with pytest.raises(verifier.BadProof, match=r"missing|can't be read"):
            verifier.verify_log(copy, keys)
        path.write_bytes(data)
    verifier.verify_log(copy, keys)


def test_a_log_cut_or_rewritten_since_a_saved_checkpoint_is_found(log: Path, tmp_path: Path) -> None:
    keys = [verifier.parse_vkey(SIGNER.vkey)]
    saved = (log / "saved").read_text()
    leaves = [leaf for _, leaf in encode(make_leaf_call() for _ in range(300))]
    write_log(tmp_path / "cut", leaves[:50])
    with pytest.raises(verifier.BadProof, match="cut"):
        verifier.verify_log(tmp_path / "cut", keys, saved=[saved])
    write_log(tmp_path / "other", leaves)
    with pytest.raises(verifier.BadProof, match="the checkpoint for 100 leaves"):
        verifier.verify_log(tmp_path / "other", keys, saved=[saved])


def test_hashes_alone_can_be_checked_where_entries_are_not_public(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(log, copy)
    shutil.rmtree(copy / "tile/entries")
    assert run(capsys, "log", "--vkey", log / "vkey", copy)[0] == 1
    status, line = run(capsys, "log", "--hashes-only", "--vkey", log / "vkey", copy)
    assert (status, "every tile, 600" in line) == (0, True)


def test_a_partial_tile_may_be_read_from_the_full_one(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(log, copy)
    shutil.copy(copy / "saved", copy / "checkpoint")
    assert verifier.verify_log(copy, [verifier.parse_vkey(SIGNER.vkey)]).size == 100


def make_receipt(count: int = 5, index: int = 3) -> tuple[bytes, bytes, list[bytes]]:
    """A receipt as the gateway makes it, its public key, and the group's leaves."""
    leaves = [leaf for _, leaf in encode(make_leaf_call() for _ in range(count))]
    signer = receipts.ReceiptSigner(ORIGIN)
    group = signer.sign([hash_leaf(leaf) for leaf in leaves], 1_795_000_000_000_000)
    return group.receipt(index, UUID(json.loads(leaves[index])["id"]).bytes), signer.public_key, leaves


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_the_gateways_receipts_hold(count: int) -> None:
    for index in range(count):
        data, public_key, leaves = make_receipt(count, index)
        receipt = verifier.parse_receipt(data)
        verifier.verify_receipt(receipt, [bytes(32), public_key])
        assert (receipt.leaf_hash, receipt.origin, receipt.merge_delay_s) == (hash_leaf(leaves[index]), ORIGIN, 86_400)


def test_every_changed_byte_of_a_receipt_is_found() -> None:
    data, public_key, leaves = make_receipt()
    verifier.verify_receipt(verifier.parse_receipt(data), [public_key], leaves[3])
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(verifier.BadProof):
            verifier.verify_receipt(verifier.parse_receipt(changed), [public_key], leaves[3])
    for cut in (b"", data[:-1], data + b"\x00", data[:40]):
        with pytest.raises(verifier.BadProof):
            verifier.verify_receipt(verifier.parse_receipt(cut), [public_key], leaves[3])


def test_all_but_the_record_id_is_signed() -> None:
    """Without the leaf the id is the one thing that a changed receipt may say otherwise."""
    data, public_key, _ = make_receipt()
    record_id = range(1 + 8 + 1 + len(ORIGIN), 1 + 8 + 1 + len(ORIGIN) + 16)
    for at in set(range(len(data))) - set(record_id):
        with pytest.raises(verifier.BadProof):
            verifier.verify_receipt(verifier.parse_receipt(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]), [public_key])


@pytest.mark.parametrize("leaf", [b"", b"[]", b"{}", b"7", b"\xff"])
def test_a_leaf_that_names_no_record_is_refused(leaf: bytes) -> None:
    signer = receipts.ReceiptSigner(ORIGIN)
    receipt = verifier.parse_receipt(signer.sign([hash_leaf(leaf)], 1_795_000_000_000_000).receipt(0, bytes(16)))
    with pytest.raises(verifier.BadProof, match="names no record"):
        verifier.verify_receipt(receipt, [signer.public_key], leaf)


def test_a_receipt_is_checked_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, public_key, leaves = make_receipt()
    forged = data.replace(UUID(json.loads(leaves[3])["id"]).bytes, bytes(16))
    (tmp_path / "receipt").write_text(b64encode(data).decode() + "\n")
    (tmp_path / "forged").write_text(b64encode(forged).decode())
    (tmp_path / "leaf").write_bytes(leaves[3])
    (tmp_path / "other").write_bytes(leaves[2])
    (tmp_path / "keys").write_text(json.dumps({"keys": [{"public_key": b64encode(public_key).decode()}]}))

    def check(receipt: str, *options: object) -> tuple[int, str]:
        return run(capsys, "receipt", "--keys", tmp_path / "keys", *options, tmp_path / receipt)

    status, line = check("receipt", "--leaf", tmp_path / "leaf")
    assert (status, line.startswith(f"ok: {ORIGIN} promises leaf")) == (0, True)
    assert line.endswith(f", of record {json.loads(leaves[3])['id']}")
    assert check("receipt", "--leaf", tmp_path / "other") == (1, "FAILED: the receipt is for another leaf")
    status, line = check("forged", "--leaf", tmp_path / "leaf")
    assert (status, line.startswith("FAILED: the receipt names record 00000000-0000-")) == (1, True)
    status, line = check("forged")
    assert (status, "record 00000000-0000-0000-0000-000000000000 is NOT checked" in line) == (0, True)


def test_the_command_line_says_in_one_line_what_is_wrong(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "checkpoint", "--vkey", log / "vkey", log / "checkpoint")[0] == 0
    assert run(capsys, "checkpoint", "--vkey", log / "vkey", log / "leaf")[0] == 1
    assert run(capsys, "checkpoint", "--vkey", tmp_path / "none", log / "checkpoint")[1].startswith("FAILED: ")
    assert run(capsys, "log", "--vkey", log / "vkey", tmp_path / "nowhere")[1].endswith("can't be read: No such file or directory")
    for arguments in ([], ["proof"], ["nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            verifier.main(arguments)
        assert stopped.value.code == 1
        capsys.readouterr()


@pytest.mark.django_db(transaction=True)
def test_the_sealers_own_directory_holds(tmp_path: Path) -> None:
    with database.connect() as connection:
        ingest(connection, [make_leaf_call() for _ in range(10)])
        seal_all(open_log(connection, tmp_path))
    assert verifier.verify_log(tmp_path, [verifier.parse_vkey((tmp_path / "vkey").read_text())]).size == 10
