"""What the serving and keys pages show, ready to render."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis
from django.conf import settings

from catalog.models import Entry

from .key_use import USE_SHOWN, find_last_uses
from .live import StreamLoad, read_loads
from .models import APIKey, Application, Deployment, VersionState, WorkerState

TRACK = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


@dataclass(frozen=True, slots=True)
class Step:
    """One state of the track that a version walks along."""

    name: str
    is_current: bool
    is_past: bool


@dataclass(frozen=True, slots=True)
class VersionRow:
    version: int
    state: str
    track: tuple[Step, ...]
    labels: tuple[str, ...]
    since: datetime
    workers: tuple[str, ...]
    artifact: str
    error_code: str
    error_message: str
    load: StreamLoad
    unbatched: tuple[tuple[str, str], ...]  # signatures that run one request at a time, and why

    @property
    def is_failed(self) -> bool:
        return self.error_code != "OK"


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    deployment: Deployment
    versions: tuple[VersionRow, ...]
    faults: tuple[str, ...]  # what is wrong with its directory

    @property
    def has_failed(self) -> bool:
        """Whether trying again may help."""
        return any(row.is_failed and row.state == "END" for row in self.versions)

    @property
    def state(self) -> str:
        """`available`, `failed`, `loading` or `waiting`, for the mark beside the name."""
        if any(row.state == "AVAILABLE" for row in self.versions):
            return "available"
        if any(row.is_failed for row in self.versions):
            return "failed"
        return "loading" if self.versions else "waiting"


@dataclass(frozen=True, slots=True)
class ServingPage:
    rows: tuple[DeploymentRow, ...]
    workers: tuple[WorkerState, ...]
    may_operate: bool
    may_register: bool


def serving_page(user: Any) -> ServingPage:
    """The deployments whose entries `user` may see, all of them for operators. Who doesn't operate sees states, not paths and errors
    (the template asks `may_operate`)."""
    may_operate = user.has_perm("serving.operate_deployment")
    shown = Deployment.objects.with_states()
    if not may_operate:
        shown = shown.filter(name__in=Entry.objects.visible_to(user).values("slug"))
    deployments = list(shown)
    loads = _loads(deployments)
    believed = WorkerState.objects.all().believed()
    return ServingPage(
        rows=tuple(_row(deployment, loads, believed) for deployment in deployments),
        workers=tuple(WorkerState.objects.live().order_by("node", "worker_id")),
        may_operate=may_operate,
        may_register=user.has_perm("catalog.publish_entry"),
    )


def deployment_page(deployment: Deployment) -> DeploymentRow:
    return _row(deployment, _loads([deployment]), WorkerState.objects.all().believed())


def _loads(deployments: Sequence[Deployment]) -> dict[str, StreamLoad]:
    streams = {_stream(state) for deployment in deployments for state in deployment.version_states.all()}
    try:
        return read_loads(settings.REDIS_URL, sorted(streams))
    except redis.RedisError:
        return {}  # the page says "unknown" then


def _stream(state: VersionState) -> str:
    return f"{settings.REDIS_PREFIX}q:{state.deployment.name}@{state.version}"


def _row(deployment: Deployment, loads: dict[str, StreamLoad], believed: frozenset[str]) -> DeploymentRow:
    """believed: ids of the workers whose states count, as for the snapshot."""
    by_version: dict[int, list[VersionState]] = defaultdict(list)
    for state in deployment.version_states.all():
        if state.worker_id in believed:
            by_version[state.version].append(state)
    return DeploymentRow(
        deployment=deployment,
        versions=tuple(_version_row(deployment, by_version[version], loads) for version in sorted(by_version, reverse=True)),
        faults=tuple(sorted({fault.error_message for fault in deployment.faults.all() if fault.worker_id in believed})),
    )


def _version_row(deployment: Deployment, states: list[VersionState], loads: dict[str, StreamLoad]) -> VersionRow:
    shown = next((state for state in states if state.state == "AVAILABLE"), states[0])
    position = TRACK.index(shown.state)
    return VersionRow(
        version=shown.version,
        state=shown.state,
        track=tuple(Step(name.lower(), index == position, index < position) for index, name in enumerate(TRACK)),
        labels=tuple(label for label, version in deployment.labels.items() if version == shown.version),
        since=shown.since,
        workers=tuple(sorted(state.worker_id for state in states)),
        artifact=shown.artifact,
        error_code=shown.error_code,
        error_message=shown.error_message,
        load=loads.get(_stream(shown), StreamLoad()),
        unbatched=tuple(
            (name, shown.batching.get(name, "")) for name, signature in shown.signatures.items() if not signature.get("batched", True)
        ),
    )


@dataclass(frozen=True, slots=True)
class ApplicationRow:
    application: Application
    is_own: bool
    keys: tuple[APIKey, ...]

    @property
    def num_active(self) -> int:
        return sum(key.state == "active" for key in self.keys)


@dataclass(frozen=True, slots=True)
class KeyRow:
    key: APIKey
    used_at: datetime | None
    use: str  # in words where there is no time to show


@dataclass(frozen=True, slots=True)
class ApplicationPage:
    application: Application
    is_own: bool
    keys: tuple[KeyRow, ...]


@dataclass(frozen=True, slots=True)
class KeysPage:
    rows: tuple[ApplicationRow, ...] = field(default=())


def keys_page(user: Any) -> KeysPage:
    rows = Application.objects.of(user).with_keys()
    return KeysPage(tuple(ApplicationRow(row, row.owner_id == user.pk, tuple(row.keys.all())) for row in rows))


def application_page(user: Any, application: Application, *, now: datetime) -> ApplicationPage:
    uses = find_last_uses(application, now=now)
    unused = "unknown" if uses is None else f"not in {USE_SHOWN.days} days"
    rows = tuple(KeyRow(key, (uses or {}).get(key.prefix), unused) for key in application.keys.all())
    return ApplicationPage(application, application.owner_id == user.pk, rows)


def first_lines(key: str, user: Any) -> str:
    """Two lines that use a new key: what may be called, and a first look at a model that `user` sees."""
    seen = Entry.objects.visible_to(user).exclude(access=Entry.Access.SUBSCRIPTION).values("slug")
    ready = Deployment.objects.filter(version_states__state="AVAILABLE", name__in=seen)
    name = ready.values_list("name", flat=True).first() or "half_plus_two"
    header = f"-H 'Authorization: Bearer {key}'"
    models = f"{settings.GATEWAY_URL}/v1/models"
    return f"curl {models} {header}\ncurl {models}/{name}/openapi.json {header}"
