import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import entries, ids, keys, leaves, payloads
from audit.errors import PayloadErased, PayloadUnavailable
from audit.files import DiskDirectory
from audit.journal import decode_entry
from tests.audit.calls import MASTER_KEY, make_call

SECRET = bytes(range(32, 64))
KEY_ID = b"k" * 16
KEY = payloads.SealingKey(KEY_ID, payloads.hmac_pads(SECRET))


def seal(request: bytes | None, response: bytes | None, *, compressed: bool = False) -> tuple[bytes, bytes]:
    """An entry and its leaf hash."""
    encoder = entries.CallEncoder("node-1", MASTER_KEY)
    call = make_call(request=request, response=response)
    code = payloads.compress if compressed else (lambda plaintext: (payloads.RAW, plaintext))
    sealed = payloads.seal_parts(KEY, call.record_id, request, response, os.urandom, code)
    return encoder.encode(call, *sealed)


def get_secret(key_id: bytes) -> bytes:
    assert key_id == KEY_ID
    return SECRET


parts = st.none() | st.binary(max_size=200)


@settings(deadline=None)
@given(request=parts, response=parts, compressed=st.booleans())
def test_what_was_sealed_opens_and_is_checked(request: bytes | None, response: bytes | None, compressed: bool) -> None:
    entry, leaf_hash = seal(request, response, compressed=compressed)
    payload = payloads.open_entry(entry, leaf_hash, get_secret)
    assert (payload.request, payload.response) == (request, response)
    assert leaves.leaf_hash(payload.leaf) == leaf_hash


def test_large_parts_are_compressed_where_that_pays() -> None:
    text, noise = b"[1.5, 2.5]," * 10_000, os.urandom(100_000)
    entry, leaf_hash = seal(text, noise, compressed=True)
    assert len(entry) < len(text) // 10 + len(noise) + 2_000
    payload = payloads.open_entry(entry, leaf_hash, get_secret)
    assert (payload.request, payload.response) == (text, noise)


def test_the_record_key_is_hkdf() -> None:
    record_id = ids.new_id()
    expected = HKDFExpand(SHA256(), 32, b"daybook/record/v1\0" + record_id).derive(SECRET)
    assert payloads.record_key(KEY.pads, record_id) == expected


def test_equal_payloads_leave_nothing_equal_behind() -> None:
    (first, _), (second, _) = seal(b"42", b"yes"), seal(b"42", b"yes")
    for name in ("c", "ct"):
        said = [json.loads(payloads.open_entry(entry, leaves.leaf_hash(_leaf(entry)), get_secret).leaf)[name] for entry in (first, second)]
        assert not set(said[0].values()) & set(said[1].values())


def _leaf(entry: bytes) -> bytes:
    return bytes(decode_entry(memoryview(entry), 0).leaf)


def test_no_changed_byte_is_ever_shown() -> None:
    entry, leaf_hash = seal(b'{"age": 42}', b'{"risk": "low"}')
    for place in range(len(entry)):
        changed = bytearray(entry)
        changed[place] ^= 0x40
        try:
            payload = payloads.open_entry(bytes(changed), leaf_hash, get_secret)
        except (PayloadUnavailable, AssertionError):
            continue
        assert (payload.request, payload.response) == (b'{"age": 42}', b'{"risk": "low"}')  # a byte of the row or the type


def test_another_record_of_the_segment_is_not_mistaken_for_it() -> None:
    entry, _ = seal(b"a", b"b")
    _, other_hash = seal(b"a", b"b")
    with pytest.raises(PayloadUnavailable, match="another leaf"):
        payloads.open_entry(entry, other_hash, get_secret)


def test_an_erased_key_says_so() -> None:
    def erased(key_id: bytes) -> bytes:
        raise PayloadErased("the payload was erased")

    entry, leaf_hash = seal(b"a", b"b")
    with pytest.raises(PayloadErased):
        payloads.open_entry(entry, leaf_hash, erased)


def test_a_payload_key_is_wrapped_for_one_scope() -> None:
    key = keys.mint_key("demo/2026-11", 5)
    wrapped = keys.wrap_key(MASTER_KEY, key)
    assert keys.unwrap_key(MASTER_KEY, key.key_id, "demo/2026-11", wrapped.wrapped) == key.secret
    assert key.secret not in wrapped.wrapped
    assert key.secret.hex() not in repr(key)
    for master, key_id, scope in (
        (bytes(32), key.key_id, "demo/2026-11"),
        (MASTER_KEY, bytes(16), "demo/2026-11"),
        (MASTER_KEY, key.key_id, "demo/2026-12"),
    ):
        with pytest.raises(keys.BadMasterKey):
            keys.unwrap_key(master, key_id, scope, wrapped.wrapped)


def test_a_key_journal_is_read_up_to_its_torn_tail(tmp_path: Path) -> None:
    journal = keys.KeyJournal(DiskDirectory(tmp_path), ids.new_id(), "node-1")
    written = [keys.wrap_key(MASTER_KEY, keys.mint_key(f"tenant-{number}/2026-11", number)) for number in range(3)]
    for key in written:
        journal.append(key)
    journal.close()
    (path,) = tmp_path.glob("*.keys")
    data = path.read_bytes()
    assert keys.decode_key_header(data) == "node-1"
    assert list(keys.iterate_keys(data)) == written
    assert list(keys.iterate_keys(data[:-1])) == written[:2]
    assert list(keys.iterate_keys(data[: keys.HEADER_BYTES])) == []
    assert keys.decode_key_header(data[:100]) is None


def test_a_master_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "master.key"
    made = keys.ensure_master_key(path)
    assert keys.ensure_master_key(path) == made == keys.load_master_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(keys.BadMasterKey, match="has 5 bytes"):
        keys.load_master_key(path)
