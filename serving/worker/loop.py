"""The serving worker's data plane: streams in, batches through the engine, replies out.

Threads, each with a connection of its own and one purpose:

    lease       renews the sign of life, watches for runs that don't end
    read …      one per servable and priority: pulls entries while there is room
    caller-n    form and run batches, and write the answers
    cancelled   learns whose callers have gone
    claims      takes over what dead workers held, answers what nobody serves
    keeper      follows the manager, mends the answering connection

Nothing here waits for a model to load or for Redis to come up.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from ..dataplane import BEAT_S, Keys
from ..engine.manager import Manager
from ..resp import Address, Connection, RedisGone, ReplyError
from .answers import Answers
from .callers import Callers
from .cancelled import CancelledIds
from .claims import Claims
from .leases import LeaseKeeper
from .options import WorkerOptions
from .road import Road
from .served import ServedVersions

logger = logging.getLogger(__name__)

STUCK_STATUS = 70  # EX_SOFTWARE: the supervisor starts a new worker
REPLY_SECONDS = 5.0
DRAIN_LOOK_SECONDS = 0.02


def end_process(servable: str, seconds: float) -> None:
    """A run that neither ends nor can be cancelled holds its thread and its device: only a new process helps."""
    logger.critical("run doesn't end, worker restarts", extra={"servable": servable, "seconds": round(seconds, 1)})
    logging.shutdown()
    os._exit(STUCK_STATUS)


class WorkerLoop:
    """Serves what `manager` has loaded. `start` and `stop` once each.

    waits_for_report: whether unloading waits until `reported` has said that the version's new state is published.
    on_stuck(servable, seconds): see `LeaseKeeper`.
    """

    def __init__(
        self,
        options: WorkerOptions,
        manager: Manager,
        *,
        waits_for_report: bool = False,
        on_stuck: Callable[[str, float], None] = end_process,
    ) -> None:
        address = Address.parse(options.redis_url)
        answers = Answers(address, options.prefix, options.worker_id, options.max_frame_bytes)
        self._callers = Callers(answers, options.num_callers)
        self._cancelled = CancelledIds(address, options.prefix, options.worker_id, self._callers)
        self._leases = LeaseKeeper(address, options.prefix, options.worker_id, self._callers.watch, on_stuck)
        road = Road(options, Keys(options.prefix), address, self._leases.clock, answers, self._callers, self._cancelled)
        self._road = road
        self._answers = answers
        self._served = ServedVersions(road, manager, waits_for_report=waits_for_report)
        self._claims = Claims(road, self._served.find_handle, self._served.explain)
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    @property
    def num_held(self) -> int:
        """Frames pulled and not yet answered."""
        return self._served.num_held

    @property
    def num_answered(self) -> int:
        return self._answers.num_answered

    @property
    def streams(self) -> frozenset[str]:
        """What is read, without priorities."""
        return self._served.lease().serving

    def start(self) -> None:
        self._leases.lease = self._served.lease()
        self._leases.start()
        self._callers.start()
        self._cancelled.start()
        self._keeper.start()
        self._claims.start()

    def stop(self, grace: float) -> bool:
        """Read no more, finish and answer what is held, give the rest back. Whether all was finished within `grace` seconds."""
        deadline = time.monotonic() + grace
        self._stopping.set()
        self._changed.set()
        self._keeper.join()
        readers = self._served.stop_reading()
        self._claims.stop()
        while self._callers.is_busy() and time.monotonic() < deadline:
            time.sleep(DRAIN_LOOK_SECONDS)
        finished = not self._callers.is_busy()
        ended = self._callers.stop(max(deadline - time.monotonic(), 1.0))
        try:
            self._answers.recover()
            self._answers.flush()
            connection = Connection(self._road.address, f"release:{self._road.worker_id}", timeout=REPLY_SECONDS)
            try:
                released = sum(reader.release(connection) for reader in readers)
                logger.info("worker stopped", extra={"finished": finished, "released_entries": released})
            finally:
                connection.close()
        except (RedisGone, ReplyError) as error:
            logger.warning("entries not given back", extra={"error": str(error)})
        self._cancelled.stop()
        self._leases.stop()
        self._answers.close()
        if ended:  # otherwise a run still uses its servable, and the process ends with it
            self._served.release()
        return finished

    def drain(self, drained: bool) -> None:
        """Finish and answer what is held, give back the rest and read no more until told otherwise. Returns at once."""
        self._served.paused = drained
        self._changed.set()

    def manager_changed(self) -> None:
        """For the manager's `on_change`."""
        self._changed.set()

    def settle(self) -> None:
        """The manager knows what is desired: from now on unknown versions may be answered as not found."""
        self._served.settled = True

    def reported(self, generation: int) -> None:
        """The manager's status of this generation, or a later one, has been published to the gateways."""
        self._served.reported(generation)
        self._changed.set()

    def _keep(self) -> None:
        connection: Connection | None = None
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                self._answers.recover()
                if connection is None:
                    connection = Connection(self._road.address, f"keeper:{self._road.worker_id}", timeout=REPLY_SECONDS)
                self._served.follow(connection)
                if self._served.changed:
                    self._served.changed = False
                    self._leases.lease = self._served.lease()
                    self._leases.renew()
            except (RedisGone, ReplyError) as error:
                logger.warning("redis lost", extra={"error": str(error)})
                if connection is not None:
                    connection.close()
                connection = None
            except Exception:
                logger.exception("keeper failed")
            self._changed.wait(BEAT_S)
        if connection is not None:
            connection.close()
