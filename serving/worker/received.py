"""What a worker has pulled and not yet answered."""

from dataclasses import dataclass
from threading import Condition


@dataclass(slots=True, eq=False)
class Entry:
    """A stream entry at this worker. It's acknowledged and deleted in the write that answers the last of its frames."""

    stream: str  # with priority
    id: bytes
    gateway: str
    left: int  # frames not yet answered; guarded by the lock of `Answers`
    request_ids: tuple[bytes, ...] = ()
    claimed: bool = False  # taken over from a dead worker: the marks of its frames go with it
    settled: bool = False  # Redis has confirmed that it's acknowledged, or is another server now; set by `Answers`


class Backlog:
    """Rows of one stream that wait here for a batch. Its reader reads on while they are less than `limit` (RULES 4.2)."""

    def __init__(self) -> None:
        self.limit = 1
        self._rows = 0  # guarded by _changed
        self._reader_waits = False
        self._changed = Condition()

    @property
    def rows(self) -> int:
        return self._rows

    def add(self, rows: int) -> None:
        with self._changed:
            self._rows += rows

    def take(self, rows: int) -> None:
        with self._changed:
            self._rows -= rows
            if self._reader_waits and self._rows < self.limit:
                self._changed.notify()

    def wait_for_room(self, timeout: float) -> int:
        """How many rows there is room for, at most `timeout` seconds later; may be 0 or less."""
        with self._changed:
            if self._rows >= self.limit:
                self._reader_waits = True
                self._changed.wait(timeout)
                self._reader_waits = False
            return self.limit - self._rows


@dataclass(slots=True, eq=False)
class Received:
    """A frame as its task's context. `waits` is true until its batch is formed; guarded by the lock of `Callers`."""

    entry: Entry
    backlog: Backlog
    rows: int  # what it counts in the backlog
    waits: bool = True
