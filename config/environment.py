"""Typed readers of the environment. They fail loudly: a wrong value stops the process with a sentence that names the variable.

Only `config/settings/` and the entry points in `config/` use them. Imports no framework, so that the gateway and the supervisor
can read the same variables in the same way.

What `manage.py up` uses (its ports, the addresses of its embedded servers) lies in `VAR_DIR/run/services.env` while it runs, so
commands in another terminal (`manage.py verify_log`) reach the same servers without being told. The environment wins.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .files import read_env_file
from .processes import start_time

ROOT = Path(__file__).resolve().parent.parent

SERVICES_FILE = Path("run/services.env")  # below VAR_DIR; written by `manage.py up`, 0600


class BadEnvironment(ValueError):
    """A variable is missing or can't be read. The message is one sentence for the person who set it."""


def text(name: str, default: str | None = None, *, choices: tuple[str, ...] = ()) -> str:
    """The variable as it stands. Raises BadEnvironment when it is missing without a default, or not one of `choices`."""
    value = os.environ.get(name, "").strip() or default
    if value is None:
        raise BadEnvironment(f"{name} must be set")
    if choices and value not in choices:
        raise BadEnvironment(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def integer(name: str, default: int, *, low: int = 0, high: int = 2**63 - 1) -> int:
    raw = os.environ.get(name, "").strip()
    if not raw:
        return default
    try:
        value = int(raw)
    except ValueError:
        raise BadEnvironment(f"{name} must be a whole number, not {raw!r}") from None
    if not low <= value <= high:
        raise BadEnvironment(f"{name} must lie between {low} and {high}, not {value}")
    return value


def seconds(name: str, default: float, *, low: float = 0.0) -> float:
    raw = os.environ.get(name, "").strip()
    if not raw:
        return default
    try:
        value = float(raw)
    except ValueError:
        raise BadEnvironment(f"{name} must be a number of seconds, not {raw!r}") from None
    if not low <= value < float("inf"):
        raise BadEnvironment(f"{name} must be at least {low:g} seconds, not {raw}")
    return value


def boolean(name: str, default: bool) -> bool:
    raw = os.environ.get(name, "").strip().lower()
    if not raw:
        return default
    if raw in {"1", "true", "yes", "on"}:
        return True
    if raw in {"0", "false", "no", "off"}:
        return False
    raise BadEnvironment(f"{name} must be 1 or 0 (also true/false, yes/no, on/off), not {raw!r}")


def port(name: str, default: int) -> int:
    return integer(name, default, low=1, high=65535)


def path(name: str, default: Path) -> Path:
    """An absolute path; `~` is expanded, a relative one is taken from the checkout, not from where the command was started."""
    raw = os.environ.get(name, "").strip()
    value = Path(raw).expanduser() if raw else default
    return value if value.is_absolute() else ROOT / value


def paths(name: str, default: tuple[Path, ...]) -> tuple[Path, ...]:
    """Several paths, separated by `:`."""
    raw = os.environ.get(name, "").strip()
    if not raw:
        return default
    return tuple(p if p.is_absolute() else ROOT / p for p in (Path(part).expanduser() for part in raw.split(":") if part))


def words(name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Several words, separated by commas or spaces."""
    raw = os.environ.get(name, "").strip()
    return tuple(raw.replace(",", " ").split()) if raw else default


def url(name: str, default: str | None = None, *, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """An address without a trailing slash."""
    value = text(name, default)
    if urlsplit(value).scheme not in schemes:
        raise BadEnvironment(f"{name} must start with {' or '.join(f'{s}://' for s in schemes)}, not {value.split('@')[-1]!r}")
    return value.rstrip("/")


@dataclass(frozen=True, slots=True)
class Mail:
    """Where mail goes. starts_tls: encrypted after a plain greeting; is_tls: from the first byte."""

    backend: str
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = ""
    starts_tls: bool = False
    is_tls: bool = False


_MAIL_PORTS = {"smtp": 25, "smtp+tls": 587, "smtps": 465}


def mail(name: str, default: str = "") -> Mail | None:
    """`smtp+tls://user:password@host:587`, also `smtps://`, `smtp://` (unencrypted) and `console:`; None when there is none."""
    raw = os.environ.get(name, "").strip() or default
    if not raw:
        return None
    parts = urlsplit(raw)
    if parts.scheme == "console":
        return Mail("django.core.mail.backends.console.EmailBackend")
    if parts.scheme not in _MAIL_PORTS or not parts.hostname:
        raise BadEnvironment(f"{name} must be console: or {'://host, '.join(_MAIL_PORTS)}://host, not {raw.split('@')[-1]!r}")
    try:
        port_number = parts.port or _MAIL_PORTS[parts.scheme]
    except ValueError:
        raise BadEnvironment(f"{name} has a port that is none: {raw.split('@')[-1]!r}") from None
    return Mail(
        "django.core.mail.backends.smtp.EmailBackend",
        parts.hostname,
        port_number,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        starts_tls=parts.scheme == "smtp+tls",
        is_tls=parts.scheme == "smtps",
    )


def origin(address: str) -> str:
    """Scheme, host and port of an address, as browsers compare them."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def adopt_running(var_dir: Path) -> None:
    """Take over what the running `manage.py up` of this VAR_DIR uses, unless the environment says otherwise.

    Does nothing when none runs: a file that a killed supervisor left behind names servers that are gone.
    """
    found = read_env_file(var_dir / SERVICES_FILE)
    pid, _, started = found.pop("SUPERVISOR", "").partition("@")
    if pid.isdecimal() and start_time(int(pid)) == started:
        for name, value in found.items():
            os.environ.setdefault(name, value)
