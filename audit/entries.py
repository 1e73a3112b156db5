"""Journal entries made from calls and events: leaf, packed row and attachment, joined once.

What does not change from call to call (model, signature, outcome; the caller; the worker) is encoded once and kept; a call then
costs one `struct.pack`, one formatted leaf, one hash and one join.
"""

from binascii import hexlify
from collections.abc import Hashable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast

from . import ids, leaves, rowformat
from .journal import ENTRY_BYTES, EntryType, encode_entry, pack_entry_head
from .keys import pseudonym
from .payloads import RandomPool
from .record import READ_VERBS, Call
from .rowformat import TEXT_LIMITS, bytes_field, clean_text, int_field, text_field

REFUSED = frozenset({"rejected", "too_many", "unavailable"})

Numbers = tuple[int, int, int, int, int, int, int, int, int, int]

_NO_BODY = sha256(b"").digest()
_KEPT = 4096  # entries per table of encoded parts; names that callers invent must not fill the memory
_EMPTY_FIELD = bytes(4)
_NULL_FIELD = b"\xff\xff\xff\xff"
_MAX_INT32 = (1 << 31) - 1
_DAY_US = 86_400_000_000


def kind_of(call: Call) -> str:
    """One of `CALL_KINDS`. What asks about models is a read, refused or not: whoever polls a model's status hasn't called it."""
    if call.verb in READ_VERBS:
        return "read"
    return "refusal" if call.outcome in REFUSED else "prediction"


def caller_name(application: str, user: str, key_prefix: str, address: str) -> str:
    """What a caller's pseudonym is made of: the columns of the row, so that rows can be held against their leaves."""
    return "\0".join((application, user, key_prefix)) if application or user or key_prefix else address


def _text(value: str, column: str) -> str:
    return clean_text(value, TEXT_LIMITS[column])


def _remember(table: dict[Any, Any], key: Hashable, value: Any) -> None:
    if len(table) >= _KEPT:
        table.clear()
    table[key] = value


class CallEncoder:
    """Makes entries of calls. For one thread."""

    def __init__(self, node: str, master_key: bytes) -> None:
        self._node_field = text_field(_text(node, "node"))
        self._master_key = master_key
        self.take_random = RandomPool().take
        self._call_parts: dict[tuple[Any, ...], tuple[leaves.CallParts, bytes]] = {}
        self._actor_parts: dict[tuple[str, ...], tuple[bytes, bytes]] = {}
        self._worker_parts: dict[tuple[str, str], bytes] = {}
        self._month_day = -1
        self._month = ""

    def scope(self, call: Call) -> str:
        """The scope whose key protects the call's payloads: tenant and month."""
        return f"{call.application or 'anonymous'}/{self._month_of(ids.time_us(call.record_id))}"

    def encode(self, call: Call, attachment: bytes, digests: bytes) -> tuple[bytes, bytes]:
        """The entry and its leaf hash. attachment and digests as `payloads.seal_parts` returns them."""
        record_id = call.record_id
        ts_us = ids.time_us(record_id)
        call_key = (
            call.model,
            call.version,
            call.signature,
            call.outcome,
            call.status,
            call.verb,
            call.protocol,
            call.context,
            call.artifact,
        )
        found = self._call_parts.get(call_key)
        parts, call_fields = found if found is not None else self._encode_call_parts(call, call_key)
        actor_key = (call.key_prefix, call.application, call.user, call.actor_type, call.address, self._month_of(ts_us))
        actor = self._actor_parts.get(actor_key)
        actor_leaf, actor_fields = actor if actor is not None else self._encode_actor(call, actor_key)
        worker_key = (call.worker, call.device)
        worker_fields = self._worker_parts.get(worker_key)
        if worker_fields is None:
            worker_fields = self._encode_worker(call, worker_key)
        if call.error:
            error = _text(call.error, "error")
            error_field = text_field(error)
            error_json = leaves.json_text(error[: rowformat.LEAF_ERROR_LIMIT])
        else:
            error_field, error_json = _EMPTY_FIELD, b""
        trace = call.trace or None
        numbers = (
            call.request_bytes,
            call.response_bytes,
            call.rows,
            call.total_us,
            call.queue_us,
            call.model_us,
            call.batch_id,
            call.batch_size,
            call.batch_index,
            call.count,
        )
        if max(numbers) > _MAX_INT32 or min(numbers) < 0:
            numbers = _clamped(numbers)
        request_bytes, response_bytes, _, total_us, queue_us, model_us, batch_id, batch_size, batch_index, count = numbers
        body_sha256 = call.body_sha256 or _NO_BODY
        leaf = leaves.call_leaf(
            parts,
            actor_leaf,
            digests=leaves.digests_base64url(body_sha256 + b"\0" + digests, 1 + len(digests) // 33),
            has_request=call.request is not None,
            has_response=call.response is not None,
            batch=(batch_id, batch_size, batch_index),
            count=count,
            error=error_json,
            record_id=hexlify(record_id),
            latency=(model_us, queue_us, total_us),
            sizes=(request_bytes, response_bytes),
            trace=trace,
            ts_us=ts_us,
        )
        leaf_hash = leaves.leaf_hash(leaf)
        row = b"".join(
            (
                rowformat.pack_fixed(ts_us, record_id, leaf_hash, numbers),
                bytes_field(trace),
                call_fields,
                error_field,
                actor_fields,
                worker_fields,
                text_field(_text(call.answer, "answer")) if call.answer else _EMPTY_FIELD,
                self._node_field,
            )
        )
        length = ENTRY_BYTES + len(row) + len(leaf) + len(attachment)
        return b"".join((pack_entry_head(length, EntryType.RECORD, 0, len(row), len(leaf)), row, leaf, attachment)), leaf_hash

    def _month_of(self, ts_us: int) -> str:
        day = ts_us // _DAY_US
        if day != self._month_day:
            self._month = f"{datetime.fromtimestamp(ts_us / 1e6, UTC):%Y-%m}"
            self._month_day = day
        return self._month

    def _encode_call_parts(self, call: Call, key: tuple[Any, ...]) -> tuple[leaves.CallParts, bytes]:
        kind = kind_of(call)
        protocol, verb = _text(call.protocol, "protocol"), _text(call.verb, "verb")
        model, signature = _text(call.model, "model"), _text(call.signature, "signature")
        version = call.version if call.version is None else leaves.clamp(call.version)
        parts = leaves.CallParts(
            kind=kind,
            protocol=protocol,
            verb=verb,
            model=model,
            version=version,
            signature=signature,
            context=call.context,
            outcome=call.outcome,
            status=call.status,
        )
        fields = b"".join(
            (
                text_field(kind),
                text_field(protocol),
                text_field(verb),
                text_field(model),
                int_field(version, 8),
                text_field(signature),
                bytes_field(call.artifact),
                text_field(call.outcome),
                int_field(call.status, 2),
            )
        )
        _remember(self._call_parts, key, (parts, fields))
        return parts, fields

    def _encode_actor(self, call: Call, key: tuple[str, ...]) -> tuple[bytes, bytes]:
        actor_type, key_prefix = _text(call.actor_type, "actor_type"), _text(call.key_prefix, "key_prefix")
        application, user = _text(call.application, "application"), _text(call.user, "user_name")
        address = _text(call.address, "address")
        leaf = leaves.actor_part(actor_type, pseudonym(self._master_key, key[-1], caller_name(application, user, key_prefix, address)))
        fields = b"".join(map(text_field, (actor_type, key_prefix, application, user, address)))
        _remember(self._actor_parts, key, (leaf, fields))
        return leaf, fields

    def _encode_worker(self, call: Call, key: tuple[str, str]) -> bytes:
        fields = text_field(_text(call.worker, "worker")) + text_field(_text(call.device, "device"))
        _remember(self._worker_parts, key, fields)
        return fields


def _clamped(numbers: Numbers) -> Numbers:
    """What the columns hold: no negative sizes or times, 32 bits except for total time and batch id."""
    bounds = [leaves.INT_BOUND if place in (3, 6) else _MAX_INT32 for place in range(len(numbers))]
    return cast(Numbers, tuple(max(0, min(bound, number)) for number, bound in zip(numbers, bounds, strict=True)))


def encode_event(type_: str, record_id: bytes, node: str, details: dict[str, Any]) -> tuple[bytes, bytes]:
    """The entry and leaf hash of something that happened to gateway or scribe. Raises ValueError for what no leaf holds."""
    ts_us = ids.time_us(record_id)
    node = _text(node, "node")
    leaf = leaves.event_leaf(type_, record_id=ids.text(record_id), ts_us=ts_us, node=node, details=details)
    if len(leaf) > leaves.MAX_LEAF_BYTES:
        raise ValueError(f"a leaf of {len(leaf)} bytes, at most {leaves.MAX_LEAF_BYTES} fit an entry bundle")
    leaf_hash = leaves.leaf_hash(leaf)
    row = b"".join(
        (
            rowformat.pack_fixed(ts_us, record_id, leaf_hash, (0,) * 9 + (1,)),
            _NULL_FIELD,  # trace
            text_field("system"),
            _EMPTY_FIELD,  # protocol
            text_field(_text(type_, "verb")),
            _EMPTY_FIELD,  # model
            _NULL_FIELD,  # version
            _EMPTY_FIELD,  # signature
            _NULL_FIELD,  # artifact
            text_field("ok"),
            int_field(0, 2),  # status
            _EMPTY_FIELD * (1 + 5 + 2 + 1),  # error, actor, worker and device, answer
            text_field(node),
        )
    )
    return encode_entry(EntryType.RECORD, row, leaf), leaf_hash
