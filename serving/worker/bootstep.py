"""Hosts the serving engine in a Celery worker process: a step of the worker's own blueprint.

It's part of the process and not of the broker connection, so it outlives the loss of the broker. It is there when the process
consumes the control queue (`-Q control.<node>`), and then the pool must be `threads`: after one `TF_SessionRun` a forked child
hangs. The Python package `tensorflow` can't be imported in such a process (it would open the libraries a second time, with other
flags); its C library is used through `ctypes`.
"""

import logging
import multiprocessing
import os
import secrets
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from celery import bootsteps

if TYPE_CHECKING:
    from ..engine.lifecycle import ModelStatus
    from ..engine.options import DesiredModel
    from .engine import Engine

logger = logging.getLogger(__name__)

CONTROL = "control."
SWITCH_SECONDS = 0.001  # a thread that computes in Python gives way to one that has an answer to send

_engine: "Engine | None" = None


def find_engine() -> "Engine | None":
    """The engine of this process; None in one that hosts none."""
    return _engine


class NoTensorflow(MetaPathFinder):
    """Refuses to import TensorFlow's Python package."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in ("tensorflow", "keras"):
            raise ImportError(f"{name} can't be imported in a serving worker, which uses TensorFlow's C library", name=name)
        return None


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.engine: Engine | None = None

    def include_if(self, worker: Any) -> bool:
        return any((queue.alias or name).startswith(CONTROL) for name, queue in worker.app.amqp.queues.consume_from.items())

    def create(self, worker: Any) -> None:
        global _engine
        pool = worker.pool_cls.__module__
        if pool != "celery.concurrency.thread":
            sys.exit(f"The serving worker needs the thread pool (-P threads), not {pool}: a forked child of TensorFlow hangs.")
        sys.meta_path.insert(0, NoTensorflow())
        multiprocessing.set_start_method("spawn", force=True)
        sys.setswitchinterval(SWITCH_SECONDS)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        self.engine = _engine = _make_engine(worker.hostname)

    def start(self, worker: Any) -> None:
        if self.engine is not None:
            self.engine.start()
            logger.info("engine started", extra={"worker": self.engine.worker_id})

    def stop(self, worker: Any) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.stop()

    def terminate(self, worker: Any) -> None:
        """A cold shutdown: what isn't answered is claimed by another worker as soon as our lease has ended."""


def _make_engine(worker_name: str) -> "Engine":
    """worker_name: Celery's, which a worker keeps when it's started again."""
    from django.conf import settings

    from .engine import Engine
    from .options import WorkerOptions

    options = WorkerOptions(
        redis_url=settings.REDIS_URL,
        prefix=settings.REDIS_PREFIX,
        worker_id=f"{settings.NODE}-{os.getpid()}-{secrets.token_hex(4)}",
        node=settings.NODE,
        max_frame_bytes=settings.MAX_FRAME_MB << 20,
    )
    run_dir = Path(settings.VAR_DIR) / "run"
    marks = run_dir / "loads" / quote(worker_name, safe="")
    return Engine(options, find_desired=_find_desired, report=_report, memory=run_dir / "desired.json", marks=marks)


def _find_desired() -> "list[DesiredModel]":
    from django.db import close_old_connections

    from .. import services

    close_old_connections()
    return services.desired_models()


def _report(*, worker_id: str, node: str, device: str, statuses: "Sequence[ModelStatus]") -> None:
    from django.db import close_old_connections

    from .. import services

    close_old_connections()
    services.report_status(worker_id=worker_id, node=node, device=device, statuses=statuses)
