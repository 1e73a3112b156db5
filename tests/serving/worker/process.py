"""A worker in a process of its own, for tests that kill it: `python -m tests.serving.worker.process OPTIONS_JSON`."""

import json
import signal
import sys
import threading

from serving.engine.manager import Manager
from serving.engine.options import BatchingOptions, DesiredModel
from serving.worker.loop import WorkerLoop
from serving.worker.options import WorkerOptions
from tests.serving.worker.scripted import ScriptedLoader


def main(redis_url: str, prefix: str, worker_id: str, models: dict[str, dict[str, object]]) -> None:
    loop: WorkerLoop
    manager = Manager(on_change=lambda: loop.manager_changed(), loaders=lambda platform: ScriptedLoader())
    loop = WorkerLoop(WorkerOptions(redis_url, prefix, worker_id), manager)
    loop.start()
    manager.set_desired([DesiredModel(name, batching=BatchingOptions(mode="on"), **fields) for name, fields in models.items()])  # type: ignore[arg-type]
    loop.settle()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    while not stop.wait(0.2):
        manager.poll()
    loop.stop(10.0)
    manager.close()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
