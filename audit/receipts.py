"""Receipts: a signed promise, in the answer itself, that its record will be in the log.

One signature covers a journal group: it signs the root of the Merkle tree (RFC 6962) over the leaf hashes of the group, and each
receipt holds its path in that tree. Signing every answer apart would cost 37 µs each.

    receipt = version 1 | key id (8) | origin length (1) | origin | record id (16) | leaf hash (32) | time µs (8) |
              merge delay s (4) | index (4) | size (4) | path length (1) | path (32 each) | signature (64)
    signed  = "daybook/receipt/v1\\0" | origin length (1) | origin | time µs (8) | merge delay s (4) | size (4) | root (32)

Integers are big-endian. A receipt whose leaf is absent from the log `merge delay` seconds after its time is evidence against the
operator, with nothing else needed but the public key listed at `/log/receipt-keys`. In headers it is standard base64.

The tree is built bottom-up here and walked by the index's bits in `verify`, as RFC 9162 §2.1.3.2 does: no shared algorithm.
"""

import json
import struct
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

VERSION = 1
DOMAIN = b"daybook/receipt/v1\0"
MERGE_DELAY_S = 24 * 3600

_TIMES = struct.Struct("!QI")
_PLACE = struct.Struct("!IIB")
_MAX_PATH = 32


class BadReceipt(ValueError):
    """The bytes are no receipt, or it doesn't hold; the message says why."""


@dataclass(frozen=True, slots=True)
class Receipt:
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


def key_id(public_key: bytes) -> bytes:
    """The first 8 bytes of SHA-256 over "daybook/receipt-key/v1", NUL and the raw public key."""
    return sha256(b"daybook/receipt-key/v1\0" + public_key).digest()[:8]


def _message(origin: bytes, time_us: int, merge_delay_s: int, size: int, root: bytes) -> bytes:
    return b"".join((DOMAIN, bytes((len(origin),)), origin, _TIMES.pack(time_us, merge_delay_s), size.to_bytes(4, "big"), root))


class SignedGroup:
    """The leaf hashes of one group with their tree and signature: makes the receipts of its records on demand."""

    __slots__ = ("_levels", "_prefix", "_signature", "_times", "size", "time_us")

    def __init__(self, levels: list[list[bytes]], prefix: bytes, times: bytes, time_us: int, signature: bytes) -> None:
        self._levels = levels
        self._prefix = prefix
        self._times = times
        self._signature = signature
        self.size = len(levels[0])
        self.time_us = time_us

    def receipt(self, index: int, record_id: bytes) -> bytes:
        """The encoded receipt of the record at `index` of the group."""
        path: list[bytes] = []
        place = index
        for level in self._levels[:-1]:
            sibling = place ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            place >>= 1
        leaf_hash = self._levels[0][index]
        place_bytes = _PLACE.pack(index, self.size, len(path))
        return b"".join((self._prefix, record_id, leaf_hash, self._times, place_bytes, *path, self._signature))


class ReceiptSigner:
    """The receipt key of one gateway start. It lives in memory only; its announcement is a `gateway.key` leaf."""

    def __init__(self, origin: str, merge_delay_s: int = MERGE_DELAY_S) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public_key = self._key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)
        self._origin = origin.encode()
        if len(self._origin) > 255:
            raise ValueError(f"origin has {len(self._origin)} bytes, at most 255 fit a receipt")
        self._merge_delay_s = merge_delay_s
        self._prefix = bytes((VERSION,)) + self.key_id + bytes((len(self._origin),)) + self._origin

    def sign(self, leaf_hashes: Sequence[bytes], time_us: int) -> SignedGroup:
        """Sign a group of at least one leaf. Any thread."""
        levels = _build_levels(list(leaf_hashes))
        message = _message(self._origin, time_us, self._merge_delay_s, len(leaf_hashes), levels[-1][0])
        return SignedGroup(levels, self._prefix, _TIMES.pack(time_us, self._merge_delay_s), time_us, self._key.sign(message))


def _build_levels(hashes: list[bytes]) -> list[list[bytes]]:
    """All levels of the tree, leaves first. A node without a sibling moves up as it is: the same tree as RFC 6962's split."""
    levels = [hashes]
    while len(hashes) > 1:
        above = [sha256(b"\x01" + hashes[at] + hashes[at + 1]).digest() for at in range(0, len(hashes) - 1, 2)]
        if len(hashes) % 2:
            above.append(hashes[-1])
        levels.append(above)
        hashes = above
    return levels


def encode_text(receipt: bytes) -> bytes:
    """As it stands in the header."""
    return b2a_base64(receipt, newline=False)


def decode(data: bytes) -> Receipt:
    """Raises BadReceipt."""
    try:
        if data[0] != VERSION:
            raise BadReceipt(f"version {data[0]}, expected {VERSION}")
        identifier = data[1:9]
        at = 10 + data[9]
        origin = data[10:at].decode()
        record_id, leaf_hash = data[at : at + 16], data[at + 16 : at + 48]
        time_us, merge_delay_s = _TIMES.unpack_from(data, at + 48)
        index, size, path_length = _PLACE.unpack_from(data, at + 60)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise BadReceipt("too short for a receipt") from error
    at += 69
    if path_length > _MAX_PATH or len(data) != at + 32 * path_length + 64:
        raise BadReceipt(f"{len(data)} bytes do not fit a path of {path_length}")
    path = tuple(data[at + 32 * step : at + 32 * step + 32] for step in range(path_length))
    return Receipt(identifier, origin, record_id, leaf_hash, time_us, merge_delay_s, index, size, path, data[-64:])


def decode_text(text: str | bytes) -> Receipt:
    """Raises BadReceipt."""
    try:
        return decode(b64decode(text, validate=True))
    except ValueError as error:
        raise error if isinstance(error, BadReceipt) else BadReceipt("not base64") from error


def verify(receipt: Receipt, public_key: bytes, *, leaf: bytes | None = None) -> None:
    """Check path and signature, and with `leaf` that it is the promised one. Raises BadReceipt."""
    if leaf is not None:
        if sha256(b"\x00" + leaf).digest() != receipt.leaf_hash:
            raise BadReceipt("the leaf is not the one that was promised")
        if json.loads(leaf).get("id", "").replace("-", "") != receipt.record_id.hex():
            raise BadReceipt("the leaf is that of another record")  # the id is bound by the leaf, not by the signature itself
    if key_id(public_key) != receipt.key_id:
        raise BadReceipt(f"signed with key {receipt.key_id.hex()}, not {key_id(public_key).hex()}")
    root = _walk(receipt)
    message = _message(receipt.origin.encode(), receipt.time_us, receipt.merge_delay_s, receipt.size, root)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(receipt.signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadReceipt("the signature does not hold") from error


def _walk(receipt: Receipt) -> bytes:
    """The root that leaf hash and path lead to: RFC 9162, section 2.1.3.2."""
    if receipt.index >= receipt.size:
        raise BadReceipt(f"index {receipt.index} in a group of {receipt.size}")
    place, last = receipt.index, receipt.size - 1
    root = receipt.leaf_hash
    for step in receipt.path:
        if last == 0:
            raise BadReceipt("the path is too long")
        if place & 1 or place == last:
            root = sha256(b"\x01" + step + root).digest()
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            root = sha256(b"\x01" + root + step).digest()
        place >>= 1
        last >>= 1
    if last != 0:
        raise BadReceipt("the path is too short")
    return root
