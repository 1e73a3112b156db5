"""Requests whose callers have gone.

Their ids are read with every pull, so that what Redis knew when it handed out a request is known here before its batch is formed,
and by a thread that waits for more, so that what is pulled already can still be left out.
"""

import logging
import threading
import time
from collections.abc import Sequence

from ..dataplane import CANCELLED_KEPT_MS, Keys
from ..resp import Address, Command, Connection, RedisGone, Reply, ReplyError
from .callers import Callers

logger = logging.getLogger(__name__)

MAX_READ = 10_000  # entries at once
ID_BYTES = 16


class CancelledIds:
    """Ids cancelled within the last minute. Any thread may ask and add."""

    def __init__(self, address: Address, prefix: str, worker_id: str, callers: Callers) -> None:
        self._address = address
        self._key = Keys(prefix).cancelled
        self._name = f"cancelled:{worker_id}"
        self._callers = callers
        self._lock = threading.Lock()
        self._ids: dict[bytes, float] = {}  # → when they were added, ascending; guarded by _lock
        self._cursor = b"0-0"  # guarded by _lock
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="cancelled", daemon=True)

    def __contains__(self, request_id: bytes) -> bool:
        return request_id in self._ids

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if (connection := self._connection) is not None:
            connection.interrupt()
        self._thread.join()

    def command(self) -> Command:
        """What asks for the ids that aren't known yet, without waiting."""
        return ("XREAD", "COUNT", MAX_READ, "STREAMS", self._key, self._cursor)

    def take(self, reply: Reply) -> None:
        """Take in what `command` was answered."""
        if reply is None or isinstance(reply, ReplyError):
            return
        entries: Sequence[tuple[bytes, Sequence[bytes]]] = reply[0][1]
        new: list[bytes] = []
        with self._lock:
            if _order(entries[-1][0]) <= _order(self._cursor):
                return  # another thread has read them
            self._cursor = entries[-1][0]
            now = time.monotonic()
            for _, fields in entries:
                joined = fields[1]
                new += [joined[start : start + ID_BYTES] for start in range(0, len(joined), ID_BYTES)]
            self._ids.update(dict.fromkeys(new, now))
            oldest = now - CANCELLED_KEPT_MS / 1000
            while self._ids and (first := next(iter(self._ids))) and self._ids[first] < oldest:
                del self._ids[first]
        self._callers.cancel(new)

    def restart(self) -> None:
        """Another server numbers its entries from now on."""
        with self._lock:
            self._cursor = b"0-0"

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._connection = Connection(self._address, self._name)
                while not self._stopping.is_set():
                    self.take(self._connection.call("XREAD", "COUNT", MAX_READ, "BLOCK", 0, "STREAMS", self._key, self._cursor))
            except (RedisGone, ReplyError) as error:
                logger.debug("cancelled ids not read", extra={"error": str(error)})
                self._stopping.wait(0.5)
            finally:
                if self._connection is not None:
                    self._connection.close()


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
