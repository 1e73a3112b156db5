"""Leaves: the canonical public part of a record, hashed into the log.

Canonical means JSON with sorted ASCII keys, no spaces, integers within ±2^53 and no floats, which is RFC 8785's form of it. The
leaf of a call is formatted from parts that are encoded once per model and per caller; `tests/audit/test_leaves.py` holds it equal
to sorted JSON. Digests are base64url without padding.

    t  type                v  version of the form      id record id           ts time in the id, µs
    m  model               ver version                 sig signature          ctx the `context` leaf that holds here
    o  outcome             st status                   p  protocol            vb verb
    lat{t,q,m} total, queue and model µs               n{in,out} bytes        cnt calls, where more than one
    b  SHA-256 of the received body                    c{in,out} salted commitments   ct{in,out} digests of the ciphertexts
    a{t,p} actor: type and pseudonym of the month      bt{id,n,i} batch: id, rows, first row
    tr the caller's trace  err what went wrong, only when something did

`t` of a call is "prediction", "refusal" (it never came to a model) or "read" (it asked about models: `vb` is status, metadata,
openapi or list), and figures count the first two. Gateways before that kind wrote answered reads as predictions; such leaves stay.

A prediction's leaf stays under 600 bytes, therefore what is usual is left out: `st` 200, `vb` "predict", and `sig`
"serving_default" of a prediction. `tr` is base64url; `ct` and `ctx` are the first 22 characters (132 bits) of their digests:
those two identify and do not bind. What was said is bound by the commitments, which are whole; a context by its own leaf in the
same log, where a second one of the same name would be seen. Callers appear as pseudonyms only (`keys.pseudonym` over application,
user and key prefix): a key prefix in the clear would link the months that the pseudonym keeps apart.
"""

from binascii import b2a_base64
from hashlib import sha256
from typing import Any

import orjson

VERSION = 1
INT_BOUND = 1 << 53
MAX_LEAF_BYTES = 65_535  # what an entry bundle's length field holds

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_ABSENT = b""


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962's hash of a leaf."""
    return sha256(b"\x00" + leaf).digest()


def canonical(value: dict[str, Any]) -> bytes:
    """Canonical JSON. Raises ValueError for floats, integers beyond ±2^53 and keys that are not ASCII."""
    _check(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise ValueError(f"key {key!r} of a leaf is not ASCII")
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
    elif isinstance(value, int):
        if not -INT_BOUND <= value <= INT_BOUND:
            raise ValueError(f"{value} does not fit a leaf, which holds integers up to 2^53")
    elif value is not None and not isinstance(value, str):
        raise ValueError(f"a leaf holds no {type(value).__name__}")


def base64url(data: bytes) -> str:
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()


DEFAULT_SIGNATURE = "serving_default"
DEFAULT_VERB = "predict"
SHORT_DIGEST = 22  # characters of base64url: 132 bits


def digests_base64url(digests: bytes, count: int) -> list[bytes]:
    """`count` digests of 32 bytes, each followed by one zero byte, in base64url without padding.

    33 bytes are 44 characters of which the first 43 are those of the digest alone, so one pass encodes all.
    """
    encoded = b2a_base64(digests, newline=False).translate(_URL_SAFE)
    return [encoded[44 * place : 44 * place + 43] for place in range(count)]


def event_leaf(type_: str, *, record_id: str, ts_us: int, node: str, details: dict[str, Any]) -> bytes:
    """The leaf of something that happened to the system itself: `context`, `gateway.key`, `gap`, …"""
    return canonical({"t": type_, "v": VERSION, "id": record_id, "ts": ts_us, "node": node, "d": details})


def json_text(text: str) -> bytes:
    return orjson.dumps(text)


def clamp(number: int) -> int:
    return max(-INT_BOUND, min(INT_BOUND, number))


def context_name(digest: bytes) -> str:
    """How leaves refer to a context."""
    return base64url(digest)[:SHORT_DIGEST]


def actor_part(actor_type: str, pseudonym: str) -> bytes:
    return b'{"a":%b,"b":"' % orjson.dumps({"p": pseudonym, "t": actor_type}, option=orjson.OPT_SORT_KEYS)


class CallParts:
    """What the leaves of calls to one signature with one outcome have in common, encoded once."""

    __slots__ = ("context", "head", "model", "tail")

    def __init__(
        self,
        *,
        kind: str,
        protocol: str,
        verb: str,
        model: str,
        version: int | None,
        signature: str,
        context: bytes | None,
        outcome: str,
        status: int,
    ) -> None:
        self.context = _ABSENT if context is None else b'"ctx":"%b",' % context_name(context).encode()
        self.model = b'"m":%b,' % orjson.dumps(model)
        is_default = signature == (DEFAULT_SIGNATURE if kind == "prediction" else "")
        self.head = b'"o":%b,"p":%b,%b%b"t":%b,' % (
            orjson.dumps(outcome),
            orjson.dumps(protocol),
            _ABSENT if is_default else b'"sig":%b,' % orjson.dumps(signature),
            _ABSENT if status == 200 else b'"st":%d,' % status,
            orjson.dumps(kind),
        )
        self.tail = b',"v":%d%b%b}' % (
            VERSION,
            _ABSENT if verb == DEFAULT_VERB else b',"vb":%b' % orjson.dumps(verb),
            _ABSENT if version is None else b',"ver":%d' % clamp(version),
        )


def call_leaf(
    parts: CallParts,
    actor: bytes,
    *,
    digests: list[bytes],
    has_request: bool,
    has_response: bool,
    batch: tuple[int, int, int],
    count: int,
    error: bytes,
    record_id: bytes,
    latency: tuple[int, int, int],
    sizes: tuple[int, int],
    trace: bytes | None,
    ts_us: int,
) -> bytes:
    """Format a call's leaf. Keys come out in order, so this reads as the alphabet does.

    digests: base64url of the body, then of commitment and ciphertext of the request, then of the response, as far as stored.
    batch: id, rows, first row; latency: model, queue, total µs; sizes: request, response; error: JSON text or empty;
    record_id: its 32 hex digits. Integers are within ±2^53.
    """
    if has_request and has_response:
        body, commit_in, cipher_in, commit_out, cipher_out = digests
        stored = b'"c":{"in":"%b","out":"%b"},' % (commit_in, commit_out)
        cipher = b'"ct":{"in":"%b","out":"%b"},' % (cipher_in[:SHORT_DIGEST], cipher_out[:SHORT_DIGEST])
    elif has_request or has_response:
        body, commit, ciphertext = digests
        part = b"in" if has_request else b"out"
        stored = b'"c":{"%b":"%b"},' % (part, commit)
        cipher = b'"ct":{"%b":"%b"},' % (part, ciphertext[:SHORT_DIGEST])
    else:
        body = digests[0]
        stored = cipher = _ABSENT
    batch_id, batch_size, batch_index = batch
    return b'%b%b",%b%b%b%b%b%b"id":"%b-%b-%b-%b-%b","lat":{"m":%d,"q":%d,"t":%d},%b"n":{"in":%d,"out":%d},%b%b"ts":%d%b' % (
        actor,
        body,
        b'"bt":{"i":%d,"id":%d,"n":%d},' % (batch_index, batch_id, batch_size) if batch_size else _ABSENT,
        stored,
        b'"cnt":%d,' % count if count > 1 else _ABSENT,
        cipher,
        parts.context,
        b'"err":%b,' % error if error else _ABSENT,
        record_id[:8],
        record_id[8:12],
        record_id[12:16],
        record_id[16:20],
        record_id[20:],
        *latency,
        parts.model,
        *sizes,
        parts.head,
        b'"tr":"%b",' % base64url(trace).encode() if trace else _ABSENT,
        ts_us,
        parts.tail,
    )
