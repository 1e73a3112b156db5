"""A row held against its leaf: whatever both say must be the same. Pure.

Rows are for searching and can be changed by whoever holds the database; leaves can't. What a leaf doesn't say (the answer in
words, worker, device, place in the segment) can't be checked; caller, person and key are bound by the leaf's pseudonym.
"""

from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from .entries import caller_name
from .leaves import DEFAULT_SIGNATURE, DEFAULT_VERB
from .record import CALL_KINDS
from .rowformat import LEAF_ERROR_LIMIT

# The columns that `differences` wants of a row.
COLUMNS = (
    "ts", "id", "leaf_hash", "kind", "protocol", "verb", "model", "version", "signature", "outcome", "status", "error", "actor_type",
    "key_prefix", "application", "user_name", "address", "trace", "request_bytes", "response_bytes", "total_us", "queue_us", "model_us",
    "batch_id", "batch_size", "batch_index", "count", "node",
)  # fmt: skip

Pseudonym = Callable[[str, str], str]  # (month, caller) → what the leaf must say

_EPOCH = datetime.fromtimestamp(0, UTC)


def differences(row: Mapping[str, Any], leaf: bytes, pseudonym: Pseudonym | None) -> list[str]:
    """The columns in which a row and its leaf differ, empty when they agree.

    pseudonym: of the node that wrote the leaf; None leaves the caller unchecked (another node's master key made it).
    """
    if bytes(row["leaf_hash"]) != sha256(b"\x00" + leaf).digest():
        return ["leaf_hash"]
    try:
        said = orjson.loads(leaf)
        expected = _expected(said)
        actor = said.get("a")
        if actor is not None and pseudonym is not None:
            row_says = _caller(row, said["t"])
            expected["caller"] = actor["p"]
            row = {**row, "caller": pseudonym(f"{row['ts'].astimezone(UTC):%Y-%m}", row_says)}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return [f"leaf ({type(error).__name__})"]
    return [column for column, value in expected.items() if _cut(column, row[column]) != value]


def _expected(said: dict[str, Any]) -> dict[str, Any]:
    """The columns as the leaf has them."""
    kind = said["t"]
    columns: dict[str, Any] = {"id": UUID(said["id"]), "ts": _EPOCH + timedelta(microseconds=said["ts"])}
    if kind == "act":
        return {**columns, "kind": "act", "verb": said["act"], "model": said["on"], "actor_type": said["a"]["t"]}
    if kind not in CALL_KINDS:
        return {**columns, "kind": "system", "verb": kind, "node": said["node"]}
    latency, sizes, batch = said["lat"], said["n"], said.get("bt", {})
    trace = said.get("tr")
    columns |= {
        "kind": kind,
        "protocol": said["p"],
        "verb": said.get("vb", DEFAULT_VERB),
        "model": said["m"],
        "version": said.get("ver"),
        "outcome": said["o"],
        "status": said.get("st", 200),
        "signature": said.get("sig", DEFAULT_SIGNATURE if kind == "prediction" else ""),
        "actor_type": said["a"]["t"],
        "trace": None if trace is None else urlsafe_b64decode(trace + "=="),
        "request_bytes": sizes["in"],
        "response_bytes": sizes["out"],
        "total_us": latency["t"],
        "queue_us": latency["q"],
        "model_us": latency["m"],
        "count": said.get("cnt", 1),
        "error": said.get("err", ""),
    }
    if batch:
        columns |= {"batch_id": batch["id"], "batch_index": batch["i"]}
    return columns | {"batch_size": batch.get("n", 0)}


def _caller(row: Mapping[str, Any], kind: str) -> str:
    if kind == "act":
        return str(row["user_name"])
    return caller_name(row["application"], row["user_name"], row["key_prefix"], row["address"])


def _cut(column: str, value: Any) -> Any:
    """A column's value as far as a leaf repeats it."""
    if column == "error":
        return value[:LEAF_ERROR_LIMIT]
    return bytes(value) if isinstance(value, memoryview) else value
