"""Whether this gateway is up, and whether it can answer: for supervisors, load balancers and people."""

from dataclasses import dataclass
from typing import Literal

import orjson

from serving.snapshot import Deployment

from .door import Door

ModelState = Literal["ready", "coming", "failed"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """`checks` that are not "ok" say why. A model that failed for good doesn't hold the others up."""

    checks: dict[str, str]
    models: dict[str, ModelState]

    @property
    def is_ready(self) -> bool:
        states = self.models.values()
        return all(word == "ok" for word in self.checks.values()) and "coming" not in states and (not states or "ready" in states)

    def encode(self) -> bytes:
        return orjson.dumps({"ready": self.is_ready, "checks": self.checks, "models": self.models}, option=orjson.OPT_INDENT_2)


def readiness(door: Door) -> Readiness:
    snapshots, queue, recorder = door.snapshots, door.queue, door.recorder
    checks = {
        "gateway": "stopping" if door.stopping else "ok",
        "journal": recorder.backlog_refused or ("ok" if recorder.ready else "can't be written"),
        "redis": "ok" if queue.connected else "not connected",
        "worker": "ok" if queue.live_workers else "none is live",
        "snapshot": f"unconfirmed for {snapshots.age_s:.0f} s" if snapshots.is_stale else "ok",
    }
    return Readiness(checks, {name: model_state(deployment) for name, deployment in snapshots.current.deployments.items()})


def model_state(deployment: Deployment) -> ModelState:
    if deployment.default_version is not None:
        return "ready"
    if deployment.versions and all(version.state == "END" or version.error_message for version in deployment.versions):
        return "failed"
    return "coming"
