"""How much of the journal waits for the scribe, and whether new work must therefore be refused.

The scribe writes `backlog.json` into the journal directory; each recorder reads it and adds what it wrote itself since. When the
file is old the scribe is down, and the size of the segments behind its last known positions stands in. Beyond 90 % of the limit
(or of what the disk can take), or with a record older than half the merge delay, new work is refused; at 100 % everything is: the
last tenth belongs to calls that are already with a model.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import journal
from .files import JournalDirectory, is_locked

logger = logging.getLogger(__name__)

FILE_NAME = "backlog.json"
STALE_S = 5.0
RESERVE = 0.1


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the scribe last said."""

    time_us: int = 0
    bytes: int = 0
    records: int = 0  # as far as it has read ahead; a lower bound while PostgreSQL is down
    oldest_us: int = 0  # time of the oldest record that is not ingested, 0 when there is none
    positions: dict[str, int] = field(default_factory=dict)  # by segment file, of those that are not done
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refuse_new` and `refuse_all` say why, empty when there is no reason."""

    bytes: int = 0
    oldest_us: int = 0
    refuse_new: str = ""
    refuse_all: str = ""
    is_scribe_silent: bool = False


def read_backlog(directory: Path) -> Backlog | None:
    """None where no scribe ever was."""
    try:
        found: dict[str, Any] = json.loads((directory / FILE_NAME).read_bytes())
        return Backlog(**{**found, "alarms": tuple(found.get("alarms", ()))})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("backlog file unreadable", extra={"error": str(error)})
        return None


def write_backlog(directory: Path, backlog: Backlog) -> None:
    """Replace the file. It needs no sync: after a power cut it is merely old."""
    temporary = directory / (FILE_NAME + ".new")
    fields = {name: getattr(backlog, name) for name in Backlog.__slots__}
    temporary.write_text(json.dumps(fields))
    os.replace(temporary, directory / FILE_NAME)


def measure(directory: Path, backlog: Backlog | None, own: dict[str, int], now_us: int) -> tuple[int, int, bool]:
    """Bytes and oldest record time (0 = none) that wait, and whether the scribe is silent.

    own: used bytes by name of the segments that this process has open. While the scribe is silent, segments that other gateways
    have open do not count (their size is not their use): each gateway counts its own.
    """
    is_silent = backlog is None or now_us - backlog.time_us > STALE_S * 1e6
    if backlog is not None and not is_silent:
        return backlog.bytes, backlog.oldest_us, False
    positions = backlog.positions if backlog is not None else {}
    total = 0
    for entry in os.scandir(directory):
        if entry.name.endswith(journal.SUFFIX):
            with suppress(FileNotFoundError):
                used = own.get(entry.name)
                if used is None:
                    used = 0 if _is_open_elsewhere(entry.path) else entry.stat().st_size
                total += max(0, used - positions.get(entry.name, journal.HEADER_BYTES))
    if not total:
        return 0, 0, True
    return total, (backlog.oldest_us or backlog.time_us) if backlog is not None else 0, True


def _is_open_elsewhere(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return is_locked(fd)
    finally:
        os.close(fd)


class BacklogWatch:
    """A thread that looks once a second."""

    def __init__(self, path: Path, directory: JournalDirectory, max_bytes: int, merge_delay_s: int) -> None:
        self._path = path
        self._directory = directory
        self._max_bytes = max_bytes
        self._merge_delay_s = merge_delay_s
        self._started_us = time.time_ns() // 1000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-backlog", daemon=True)
        self.own_segments: Callable[[], dict[str, int]] = dict
        self.verdict = Verdict()  # replaced whole by the thread

    def start(self) -> None:
        self.look()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            try:
                self.look()
            except OSError as error:
                logger.error("journal directory unreadable", extra={"error": str(error)})

    def look(self) -> None:
        now_us = time.time_ns() // 1000
        backlog = read_backlog(self._path)
        waiting, oldest_us, is_silent = measure(self._path, backlog, self.own_segments(), now_us)
        if waiting and not oldest_us:
            oldest_us = self._started_us
        self.verdict = judge(
            waiting,
            oldest_us,
            is_silent,
            free_bytes=self._directory.free_bytes(),
            max_bytes=self._max_bytes,
            merge_delay_s=self._merge_delay_s,
            now_us=now_us,
        )


def judge(waiting: int, oldest_us: int, is_silent: bool, *, free_bytes: int, max_bytes: int, merge_delay_s: int, now_us: int) -> Verdict:
    """The rule. Whole seconds and megabytes in the reasons, so that refusals of the same kind are counted together."""
    capacity = min(max_bytes, waiting + free_bytes)
    refuse_new = refuse_all = ""
    if oldest_us and now_us - oldest_us > merge_delay_s * 500_000:
        refuse_new = "records wait for the log for more than half the merge delay"
    if waiting >= (1 - RESERVE) * capacity:
        refuse_new = "the journal is almost full"
    if waiting >= capacity:
        refuse_all = "the journal is full"
    return Verdict(waiting, oldest_us, refuse_new, refuse_all, is_silent)
