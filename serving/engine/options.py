"""What an operator asks of the engine: frozen values, checked when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from .errors import InvalidOptions

BatchingMode = Literal["auto", "on", "off"]
Transition = Literal["availability", "resource"]


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest `num_versions` version directories."""

    num_versions: int = 1

    def __post_init__(self) -> None:
        if self.num_versions < 1:
            raise InvalidOptions(f"latest needs at least 1 version, got {self.num_versions}")


@dataclass(frozen=True, slots=True)
class All:
    """Every version directory."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Exactly these versions; one that has no directory is an error in its own status."""

    versions: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.versions:
            raise InvalidOptions("specific needs at least one version")


VersionPolicy = Latest | All | Specific

MAX_COUNT: Final = 1 << 20  # of rows in a batch, and of batches in a queue
MAX_SECONDS: Final = 3600.0


def _check_count(name: str, value: object) -> None:
    """These values come from people's JSON: neither a float nor a bool is taken for a number of rows."""
    if type(value) is not int:
        raise InvalidOptions(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise InvalidOptions(f"{name} must be at least 1, got {value}")
    if value > MAX_COUNT:
        raise InvalidOptions(f"{name} must be at most {MAX_COUNT}, got {value}")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOptions(f"{name} must be a number of seconds, got {value!r}")
    if value < 0:
        raise InvalidOptions(f"{name} can't be negative, got {value}")
    if not value <= MAX_SECONDS:
        raise InvalidOptions(f"{name} must be at most {MAX_SECONDS:.0f} seconds, got {value}")


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """How a servable's tasks become batches. Rows, not requests; names and meanings are TensorFlow Serving's.

    mode: `auto` batches a signature when the load-time probe holds, `on` overrides the probe, `off` runs every task alone.
    batch_timeout: seconds that the oldest task may wait for a fuller batch; 0 takes what is queued.
    allowed_batch_sizes: sizes that a batch is padded up to, ascending; the last one must be `max_batch_size`; empty = any.
    max_enqueued_batches: bound on what waits, in batches of `max_batch_size` rows.
    max_batch_time: seconds that a run should take at most by what was learned of the model (a·n + b); 0 = no such bound.
    split_large: whether a task above `max_batch_size` is run in parts; otherwise it is refused.
    """

    mode: BatchingMode = "auto"
    max_batch_size: int = 64
    batch_timeout: float = 0.0
    allowed_batch_sizes: tuple[int, ...] = ()
    max_enqueued_batches: int = 100
    max_batch_time: float = 0.0
    split_large: bool = True

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        for name in ("max_batch_size", "max_enqueued_batches"):
            _check_count(name, getattr(self, name))
        for size in sizes:
            _check_count("each of allowed_batch_sizes", size)
        for name in ("batch_timeout", "max_batch_time"):
            _check_seconds(name, getattr(self, name))
        if not isinstance(self.split_large, bool):
            raise InvalidOptions(f"split_large must be true or false, got {self.split_large!r}")
        if self.mode not in ("auto", "on", "off"):
            raise InvalidOptions(f"batching must be auto, on or off, got {self.mode!r}")
        if any(a >= b for a, b in pairwise(sizes)):
            raise InvalidOptions(f"allowed_batch_sizes must be positive and ascending, got {list(sizes)}")
        if sizes and sizes[-1] != self.max_batch_size:
            raise InvalidOptions(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; expected {self.max_batch_size}"
            )


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """A model that should be served, as a deployment says it.

    base_path: directory whose int64-named subdirectories are versions.
    weight: its share of the device beside other busy models.
    stateful: runs change something: never batched unless `batching.mode` is `on`, never re-run, never probed.
    max_retries, retry_delay: a failed load is tried again this often, first after `retry_delay` seconds, doubling up to 60 s.
    timeout: seconds for one run.
    transition: `availability` loads the new version before it unloads the old one, `resource` the other way round.
    """

    name: str
    base_path: str
    platform: str = "tensorflow"
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    weight: float = 1.0
    stateful: bool = False
    max_retries: int = 5
    retry_delay: float = 1.0
    timeout: float = 30.0
    tags: tuple[str, ...] = ("serve",)
    transition: Transition = "availability"

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidOptions("a model needs a name")
        if not self.base_path.startswith("/"):
            raise InvalidOptions(f"Expected model {self.name} to have an absolute path or URI; got base_path()={self.base_path}")
        if not self.weight > 0:
            raise InvalidOptions(f"weight must be above 0, got {self.weight}")
        if self.timeout <= 0:
            raise InvalidOptions(f"timeout must be above 0 seconds, got {self.timeout}")
        if self.max_retries < 0 or self.retry_delay < 0:
            raise InvalidOptions("max_retries and retry_delay can't be negative")
