"""`manage.py restore_log`: bring a restored database and the published directory together again."""

import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import database, keys, restore
from audit.logkeys import MissingKey, load_signers
from audit.outside import DirectoryInUse, OutsideLog
from audit.sealer import LogRefused, OpenLog, SealerOptions


class Command(BaseCommand):
    help = "Roll the database's log forward from LOG_DIR after a restore, or write a lost LOG_DIR anew from the database."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rebuild-directory", action="store_true", help="write LOG_DIR from the database; only when it was lost")

    def handle(self, *args: Any, **options: Any) -> None:
        outside = OutsideLog(Path(settings.LOG_DIR), entries_public=settings.LOG_ENTRIES == "public")
        try:
            signers = load_signers(Path(settings.VAR_DIR) / "keys", settings.LOG_ORIGIN, post_quantum=False, may_create=lambda: False)
            with database.connect() as connection, outside.lock():
                restore.take_lock(connection)
                log = OpenLog(connection, outside, signers, SealerOptions(origin=settings.LOG_ORIGIN))
                vkey = signers[0].vkey
                if options["rebuild_directory"]:
                    size = restore.rebuild_directory(connection, log, outside, vkey, self._show_progress)
                    verdict = f"{outside.directory} holds the log of {size:,} leaves again"
                else:
                    added = restore.roll_forward(connection, log, outside, vkey, _name_finder(), self._show_progress)
                    verdict = f"{added:,} leaves restored; the database's log has {log.size:,}" if added else "nothing to restore"
        except (LogRefused, MissingKey, DirectoryInUse) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(self.style.SUCCESS(verdict))

    def _show_progress(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self.stderr.write(f"\r{done:,} of {total:,} leaves", ending="\n" if done == total else "")


def _name_finder() -> restore.FindName:
    """Whose pseudonym it is, among the users there are; leaves hold no names."""
    path = Path(settings.MASTER_KEY_FILE)
    names = list(get_user_model()._default_manager.values_list("username", flat=True))
    master = keys.load_master_key(path) if path.exists() else b""
    known: dict[str, dict[str, str]] = {}

    def find_name(month: str, pseudonym: str) -> str:
        if month not in known:
            known[month] = {keys.pseudonym(master, month, name): name for name in names} if master else {}
        return known[month].get(pseudonym, "")

    return find_name
