"""`manage.py sealer`: the one process that writes the log."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from audit import database
from audit.logkeys import MissingKey, load_signers
from audit.outside import OutsideLog
from audit.sealer import LogRefused, Sealer, SealerOptions

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Seal ingested records into the log: one sealer works, others wait for its lock."

    def handle(self, *args: Any, **options: Any) -> None:
        outside = OutsideLog(Path(settings.LOG_DIR), entries_public=settings.LOG_ENTRIES == "public")
        sealer_options = SealerOptions(origin=settings.LOG_ORIGIN)
        try:
            signers = load_signers(
                Path(settings.VAR_DIR) / "keys",
                settings.LOG_ORIGIN,
                post_quantum=settings.LOG_POST_QUANTUM,
                may_create=lambda: outside.read_checkpoint() is None and _log_is_empty(),
            )
        except (MissingKey, ValueError) as error:
            raise CommandError(str(error)) from error
        except psycopg.OperationalError as error:
            raise CommandError(f"the database can't be reached: {error}") from error
        sealer = Sealer(database.connect, outside, signers, sealer_options)

        def stop(number: int, frame: FrameType | None) -> None:
            sealer.stop.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        try:
            sealer.run()
        except LogRefused as refusal:
            raise CommandError(f"the log is stopped: {refusal}") from refusal


def _log_is_empty() -> bool:
    with database.connect() as connection:
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM audit_loghead WHERE size > 0) OR EXISTS (SELECT FROM audit_checkpoint)"
        ).fetchone()
        return row is not None and not row[0]
