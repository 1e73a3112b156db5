"""daybook-verify: check what a Daybook log says, offline and without trusting it.

One file that needs Python 3.11 and the `cryptography` package, nothing of Daybook: copy it anywhere and read it. It shares no code
and no algorithm with the programs that write the log. Everything it accepts is tied by hashes and signatures to the keys given to
it with --vkey or --keys; get those once, over a way that you trust.

    daybook-verify proof      --vkey FILE --leaf FILE PROOF      a record is in the log
    daybook-verify receipt    --keys FILE [--leaf FILE] RECEIPT  an answer's receipt is a promise of this log;
                                                                 with --leaf also that it is of the record which it names
    daybook-verify checkpoint --vkey FILE CHECKPOINT             a checkpoint was signed by the log
    daybook-verify log        --vkey FILE DIR                    a whole copied log: every entry, every tile, the checkpoint

Exit status 0 when it holds, 1 when not, with one line that says why.

Formats: C2SP signed-note v1.0.0, tlog-checkpoint v1.0.0, tlog-cosignature v1.0.1 (and ML-DSA-44 of v1.1.0-rc.1), tlog-tiles v0.1.0,
tlog-proof at commit 5ba5ee8. Trees: RFC 6962 with the verification of RFC 9162 §2.1.3.2 and §2.1.4.2.
"""

import argparse
import binascii
import hashlib
import json
import re
import struct
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ED25519, COSIGNATURE_ED25519, COSIGNATURE_MLDSA44 = 0x01, 0x04, 0x06
KEY_BYTES = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_MLDSA44: 1312}
MAX_NOTE_BYTES = 1 << 20
MAX_SIGNATURES = 64
PROOF_HEADER = "c2sp.org/tlog-proof@v1"


class BadProof(Exception):
    """It doesn't hold. The message says why, in one line."""


# --- Trees -------------------------------------------------------------------------------------------------------------------


def hash_leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Raises BadProof unless the leaf with this hash is number `index` of the tree of `size` with this root."""
    if len(root) != 32 or walk_to_root(index, size, leaf_hash, proof) != root:
        raise BadProof("the inclusion proof doesn't lead to the checkpoint's root: another leaf, another tree or a changed hash")


def walk_to_root(index: int, size: int, leaf_hash: bytes, path: Sequence[bytes]) -> bytes:
    """The root that a path of sibling hashes leads to: RFC 9162 §2.1.3.2. Raises BadProof when it doesn't fit index and size."""
    if not 0 <= index < size:
        raise BadProof(f"index {index} is outside a tree of {size} leaves")
    _require_hashes([leaf_hash, *path])
    fn, sn, r = index, size - 1, leaf_hash
    for p in path:
        if sn == 0:
            raise BadProof("the path has more hashes than the tree has levels")
        if fn & 1 or fn == sn:
            r = hash_children(p, r)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            r = hash_children(r, p)
        fn >>= 1
        sn >>= 1
    if sn != 0:
        raise BadProof("the path has too few hashes")
    return r


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 §2.1.4.2. Raises BadProof unless the new tree begins with all leaves of the old one.

    From size 0, and between equal sizes, the proof must be empty; the empty tree's root is SHA-256 of nothing.
    """
    _require_hashes([old_root, new_root, *proof])
    if not 0 <= old_size <= new_size:
        raise BadProof(f"a tree of {new_size} leaves can't continue one of {old_size}")
    if old_size == 0 and old_root != hashlib.sha256().digest():
        raise BadProof("the old tree is empty, its root isn't the empty tree's")
    if old_size in (0, new_size):
        if proof:
            raise BadProof(f"a consistency proof from {old_size} to {new_size} must be empty")
        if old_size == new_size and old_root != new_root:
            raise BadProof(f"two different roots for {old_size} leaves: the log was forked")
        return
    if not proof:
        raise BadProof("the consistency proof is empty")
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise BadProof("the consistency proof has too many hashes")
        if fn & 1 or fn == sn:
            fr = hash_children(c, fr)
            sr = hash_children(c, sr)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            sr = hash_children(sr, c)
        fn >>= 1
        sn >>= 1
    if sn != 0:
        raise BadProof("the consistency proof has too few hashes")
    if fr != old_root:
        raise BadProof(f"the consistency proof doesn't lead to the old root at {old_size}: the log was forked or the proof changed")
    if sr != new_root:
        raise BadProof(f"the consistency proof doesn't lead to the new root at {new_size}: the log was forked or the proof changed")


def _require_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(value) != 32 for value in hashes):
        raise BadProof("a hash doesn't have 32 bytes")


# --- Signed notes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VerifierKey:
    """A `vkey` line: whose signatures of which type we believe."""

    name: str
    key_id: bytes
    kind: int
    public: bytes


@dataclass(frozen=True)
class SignedCheckpoint:
    """What a checkpoint says; `signed_by` are the names of the known keys whose signatures hold."""

    origin: str
    size: int
    root: bytes
    signed_by: tuple[str, ...]


def parse_vkey(line: str) -> VerifierKey:
    """Raises BadProof for a key of unknown form."""
    name, _, rest = line.strip().partition("+")
    id_text, _, key_text = rest.partition("+")
    key = _base64(key_text, "the vkey")
    if not name or not key or not re.fullmatch(r"[0-9a-f]{8}", id_text):
        raise BadProof(f"{line.strip()[:80]!r} is no vkey (name+id+key)")
    if KEY_BYTES.get(key[0]) != len(key) - 1:
        raise BadProof(f"the vkey of {name} has type 0x{key[0]:02x} with {len(key) - 1} bytes, which is not known here")
    key_id = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    if key_id.hex() != id_text:
        raise BadProof(f"the vkey of {name} says id {id_text}, its key has {key_id.hex()}")
    return VerifierKey(name, key_id, key[0], key[1:])


def parse_vkeys(text: str) -> list[VerifierKey]:
    """One vkey a line, the log's own Ed25519 key first; blank lines and # comments are skipped."""
    keys = [parse_vkey(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise BadProof("there is no vkey")
    if keys[0].kind != ED25519:
        raise BadProof("the first vkey must be the log's own Ed25519 key")
    return keys


def open_note(note: str, keys: Sequence[VerifierKey]) -> tuple[str, list[VerifierKey]]:
    """The text of a signed note and the given keys that signed it, among which must be the first. Raises BadProof.

    A signature by any of the given keys must hold; those of other keys are passed over.
    """
    if len(note.encode()) > MAX_NOTE_BYTES:
        raise BadProof(f"the note has more than {MAX_NOTE_BYTES} bytes")
    if re.search(r"[\x00-\x09\x0b-\x1f]", note):
        raise BadProof("the note has control characters")
    text, blank, signatures = note.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise BadProof("not a signed note: a text, a blank line and signatures are expected")
    text += "\n"
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise BadProof(f"the note has more than {MAX_SIGNATURES} signatures")
    held: list[VerifierKey] = []
    for line in lines:
        match = re.fullmatch("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)", line)
        if not match:
            raise BadProof(f"not a signature line: {line[:60]!r}")
        signature = _base64(match[2], "a signature")
        if len(signature) < 5:
            raise BadProof("a signature is too short")
        for key in keys:
            if key.name == match[1] and key.key_id == signature[:4]:
                _verify_signature(key, signature[4:], text)
                held.append(key)
    if keys[0] not in held:
        raise BadProof(f"the note isn't signed with the key {keys[0].name}+{keys[0].key_id.hex()}")
    return text, held


def verify_checkpoint(note: str, keys: Sequence[VerifierKey]) -> SignedCheckpoint:
    """A checkpoint of the log whose own key is the first. Raises BadProof."""
    text, held = open_note(note, keys)
    origin, size, root = _parse_checkpoint(text)
    if origin != keys[0].name:
        raise BadProof(f"this is a checkpoint of {origin!r}, the vkey is of {keys[0].name!r}")
    return SignedCheckpoint(origin, size, root, tuple(dict.fromkeys(key.name for key in held)))


def _parse_checkpoint(text: str) -> tuple[str, int, bytes]:
    lines = text.split("\n")[:-1]
    if len(lines) < 3 or not all(lines):
        raise BadProof("a checkpoint has an origin, a size and a root, each on its line")
    root = _base64(lines[2], "the checkpoint's root")
    if len(root) != 32:
        raise BadProof(f"the checkpoint's root has {len(root)} bytes")
    return lines[0], _decimal(lines[1], "the checkpoint's size"), root


def verify_signature(note: str, vkey: str) -> SignedCheckpoint:
    """A checkpoint under one key. Raises BadProof."""
    return verify_checkpoint(note, [parse_vkey(vkey)])


def _verify_signature(key: VerifierKey, signature: bytes, text: str) -> None:
    try:
        if key.kind == ED25519:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
        elif key.kind == COSIGNATURE_ED25519:
            (seconds,) = struct.unpack(">Q", signature[:8])
            message = f"cosignature/v1\ntime {seconds}\n{text}".encode()
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature[8:], message)
        else:
            from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey  # cryptography 48 and later

            origin, size, root = _parse_checkpoint(text)
            message = b"".join(
                (
                    b"subtree/v1\n\0",
                    _prefixed(key.name),
                    signature[:8],
                    _prefixed(origin),
                    struct.pack(">QQ", 0, size),
                    root,
                )
            )
            MLDSA44PublicKey.from_public_bytes(key.public).verify(signature[8:], message)
    except (InvalidSignature, struct.error, ValueError) as error:
        raise BadProof(f"the signature of {key.name}+{key.key_id.hex()} doesn't hold: the note was changed") from error
    except ImportError as error:
        raise BadProof("this installation of `cryptography` can't check ML-DSA-44: leave that vkey out") from error


def _prefixed(name: str) -> bytes:
    encoded = name.encode()
    return struct.pack(">B", len(encoded)) + encoded


# --- Proofs and receipts -----------------------------------------------------------------------------------------------------


def verify_proof(proof: str, leaf: bytes, keys: Sequence[VerifierKey]) -> tuple[int, SignedCheckpoint]:
    """A `c2sp.org/tlog-proof@v1` for these leaf bytes; returns index and checkpoint. Raises BadProof."""
    head, blank, note = proof.partition("\n\n")
    lines = head.split("\n")
    if not blank or lines[0] != PROOF_HEADER:
        raise BadProof(f"not a proof: the first line isn't {PROOF_HEADER}")
    del lines[0]
    if lines and lines[0].startswith("extra "):
        _base64(lines[0][6:], "the extra data")
        del lines[0]
    if not lines or not lines[0].startswith("index "):
        raise BadProof("the proof has no index line")
    index = _decimal(lines[0][6:], "the proof's index")
    hashes = [_base64(line, "a hash of the proof") for line in lines[1:]]
    checkpoint = verify_checkpoint(note, keys)
    verify_inclusion(index, checkpoint.size, hash_leaf(leaf), hashes, checkpoint.root)
    return index, checkpoint


@dataclass(frozen=True)
class Receipt:
    """The promise in an answer's `Daybook-Receipt`: this leaf will be in the log `merge_delay_s` after `time_us` at the latest."""

    key_id: bytes
    origin: str
    record_id: bytes
    leaf_hash: bytes
    time_us: int
    merge_delay_s: int
    index: int
    size: int
    path: tuple[bytes, ...]
    signature: bytes


def parse_receipt(data: bytes) -> Receipt:
    """version 1 | key id 8 | origin 1+n | record id 16 | leaf hash 32 | time µs 8 | merge delay s 4 | index 4 | size 4 |
    path 1+32n | signature 64, big-endian. Raises BadProof."""
    if not data or data[0] != 1:
        raise BadProof("not a receipt of version 1")
    at = 1

    def take(count: int) -> bytes:
        nonlocal at
        if at + count > len(data):
            raise BadProof("the receipt is too short")
        at += count
        return data[at - count : at]

    key_id = take(8)
    try:
        origin = take(take(1)[0]).decode()
    except UnicodeDecodeError as error:
        raise BadProof("the receipt's origin is not text") from error
    record_id, leaf_hash = take(16), take(32)
    time_us, merge_delay_s, index, size, steps = struct.unpack(">QIIIB", take(21))
    path = tuple(take(32) for _ in range(steps))
    signature = take(64)
    if at != len(data):
        raise BadProof("something follows the receipt")
    return Receipt(key_id, origin, record_id, leaf_hash, time_us, merge_delay_s, index, size, path, signature)


def verify_receipt(receipt: Receipt, public_keys: Sequence[bytes], leaf: bytes | None = None) -> None:
    """Check the receipt under whichever of the keys has its id. Raises BadProof.

    The signature covers the leaf's hash, not the record id beside it: only the leaf, which names its record, binds that one.
    """
    if leaf is not None:
        _require_promised(receipt, leaf)
    for public in public_keys:
        if hashlib.sha256(b"daybook/receipt-key/v1\0" + public).digest()[:8] == receipt.key_id:
            break
    else:
        raise BadProof(f"the receipt is signed with key {receipt.key_id.hex()}, which is not among the keys given")
    # The signature is over the root of the group's tree.
    root = walk_to_root(receipt.index, receipt.size, receipt.leaf_hash, receipt.path)
    message = b"".join(
        (
            b"daybook/receipt/v1\0",
            _prefixed(receipt.origin),
            struct.pack(">QII", receipt.time_us, receipt.merge_delay_s, receipt.size),
            root,
        )
    )
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(receipt.signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadProof("the receipt's signature doesn't hold: it was changed, or is not of this log") from error


def _require_promised(receipt: Receipt, leaf: bytes) -> None:
    """The leaf is the promised one and names the receipt's record."""
    if hash_leaf(leaf) != receipt.leaf_hash:
        raise BadProof("the receipt is for another leaf")
    try:
        named = str(json.loads(leaf)["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadProof("the leaf names no record") from error
    if named.replace("-", "").lower() != receipt.record_id.hex():
        raise BadProof(f"the receipt names record {_uuid(receipt.record_id)}, its leaf record {named}: the receipt was changed")


def _uuid(value: bytes) -> str:
    return re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", value.hex())


def parse_receipt_keys(text: str) -> list[bytes]:
    """What `/log/receipt-keys` answers. Raises BadProof."""
    try:
        keys = [_base64(entry["public_key"], "a receipt key") for entry in json.loads(text)["keys"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadProof("not a list of receipt keys as /log/receipt-keys gives it") from error
    return keys


# --- Whole logs --------------------------------------------------------------------------------------------------------------


def tile_path(level: str, n: int, width: int) -> str:
    digits = f"{n:d}".zfill(3 * ((len(f"{n:d}") + 2) // 3))
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    return f"tile/{level}/{path}" + ("" if width == 256 else f".p/{width}")


def verify_log(directory: Path, keys: Sequence[VerifierKey], *, saved: Sequence[str] = (), hashes_only: bool = False) -> SignedCheckpoint:
    """A whole log as files: every entry hashes to its place in the level-0 tiles, every tile to the one above, all to the
    checkpoint's root; and each `saved` checkpoint, kept from earlier, is a beginning of it. Raises BadProof."""
    checkpoint = verify_checkpoint(_read_text(directory / "checkpoint"), keys)
    older = sorted((verify_checkpoint(note, keys) for note in saved), key=lambda kept: kept.size)
    for kept in older:
        if kept.size > checkpoint.size:
            raise BadProof(f"a saved checkpoint has {kept.size} leaves, the log only {checkpoint.size}: it was cut")
    tree = _Tree(directory)
    for n in range(-(-checkpoint.size // 256)):
        width = min(256, checkpoint.size - 256 * n)
        path = tile_path("0", n, width)
        hashes = tree.read_tile(path, width)
        if not hashes_only:
            for at, entry in enumerate(_read_entries(directory, n, width)):
                if hash_leaf(entry) != hashes[at]:
                    raise BadProof(f"entry {256 * n + at} doesn't hash to its place in {path}: one of the two was changed")
        if width == 256 and not (older and older[0].size < 256 * (n + 1)):
            tree.add(_fold(hashes), height=8)
        else:
            for at, leaf_hash in enumerate(hashes):
                while older and older[0].size == 256 * n + at:
                    tree.require_root(older.pop(0))
                tree.add(leaf_hash)
        if width == 256:
            tree.check_parents(_fold(hashes))
    for kept in [*older, checkpoint]:
        tree.require_root(kept)
    tree.check_edge(checkpoint.size)
    return checkpoint


class _Tree:
    """A tree growing leaf by leaf: a pile of perfect subtrees, merged like the carries of a binary counter."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pile: list[tuple[int, bytes]] = []
        self._size = 0
        self._rows: dict[int, list[bytes]] = {}  # per level from 1: the roots that its unfinished tile must hold
        self._counts: dict[int, int] = {}  # per level from 1: full tiles checked

    def add(self, subtree: bytes, height: int = 0) -> None:
        """The next leaf hash, or the root of the next 2**height leaves."""
        self._size += 1 << height
        while self._pile and self._pile[-1][0] == height:
            subtree = hash_children(self._pile.pop()[1], subtree)
            height += 1
        self._pile.append((height, subtree))

    def root(self) -> bytes:
        if not self._pile:
            return hashlib.sha256().digest()
        pile = [subtree for _, subtree in self._pile]
        result = pile.pop()
        while pile:
            result = hash_children(pile.pop(), result)
        return result

    def require_root(self, kept: SignedCheckpoint) -> None:
        if self._size != kept.size or self.root() != kept.root:
            raise BadProof(f"the tiles don't give the root that the checkpoint for {kept.size} leaves signs")

    def check_parents(self, finished: bytes) -> None:
        """The root of a full tile of level 0 belongs into level 1, and when that tile is full its root into level 2, and so on."""
        level = 1
        while True:
            row = self._rows.setdefault(level, [])
            row.append(finished)
            if len(row) < 256:
                return
            number = self._counts.get(level, 0)
            if self.read_tile(tile_path(str(level), number, 256), 256) != row:
                raise BadProof(f"{tile_path(str(level), number, 256)} doesn't hold the roots of the tiles below it")
            self._counts[level] = number + 1
            finished = _fold(row)
            row.clear()
            level += 1

    def check_edge(self, size: int) -> None:
        """The unfinished tile of each level above 0."""
        for level, row in self._rows.items():
            width = (size >> 8 * level) % 256
            if len(row) != width:
                raise BadProof(f"level {level} has {len(row)} hashes at its edge, a tree of {size} has {width}")
            path = tile_path(str(level), self._counts.get(level, 0), width)
            if width and self.read_tile(path, width) != row:
                raise BadProof(f"{path} doesn't hold the roots of the tiles below it")

    def read_tile(self, path: str, width: int) -> list[bytes]:
        data, is_own = _read_tile(self._directory, path)
        if not is_own:
            data = data[: 32 * width]
        if len(data) != 32 * width:
            raise BadProof(f"{path} has {len(data)} bytes, not {32 * width}")
        return [data[at : at + 32] for at in range(0, len(data), 32)]


def _fold(row: list[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    while len(row) > 1:
        row = [hash_children(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def _read_entries(directory: Path, n: int, width: int) -> Iterator[bytes]:
    path = tile_path("entries", n, width)
    data, is_own = _read_tile(directory, path)
    at = 0
    for _ in range(width):
        if at + 2 > len(data):
            raise BadProof(f"{path} ends before its {width} entries")
        (length,) = struct.unpack_from(">H", data, at)
        if at + 2 + length > len(data):
            raise BadProof(f"{path} ends inside an entry")
        yield data[at + 2 : at + 2 + length]
        at += 2 + length
    if is_own and at != len(data):
        raise BadProof(f"{path} holds more than {width} entries")


def _read_tile(directory: Path, path: str) -> tuple[bytes, bool]:
    """A tile's file; where a partial one is gone, the full one, of which it is the beginning (False)."""
    for candidate in dict.fromkeys((path, path.partition(".p/")[0])):
        try:
            return (directory / candidate).read_bytes(), candidate == path
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadProof(f"{candidate} can't be read: {error.strerror}") from error
    raise BadProof(f"{path} is missing")


# --- Command line ------------------------------------------------------------------------------------------------------------


def _decimal(text: str, what: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text, re.ASCII):
        raise BadProof(f"{what} is {text[:40]!r}, not a decimal number")
    return int(text)


def _base64(text: str, what: str) -> bytes:
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadProof(f"{what} is not base64") from error
    if binascii.b2a_base64(data, newline=False).decode() != text:
        raise BadProof(f"{what} is not canonical base64")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadProof(f"{path} can't be read: {error.strerror}") from error


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise BadProof(f"{path} is not UTF-8 text") from error


def _proof(options: argparse.Namespace) -> str:
    keys = parse_vkeys(_read_text(options.vkey))
    index, checkpoint = verify_proof(_read_text(options.proof), _read(options.leaf), keys)
    return f"leaf {index} is in {checkpoint.origin}, {_described(checkpoint)}"


def _receipt(options: argparse.Namespace) -> str:
    receipt = parse_receipt(_base64(_read_text(options.receipt).strip(), "the receipt"))
    leaf = _read(options.leaf) if options.leaf is not None else None
    verify_receipt(receipt, parse_receipt_keys(_read_text(options.keys)), leaf)
    promise = f"{receipt.origin} promises leaf {receipt.leaf_hash.hex()} within {receipt.merge_delay_s} s"
    record = _uuid(receipt.record_id)
    if leaf is None:
        return f"{promise}; that it is of record {record} is NOT checked: only its leaf says so, give it with --leaf"
    return f"{promise}, of record {record}"


def _checkpoint(options: argparse.Namespace) -> str:
    checkpoint = verify_checkpoint(_read_text(options.checkpoint), parse_vkeys(_read_text(options.vkey)))
    return f"a checkpoint of {checkpoint.origin}, {_described(checkpoint)}"


def _log(options: argparse.Namespace) -> str:
    saved = [_read_text(path) for path in options.saved]
    keys = parse_vkeys(_read_text(options.vkey))
    checkpoint = verify_log(options.directory, keys, saved=saved, hashes_only=options.hashes_only)
    checked = "every tile" if options.hashes_only else "every entry and tile"
    continued = f", continuing {len(saved)} saved checkpoint{'s' if len(saved) > 1 else ''}" if saved else ""
    return f"the log {checkpoint.origin}: {checked}, {_described(checkpoint)}{continued}"


def _described(checkpoint: SignedCheckpoint) -> str:
    return f"{checkpoint.size} leaves with root {checkpoint.root.hex()}, signed by {', '.join(checkpoint.signed_by)}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(1, f"daybook-verify: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _Parser(prog="daybook-verify", description="Check a Daybook log offline. Exit status 0: it holds; 1: it doesn't.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    proof = commands.add_parser("proof", help="a record is in the log")
    proof.add_argument("--vkey", type=Path, required=True, help="file with the log's vkey, and those of witnesses, one a line")
    proof.add_argument("--leaf", type=Path, required=True, help="file with the leaf's bytes, as /log/entry/<record id> gives them")
    proof.add_argument("proof", type=Path, metavar="PROOF", help="file as /log/proof/<record id> gives it")
    proof.set_defaults(check=_proof)

    receipt = commands.add_parser("receipt", help="an answer's receipt is a promise of this log")
    receipt.add_argument("--keys", type=Path, required=True, help="file as /log/receipt-keys gives it")
    receipt.add_argument("--leaf", type=Path, help="file with the leaf's bytes: is it the one promised, of the record named?")
    receipt.add_argument("receipt", type=Path, metavar="RECEIPT", help="file with the Daybook-Receipt header's value")
    receipt.set_defaults(check=_receipt)

    checkpoint = commands.add_parser("checkpoint", help="a checkpoint was signed by the log")
    checkpoint.add_argument("--vkey", type=Path, required=True, help="file with the log's vkey")
    checkpoint.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file as /log/checkpoint gives it")
    checkpoint.set_defaults(check=_checkpoint)

    log = commands.add_parser("log", help="a whole copied log")
    log.add_argument("--vkey", type=Path, required=True, help="file with the log's vkey")
    log.add_argument("--saved", type=Path, action="append", default=[], metavar="CHECKPOINT", help="an earlier checkpoint; repeatable")
    log.add_argument("--hashes-only", action="store_true", help="the entries weren't copied: check tiles alone")
    log.add_argument("directory", type=Path, metavar="DIR", help="directory with checkpoint and tile/")
    log.set_defaults(check=_log)

    options = parser.parse_args(arguments)
    try:
        verdict: str = options.check(options)
    except BadProof as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(f"ok: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
