"""Pulls entries of one stream while there is room for them, and hands their frames to the callers.

One thread and one connection per (servable, priority): each waits in `XREADGROUP BLOCK` without a timeout, costs nothing while
it waits, and a 64 MB frame of one model doesn't delay another's. Which servable runs next is the scheduler's choice, by weight.
"""

import logging
import threading
from collections.abc import Sequence

from ..dataplane import GROUP
from ..engine.batch import Task
from ..engine.errors import EngineError
from ..engine.manager import Handle
from ..protocol.frames import FrameError
from ..resp import Command, Connection, RedisGone, Reply, ReplyError, pack, run_id
from .received import Backlog, Entry, Received
from .road import Road, find_refusal, is_batched, make_task, open_entry

logger = logging.getLogger(__name__)

MAX_ENTRIES = 64  # per pull
HELD_BATCHES = 2
RETRY_SECONDS = (0.05, 1.0)
LOOK_SECONDS = 0.5

StreamEntry = tuple[bytes, Sequence[bytes] | None]


class Reader:
    """Reads `stream` for a servable until `stop`."""

    def __init__(self, road: Road, handle: Handle, base: str, priority: int) -> None:
        self.stream = f"{base}:{priority}"
        self.backlog = Backlog()
        self._road = road
        self._handle = handle
        self._base = base
        self._held: dict[bytes, Entry] = {}
        self._run_id = ""
        self._rows_per_entry = 1.0
        self._batched = False
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"read {self.stream}", daemon=True)
        self.configure()

    def configure(self) -> None:
        """Follow the servable's changed options."""
        self._batched = is_batched(self._handle)
        size = self._handle.model.batching.max_batch_size if self._batched else self._road.options.num_callers
        self.backlog.limit = HELD_BATCHES * size

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Read no more. What Redis has handed out and nobody here has seen is given back by `release`."""
        self._stopping.set()
        if (connection := self._connection) is not None:
            connection.interrupt()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def num_held(self) -> int:
        """Frames pulled and not yet answered."""
        return sum(entry.left for entry in list(self._held.values()))

    def release(self, connection: Connection) -> int:
        """After `stop`: put entries that were handed out on the way into the stream anew; returns their number.

        They were never run, so this isn't a second delivery, and another worker may batch them. Raises RedisGone, ReplyError.
        """
        released = 0
        for entry_id, fields in self._own_pending(connection):
            if entry_id in self._held:
                continue
            commands: list[Command] = [("XACK", self.stream, GROUP, entry_id), ("XDEL", self.stream, entry_id), ("EXEC",)]
            if fields:
                commands.insert(0, ("XADD", self.stream, "*", *fields))
            connection.call_all([("MULTI",), *commands])
            released += 1
        return released

    def _run(self) -> None:
        delay, longest = RETRY_SECONDS
        while not self._stopping.is_set():
            try:
                self._connection = Connection(self._road.address, f"reader:{self._road.worker_id}")
                self._begin(self._connection)
                delay = RETRY_SECONDS[0]
                while not self._stopping.is_set():
                    self._pull(self._connection)
            except (RedisGone, ReplyError) as error:
                if not self._stopping.is_set():
                    logger.warning("stream not read", extra={"stream": self.stream, "error": str(error)})
                    self._stopping.wait(delay)
                    delay = min(delay * 2, longest)
            except Exception:  # a fault of ours must not silence a stream: begin anew, with what is pending
                logger.exception("reader failed", extra={"stream": self.stream})
                self._stopping.wait(longest)
            finally:
                if self._connection is not None:
                    self._connection.close()

    def _begin(self, connection: Connection) -> None:
        """After each connect: see whether it's still the same server, and take what it had handed out to us unseen."""
        found = run_id(connection.call("INFO", "server"))
        if found != self._run_id:
            if self._run_id:  # what we hold came from a server that is no more, and so did those who asked for it
                self._road.callers.drop([request_id for entry in self._held.values() for request_id in entry.request_ids])
                self._road.cancelled.restart()
            self._held.clear()
            self._run_id = found
        self._make_group(connection)
        for entry_id, fields in self._own_pending(connection):
            if entry_id not in self._held:
                self._take([(entry_id, fields)])

    def _make_group(self, connection: Connection) -> None:
        created, _ = connection.ask_all(
            [("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM"), ("SADD", self._road.keys.streams, self._base)]
        )
        if isinstance(created, ReplyError) and not str(created).startswith("BUSYGROUP"):
            raise created

    def _own_pending(self, connection: Connection) -> list[StreamEntry]:
        """What Redis has handed out to this worker and has not seen acknowledged."""
        found: list[StreamEntry] = []
        cursor = b"0"
        while True:
            reply = connection.call(
                "XREADGROUP", "GROUP", GROUP, self._road.worker_id, "COUNT", MAX_ENTRIES, "STREAMS", self.stream, cursor
            )
            entries: list[StreamEntry] = reply[0][1] if reply else []
            if not entries:
                return found
            found += entries
            cursor = entries[-1][0]

    def _pull(self, connection: Connection) -> None:
        room = self.backlog.wait_for_room(LOOK_SECONDS)
        if room <= 0:
            return
        count = min(max(int(room / self._rows_per_entry), 1), MAX_ENTRIES)
        road = self._road
        read = ("XREADGROUP", "GROUP", GROUP, road.worker_id, "COUNT", count, "BLOCK", 0, "STREAMS", self.stream, ">")
        connection.send(pack([read, road.cancelled.command()]))
        pulled: Reply = connection.read()
        road.cancelled.take(connection.read())
        if isinstance(pulled, ReplyError):
            if not str(pulled).startswith(("NOGROUP", "UNBLOCKED")):
                raise pulled
            self._make_group(connection)
        elif pulled:
            self._take(pulled[0][1])

    def _take(self, entries: Sequence[StreamEntry]) -> None:
        """Make tasks of all frames. What can't become one is answered now."""
        tasks = [task for entry_id, fields in entries for task in self._open(entry_id, fields)]
        rows = sum(received.rows for task in tasks if isinstance(received := task.context, Received))
        self._rows_per_entry += (max(rows, 1) / len(entries) - self._rows_per_entry) * 0.2
        if tasks:
            self.backlog.add(rows)
            self._road.callers.enqueue(tasks)
        if len(self._held) > 4 * MAX_ENTRIES:  # what isn't settled is handed out again when both connections break: it must be known
            self._held = {entry_id: entry for entry_id, entry in self._held.items() if not entry.settled}

    def _open(self, entry_id: bytes, fields: Sequence[bytes] | None) -> list[Task]:
        road = self._road
        try:
            entry, payload, frames = open_entry(self.stream, entry_id, fields)
        except FrameError as error:
            logger.error("entry not readable", extra={"stream": self.stream, "error": str(error)})
            road.answers.discard(self.stream, entry_id)
            return []
        self._held[entry_id] = entry
        now_us = road.clock.now_us()
        tasks = []
        for offset, request_id, deadline_us in frames:
            refusal = find_refusal(road, request_id, deadline_us, now_us)
            if refusal is None:
                try:
                    tasks.append(make_task(road, self._handle, entry, payload, offset, deadline_us, self.backlog, batched=self._batched))
                    continue
                except FrameError as error:
                    logger.error("frame not readable", extra={"stream": self.stream, "error": str(error)})
                    refusal = EngineError(f"the request's frame isn't readable: {error}")
            road.answers.refuse(entry, [request_id], refusal)
        return tasks
