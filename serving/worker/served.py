"""The servables that a worker reads for, kept in step with its manager.

A version that becomes AVAILABLE gets a handle, a queue and a reader. One that is being unloaded leaves in steps (RULES 4.5): it has
been reported, so that a snapshot without it is published; every live gateway routes by that snapshot; its streams are empty; what
was pulled is answered. Then its handle is released and the manager unloads it.
"""

import logging
import threading
import time
from dataclasses import dataclass, field

from ..dataplane import PRIORITIES, Lease
from ..engine.errors import EngineError, Unavailable, UnknownServable
from ..engine.manager import Handle, Manager
from ..engine.servable import ServableKey
from ..engine.state import State
from ..resp import Connection
from .reader import Reader
from .road import Road

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 60.0  # a gateway that doesn't follow the snapshot for so long is left to the answer for unserved versions


@dataclass(slots=True, eq=False)
class Served:
    """One servable that this worker reads for."""

    handle: Handle
    base: str
    readers: dict[int, Reader] = field(default_factory=dict)  # by priority
    configured: tuple[object, ...] = ()
    leaving_since: float | None = None
    leaving_generation: int = 0  # of the manager, when it was found to be leaving
    snapshot: int | None = None  # the published one that no longer routes here

    @property
    def num_held(self) -> int:
        return sum(reader.num_held for reader in self.readers.values())


class ServedVersions:
    """`follow` belongs to one thread; the rest may be called from any."""

    def __init__(self, road: Road, manager: Manager, *, waits_for_report: bool) -> None:
        self._road = road
        self._manager = manager
        self._waits_for_report = waits_for_report
        self._lock = threading.Lock()
        self._served: dict[ServableKey, Served] = {}  # guarded by _lock; changed by `follow` alone
        self._reported = -1  # the manager's generation in the last report that has arrived
        self._generation = -1
        self.changed = True  # since `lease` was published last
        self.paused = False  # let go of everything, begin nothing
        self.settled = False  # whether the manager has been told what is desired

    def reported(self, generation: int) -> None:
        """The manager's status of this generation, or a later one, has been published."""
        self._reported = generation

    def find_handle(self, base: str) -> Handle | None:
        with self._lock:
            return next((served.handle for served in self._served.values() if served.base == base), None)

    def explain(self, base: str) -> EngineError | None:
        """Why a stream isn't served by anyone; None while that isn't certain."""
        named = self._road.keys.find_servable(base)
        if not self.settled or named is None:
            return None
        key = ServableKey(*named)
        if self.paused:
            return Unavailable(f"{key} is draining")
        model = self._manager.status().get(key.name)
        status = next((version for version in model.versions if version.version == key.version), None) if model else None
        if status is None or (status.state is State.END and status.error_code == "OK"):
            return UnknownServable(f"Servable not found for request: {key}")
        if status.state is not State.END:
            return None
        return Unavailable(f"{key} is not available: {status.error_message}")

    def lease(self) -> Lease:
        """What other processes may know of this worker."""
        with self._lock:
            serving = frozenset(served.base for served in self._served.values())
        coming = (State.START, State.LOADING)
        loading = frozenset(
            self._road.keys.stream(version.name, version.version)
            for model in self._manager.status().values()
            for version in model.versions
            if version.state in coming
        )
        return Lease(serving, loading)

    @property
    def num_held(self) -> int:
        with self._lock:
            return sum(served.num_held for served in self._served.values())

    def follow(self, connection: Connection) -> None:
        """Read for what is available, let go of what isn't. Raises RedisGone, ReplyError."""
        if self.paused:
            self._pause(connection)
            return
        if self._manager.generation != self._generation:
            self.changed = True
            self._generation = self._manager.generation
            for model in self._manager.status().values():
                for version in model.versions:
                    key = ServableKey(version.name, version.version)
                    if version.state is State.AVAILABLE and key not in self._served:
                        self._begin(key)
                    elif version.state is State.UNLOADING and (served := self._served.get(key)) and served.leaving_since is None:
                        served.leaving_since = time.monotonic()
                        served.leaving_generation = self._generation
        for key, served in list(self._served.items()):
            self._configure(served)
            self._read_low_priority(connection, served)
            if served.leaving_since is not None and self._may_leave(connection, served):
                self._leave(key, served)
                self.changed = True

    def stop_reading(self) -> list[Reader]:
        """Read no more; the readers, for what they have to give back."""
        with self._lock:
            readers = [reader for served in self._served.values() for reader in served.readers.values()]
        for reader in readers:
            reader.stop()
        return readers

    def release(self) -> None:
        """Give all handles back, after the callers have ended."""
        with self._lock:
            handles = [served.handle for served in self._served.values()]
            self._served.clear()
        for handle in handles:
            handle.release()

    def _begin(self, key: ServableKey) -> None:
        try:
            handle = self._manager.acquire(*key)
        except UnknownServable:
            return  # retired meanwhile
        served = Served(handle, self._road.keys.stream(*key))
        self._configure(served)
        reader = served.readers[0] = Reader(self._road, handle, served.base, 0)
        with self._lock:
            self._served[key] = served
        reader.start()
        logger.info("stream read", extra={"stream": served.base})

    def _configure(self, served: Served) -> None:
        handle = served.handle
        configured = (handle.model.batching, handle.model.weight, handle.rules)
        if configured != served.configured:
            served.configured = configured
            self._road.callers.configure(handle)
            for reader in served.readers.values():
                reader.configure()

    def _read_low_priority(self, connection: Connection, served: Served) -> None:
        """Low priority is read from when it's first used: most servables never see a job."""
        for priority in PRIORITIES:
            if priority not in served.readers and connection.call("EXISTS", f"{served.base}:{priority}"):
                reader = served.readers[priority] = Reader(self._road, served.handle, served.base, priority)
                reader.start()

    def _pause(self, connection: Connection) -> None:
        """Read no more, give back what nobody here has seen, and forget each servable once what it holds is answered."""
        self._generation = -1
        for key, served in list(self._served.items()):
            for reader in served.readers.values():
                reader.stop()
                reader.release(connection)
            if not served.num_held:
                self._leave(key, served)
                self.changed = True

    def _may_leave(self, connection: Connection, served: Served) -> bool:
        """Whether nobody will ask this servable any more and nobody waits for it."""
        assert served.leaving_since is not None
        late = time.monotonic() - served.leaving_since > LEAVE_SECONDS
        if late:
            logger.warning("unloaded although gateways may still route to it", extra={"stream": served.base})
            return True
        if served.snapshot is None:
            if self._waits_for_report and self._reported < served.leaving_generation:
                return False
            served.snapshot = int(connection.call("GET", self._road.keys.snapshot_version) or 0)
        keys = self._road.keys
        gateways = [member.decode() for member in connection.call("SMEMBERS", keys.gateways)]
        routes = connection.call("MGET", keys.gateways, *map(keys.gateway, gateways))[1:]
        if any(route is not None and int(route) < served.snapshot for route in routes):
            return False
        lengths = connection.call_all([("XLEN", f"{served.base}:{priority}") for priority in PRIORITIES])
        return not any(lengths) and not served.num_held

    def _leave(self, key: ServableKey, served: Served) -> None:
        for reader in served.readers.values():
            reader.stop()
        self._road.callers.remove(key, Unavailable(f"{key} was unloaded"))
        with self._lock:
            del self._served[key]
        served.handle.release()
        logger.info("stream left", extra={"stream": served.base})
