"""Payload parts: request and response of a record, committed to, encrypted, and opened again.

    salt  = 32 random bytes per record and part
    C     = SHA-256("daybook/commit/v1\\0" | part | "\\0" | salt | plaintext)                 in the leaf
    key   = HKDF-Expand(payload key, "daybook/record/v1\\0" | record id)                      32 bytes
    blob  = nonce | AES-256-GCM(key, nonce, salt | coded plaintext, aad = record id | part | coding)
    H     = SHA-256(blob)                                                                    its start in the leaf

part is "in" or "out"; coding 0 is raw, 1 is zstd, and the commitment is always over what the caller sent or got. The salt lies
inside the ciphertext: destroying the payload key leaves 32 random bytes in the leaf and nothing that a guess could be tried on.
In an entry's attachment each part is a small header and its blob.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import orjson
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import journal
from .errors import PayloadUnavailable
from .keys import PayloadKey
from .leaves import SHORT_DIGEST, base64url, leaf_hash

PART_IN, PART_OUT = 1, 2
RAW, ZSTD = 0, 1
COMPRESS_OVER = 32 * 1024  # larger parts are compressed, and both is done off the event loop
_SAMPLE_BYTES = 8 * 1024
_WORTH = 0.8
SALT_BYTES = 32
NONCE_BYTES = 12

_PART = struct.Struct("!BB16sI")  # part, coding, payload key id, blob bytes
_NAMES = {PART_IN: b"in", PART_OUT: b"out"}
_COMMIT = {part: b"daybook/commit/v1\0" + name + b"\0" for part, name in _NAMES.items()}
_AAD = {(part, coding): name + bytes((coding,)) for part, name in _NAMES.items() for coding in (RAW, ZSTD)}
_RANDOM_BYTES = SALT_BYTES + NONCE_BYTES
_HKDF_INFO = b"daybook/record/v1\0"
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_POOL_BYTES = 64 * 1024
_MAX_PART_BYTES = 1 << 30

Coded = tuple[int, bytes]


class RandomPool:
    """Random bytes from the system, fetched 64 KB at a time. One thread only."""

    def __init__(self) -> None:
        self._pool = b""
        self._place = 0

    def take(self, size: int) -> bytes:
        place = self._place
        if place + size > len(self._pool):
            self._pool = os.urandom(_POOL_BYTES)
            place = 0
        self._place = place + size
        return self._pool[place : place + size]


def hmac_pads(secret: bytes) -> tuple[bytes, bytes]:
    """The inner and outer block of HMAC-SHA-256 with a 32-byte key (RFC 2104)."""
    block = secret.ljust(64, b"\0")
    return block.translate(_INNER), block.translate(_OUTER)


class SealingKey(NamedTuple):
    """A payload key in the form in which a gateway uses it."""

    key_id: bytes
    pads: tuple[bytes, bytes]

    @classmethod
    def of(cls, key: PayloadKey) -> "SealingKey":
        return cls(key.key_id, hmac_pads(key.secret))


def record_key(pads: tuple[bytes, bytes], record_id: bytes) -> bytes:
    """HKDF-Expand of RFC 5869 for one block; the payload key is uniformly random, so nothing needs extracting.

    HMAC spelled out over blocks that are made once per payload key: two plain hashes take half the time of `hmac.digest`.
    """
    return sha256(pads[1] + sha256(b"%b%b%b\x01" % (pads[0], _HKDF_INFO, record_id)).digest()).digest()


def compress(plaintext: bytes) -> Coded:
    """zstd where it saves at least a fifth, else raw. What a sample says is believed: floats hardly shrink, and 110 KB take 200 µs."""
    if not _is_worth_it(plaintext[:_SAMPLE_BYTES]):
        return RAW, plaintext
    compressed = zstandard.ZstdCompressor(level=1).compress(plaintext)
    return (ZSTD, compressed) if len(compressed) < len(plaintext) * _WORTH else (RAW, plaintext)


def _is_worth_it(sample: bytes) -> bool:
    return len(zstandard.ZstdCompressor(level=1).compress(sample)) < len(sample) * _WORTH


def seal_parts(
    key: SealingKey,
    record_id: bytes,
    request: bytes | None,
    response: bytes | None,
    take_random: Callable[[int], bytes],
    code: Callable[[bytes], Coded] | None = None,
) -> tuple[bytes, bytes]:
    """Encrypt what is given.

    Returns the attachment, and for each part commitment and ciphertext digest, a zero byte behind each (the form that
    `leaves.digests_base64url` takes). A fresh random nonce each: even a record id used twice repeats none. code: None is raw.
    """
    encrypt = AESGCM(record_key(key.pads, record_id)).encrypt
    key_id = key.key_id
    attachment: list[bytes] = []
    digests: list[bytes] = []
    for part, plaintext in ((PART_IN, request), (PART_OUT, response)):
        if plaintext is None:
            continue
        coding, coded = (RAW, plaintext) if code is None else code(plaintext)
        random = take_random(_RANDOM_BYTES)
        salt, nonce = random[:SALT_BYTES], random[SALT_BYTES:]
        blob = nonce + encrypt(nonce, salt + coded, record_id + _AAD[part, coding])
        attachment += (_PART.pack(part, coding, key_id, len(blob)), blob)
        digests += (sha256(b"%b%b%b" % (_COMMIT[part], salt, plaintext)).digest(), sha256(blob).digest())
    return b"".join(attachment), b"".join([b"%b\0" % digest for digest in digests])


@dataclass(frozen=True, slots=True)
class SealedPart:
    part: int
    coding: int
    key_id: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    """What a record holds besides its row. A part that was not stored is None."""

    request: bytes | None
    response: bytes | None
    leaf: bytes
    ciphertext_digests: dict[str, str]  # "in", "out": hex of what a custodian holds


def decode_parts(attachment: bytes) -> list[SealedPart]:
    """Raises PayloadUnavailable when the bytes don't add up."""
    parts = []
    at = 0
    while at < len(attachment):
        if len(attachment) - at < _PART.size:
            raise PayloadUnavailable("the stored payload is cut off")
        part, coding, key_id, size = _PART.unpack_from(attachment, at)
        at += _PART.size
        blob = attachment[at : at + size]
        if len(blob) != size or part not in _NAMES or coding not in (RAW, ZSTD):
            raise PayloadUnavailable("the stored payload is damaged")
        parts.append(SealedPart(part, coding, key_id, blob))
        at += size
    return parts


def open_entry(data: bytes, expected_leaf_hash: bytes, get_secret: Callable[[bytes], bytes]) -> Payload:
    """Open the entry of one record and check all that its leaf says about it.

    data: the bytes at the record's place in its segment. get_secret: payload key by key id; it raises PayloadErased for keys that
    were destroyed. Raises PayloadUnavailable when leaf, ciphertext digests or commitments differ from what was logged.
    """
    try:
        entry = journal.decode_entry(memoryview(data), 0)
    except journal.DamagedEntry as error:
        raise PayloadUnavailable("the journal entry is damaged") from error
    leaf = bytes(entry.leaf)
    if leaf_hash(leaf) != expected_leaf_hash:
        raise PayloadUnavailable("the journal entry holds another leaf than the record names")
    logged = orjson.loads(leaf)
    found: dict[int, bytes] = {}
    digests: dict[str, str] = {}
    record_id = bytes.fromhex(str(logged.get("id", "")).replace("-", ""))
    if entry.type != journal.EntryType.RECORD:
        raise PayloadUnavailable("the journal entry is damaged")
    for sealed in decode_parts(bytes(entry.attachment)):
        name = _NAMES[sealed.part].decode()
        digest = sha256(sealed.blob).digest()
        if base64url(digest)[:SHORT_DIGEST] != logged.get("ct", {}).get(name):
            raise PayloadUnavailable("the stored ciphertext is not the one that was logged")
        digests[name] = digest.hex()
        plaintext, commitment = _open_part(sealed, get_secret(sealed.key_id), record_id)
        if base64url(commitment) != logged.get("c", {}).get(name):
            raise PayloadUnavailable("the stored payload is not the one that was committed to")
        found[sealed.part] = plaintext
    if digests.keys() != logged.get("c", {}).keys():
        raise PayloadUnavailable("the journal entry lacks a part that was logged")
    return Payload(found.get(PART_IN), found.get(PART_OUT), leaf, digests)


def _open_part(sealed: SealedPart, secret: bytes, record_id: bytes) -> tuple[bytes, bytes]:
    """Plaintext and commitment."""
    nonce, ciphertext = sealed.blob[:NONCE_BYTES], sealed.blob[NONCE_BYTES:]
    aad = record_id + _AAD[sealed.part, sealed.coding]
    try:
        opened = AESGCM(record_key(hmac_pads(secret), record_id)).decrypt(nonce, ciphertext, aad)
    except InvalidTag as error:
        raise PayloadUnavailable("the stored payload does not open with its key") from error
    salt, plaintext = opened[:SALT_BYTES], opened[SALT_BYTES:]
    if sealed.coding == ZSTD:
        plaintext = zstandard.ZstdDecompressor().decompress(plaintext, max_output_size=_MAX_PART_BYTES)
    return plaintext, sha256(_COMMIT[sealed.part] + salt + plaintext).digest()
