"""What the serving and keys pages show, ready to render."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis
from django.conf import settings
from django.utils import timezone

from catalog.models import Entry

from .key_use import USE_SHOWN, find_last_uses
from .live import StreamLoad, read_batch_sizes, read_loads
from .models import APIKey, Application, Deployment, VersionState, WorkerState

TRACK = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


@dataclass(frozen=True, slots=True)
class Step:
    """One state of the track that a version walks along."""

    name: str
    is_current: bool
    is_past: bool


@dataclass(frozen=True, slots=True)
class Unbatched:
    """Signatures that run one request at a time for the same reason; `said` is what the model itself said when it was tried."""

    names: tuple[str, ...]
    reason: str
    said: str


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
    batch_size: float | None  # rows, on average over the last minute
    num_signatures: int
    unbatched: tuple[Unbatched, ...]

    @property
    def num_unbatched(self) -> int:
        return sum(len(group.names) for group in self.unbatched)

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
    def as_rows(self) -> tuple["DeploymentRow"]:
        """Itself, for the table that the page of all deployments shows too."""
        return (self,)

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
    loads, sizes = _loads(deployments), _batch_sizes(deployments)
    believed = WorkerState.objects.all().believed()
    return ServingPage(
        rows=tuple(_row(deployment, loads, sizes, believed) for deployment in deployments),
        workers=tuple(WorkerState.objects.live().order_by("node", "worker_id")),
        may_operate=may_operate,
        may_register=user.has_perm("catalog.publish_entry"),
    )


def deployment_page(deployment: Deployment) -> DeploymentRow:
    return _row(deployment, _loads([deployment]), _batch_sizes([deployment]), WorkerState.objects.all().believed())


def _loads(deployments: Sequence[Deployment]) -> dict[str, StreamLoad]:
    streams = {_stream(state) for deployment in deployments for state in deployment.version_states.all()}
    try:
        return read_loads(settings.REDIS_URL, sorted(streams))
    except redis.RedisError:
        return {}  # the page says "unknown" then


Sizes = Mapping[tuple[str, int], float]


def _batch_sizes(deployments: Sequence[Deployment]) -> Sizes:
    return read_batch_sizes([deployment.name for deployment in deployments], timezone.now())


def _stream(state: VersionState) -> str:
    return f"{settings.REDIS_PREFIX}q:{state.deployment.name}@{state.version}"


def _row(deployment: Deployment, loads: dict[str, StreamLoad], sizes: Sizes, believed: frozenset[str]) -> DeploymentRow:
    """believed: ids of the workers whose states count, as for the snapshot."""
    by_version: dict[int, list[VersionState]] = defaultdict(list)
    for state in deployment.version_states.all():
        if state.worker_id in believed:
            by_version[state.version].append(state)
    return DeploymentRow(
        deployment=deployment,
        versions=tuple(_version_row(deployment, by_version[version], loads, sizes) for version in sorted(by_version, reverse=True)),
        faults=tuple(sorted({fault.error_message for fault in deployment.faults.all() if fault.worker_id in believed})),
    )


def _version_row(deployment: Deployment, states: list[VersionState], loads: dict[str, StreamLoad], sizes: Sizes) -> VersionRow:
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
        batch_size=sizes.get((deployment.name, shown.version)),
        num_signatures=len(shown.signatures),
        unbatched=_unbatched(
            {name: shown.batching.get(name, "") for name, signature in shown.signatures.items() if not signature.get("batched", True)}
        ),
    )


def _unbatched(reasons: Mapping[str, str]) -> tuple[Unbatched, ...]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, reason in sorted(reasons.items()):
        groups[reason_in_words(reason)].append(name)
    return tuple(Unbatched(tuple(names), words, said) for (words, said), names in groups.items())


def reason_in_words(reason: str) -> tuple[str, str]:
    """Why a signature runs one request at a time, as the engine gives it: a sentence for people, and what the model said.

    A model that can't be run with made-up rows answers with an error of TensorFlow's; the nodes that it names help nobody here.
    """
    found = re.match(r"not probed: (.*)", reason, re.DOTALL)
    if found is None:
        return f"{reason[:1].upper()}{reason[1:].rstrip('.')}." if reason else "The worker gave no reason.", ""
    said = re.sub(r"\s*\[\[\{\{node [^\]]*\]\]", "", found[1]).strip()
    return "It couldn't be tried with made-up rows, so whether rows may share a run isn't known.", said


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
