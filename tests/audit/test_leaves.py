import json
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import entries, ids, journal, leaves, payloads, rowformat
from audit.record import Call
from tests.audit.calls import MASTER_KEY, make_call, make_refusal, make_time_id

KEY = payloads.SealingKey(bytes(16), payloads.hmac_pads(bytes(32)))

texts = st.text(max_size=200) | st.text(st.characters(min_codepoint=0, max_codepoint=0x2FFFF), max_size=40)


def encode(call: object, *, stored: bool = True) -> journal.Entry:
    encoder = entries.CallEncoder("node-1", MASTER_KEY)
    sealed = payloads.seal_parts(KEY, call.record_id, call.request, call.response, encoder.take_random)  # type: ignore[attr-defined]
    entry, leaf_hash = encoder.encode(call, *sealed)  # type: ignore[arg-type]
    decoded = journal.decode_entry(memoryview(entry), 0)
    assert leaves.leaf_hash(bytes(decoded.leaf)) == leaf_hash
    return decoded


@settings(deadline=None)
@given(
    model=texts,
    version=st.none() | st.integers(0, 1 << 62),
    signature=texts | st.just("serving_default"),
    error=texts,
    user=texts,
    address=texts,
    outcome=st.sampled_from(["ok", "rejected", "model_error", "timeout"]),
    status=st.sampled_from([200, 400, 503]),
    request=st.none() | st.binary(max_size=50),
    response=st.none() | st.binary(max_size=50),
    trace=st.none() | st.binary(min_size=16, max_size=16),
    context=st.none() | st.binary(min_size=32, max_size=32),
    count=st.integers(1, 1 << 40),
    batch_size=st.sampled_from([0, 64]),
    total_us=st.integers(-5, 1 << 70),
    queue_us=st.integers(-5, 1 << 40),
)
def test_a_leaf_is_canonical_json_whatever_the_call_holds(**changes: object) -> None:
    leaf = bytes(encode(make_call(**changes)).leaf)
    parsed = json.loads(leaf)
    assert orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS) == leaf
    if b"\\u" not in leaf:  # control characters are escaped in more than one right way
        assert json.dumps(parsed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == leaf
    assert leaves.canonical(parsed) == leaf  # no floats, no large integers, ASCII keys
    assert "\0" not in leaf.decode()


def test_a_leaf_says_what_happened() -> None:
    call = make_call()
    leaf = json.loads(bytes(encode(call).leaf))
    assert leaf == {
        "t": "prediction",
        "v": 1,
        "id": ids.text(call.record_id),
        "ts": ids.time_us(call.record_id),
        "ctx": leaves.context_name(call.context or b""),
        "m": "half_plus_two",
        "ver": 1,
        "o": "ok",
        "p": "tfs_rest",
        "lat": {"t": 1234, "q": 300, "m": 100},
        "n": {"in": 30, "out": 32},
        "c": leaf["c"],
        "ct": leaf["ct"],
        "b": leaves.base64url(call.body_sha256),
        "a": {"t": "key", "p": leaf["a"]["p"]},
        "bt": {"id": 77, "n": 12, "i": 3},
        "tr": leaves.base64url(call.trace or b""),
    }
    assert len(leaf["a"]["p"]) == 12
    assert {len(digest) for digest in leaf["c"].values()} == {43}


def test_a_leaf_of_a_refusal_says_why_and_how_many() -> None:
    leaf = json.loads(bytes(encode(make_refusal(count=17, error="x" * 400)).leaf))
    assert (leaf["t"], leaf["o"], leaf["st"], leaf["cnt"]) == ("refusal", "too_many", 429, 17)
    assert leaf["err"] == "x" * 120
    assert not {"c", "ct", "bt"} & leaf.keys()


@pytest.mark.parametrize("verb", ["status", "metadata", "openapi", "list"])
@pytest.mark.parametrize("make", [make_call, make_refusal])
def test_the_leaf_of_a_question_about_models_is_a_read(verb: str, make: Callable[..., Call]) -> None:
    leaf = json.loads(bytes(encode(make(verb=verb, signature="")).leaf))
    assert (leaf["t"], leaf["vb"]) == ("read", verb)
    assert "sig" not in leaf


def test_a_predictions_leaf_stays_under_600_bytes() -> None:
    call = make_call(
        model="a-name-of-28-letters-for-all",
        version=1_700_000_000,
        total_us=999_999,
        queue_us=999_999,
        model_us=999_999,
        batch_id=999_999,
        batch_size=128,
        batch_index=127,
        request_bytes=16_000,
        response_bytes=16_000,
    )
    assert len(encode(call).leaf) < 600


def test_callers_appear_under_another_name_each_month() -> None:
    november = 1_795_000_000_000_000
    names = set()
    for month in range(3):
        call = make_call(record_id=make_time_id(november + month * 31 * 86_400_000_000))
        leaf = bytes(encode(call).leaf)
        names.add(json.loads(leaf)["a"]["p"])
        for secret in (b"ada", b"dbk_", b"demo", b"127.0.0"):
            assert secret not in leaf
    assert len(names) == 3


def test_a_row_holds_clean_bounded_text_and_clamped_numbers() -> None:
    entry = encode(make_call(model="a\0b\ud800" + "x" * 500, error="é\0", status=200, rows=1 << 40, queue_us=-1))
    row = bytes(entry.row)
    assert "\ufffd".encode() in row
    assert b"\0b" not in bytes(entry.leaf)
    assert rowformat.row_id(row) == bytes(row[16:32])
    assert json.loads(bytes(entry.leaf))["m"] == ("a\ufffdb?" + "x" * 500)[:128]


@pytest.mark.parametrize("bad", [{"x": 1.5}, {"x": 1 << 60}, {"é": 1}, {"x": [{"y": 0.1}]}, {"x": b"bytes"}])
def test_what_a_leaf_cannot_hold_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="leaf"):
        leaves.canonical(bad)


def test_an_event_too_large_for_an_entry_bundle_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535"):
        entries.encode_event("context", ids.new_id(), "node", {"x": "y" * 70_000})
