from hashlib import sha256

import pytest

from audit import ids, merkle, receipts
from audit.entries import encode_event
from audit.journal import decode_entry
from tests.audit.calls import ORIGIN

TIME_US = 1_795_000_000_000_000


def make_group(size: int) -> tuple[receipts.ReceiptSigner, list[bytes], receipts.SignedGroup]:
    signer = receipts.ReceiptSigner(ORIGIN)
    leaf_hashes = [sha256(b"\0%d" % number).digest() for number in range(size)]
    return signer, leaf_hashes, signer.sign(leaf_hashes, TIME_US)


def test_every_receipt_of_groups_of_any_size_verifies() -> None:
    for size in [*range(1, 34), 64, 100, 255]:
        signer, leaf_hashes, group = make_group(size)
        for index in range(size):
            record_id = ids.new_id()
            receipt = receipts.decode_text(receipts.encode_text(group.receipt(index, record_id)))
            receipts.verify(receipt, signer.public_key)
            assert (receipt.record_id, receipt.leaf_hash) == (record_id, leaf_hashes[index])
            assert (receipt.origin, receipt.time_us, receipt.merge_delay_s) == (ORIGIN, TIME_US, 86_400)


def test_the_tree_is_the_one_of_rfc_6962() -> None:
    for size in range(1, 40):
        leaf_hashes = [sha256(b"%d" % number).digest() for number in range(size)]
        assert receipts._build_levels(leaf_hashes)[-1][0] == merkle.root(leaf_hashes)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_no_byte_of_a_receipt_can_change(size: int) -> None:
    signer, _, group = make_group(size)
    good = group.receipt(size - 1, bytes(16))
    id_place = range(10 + len(ORIGIN), 26 + len(ORIGIN))  # bound by the leaf, see the next test
    for place in set(range(len(good))) - set(id_place):
        changed = bytearray(good)
        changed[place] ^= 1
        with pytest.raises(receipts.BadReceipt):
            receipts.verify(receipts.decode(bytes(changed)), signer.public_key)


def test_a_receipt_names_its_leaf_and_its_record() -> None:
    signer = receipts.ReceiptSigner(ORIGIN)
    record_id = ids.new_id()
    entry, leaf_hash = encode_event("context", record_id, "node", {"x": 1})
    leaf = bytes(decode_entry(memoryview(entry), 0).leaf)
    group = signer.sign([leaf_hash], TIME_US)
    receipts.verify(receipts.decode(group.receipt(0, record_id)), signer.public_key, leaf=leaf)
    with pytest.raises(receipts.BadReceipt, match="another record"):
        receipts.verify(receipts.decode(group.receipt(0, ids.new_id())), signer.public_key, leaf=leaf)
    with pytest.raises(receipts.BadReceipt, match="not the one that was promised"):
        receipts.verify(receipts.decode(group.receipt(0, record_id)), signer.public_key, leaf=leaf + b" ")


@pytest.mark.parametrize("cut", [0, 1, 5, 30, 100, -1])
def test_a_cut_receipt_is_refused(cut: int) -> None:
    _, _, group = make_group(3)
    with pytest.raises(receipts.BadReceipt):
        receipts.decode(group.receipt(0, bytes(16))[:cut])


def test_text_that_is_not_base64_is_refused() -> None:
    with pytest.raises(receipts.BadReceipt, match="base64"):
        receipts.decode_text("no receipt!")


def test_another_key_does_not_verify() -> None:
    _, _, group = make_group(2)
    other = receipts.ReceiptSigner(ORIGIN)
    with pytest.raises(receipts.BadReceipt, match="signed with key"):
        receipts.verify(receipts.decode(group.receipt(0, bytes(16))), other.public_key)
