"""What gateways and workers agree on in Redis: names of keys, leases, and the errors of the way between them.

    {p}q:<model>@<version>:<priority>  stream of request entries (g = gateway, f = frames), read by the group `workers`
    {p}reply:<gateway>                 stream of reply entries (f = frames, or p = a part of a long one)
    {p}cancelled                       stream of cancelled request ids (i = ids laid end to end), kept for a minute
    {p}streams                         set of the request streams in use, without priority
    {p}worker:<id>, {p}workers         a worker's lease, and the set of ids to look for
    {p}gateway:<id>, {p}gateways       the same for gateways; the value is the version of the snapshot that it routes by
    {p}tried:<stream>                  hash of claimed frames that were run alone, to whom (RULES 4.1)
    {p}status:<worker>                 what a worker serves, JSON
    {p}snapshot:version                of the snapshot published last

Cancelled ids are a stream and not a set per second: a worker that waits for requests has sent its next read already and can't name
a bucket that is yet to come, but it can ask for "all after the last one".

    Unavailable
    ├── NoWorker      no connection to Redis, or no live worker; refused at once
    ├── WorkerLost    the worker that ran the request died, twice
    └── RedisLost     the connection broke, or Redis was restarted, while the request was under way
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from .engine import errors
from .engine.errors import Code, EngineError, Unavailable
from .protocol.messages import Timing

GROUP: Final = "workers"
LEASE_MS: Final = 2000
GATEWAY_LEASE_MS: Final = 3000
REPLY_TTL_S: Final = 60
CANCELLED_KEPT_MS: Final = 60_000
BEAT_S: Final = 0.5
PRIORITIES: Final = (0, 1)


class NoWorker(Unavailable):
    """Nobody is there who could run it."""


class WorkerLost(Unavailable):
    """The workers that ran it died."""


class RedisLost(Unavailable):
    """What was under way is lost with Redis."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys below a prefix."""

    prefix: str

    @property
    def workers(self) -> str:
        return f"{self.prefix}workers"

    @property
    def gateways(self) -> str:
        return f"{self.prefix}gateways"

    @property
    def streams(self) -> str:
        return f"{self.prefix}streams"

    @property
    def cancelled(self) -> str:
        return f"{self.prefix}cancelled"

    @property
    def snapshot_version(self) -> str:
        return f"{self.prefix}snapshot:version"

    def worker(self, worker_id: str) -> str:
        return f"{self.prefix}worker:{worker_id}"

    def gateway(self, gateway_id: str) -> str:
        return f"{self.prefix}gateway:{gateway_id}"

    def reply(self, gateway_id: str) -> str:
        return f"{self.prefix}reply:{gateway_id}"

    def status(self, worker_id: str) -> str:
        return f"{self.prefix}status:{worker_id}"

    def tried(self, stream: str) -> str:
        return f"{self.prefix}tried:{stream.removeprefix(self.prefix)}"

    def stream(self, model: str, version: int) -> str:
        return f"{self.prefix}q:{model}@{version}"

    def find_servable(self, stream: str) -> tuple[str, int] | None:
        """Model and version of a request stream; None when the name is not one."""
        model, at, version = stream.removeprefix(f"{self.prefix}q:").rpartition("@")
        return (model, int(version)) if at and version.isdecimal() else None


class Lease(msgspec.Struct, frozen=True):
    """What a worker says of itself twice a second: the streams it reads, and those it will read once they are loaded."""

    serving: frozenset[str] = frozenset()
    loading: frozenset[str] = frozenset()


_encode_lease = msgspec.json.Encoder().encode
_decode_lease = msgspec.json.Decoder(Lease).decode


def encode_lease(lease: Lease) -> bytes:
    return _encode_lease(lease)


def decode_lease(value: bytes) -> Lease:
    """An unreadable lease (of another release) is still a live worker's."""
    try:
        return _decode_lease(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Lease()


_CODES: Final = frozenset(Code)
_SUBJECTS: Final[dict[str, type[EngineError]]] = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), NoWorker, WorkerLost, RedisLost)
    if isinstance(kind, type) and issubclass(kind, EngineError)
}


def error_from(subject: str, code: int, text: str, timing: Timing) -> EngineError:
    """The error that a reply tells of: the class of its subject where this release knows it. `timing_of` finds its timing."""
    error = _SUBJECTS.get(subject, EngineError)(text, Code(code) if code in _CODES else Code.UNKNOWN)
    error.timing = timing  # type: ignore[attr-defined]  # the engine's errors know nothing of the way back
    return error


def timing_of(error: EngineError) -> Timing:
    """Where the time of a request went that a worker answered with this error; all zeros for one that no worker answered."""
    timing = getattr(error, "timing", None)
    return timing if isinstance(timing, Timing) else Timing()
