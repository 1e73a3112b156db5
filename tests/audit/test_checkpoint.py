"""Checkpoints against the specification's own example and against forgeries."""

import stat
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from audit import checkpoint, logkeys, verifier
from audit.checkpoint import BadCheckpoint, BadKeyFile, Checkpoint, Ed25519Signer, MlDsa44Cosigner

from .calls import ORIGIN
from .logs import SIGNER

NOW_S = 1_795_000_000
CHECKPOINT = Checkpoint(ORIGIN, 70_000, sha256(b"root").digest())
KEYS = [verifier.parse_vkey(SIGNER.vkey)]

# C2SP signed-note v1.0.0, "Example".
EXAMPLE_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


def make_note(*signers: checkpoint.Signer) -> str:
    return checkpoint.sign(CHECKPOINT, signers or (SIGNER,), NOW_S)


def test_the_note_of_the_specification_opens() -> None:
    key = verifier.parse_vkey(EXAMPLE_VKEY)
    assert verifier.open_note(EXAMPLE_NOTE, [key]) == ("This is an example message.\n", [key])
    with pytest.raises(verifier.BadProof):
        verifier.open_note(EXAMPLE_NOTE.replace("example message", "exbmple message"), [key])


def test_a_checkpoint_reads_as_it_was_signed() -> None:
    note = make_note()
    lines = note.split("\n")
    assert lines[:4] == [ORIGIN, "70000", b64encode(CHECKPOINT.root).decode(), ""]
    assert checkpoint.parse(note) == CHECKPOINT
    signed = verifier.verify_checkpoint(note, KEYS)
    assert (signed.origin, signed.size, signed.root) == (ORIGIN, 70_000, CHECKPOINT.root)


def test_signing_the_same_head_again_says_the_same() -> None:
    assert make_note() == checkpoint.sign(CHECKPOINT, [SIGNER], NOW_S + 60)


def test_every_changed_byte_is_noticed() -> None:
    note = make_note()
    signature = note.rindex(" ") + 1
    for at in range(len(note)):
        for other in {"A", "0", "\n", " "} - {note[at]}:
            changed = note[:at] + other + note[at + 1 :]
            with pytest.raises(verifier.BadProof):
                verifier.verify_checkpoint(changed, KEYS)
    assert signature > 0


def test_ml_dsa_stands_beside_ed25519_and_both_must_hold() -> None:
    cosigner = MlDsa44Cosigner(ORIGIN, MLDSA44PrivateKey.generate())
    note = make_note(SIGNER, cosigner)
    both = [*KEYS, verifier.parse_vkey(cosigner.vkey)]
    assert verifier.verify_checkpoint(note, both).signed_by == (ORIGIN,)
    assert note.split("\n")[4] == make_note().split("\n")[4], "the Ed25519 line comes first, as it would alone"
    head, _, line = note.rstrip("\n").rpartition(" ")
    raw = bytearray(b64decode(line))
    raw[-1] ^= 1
    broken = f"{head} {b64encode(raw).decode()}\n"
    with pytest.raises(verifier.BadProof, match="doesn't hold"):
        verifier.verify_checkpoint(broken, both)
    assert verifier.verify_checkpoint(broken, KEYS).size == 70_000, "who doesn't know the key passes its line over"


def test_a_known_keys_bad_signature_is_not_outweighed_by_a_good_one() -> None:
    other = Ed25519Signer("witness.test/1", Ed25519PrivateKey.generate())
    stranger = Ed25519Signer("witness.test/1", Ed25519PrivateKey.generate())
    keys = [*KEYS, verifier.parse_vkey(other.vkey)]
    note = make_note(SIGNER, other)
    assert verifier.verify_checkpoint(note, keys).signed_by == (ORIGIN, "witness.test/1")
    assert verifier.verify_checkpoint(make_note(SIGNER, stranger), keys).signed_by == (ORIGIN,)
    line = other.line(Checkpoint(ORIGIN, 1, CHECKPOINT.root), NOW_S)
    with pytest.raises(verifier.BadProof, match="doesn't hold"):
        verifier.verify_checkpoint(make_note() + line, keys)


def test_only_the_logs_own_signature_makes_a_checkpoint() -> None:
    other = Ed25519Signer(ORIGIN, Ed25519PrivateKey.generate())
    with pytest.raises(verifier.BadProof, match="isn't signed"):
        verifier.verify_checkpoint(make_note(other), KEYS)
    elsewhere = Ed25519Signer("daybook.test/other", Ed25519PrivateKey.generate())
    with pytest.raises(verifier.BadProof, match="is of"):
        verifier.verify_checkpoint(make_note(elsewhere), [verifier.parse_vkey(elsewhere.vkey)])


@pytest.mark.parametrize(
    "text",
    [
        "daybook.test/log\n07\n{root}\n",
        "daybook.test/log\n-1\n{root}\n",
        "daybook.test/log\n7\nAAAA\n",
        "daybook.test/log\n7\n",
        "\n7\n{root}\n",
        "daybook.test/log\n7\n{root}\n\nextension after a blank line\n",
        "daybook.test/log\n99999999999999999999\n{root}\n",
    ],
)
def test_malformed_texts_are_no_checkpoints_even_when_signed(text: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(sha256(b"the log's key in tests").digest())
    text = text.format(root=b64encode(CHECKPOINT.root).decode())
    public = bytes([1]) + key.public_key().public_bytes_raw()
    signature = b64encode(checkpoint.key_id(ORIGIN, public) + key.sign(text.encode())).decode()
    with pytest.raises(verifier.BadProof):
        verifier.verify_checkpoint(f"{text}\n\u2014 {ORIGIN} {signature}\n", KEYS)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "tab\there", "x" * 256, "line\nbreak", "\u00a0"])
def test_names_that_no_note_can_carry_are_refused(name: str) -> None:
    with pytest.raises(BadCheckpoint):
        Ed25519Signer(name, Ed25519PrivateKey.generate())


@pytest.mark.parametrize(
    "vkey",
    [
        "", "name", "name+00000000+", EXAMPLE_VKEY.replace("530d", "530e"), EXAMPLE_VKEY[:-4], EXAMPLE_VKEY.replace("+Aek", "+Bek"),
        EXAMPLE_VKEY.replace("example.com/foo", "example.com/fop"),
    ],
)  # fmt: skip
def test_malformed_vkeys_are_refused(vkey: str) -> None:
    with pytest.raises(verifier.BadProof):
        verifier.parse_vkeys(vkey)


def test_keys_are_made_once_and_for_nobody_elses_eyes(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    first = logkeys.load_signers(directory, ORIGIN, post_quantum=False, may_create=lambda: True)
    path = directory / logkeys.ED25519_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = logkeys.load_signers(directory, ORIGIN, post_quantum=True, may_create=lambda: False)
    assert next(signer.vkey for signer in again) == first[0].vkey
    assert len(again) == 2
    assert list(directory.glob(".*")) == []
    with pytest.raises(FileExistsError):
        checkpoint.create_key(path, Ed25519PrivateKey.generate())
    path.chmod(0o640)
    with pytest.raises(logkeys.MissingKey, match="chmod 600"):
        logkeys.load_signers(directory, ORIGIN, post_quantum=False, may_create=lambda: True)


def test_a_lost_key_is_not_replaced_under_an_old_log(tmp_path: Path) -> None:
    with pytest.raises(logkeys.MissingKey, match="put it back"):
        logkeys.load_signers(tmp_path, ORIGIN, post_quantum=False, may_create=lambda: False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    checkpoint.create_key(path, MLDSA44PrivateKey.generate())
    with pytest.raises(BadKeyFile, match="no Ed25519"):
        checkpoint.load_ed25519(path)
    path.write_text("hello")
    with pytest.raises(BadKeyFile, match="PEM"):
        checkpoint.load_mldsa44(path)
