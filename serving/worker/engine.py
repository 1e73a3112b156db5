"""The engine of one worker process: manager, data plane, and the thread that keeps both in step with what is desired.

The steward asks for the desired models every two seconds, or when nudged, and reports what is really loaded on every change and
every five seconds. Both are calls into PostgreSQL and happen on its thread alone. While PostgreSQL is away the last desired state
stays in force; it's also kept in a file, so that a worker that starts meanwhile serves.
"""

import gc
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..engine.errors import InvalidOptions
from ..engine.lifecycle import ModelStatus
from ..engine.manager import Manager
from ..engine.options import BatchingOptions, DesiredModel
from ..engine.state import State
from ..policy import format_policy, parse_policy
from ..resp import Address, Connection, RedisGone, ReplyError
from .loop import WorkerLoop
from .options import WorkerOptions

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
REPORT_SECONDS = 5.0
STATUS_KEPT_MS = 15_000
STOP_SECONDS = 30.0


class Report(Protocol):
    def __call__(self, *, worker_id: str, node: str, device: str, statuses: Sequence[ModelStatus]) -> None: ...


class Engine:
    """find_desired and report may raise anything while their database is away.

    memory: the file for the last desired state. marks: a directory of this worker alone, the same after a restart, in which loads
    under way are noted.
    """

    def __init__(
        self,
        options: WorkerOptions,
        *,
        find_desired: Callable[[], list[DesiredModel]],
        report: Report,
        memory: Path,
        marks: Path | None = None,
    ) -> None:
        self._options = options
        self._find_desired = find_desired
        self._report = report
        self._memory = memory
        self._manager = Manager(on_change=self._manager_changed, marks=marks)
        self._loop = WorkerLoop(options, self._manager, waits_for_report=True)
        self._wake = threading.Event()
        self._changed = False
        self._generation = 0  # of the manager, when it changed last
        self._stopping = False
        self._desired: list[DesiredModel] | None = None  # what the manager was told last
        self._remembered = b""
        self._steward = threading.Thread(target=self._run, name="steward", daemon=True)

    @property
    def worker_id(self) -> str:
        return self._options.worker_id

    def is_named(self, name: str) -> bool:
        return name in (self._options.worker_id, self._options.node)

    def start(self) -> None:
        """Begin to serve; doesn't wait for models, Redis or PostgreSQL."""
        self._loop.start()
        self._steward.start()

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """Finish what is held, answer it, give back the rest, unload."""
        self._stopping = True
        self._wake.set()
        self._loop.stop(grace)
        self._steward.join(grace)
        self._manager.close(grace)

    def nudge(self) -> None:
        """Look at the desired state now."""
        self._wake.set()

    def retry(self, name: str) -> None:
        """Load the versions of a model again that ended in an error, though their files haven't changed."""
        self._manager.retry(name)

    def drain(self, drained: bool) -> None:
        """Finish what is held and read no more, or read again."""
        self._loop.drain(drained)

    def report_now(self) -> dict[str, Any]:
        """Report on the next turn; gives what there is to report."""
        self._changed = True
        self._wake.set()
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """What this worker serves, for people."""
        return {
            "worker": self._options.worker_id,
            "node": self._options.node,
            "held": self._loop.num_held,
            "answered": self._loop.num_answered,
            "versions": [
                {"model": version.name, "version": version.version, "state": version.state, "error": version.error_message}
                for model in self._manager.status().values()
                for version in model.versions
            ],
        }

    def _manager_changed(self) -> None:
        """Called after every poll, also when nothing has changed."""
        generation = self._manager.generation
        if generation == self._generation:
            return
        self._generation = generation
        self._changed = True
        self._wake.set()
        self._loop.manager_changed()

    def _run(self) -> None:
        gc.freeze()  # what was imported never becomes garbage; a collection over it stops all threads for a tenth of a second
        reported = 0.0
        while not self._stopping:
            self._wake.clear()
            self._follow()
            if self._changed or time.monotonic() - reported >= REPORT_SECONDS:
                self._changed = False
                reported = time.monotonic()
                if not self._publish():
                    self._changed = True
            self._wake.wait(POLL_SECONDS)

    def _follow(self) -> None:
        """Tell the manager what is desired. With nothing new it still looks at its directories."""
        desired: list[DesiredModel] | None = None
        try:
            desired = self._find_desired()
        except Exception as error:  # the database's errors are of many kinds, and none of them may stop the engine
            logger.warning("desired state unknown, keeping the last", extra={"error": f"{type(error).__name__}: {error}"})
            if self._desired is None:
                desired = self._recall()
        try:
            if desired is not None and desired != self._desired:
                self._manager.set_desired(desired)
                self._desired = desired
                self._remember(desired)
            else:
                self._manager.poll()
            if self._desired is not None:
                self._loop.settle()
        except InvalidOptions as error:
            logger.error("desired state refused", extra={"error": str(error)})
        except Exception:
            logger.exception("steward failed")

    def _publish(self) -> bool:
        """Report the manager's status. Whether it was taken down."""
        generation = self._manager.generation
        statuses = list(self._manager.status().values())
        self._show()
        device = next((version.device for model in statuses for version in model.versions if version.state is State.AVAILABLE), "")
        try:
            self._report(worker_id=self._options.worker_id, node=self._options.node, device=device, statuses=statuses)
        except Exception as error:
            logger.warning("status not reported", extra={"error": f"{type(error).__name__}: {error}"})
            return False
        self._loop.reported(generation)
        return True

    def _show(self) -> None:
        """Put the status into Redis for who looks at workers without the database."""
        try:
            connection = Connection(Address.parse(self._options.redis_url), f"status:{self.worker_id}", timeout=2.0)
        except RedisGone:
            return
        try:
            key = f"{self._options.prefix}status:{self.worker_id}"
            connection.call("SET", key, json.dumps(self.describe()), "PX", STATUS_KEPT_MS)
        except (RedisGone, ReplyError) as error:
            logger.debug("status not shown", extra={"error": str(error)})
        finally:
            connection.close()

    def _remember(self, desired: Sequence[DesiredModel]) -> None:
        content = json.dumps([_pack(model) for model in desired]).encode()
        if content == self._remembered:
            return
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._memory.with_suffix(f".{os.getpid()}")
            scratch.touch(mode=0o600)
            scratch.write_bytes(content)
            scratch.replace(self._memory)
            self._remembered = content
        except OSError as error:
            logger.warning("desired state not kept", extra={"error": str(error)})

    def _recall(self) -> list[DesiredModel] | None:
        try:
            return [_unpack(fields) for fields in json.loads(self._memory.read_bytes())]
        except (OSError, ValueError, TypeError, KeyError, InvalidOptions) as error:
            logger.warning("no desired state remembered", extra={"error": str(error)})
            return None


def _pack(model: DesiredModel) -> dict[str, Any]:
    fields = {name: getattr(model, name) for name in DesiredModel.__dataclass_fields__}
    batching = {name: getattr(model.batching, name) for name in BatchingOptions.__dataclass_fields__}
    return {**fields, "policy": format_policy(model.policy), "batching": batching, "labels": dict(model.labels)}


def _unpack(fields: dict[str, Any]) -> DesiredModel:
    batching = {**fields["batching"], "allowed_batch_sizes": tuple(fields["batching"]["allowed_batch_sizes"])}
    policy = parse_policy(fields["policy"])
    return DesiredModel(**{**fields, "policy": policy, "batching": BatchingOptions(**batching), "tags": tuple(fields["tags"])})
