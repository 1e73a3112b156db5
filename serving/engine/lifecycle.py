"""One version's life as the manager keeps it, as it is shown, and as it is held by those who run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from .batch import BatchRule
from .errors import EngineError
from .options import DesiredModel
from .servable import Servable, ServableKey, Signature
from .state import Event, State, next_state

MAX_RETRY_DELAY = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What outsiders see of a version. While it waits to be tried again its state is START and the last error stands there."""

    name: str
    version: int
    state: State
    error_code: str = "OK"
    error_message: str = ""
    artifact: str = ""
    device: str = ""
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    rules: Mapping[str, BatchRule] = field(default_factory=dict)  # the rules in force, by signature
    num_failures: int = 0
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model's versions, descending, and what is wrong with its directory, if anything."""

    name: str
    error_code: str
    error_message: str
    versions: tuple[VersionStatus, ...]

    @property
    def available(self) -> tuple[int, ...]:
        return tuple(version.version for version in self.versions if version.state is State.AVAILABLE)


class Version:
    """One life of a version. Guarded by the manager's lock."""

    __slots__ = (
        "_effective",
        "_status",
        "error",
        "files",
        "key",
        "load_seconds",
        "model",
        "num_failures",
        "num_handles",
        "outdated",
        "path",
        "proven",
        "retry_at",
        "servable",
        "source",
        "state",
    )

    def __init__(self, key: ServableKey, model: DesiredModel, path: str) -> None:
        self.key = key
        self.model = model
        self.path = path
        self.source = (path, model.platform, model.tags, model.stateful)
        self.outdated = False  # loaded from another place than where the deployment points now
        self.state = State.START
        self.error: EngineError | None = None
        self.files: tuple[object, ...] = ()
        self.num_failures = 0
        self.num_handles = 0
        self.retry_at = 0.0
        self.load_seconds = 0.0
        self.servable: Servable | None = None
        self.proven: Mapping[str, BatchRule] = {}  # what the probe found
        self._status = VersionStatus(key.name, key.version, self.state)  # what is kept of it after the unload
        self._effective: tuple[DesiredModel, Mapping[str, BatchRule]] | None = None

    @property
    def available(self) -> bool:
        return self.state is State.AVAILABLE

    def same_source(self, model: DesiredModel, path: str) -> bool:
        """Whether loading it anew would give the same servable."""
        return self.source == (path, model.platform, model.tags, model.stateful)

    def move(self, event: Event) -> None:
        self.state = next_state(self.state, event)

    def take(self, servable: Servable, rules: Mapping[str, BatchRule]) -> None:
        """Keep what a load gave."""
        self.servable = servable
        self.proven = rules
        self._effective = None  # what was asked for before the load knew no rules
        self.error = None
        self.num_failures = 0
        self.status()

    def rules(self) -> Mapping[str, BatchRule]:
        """What the probe found, as the deployment's `batching` overrides it."""
        if self._effective is None or self._effective[0] is not self.model:
            self._effective = (self.model, effective_rules(self.proven, self.model))
        return self._effective[1]

    def status(self) -> VersionStatus:
        servable = self.servable
        if servable is None:
            artifact, device, signatures = self._status.artifact, self._status.device, self._status.signatures
        else:
            artifact, device, signatures = servable.artifact, servable.device, servable.signatures
        self._status = VersionStatus(
            self.key.name,
            self.key.version,
            self.state,
            self.error.code.name if self.error else "OK",
            self.error.message if self.error else "",
            artifact,
            device,
            signatures,
            self.rules(),
            self.num_failures,
            self.load_seconds,
        )
        return self._status


class Handle:
    """A loaded version that stays loaded until `release`. A context manager; released once, further calls do nothing."""

    __slots__ = ("_give_back", "_released", "_version", "servable")

    def __init__(self, version: Version, servable: Servable, give_back: Callable[[Version], None]) -> None:
        self._version = version
        self._give_back = give_back
        self._released = False
        self.servable = servable

    @property
    def key(self) -> ServableKey:
        return self._version.key

    @property
    def model(self) -> DesiredModel:
        """The options in force now."""
        return self._version.model

    @property
    def rules(self) -> Mapping[str, BatchRule]:
        """By signature, the rule in force now."""
        return self._version.rules()

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._give_back(self._version)

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def effective_rules(proven: Mapping[str, BatchRule], model: DesiredModel) -> dict[str, BatchRule]:
    """The rules in force. `on` batches whatever is fed, but runs apart only what the probe has shown to be safe to run again."""
    match model.batching.mode:
        case "off":
            return {name: BatchRule(False, "batching is off", rerun=rule.rerun) for name, rule in proven.items()}
        case "on":
            return {
                name: rule if rule.batched else BatchRule(True, f"batching is on although: {rule.reason}", (), rule.rerun)
                for name, rule in proven.items()
            }
        case _:
            return dict(proven)
