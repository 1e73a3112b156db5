"""The worker's sign of life, renewed by a thread that does nothing else, so that nothing else can make it late."""

import logging
import threading
import time
from collections.abc import Callable

from ..dataplane import BEAT_S, LEASE_MS, Keys, Lease, encode_lease
from ..resp import Address, Connection, RedisGone, ReplyError, ServerClock
from .callers import Watch

logger = logging.getLogger(__name__)

REPLY_SECONDS = 1.0


class LeaseKeeper:
    """Renews the lease, follows Redis' clock, and looks for runs that don't end.

    `lease` is replaced whole by its owner. on_stuck(servable, seconds): a run has passed twice its timeout; the process is past
    saving and should end itself.
    """

    def __init__(self, address: Address, prefix: str, worker_id: str, watch: Watch, on_stuck: Callable[[str, float], None]) -> None:
        self.clock = ServerClock()
        self.lease = Lease()
        self._address = address
        self._keys = Keys(prefix)
        self._worker_id = worker_id
        self._watch = watch
        self._on_stuck = on_stuck
        self._renew = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def renew(self) -> None:
        """Publish a changed `lease` now."""
        self._renew.set()

    def stop(self) -> None:
        """End the lease: what is still pending here may be claimed at once."""
        self._stopping.set()
        self._renew.set()
        self._thread.join()

    def _run(self) -> None:
        connection: Connection | None = None
        while not self._stopping.is_set():
            self._renew.clear()
            if (stuck := self._watch.find_stuck()) is not None:
                self._on_stuck(*stuck)
            try:
                if connection is None:
                    connection = Connection(self._address, f"lease:{self._worker_id}", timeout=REPLY_SECONDS)
                    self.clock.forget()
                self._beat(connection)
            except (RedisGone, ReplyError) as error:
                logger.warning("lease not renewed", extra={"error": str(error)})
                if connection is not None:
                    connection.close()
                connection = None
            self._renew.wait(BEAT_S)
        if connection is not None:
            try:
                key = self._keys.worker(self._worker_id)
                connection.call_all([("DEL", key, self._keys.status(self._worker_id)), ("SREM", self._keys.workers, self._worker_id)])
            except (RedisGone, ReplyError) as error:
                logger.warning("lease not given back", extra={"error": str(error)})
            connection.close()

    def _beat(self, connection: Connection) -> None:
        sent = time.monotonic()
        replies = connection.call_all(
            [
                ("TIME",),
                ("SET", self._keys.worker(self._worker_id), encode_lease(self.lease), "PX", LEASE_MS),
                ("SADD", self._keys.workers, self._worker_id),
            ]
        )
        self.clock.add(sent, time.monotonic(), replies[0])
