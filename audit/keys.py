"""Payload keys: minted by a gateway, wrapped by its node's master key, kept in a key journal until the scribe has taken them.

A key belongs to one scope (`<tenant>/<YYYY-MM>`) and one gateway start. The key journal is synced before the first record that
uses the key, so no record is ever durable without it. The key of one record is HKDF of it (see `payloads`); the wrapping is
AES-256-GCM bound to key id and scope. Destroying every wrapped copy erases what the scope's keys protect.
"""

import hmac
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .files import JournalDirectory, JournalFile
from .leaves import base64url

KEY_BYTES = 32
SUFFIX = ".keys"
HEADER_BYTES = 512

_MAGIC = b"DAYKEYS\x01"
_ENTRY = struct.Struct("!IIQ16sHH")  # bytes, CRC of what follows, created µs, key id, scope bytes, wrapped bytes
_CRC_END = 8
_NONCE_BYTES = 12


class BadMasterKey(ValueError):
    """The file is no master key, or not the one that wrapped this key."""


@dataclass(frozen=True, slots=True)
class PayloadKey:
    key_id: bytes
    scope: str
    created_us: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    key_id: bytes
    scope: str
    created_us: int
    wrapped: bytes


def load_master_key(path: Path) -> bytes:
    """The 32 bytes of a master key file. Raises BadMasterKey; OSError when it can't be read."""
    data = path.read_bytes()
    if len(data) != KEY_BYTES:
        raise BadMasterKey(f"{path} has {len(data)} bytes, a master key has {KEY_BYTES}")
    return data


def ensure_master_key(path: Path) -> bytes:
    """The master key in `path`, made (0600, durable) where there is none yet. Safe when two processes do it at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, os.urandom(KEY_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        with suppress(FileExistsError):  # the other process was first: its key holds
            os.link(temporary, path)
        os.unlink(temporary)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
    return load_master_key(path)


def mint_key(scope: str, created_us: int) -> PayloadKey:
    return PayloadKey(os.urandom(16), scope, created_us, os.urandom(KEY_BYTES))


def _bound_to(key_id: bytes, scope: str) -> bytes:
    return b"daybook/payload-key/v1\0" + key_id + scope.encode()


def wrap_key(master: bytes, key: PayloadKey) -> WrappedKey:
    nonce = os.urandom(_NONCE_BYTES)
    wrapped = nonce + AESGCM(master).encrypt(nonce, key.secret, _bound_to(key.key_id, key.scope))
    return WrappedKey(key.key_id, key.scope, key.created_us, wrapped)


def unwrap_key(master: bytes, key_id: bytes, scope: str, wrapped: bytes) -> bytes:
    """The secret of a wrapped key. Raises BadMasterKey."""
    try:
        return AESGCM(master).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _bound_to(key_id, scope))
    except InvalidTag as error:
        raise BadMasterKey(f"key {key_id.hex()} was not wrapped by this master key") from error


def pseudonym(master: bytes, month: str, caller: str) -> str:
    """A caller's name in the leaves of one month: 12 characters that nobody without the master key can link or guess."""
    pepper = hmac.digest(master, b"daybook/pseudonym/v1\0" + month.encode() + b"\x01", "sha256")
    return base64url(hmac.digest(pepper, caller.encode(), "sha256")[:9])


class KeyJournal:
    """The key journal of one gateway start. Owned by the thread that mints; the file is made with the first key."""

    def __init__(self, directory: JournalDirectory, start: bytes, node: str) -> None:
        self._directory = directory
        self._start = start
        self._node = node
        self._file: JournalFile | None = None
        self._offset = HEADER_BYTES

    def append(self, key: WrappedKey) -> None:
        """Return once the key is durable. Raises OSError; the journal then starts a new file at the next key."""
        try:
            if self._file is None:
                name = f"{self._start.hex()}-{key.key_id.hex()}{SUFFIX}"
                self._file = self._directory.create(name, encode_key_header(self._start, self._node))
                self._offset = HEADER_BYTES
            entry = _encode_entry(key)
            self._file.write_at([entry], self._offset)
            self._file.sync()
            self._offset += len(entry)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def encode_key_header(start: bytes, node: str) -> bytes:
    encoded = node.encode()[:128]
    body = (_MAGIC + start + len(encoded).to_bytes(2, "big") + encoded).ljust(HEADER_BYTES - 4, b"\0")
    return body + zlib.crc32(body).to_bytes(4, "big")


def decode_key_header(data: bytes) -> str | None:
    """The node of a key journal, None when `data` doesn't start with a whole header."""
    body = data[: HEADER_BYTES - 4]
    if len(data) < HEADER_BYTES or data[:8] != _MAGIC or zlib.crc32(body) != int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "big"):
        return None
    size = int.from_bytes(data[24:26], "big")
    return data[26 : 26 + size].decode(errors="replace")


def _encode_entry(key: WrappedKey) -> bytes:
    scope = key.scope.encode()
    size = _ENTRY.size + len(scope) + len(key.wrapped)
    rest = _ENTRY.pack(size, 0, key.created_us, key.key_id, len(scope), len(key.wrapped))[_CRC_END:] + scope + key.wrapped
    return size.to_bytes(4, "big") + zlib.crc32(rest).to_bytes(4, "big") + rest


def iterate_keys(data: bytes) -> Iterator[WrappedKey]:
    """The whole entries of a key journal; a torn tail ends it."""
    at = HEADER_BYTES
    while at + _ENTRY.size <= len(data):
        size, crc, created_us, key_id, scope_bytes, wrapped_bytes = _ENTRY.unpack_from(data, at)
        end = at + _ENTRY.size + scope_bytes + wrapped_bytes
        if size != end - at or end > len(data) or zlib.crc32(data[at + _CRC_END : end]) != crc:
            return
        scope_end = at + _ENTRY.size + scope_bytes
        yield WrappedKey(key_id, data[at + _ENTRY.size : scope_end].decode(), created_us, data[scope_end:end])
        at = end
