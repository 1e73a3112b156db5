"""What a gateway knows: one immutable value, published by services and swapped whole.

A snapshot is built from PostgreSQL by `serving.services.publish_snapshot`, stored as a versioned row in the transaction that
changed something, announced on Redis (`SNAPSHOT_CHANNEL`), polled each second by gateways and kept by them in a 0600 file. It
travels as JSON (`encode_snapshot`, `decode_snapshot`). Nothing in it is a secret that opens anything: keys are SHA-256 hashes,
except `try_it_secret`, which signs the site's short-lived try-it tokens.

Imports no framework: gateway and worker read it without Django.
"""

from typing import Literal

import msgspec

SNAPSHOT_CHANNEL = "daybook:snapshot"

Access = Literal["open", "key", "subscription"]
Visibility = Literal["public", "internal", "owners"]


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a signature. `shape` is None for unknown rank; -1 marks an unknown dimension."""

    name: str  # the graph's tensor name, "x:0"
    dtype: str  # TensorFlow's enum name, "DT_FLOAT"
    shape: tuple[int, ...] | None


class Signature(msgspec.Struct, frozen=True):
    """One way to call a version. `batched` says whether the load-time probe allows batching (RULES 5.1)."""

    method_name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    batched: bool = True
    defaults: dict[str, list[object]] = {}


class Version(msgspec.Struct, frozen=True):
    """A version of a deployment in one of TensorFlow Serving's states.

    `state` is START, LOADING, AVAILABLE, UNLOADING or END. `stream` is the Redis stream that carries its requests.
    `context` is the digest (64 hex) that names origin, artifact and policy in each leaf.
    """

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""
    artifact: str = ""  # sha256 over all files of the SavedModel, 64 hex
    stream: str = ""
    signatures: dict[str, Signature] = {}


class Deployment(msgspec.Struct, frozen=True):
    """A served model as callers see it. `default_version` is the highest AVAILABLE one, None while nothing is ready.

    Who doesn't see it gets the answers of a model that doesn't exist. `seen_by` and `subscribers` are user names: those to whom it is
    there whatever its visibility, and those with an approved application, who may try it. They are filled where they decide something.
    """

    name: str
    access: Access
    versions: tuple[Version, ...]  # descending
    labels: dict[str, int]
    default_version: int | None
    max_batch_size: int = 64
    timeout_ms: int = 30_000
    stateful: bool = False
    answer_labels: tuple[str, ...] = ()  # class names, to say the answer in words in the record list
    answer_output: str = ""  # the output that is the answer; "" = do not put the answer into the clear
    error_code: str = "OK"  # of its directory; a version's own error stands with the version
    error_message: str = ""
    visibility: Visibility = "public"
    seen_by: tuple[str, ...] = ()
    subscribers: tuple[str, ...] = ()


class Limits(msgspec.Struct, frozen=True):
    """What one key may use. 0 = unlimited."""

    requests_per_second: int = 0
    concurrency: int = 0


class Key(msgspec.Struct, frozen=True):
    """An API key as the gateway sees it. Looked up by `sha256` (64 hex of the whole key text)."""

    sha256: str
    prefix: str  # what may be shown: "dbk_1a2b3c4d"
    application: str
    user: str
    scopes: tuple[str, ...]  # "predict", "metadata", "operate", "api", "*"
    apis: tuple[str, ...]  # names that it may call besides the open ones; ("*",) = all
    expires_us: int | None
    limits: Limits
    subscriptions: tuple[str, ...] = ()  # names with access "subscription" that its application was approved for


class Snapshot(msgspec.Struct, frozen=True):
    version: int  # grows by one with each publication
    made_us: int
    origin: str  # the log's origin line
    deployments: dict[str, Deployment]
    keys: dict[str, Key]  # by sha256
    try_it_secret: str
    site_origin: str  # the only origin that CORS names
    open_limits: Limits = Limits(requests_per_second=20, concurrency=8)  # per address, for callers without a key


EMPTY = Snapshot(version=0, made_us=0, origin="", deployments={}, keys={}, try_it_secret="", site_origin="")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Raises msgspec.ValidationError when `data` is not a snapshot of this form."""
    return _decoder.decode(data)
