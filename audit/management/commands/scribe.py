"""`manage.py scribe`: the one process of this node that takes its journals into PostgreSQL."""

import fcntl
import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from audit import database
from audit.payload_store import payload_store
from audit.scribe import Scribe, ScribeOptions

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Write the records of this node's journals into PostgreSQL: one scribe works, others wait for its lock."

    def handle(self, *args: Any, **options: Any) -> None:
        directory = Path(settings.JOURNAL_DIR)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        scribe = Scribe(database.connect, payload_store(), ScribeOptions(directory=directory, node=settings.NODE))

        def stop(number: int, frame: FrameType | None) -> None:
            if scribe.stop.is_set():
                raise SystemExit(1)
            scribe.stop.set()

        # A convenience only: what keeps two scribes from ingesting twice is the position in the database.
        lock = os.open(directory / "scribe.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another scribe follows this journal: waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        scribe.run()
