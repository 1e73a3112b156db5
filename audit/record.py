"""What one call leaves behind.

`Call` is what the door knows when a call's outcome is fixed; `recorder.Recorder.append` makes the leaf, the row and the
encrypted payloads from it. It holds names and digests as values, never foreign keys: a record outlives what it describes.
"""

from typing import Literal

import msgspec

Outcome = Literal["ok", "rejected", "model_error", "timeout", "cancelled", "unavailable", "too_many", "stream_aborted", "cached", "shadow"]

CALL_KINDS = ("prediction", "refusal", "read")
"""What a record of a call is: it came to a model, it was refused before that, or it only asked about models."""

READ_VERBS = frozenset({"status", "metadata", "openapi", "list"})


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call, answered or refused. Times are int µs (UTC for `received_us`), sizes are bytes, digests are raw 32 bytes.

    A struct, not a dataclass: making one takes 1 µs instead of 6. Copies are made with `msgspec.structs.replace`.

    request and response are the bodies to store; None stores nothing (refusals keep `body_sha256` and sizes only).
    `answer` is the answer in words for the record list, only for deployments that declare it.
    """

    record_id: bytes  # UUIDv7, 16 bytes; its time is the partition time
    received_us: int
    protocol: str  # "tfs_rest", "try_it", …
    verb: str  # "predict", "status", …
    model: str
    version: int | None
    signature: str
    context: bytes | None  # digest of the `context` leaf (origin, artifact, configuration, policy)
    artifact: bytes | None
    outcome: Outcome
    status: int  # HTTP status
    error: str
    actor_type: str  # "key", "anonymous", "try-it"
    key_prefix: str
    application: str
    user: str
    address: str  # truncated: /24 or /48
    trace: bytes | None  # 16 bytes
    request: bytes | None
    response: bytes | None
    body_sha256: bytes
    request_bytes: int
    response_bytes: int
    rows: int
    total_us: int
    queue_us: int
    model_us: int
    batch_id: int
    batch_size: int
    batch_index: int
    worker: str
    device: str
    answer: str = ""
    count: int = 1  # > 1 for aggregates of refusals
