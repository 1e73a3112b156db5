"""Whether this gateway is up, and whether it can answer: for supervisors, load balancers and people."""

from dataclasses import dataclass
from typing import Literal

import orjson

from serving.snapshot import Deployment

from .door import Door

ModelState = Literal["ready", "coming", "failed"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """`checks` that are not "ok" say why. A model that failed doesn't hold the others up. awaited: the models that must not be
    coming, None = all."""

    checks: dict[str, str]
    models: dict[str, ModelState]
    awaited: frozenset[str] | None = None

    @property
    def is_ready(self) -> bool:
        if any(word != "ok" for word in self.checks.values()):
            return False
        coming = {name for name, state in self.models.items() if state == "coming"}
        if coming if self.awaited is None else coming & self.awaited:
            return False
        return not self.models or "ready" in self.models.values()

    def encode(self) -> bytes:
        return orjson.dumps({"ready": self.is_ready, "checks": self.checks, "models": self.models}, option=orjson.OPT_INDENT_2)


class Health:
    """Tells whether this gateway is ready. Belongs to the loop.

    What was to be served when it became ready for the first time is waited for; a model deployed later isn't until it has been
    ready once, so that one new model doesn't take the gateway away from the callers of all others (P6).
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._awaited: frozenset[str] | None = None  # None before the first readiness: all

    def look(self) -> Readiness:
        deployments = self._door.snapshots.current.deployments
        models = {name: model_state(deployment) for name, deployment in deployments.items()}
        found = Readiness(_checks(self._door), models, self._awaited)
        ready = frozenset(name for name, state in models.items() if state == "ready")
        if self._awaited is not None:
            self._awaited = (self._awaited & models.keys()) | ready
        elif found.is_ready:
            self._awaited = frozenset(models)
        return found


def _checks(door: Door) -> dict[str, str]:
    snapshots, queue, recorder = door.snapshots, door.queue, door.recorder
    return {
        "gateway": "stopping" if door.stopping else "ok",
        "journal": recorder.backlog_refused or ("ok" if recorder.ready else "can't be written"),
        "redis": "ok" if queue.connected else "not connected",
        "worker": "ok" if queue.live_workers else "none is live",
        "snapshot": f"unconfirmed for {snapshots.age_s:.0f} s" if snapshots.is_stale else "ok",
    }


def model_state(deployment: Deployment) -> ModelState:
    if deployment.default_version is not None:
        return "ready"
    if not deployment.versions:
        return "failed" if deployment.error_message else "coming"
    return "failed" if all(version.state == "END" or version.error_message for version in deployment.versions) else "coming"
