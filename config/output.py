"""What the supervisor prints: one stream of lines from many processes, each with the name of who said it.

Lines go to the terminal and to a file. Writing happens in a thread behind a bounded queue: when nobody reads our output (a pipe that
is full, a terminal that is gone) lines are dropped and counted, and no process ever waits for it.
"""

import logging
import logging.handlers
import os
import queue
import sys
import threading
from pathlib import Path

WIDTH = 10
COLOURS = (36, 33, 35, 34, 32, 96, 93, 95, 94, 92)


class Output:
    """Owned by the main thread; `say` may be called from any."""

    def __init__(self, file: Path, *, stream: int = 1) -> None:
        self._stream = stream
        self._colour = sys.stdout.isatty()
        self._names: dict[str, int] = {}
        self._waiting: queue.Queue[str | None] = queue.Queue(maxsize=5000)
        self._dropped = 0  # written by whoever finds the queue full; a lost count under a race is harmless
        self._file = logging.handlers.RotatingFileHandler(file, maxBytes=8 << 20, backupCount=3, delay=True)
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def say(self, name: str, line: str) -> None:
        shown = f"{name:<{WIDTH}} | {line}"
        if self._colour:
            number = self._names.setdefault(name, len(self._names))
            shown = f"\x1b[{COLOURS[number % len(COLOURS)]}m{name:<{WIDTH}} |\x1b[0m {line}"
        try:
            self._waiting.put_nowait(shown)
        except queue.Full:
            self._dropped += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for as long as somebody reads it."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)
        self._file.close()

    def _write(self) -> None:
        to_stream = True
        while (line := self._waiting.get()) is not None:
            if self._dropped:
                line = f"{line}\n{'daybook':<{WIDTH}} | {self._dropped} lines dropped: nobody read them"
                self._dropped = 0
            self._file.handle(logging.makeLogRecord({"msg": line}))
            if to_stream:
                data = memoryview((line + "\n").encode(errors="replace"))
                try:
                    while data:
                        data = data[os.write(self._stream, data) :]
                except OSError:  # the reader has gone; the file goes on
                    to_stream = False
