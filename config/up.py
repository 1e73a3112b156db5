"""`manage.py up`: everything on one machine. Which processes there are, in which order they start and stop, and what is said.

PostgreSQL and Redis first (embedded, unless `DATABASE_URL` and `REDIS_URL` name others), then what they need once (migrations,
static files, roles, the demo's models), then all processes at once. When both doors report that they are ready, the demo sends its
traffic and `VAR_DIR/demo.env` is written: who waits for that file waits for everything.

Stopping goes from the outside inwards: no new calls, answer those that are in, write down what was answered, seal it, close.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from . import embedded_postgres, embedded_redis, processes
from .environment import SERVICES_FILE
from .files import read_env_file, write_env_file
from .output import Output
from .supervisor import Program, StartFailed, Supervisor

STOP_ORDER = ("gateway", "worker", "jobs", "scribe", "sealer", "web", "redis", "postgresql")
MIN_FREE_MB = 512
MAX_ENDS_BEFORE_READY = 6
PRIVATE_DIRECTORIES = ("keys", "journal")
SHARED_DIRECTORIES = ("run", "log", "models", "static")

# What the children, which don't all read Django's settings, and commands in another terminal have to agree on.
# fmt: off
AGREED = (
    "HOST", "PORT", "GATEWAY_PORT", "GRPC_PORT", "SITE_URL", "GATEWAY_URL",
    "VAR_DIR", "JOURNAL_DIR", "LOG_DIR", "MASTER_KEY_FILE", "LOG_ORIGIN", "LOG_ENTRIES",
    "NODE", "REDIS_PREFIX", "MAX_BODY_MB", "MAX_FRAME_MB", "BODY_TIMEOUT_S",
    "JOURNAL_STALL_S", "JOURNAL_MAX_MB", "MERGE_DELAY_S", "DEMO",
)
# fmt: on


@dataclass
class Portal:
    """One run of everything. settings: Django's, loaded but not connected to anything yet."""

    settings: Any
    output: Output
    supervisor: Supervisor
    sockets: Path
    environment: dict[str, str] = field(default_factory=dict)
    stopping: bool = False  # set by the main thread, read by the threads that wait for the servers

    @property
    def var_dir(self) -> Path:
        return Path(self.settings.VAR_DIR)

    def say(self, line: str) -> None:
        self.output.say("daybook", line)

    async def start(self) -> None:
        """Until everything is ready. Raises StartFailed, PostgresFailed or RedisFailed."""
        self.say(f"starting in {self.var_dir}")
        self.environment = agreed_environment(self.settings)
        await self._start_postgres()
        await self._start_redis()
        identity = f"{os.getpid()}@{processes.start_time(os.getpid())}"
        write_env_file(self.var_dir / SERVICES_FILE, {"SUPERVISOR": identity, **self.environment})
        self.say("preparing the database, the static files" + (" and the demo" if self.settings.DEMO else ""))
        await self.supervisor.run_once(self._program("prepare", "manage.py", "prepare"))
        for program in self._programs():
            self.supervisor.start(program)
        await self._wait_until_ready()
        if self.settings.DEMO:
            self.say("sending the demo's inputs through the gateway")
            await self.supervisor.run_once(self._program("demo", "manage.py", "seed_demo", "--traffic"))
            self._announce_demo()
        self._announce()

    async def _start_postgres(self) -> None:
        given = os.environ.get("DATABASE_URL")
        if given:
            self.environment["DATABASE_URL"] = given
            self.say("using the PostgreSQL of DATABASE_URL")
        else:
            place = embedded_postgres.prepare(self.var_dir, self.sockets / "pg", say=self.say)
            child = self.supervisor.start(
                Program(
                    "postgresql",
                    tuple(place.command()),
                    stop_signal=signal.SIGINT,
                    died_signal=signal.SIGINT,
                    stop_grace_s=60,
                    user=place.user,
                )
            )
            self.environment["DATABASE_URL"] = place.url
            await asyncio.to_thread(
                embedded_postgres.wait_until_ready,
                place,
                timeout_s=600,
                is_alive=lambda: child.ended < 2 and not self.stopping,
                say=self.say,
            )
        await asyncio.to_thread(embedded_postgres.check_durable, self.environment["DATABASE_URL"])

    async def _start_redis(self) -> None:
        given = os.environ.get("REDIS_URL")
        if given:
            self.environment["REDIS_URL"] = given
            self.say("using the Redis of REDIS_URL")
            return
        place = embedded_redis.prepare(self.sockets / "redis")
        child = self.supervisor.start(Program("redis", tuple(place.command()), muted=("Memory overcommit must be enabled",)))
        self.environment["REDIS_URL"] = place.url
        await asyncio.to_thread(
            embedded_redis.wait_until_ready, place, timeout_s=30, is_alive=lambda: child.ended < 2 and not self.stopping
        )

    def _programs(self) -> list[Program]:
        host, node = self.settings.HOST, self.settings.NODE
        granian = ("-m", "granian", "--host", host, "--workers", "1", "--no-ws", "--log-level", "warning", "--interface")
        celery = (
            "-m",
            "celery",
            "-A",
            "config",
            "--quiet",
            "worker",
            "-P",
            "threads",
            "--without-gossip",
            "--without-mingle",
            "-l",
            "WARNING",
        )
        web = (*granian, "wsgi", "--port", str(self.settings.PORT), "--blocking-threads", "4", "config.web:application")
        return [
            self._program("scribe", "manage.py", "scribe"),
            self._program("sealer", "manage.py", "sealer"),
            # Models may fill every core: the doors, which say so, must get a turn at once.
            self._program("worker", *celery, "-Q", f"control.{node}", "--hostname", f"worker@{node}", grace_s=40, niceness=5),
            self._program("jobs", *celery, "-Q", "jobs", "-B", "-s", str(self.sockets / "beat"), "--hostname", f"jobs@{node}"),
            self._program("gateway", "-m", "config.gateway", ports=(self.settings.GATEWAY_PORT,), grace_s=40),
            self._program("web", *web, ports=(self.settings.PORT,)),
        ]

    def _program(self, name: str, *arguments: str, ports: tuple[int, ...] = (), grace_s: float = 20.0, niceness: int = 0) -> Program:
        """One of ours: a Python command in the checkout."""
        extra = {
            **self.environment,
            processes.MARK: str(self.var_dir),
            "DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"],
            "PYTHONUNBUFFERED": "1",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),  # a failed probe is an answer, not a warning
            "PYTHONPATH": os.pathsep.join(filter(None, (str(self.settings.BASE_DIR), os.environ.get("PYTHONPATH")))),
        }
        if arguments[0] == "manage.py":
            arguments = (str(Path(self.settings.BASE_DIR) / "manage.py"), *arguments[1:])
        return Program(name, (sys.executable, *arguments), stop_grace_s=grace_s, niceness=niceness, ports=ports, environment=extra)

    async def _wait_until_ready(self) -> None:
        """Until both doors say so. Gives up only when a process keeps ending; a slow model is waited for, and named."""
        doors = {
            "web": f"http://{_reachable(self.settings.HOST)}:{self.settings.PORT}/readyz",
            "gateway": f"http://{_reachable(self.settings.HOST)}:{self.settings.GATEWAY_PORT}/readyz",
        }
        waited = 0.0
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while doors:
                reasons = {}
                for name, url in list(doors.items()):
                    reason = await _find_reason(client, url)
                    if reason is None:
                        del doors[name]
                    else:
                        reasons[name] = reason
                self._give_up_if_hopeless()
                if doors and waited % 3.0 < 0.1:
                    self.say("waiting for " + "; ".join(f"{name} ({reason})" for name, reason in reasons.items()))
                waited += 0.1
                await asyncio.sleep(0.1)

    def _give_up_if_hopeless(self) -> None:
        for name, child in self.supervisor.children.items():
            if child.ended >= MAX_ENDS_BEFORE_READY:
                raise StartFailed(f"{name} ended {child.ended} times before everything was ready; its lines above say why")

    def _announce_demo(self) -> None:
        """Publish the demo's addresses and keys, and show who may sign in."""
        kept = read_env_file(self.var_dir / "keys" / "demo.env")
        keys: dict[str, str] = {name: kept[name] for name in ("DAYBOOK_API_KEY", "DAYBOOK_OPERATOR_KEY") if name in kept}
        addresses = {
            "DAYBOOK_URL": self.settings.SITE_URL,
            "DAYBOOK_GATEWAY": self.settings.GATEWAY_URL,
            "DAYBOOK_GRPC": f"{_reachable(self.settings.HOST)}:{self.settings.GRPC_PORT}",
        }
        write_env_file(self.var_dir / "demo.env", {**addresses, **keys})
        self.say("sign in as:")
        with contextlib.suppress(FileNotFoundError):
            for line in (self.var_dir / "demo-users.txt").read_text().splitlines():
                self.say(f"    {line}")
        self.say(f"demo key  {keys.get('DAYBOOK_API_KEY', '')}   (also in {self.var_dir / 'demo.env'})")

    def _announce(self) -> None:
        self.say(f"site      {self.settings.SITE_URL}")
        self.say(f"gateway   {self.settings.GATEWAY_URL}")
        self.say("ready. Ctrl-C stops everything.")


def agreed_environment(settings: Any) -> dict[str, str]:
    """The settings in `AGREED` as the environment that reads back to the same values."""
    return {name: _as_text(getattr(settings, name)) for name in AGREED}


def _as_text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _reachable(host: str) -> str:
    """An address at which a server listening on `host` can be asked."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


async def _find_reason(client: httpx.AsyncClient, url: str) -> str | None:
    """Why a door isn't ready; None when it is."""
    try:
        answer = await client.get(url)
    except httpx.HTTPError as error:
        return "not answering yet" if isinstance(error, httpx.ConnectError) else type(error).__name__
    return None if answer.status_code == 200 else _shorten(answer)


def _shorten(answer: httpx.Response) -> str:
    """The parts of a door's `/readyz` that aren't well, in a few words."""
    try:
        found = answer.json()
        parts = [*found.get("missing", ()), *(f"{name} {word}" for name, word in found.get("checks", {}).items() if word != "ok")]
        parts += [f"model {name} {state}" for name, state in found.get("models", {}).items() if state == "coming"]
    except (ValueError, AttributeError):
        parts = [answer.text.strip()]
    return ", ".join(filter(None, parts))[:300] or f"status {answer.status_code}"


def check_machine(settings: Any) -> None:
    """What can be known to fail before anything is started. Raises StartFailed with a sentence."""
    if shortage := find_shortage(shutil.disk_usage(settings.VAR_DIR), Path(settings.VAR_DIR)):
        raise StartFailed(shortage)
    wanted = {"PORT": settings.PORT, "GATEWAY_PORT": settings.GATEWAY_PORT, "GRPC_PORT": settings.GRPC_PORT}
    if len(set(wanted.values())) < len(wanted):
        raise StartFailed("PORT, GATEWAY_PORT and GRPC_PORT must differ: " + ", ".join(f"{k}={v}" for k, v in wanted.items()))
    for name, port in wanted.items():
        if not processes.port_is_free(settings.HOST, port):
            holder = processes.find_listener(port) or "another program"
            raise StartFailed(f"Port {port} is in use by {holder}: stop it, or set {name} to a free port")


def find_shortage(usage: tuple[int, int, int], var_dir: Path) -> str | None:
    """usage: total, used and free bytes, as `shutil.disk_usage` gives them."""
    free_mb = usage[2] >> 20
    if free_mb >= MIN_FREE_MB:
        return None
    return f"Only {free_mb} MB are free on the disk of {var_dir}; Daybook needs {MIN_FREE_MB} MB: free some, or set VAR_DIR"


def make_directories(settings: Any) -> None:
    """VAR_DIR and what's below it. Only what we make gets a mode; the database's user passes through VAR_DIR (0755)."""
    var_dir = Path(settings.VAR_DIR)
    wanted = [(var_dir, 0o755), *((var_dir / name, 0o755) for name in SHARED_DIRECTORIES)]
    wanted += [(var_dir / name, 0o700) for name in PRIVATE_DIRECTORIES] + [
        (Path(settings.JOURNAL_DIR), 0o700),
        (Path(settings.LOG_DIR), 0o755),
    ]
    for path, mode in wanted:
        if not path.exists():
            path.mkdir(parents=True)
            path.chmod(mode)


async def _run(settings: Any, output: Output, sockets: Path) -> int:
    supervisor = Supervisor(Path(settings.VAR_DIR) / "run", output, host=settings.HOST)
    portal = Portal(settings, output, supervisor, sockets)
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    first_asked = 0.0

    def ask() -> None:
        nonlocal first_asked
        if not asked.is_set():
            first_asked = time.monotonic()
            asked.set()
        elif time.monotonic() - first_asked > 1.0:  # one Ctrl-C may reach us twice, from the terminal and from make
            output.say("daybook", "asked again, ending everything now")
            supervisor.kill()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, ask)
    stop = asyncio.create_task(asked.wait())
    start = asyncio.create_task(portal.start())
    status = 0
    try:
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            await stop
    except (StartFailed, embedded_postgres.PostgresFailed, embedded_redis.RedisFailed) as error:
        output.say("daybook", f"can't start: {error}")
        status = 1
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise
        output.say("daybook", f"can't start: {error}")
        status = 1
    finally:
        portal.stopping = True
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await start
        for name in (SERVICES_FILE, "demo.env"):
            (portal.var_dir / name).unlink(missing_ok=True)
        await supervisor.stop(STOP_ORDER)
        output.say("daybook", "stopped")
    return status


def main(settings: Any) -> int:
    """Returns the exit status. settings: Django's settings, or anything with the same names."""
    try:
        make_directories(settings)
        held = processes.lock(Path(settings.VAR_DIR) / "run" / "up.lock")
    except processes.AlreadyRunning as error:
        sys.exit(f"{error}.")
    except OSError as error:
        sys.exit(f"{error.filename} can't be made or written: {error.strerror}. Set VAR_DIR to a directory that can.")
    var_dir = Path(settings.VAR_DIR)
    output = Output(var_dir / "run" / "daybook.log")
    # Short, because a socket's path has 107 bytes at most; traversable, because PostgreSQL's user has a directory in it.
    sockets = Path(tempfile.mkdtemp(prefix="daybook-", dir="/tmp"))
    sockets.chmod(0o711 if os.getuid() == 0 else 0o700)
    try:
        for name in processes.end_leftovers(var_dir):
            output.say("daybook", f"ended {name}, left over from an earlier run that was killed")
        (var_dir / "demo.env").unlink(missing_ok=True)
        check_machine(settings)
        return asyncio.run(_run(settings, output, sockets))
    except StartFailed as error:
        output.say("daybook", f"can't start: {error}")
        return 1
    finally:
        output.close()
        shutil.rmtree(sockets, ignore_errors=True)
        held.close()
