"""`manage.py verify_log`: does the database's log hold, whole?"""

import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import database, keys
from audit.logcheck import CheckOptions, LogCheck, Report
from audit.logkeys import ED25519_FILE, MissingKey, find_vkey
from audit.outside import VKEY, OutsideLog
from audit.rowcheck import Pseudonym


class Command(BaseCommand):
    help = "Check every sealed record against its leaf, every tile, every published checkpoint and every figure. Exit status 1: broken."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-figures", action="store_true", help="leave the rollups out; needs less memory")
        parser.add_argument(
            "--vkey", type=Path, metavar="FILE", help="the log's vkey as you know it, kept where the log's operator can't change it"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.monotonic()
        outside = OutsideLog(Path(settings.LOG_DIR))
        check = CheckOptions(
            origin=settings.LOG_ORIGIN,
            vkeys=_vkeys(options["vkey"], outside),
            node=settings.NODE,
            pseudonym=_pseudonym(),
            figures=not options["no_figures"],
        )
        with database.connect() as connection:
            report = LogCheck(connection, outside, check).run(self._show_progress)
        for problem in report.problems:
            self.stdout.write(self.style.ERROR(f"- {problem}"))
        seconds = time.monotonic() - started
        if not report.holds:
            shown = "" if report.num_problems == len(report.problems) else f" (the first {len(report.problems)} are shown)"
            raise CommandError(f"BROKEN: {report.num_problems} problems{shown}; {_described(report)} ({seconds:.1f} s)")
        self.stdout.write(self.style.SUCCESS(f"ok: {_described(report)} ({seconds:.1f} s)"))

    def _show_progress(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self.stderr.write(f"\r{done:,} of {total:,} leaves", ending="\n" if done == total else "")


def _vkeys(given: Path | None, outside: OutsideLog) -> list[tuple[str, str]]:
    """Where the log's key is known outside the database, the most trusted place first."""
    keys_dir = Path(settings.VAR_DIR) / "keys"
    try:
        found = [
            (f"{given}", None if given is None else given.read_text(encoding="utf-8").strip().partition("\n")[0]),
            (f"{keys_dir / ED25519_FILE}", find_vkey(keys_dir, settings.LOG_ORIGIN)),
            (f"{outside.directory / VKEY}", outside.read_vkey()),
        ]
    except (OSError, UnicodeDecodeError, MissingKey) as error:
        raise CommandError(f"the log's key can't be read: {error}") from error
    return [(place, vkey) for place, vkey in found if vkey is not None]


def _pseudonym() -> Pseudonym | None:
    """Of this node; without its master key callers stay unchecked."""
    path = Path(settings.MASTER_KEY_FILE)
    if not path.exists():
        return None
    master = keys.load_master_key(path)
    return lambda month, caller: keys.pseudonym(master, month, caller)


def _described(report: Report) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.kinds.items()))
    parts = [
        f"{report.leaves:,} leaves{f' ({kinds})' if kinds else ''}",
        f"{report.rows:,} rows",
        f"{report.checkpoints:,} checkpoints",
    ]
    if report.quarantined:
        parts.append(f"{report.quarantined:,} in quarantine")
    if report.gap_calls:
        parts.append(f"{report.gap_calls:,} calls refused unrecorded while the journal couldn't be written (gap leaves say so)")
    if report.unsealed:
        parts.append(f"{report.unsealed:,} waiting to be sealed")
    return ", ".join(parts)
