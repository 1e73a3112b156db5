"""Small files that must be whole, private, or both: secrets, addresses, process records. Imports no framework."""

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path


def read_env_file(file: Path) -> dict[str, str]:
    """`KEY=value` lines; empty when there is no such file. Values are taken as they stand, without quoting."""
    try:
        lines = file.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def write_private(file: Path, content: str) -> None:
    """Replace a file as a whole; only its owner can read it, at every instant."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def write_env_file(file: Path, values: Mapping[str, str]) -> None:
    write_private(file, "".join(f"{key}={value}\n" for key, value in values.items()))


def kept_secret(file: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(48)) -> str:
    """The text in `file`, made at the first call. Two processes that start at once agree on one value.

    Its directory is made with mode 0700. The name appears only after the content is synced (`link` refuses an existing name),
    so a crash leaves either nothing or the whole secret.
    """
    with suppress(FileNotFoundError):
        return file.read_text().strip()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    write_private(draft, make() + "\n")
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return file.read_text().strip()
