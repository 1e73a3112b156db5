"""Checkpoints: the signed head of the log, as C2SP signed-note v1.0.0 and tlog-checkpoint v1.0.0 define them.

The log signs with Ed25519 (signature type 0x01, always the first line) and, by option, adds an ML-DSA-44 cosignature (type 0x06,
tlog-cosignature v1.1.0-rc.1) under the same name, so that a checkpoint stays evidence when Ed25519 no longer is. Keys are PKCS#8
files, mode 0600, read by the sealer alone.
"""

import contextlib
import os
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from .merkle import HASH_BYTES

ED25519 = 0x01
MLDSA44_COSIGNATURE = 0x06
_DASH = "\u2014"


class BadCheckpoint(ValueError):
    """A note that is no checkpoint, or a name that can't stand in one."""


class BadKeyFile(Exception):
    """A key file that can't be used as it is; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says. `root` is raw 32 bytes."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note's text, which is what Ed25519 signs."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


class Ed25519Signer:
    """The log's own signature."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        check_name(name)
        self._name = name
        self._key = key
        self._public = bytes([ED25519]) + key.public_key().public_bytes_raw()

    @property
    def vkey(self) -> str:
        return vkey(self._name, self._public)

    def line(self, checkpoint: Checkpoint, now_s: int) -> str:
        return _line(self._name, self._public, self._key.sign(checkpoint.text.encode()))


class MlDsa44Cosigner:
    """A post-quantum statement of the same head, with its time: 3.2 kB a line, about 1 ms."""

    def __init__(self, name: str, key: MLDSA44PrivateKey) -> None:
        check_name(name)
        self._name = name
        self._key = key
        self._public = bytes([MLDSA44_COSIGNATURE]) + key.public_key().public_bytes_raw()

    @property
    def vkey(self) -> str:
        return vkey(self._name, self._public)

    def line(self, checkpoint: Checkpoint, now_s: int) -> str:
        name, origin = self._name.encode(), checkpoint.origin.encode()
        message = b"".join(
            (
                b"subtree/v1\n\0",
                bytes([len(name)]),
                name,
                struct.pack(">Q", now_s),
                bytes([len(origin)]),
                origin,
                struct.pack(">QQ", 0, checkpoint.size),
                checkpoint.root,
            )
        )
        return _line(self._name, self._public, struct.pack(">Q", now_s) + self._key.sign(message))


Signer = Ed25519Signer | MlDsa44Cosigner


def sign(checkpoint: Checkpoint, signers: Sequence[Signer], now_s: int) -> str:
    """The whole note, signatures in the order of `signers`."""
    return f"{checkpoint.text}\n" + "".join(signer.line(checkpoint, now_s) for signer in signers)


def parse(note: str) -> Checkpoint:
    """What a checkpoint claims; its signatures are *not* checked (`verifier` does). Raises BadCheckpoint."""
    text, blank, _ = note.rpartition("\n\n")
    lines = text.split("\n")
    if not blank or len(lines) < 3 or not all(lines):
        raise BadCheckpoint("not a signed checkpoint: origin, size, root, a blank line and signatures are expected")
    try:
        root = b64decode(lines[2], validate=True)
    except ValueError as error:
        raise BadCheckpoint("the checkpoint's root is not base64") from error
    if len(root) != HASH_BYTES or not (lines[1].isascii() and lines[1].isdigit()) or str(int(lines[1])) != lines[1]:
        raise BadCheckpoint("the checkpoint's size or root is malformed")
    return Checkpoint(lines[0], int(lines[1]), root)


def vkey(name: str, public: bytes) -> str:
    """The verifier key of signature type and public key."""
    return f"{name}+{key_id(name, public).hex()}+{b64encode(public).decode()}"


def key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + public).digest()[:4]


def check_name(name: str) -> None:
    """Raises BadCheckpoint for an origin that signed notes don't allow."""
    if not name or "+" in name or any(char.isspace() or ord(char) < 0x20 for char in name) or len(name.encode()) > 255:
        raise BadCheckpoint(f"{name!r} can't be a log's origin: 1 to 255 bytes without spaces, control characters and '+'")


def _line(name: str, public: bytes, signature: bytes) -> str:
    return f"{_DASH} {name} {b64encode(key_id(name, public) + signature).decode()}\n"


def load_ed25519(path: Path) -> Ed25519PrivateKey:
    """Raises FileNotFoundError and BadKeyFile."""
    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKeyFile(f"{path} holds no Ed25519 key")
    return key


def load_mldsa44(path: Path) -> MLDSA44PrivateKey:
    """Raises FileNotFoundError and BadKeyFile."""
    key = _load(path)
    if not isinstance(key, MLDSA44PrivateKey):
        raise BadKeyFile(f"{path} holds no ML-DSA-44 key")
    return key


def _load(path: Path) -> object:
    mode = path.stat().st_mode
    if mode & 0o077:
        raise BadKeyFile(f"{path} is readable by others (mode {mode & 0o777:o}): chmod 600 it")
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise BadKeyFile(f"{path} is not a private key in PEM form") from error


def create_key(path: Path, key: Ed25519PrivateKey | MLDSA44PrivateKey) -> None:
    """Write a new key file (0600, synced, in place whole or not at all). Raises FileExistsError when there is one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, this never replaces a key
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
