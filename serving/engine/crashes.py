"""Remembers on disk which load was under way, so that a model whose load kills the process doesn't kill it for ever.

A mark is written before a load and removed after it, however it ends. A mark that is found by another process tells that its
writer died meanwhile, perhaps because of this load: from the second time on such a version waits, longer each time, while the
others are loaded and serve.
"""

import json
import logging
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from .servable import ServableKey

logger = logging.getLogger(__name__)

FREE_DEATHS = 1  # a process may be killed for other reasons
MAX_DELAY = 300.0  # seconds


class CrashMarks:
    """Marks below a directory, or none at all when it is None. Each version's marks are used by one thread at a time."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def begin(self, key: ServableKey, files: Sequence[object]) -> None:
        """A load begins: from here on the death of this process counts against it."""
        if self._directory is not None:
            mark = {"pid": os.getpid(), "started": _started(os.getpid()), "files": _digest(files), "deaths": self.num_deaths(key, files)}
            try:
                self._path(key).write_text(json.dumps(mark))
            except OSError:  # a full disk mustn't keep models from loading
                logger.warning("a load can't be noted", extra={"servable": str(key)}, exc_info=True)

    def end(self, key: ServableKey) -> None:
        """It has ended, and this process lives."""
        if self._directory is not None:
            self._path(key).unlink(missing_ok=True)

    def num_deaths(self, key: ServableKey, files: Sequence[object]) -> int:
        """How many processes in a row have died while they loaded exactly these files."""
        if self._directory is None:
            return 0
        try:
            mark = json.loads(self._path(key).read_text())
            if mark["files"] != _digest(files):
                return 0
            alive = _started(mark["pid"]) == mark["started"]
            return int(mark["deaths"]) + (0 if alive else 1)
        except (OSError, ValueError, KeyError, TypeError):  # none, or cut off by the very death
            return 0

    def delay(self, num_deaths: int) -> float:
        """Seconds to wait before such a version is loaded again."""
        return 0.0 if num_deaths <= FREE_DEATHS else min(2.0**num_deaths, MAX_DELAY)

    def _path(self, key: ServableKey) -> Path:
        assert self._directory is not None
        return self._directory / f"{sha256(key.name.encode()).hexdigest()[:24]}@{key.version}"


def _digest(files: Sequence[object]) -> str:
    return sha256(repr(files).encode()).hexdigest()


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: with the id it names a process once. "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
