"""The log's keys: made at the very first start, kept in 0600 files, read by the sealer alone."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from .checkpoint import BadKeyFile, Ed25519Signer, MlDsa44Cosigner, Signer, create_key, load_ed25519, load_mldsa44

ED25519_FILE = "log-ed25519.pem"
MLDSA44_FILE = "log-mldsa44.pem"


class MissingKey(Exception):
    """The log's key isn't there, or not usable; the message says what to do."""


def load_signers(directory: Path, origin: str, *, post_quantum: bool, may_create: Callable[[], bool]) -> list[Signer]:
    """The log's Ed25519 signer, then its ML-DSA-44 cosigner where wanted.

    A missing Ed25519 key is made only where `may_create` says that no log was signed with one before: a new key on an old log
    would be a log that nobody can verify. The cosigner may join at any time. Raises MissingKey, and ValueError for a bad origin.
    """
    path = directory / ED25519_FILE
    try:
        try:
            key = load_ed25519(path)
        except FileNotFoundError:
            if not may_create():
                raise MissingKey(f"{path} is missing, and this log was signed with it: put it back from a backup") from None
            with suppress(FileExistsError):  # a second sealer at its first start
                create_key(path, Ed25519PrivateKey.generate())
            key = load_ed25519(path)
        signers: list[Signer] = [Ed25519Signer(origin, key)]
        if post_quantum:
            path = directory / MLDSA44_FILE
            with suppress(FileExistsError):
                create_key(path, MLDSA44PrivateKey.generate())
            signers.append(MlDsa44Cosigner(origin, load_mldsa44(path)))
    except BadKeyFile as error:
        raise MissingKey(str(error)) from error
    return signers


def find_vkey(directory: Path, origin: str) -> str | None:
    """The public half of the log's key as its vkey line; None where the key isn't kept. Raises MissingKey for a bad file."""
    try:
        return Ed25519Signer(origin, load_ed25519(directory / ED25519_FILE)).vkey
    except FileNotFoundError:
        return None
    except (BadKeyFile, OSError) as error:
        raise MissingKey(str(error)) from error
