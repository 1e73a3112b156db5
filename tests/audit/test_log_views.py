"""/log/ as machines read it: what is fetched over HTTP verifies offline, and nothing is shown before it is signed."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from django.contrib.auth.models import User
from django.test import Client

from audit import database, ids, leaves, receipts, tiles, verifier
from audit.ids import text as id_text

from .logs import SIGNER, hash_leaf, ingest, make_leaf_call, open_log, seal_all
from .test_search import make_user

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = [verifier.parse_vkey(SIGNER.vkey)]


@pytest.fixture
def connection() -> Iterator["psycopg.Connection[Any]"]:
    with database.connect() as opened:
        yield opened


@pytest.fixture
def auditor() -> User:
    return make_user("olga", "view_record")


def get_all(client: Client, directory: Path, size: int) -> None:
    """Fetch a whole log into plain files, as any tlog-tiles client would."""
    for level, n, width in tiles.tiles_between(0, size):
        path = tiles.tile_path(level, n, width)
        response = client.get(f"/log/{path}")
        assert response.status_code == 200, path
        assert response["Content-Type"] == "application/octet-stream"
        assert "immutable" in response["Cache-Control"]
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(response.content)
    (directory / "checkpoint").write_bytes(client.get("/log/checkpoint").content)


def test_the_served_log_verifies_offline_and_equals_the_directory(
    connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path, settings: Any
) -> None:
    settings.LOG_ENTRIES = "public"
    ingest(connection, [make_leaf_call() for _ in range(300)])
    log = open_log(connection, tmp_path / "log")
    seal_all(log)
    get_all(client, tmp_path / "fetched", 300)
    assert client.get("/log/vkey").content.decode() == SIGNER.vkey + "\n"
    assert verifier.verify_log(tmp_path / "fetched", KEYS).size == 300
    for path in (tmp_path / "fetched").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "log" / path.relative_to(tmp_path / "fetched")).read_bytes()
    # Tiles of a checkpoint that somebody fetched earlier stay to be had when the log has grown.
    kept = client.get("/log/checkpoint").content
    ingest(connection, [make_leaf_call() for _ in range(500)])
    seal_all(log)
    shutil.rmtree(tmp_path / "fetched")
    get_all(client, tmp_path / "fetched", 300)
    (tmp_path / "fetched/checkpoint").write_bytes(kept)
    assert verifier.verify_log(tmp_path / "fetched", KEYS).size == 300


def test_the_verifier_and_what_it_checks_come_from_the_site(
    connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path, settings: Any
) -> None:
    """What an auditor does who has a browser and Python: fetch four files, compare a digest, run one of them."""
    settings.LOG_ENTRIES = "public"
    call = make_leaf_call()
    ingest(connection, [call])
    seal_all(open_log(connection, tmp_path / "log"))
    record = id_text(call.record_id)
    for path, name in (
        ("daybook-verify.py", "daybook-verify.py"),
        ("vkey", "vkey"),
        (f"proof/{record}", "proof"),
        (f"entry/{record}", "leaf"),
    ):
        (tmp_path / name).write_bytes(client.get(f"/log/{path}").content)
    fetched = (tmp_path / "daybook-verify.py").read_bytes()
    assert sha256(fetched).hexdigest() in client.get("/audit/verify/").content.decode()
    command = [sys.executable, "-I", "daybook-verify.py", "proof", "--vkey", "vkey", "--leaf", "leaf", "proof"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("ok: leaf 0 is in daybook.test/log")) == (0, True), done.stderr
    (tmp_path / "leaf").write_bytes((tmp_path / "leaf").read_bytes() + b" ")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_content_types_and_caching(connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path) -> None:
    assert client.get("/log/checkpoint").status_code == 404
    assert client.get("/log/vkey").status_code == 404
    ingest(connection, [make_leaf_call()])
    seal_all(open_log(connection, tmp_path))
    for path in ("checkpoint", "vkey", "vkeys"):
        response = client.get(f"/log/{path}")
        assert (response["Content-Type"], response["Cache-Control"]) == ("text/plain; charset=utf-8", "no-cache")
        assert "Set-Cookie" not in response
    assert client.get("/log/tile/0/000.p/1")["Cache-Control"] == "public, max-age=31536000, immutable"
    assert client.head("/log/checkpoint").status_code == 200
    assert client.post("/log/checkpoint").status_code == 405


@pytest.mark.parametrize(
    "path", ["0/000", "0/000.p/4", "0/001.p/1", "1/000.p/1", "entries/001", "0/0", "0/000.p/0", "8/000", "63/000", "x", "0/000.p/1/"]
)
def test_tiles_that_no_published_tree_has_are_not_there(
    connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path, path: str
) -> None:
    ingest(connection, [make_leaf_call() for _ in range(3)])
    seal_all(open_log(connection, tmp_path))
    assert client.get("/log/tile/0/000.p/3").status_code == 200
    assert client.get(f"/log/tile/{path}").status_code == 404


def test_what_is_committed_but_not_signed_is_not_shown(connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path) -> None:
    log = open_log(connection, tmp_path)
    log.publish()
    call = make_leaf_call()
    ingest(connection, [call])
    log.seal()
    assert client.get("/log/tile/0/000.p/1").status_code == 404
    assert client.get(f"/log/proof/{id_text(call.record_id)}").status_code == 202
    log.publish()
    assert client.get("/log/tile/0/000.p/1").status_code == 200
    assert client.get(f"/log/proof/{id_text(call.record_id)}").status_code == 200


def test_a_proof_asked_for_too_early_is_202(connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path) -> None:
    call = make_leaf_call()
    address = f"/log/proof/{id_text(call.record_id)}"
    response = client.get(address)
    assert (response.status_code, response["Retry-After"]) == (202, "1"), "answered a moment ago, not yet ingested"
    ingest(connection, [call])
    assert client.get(address).status_code == 202
    seal_all(open_log(connection, tmp_path))
    assert client.get(address).status_code == 200
    for unknown in (uuid4(), UUID(bytes=ids.IdSource(lambda: 1_700_000_000_000_000).new())):
        assert client.get(f"/log/proof/{unknown}").status_code == 404


def test_proof_and_entry_verify_offline(connection: "psycopg.Connection[Any]", client: Client, auditor: User, tmp_path: Path) -> None:
    calls = [make_leaf_call() for _ in range(270)]
    made = ingest(connection, calls)
    seal_all(open_log(connection, tmp_path))
    client.force_login(auditor)
    for index in (0, 255, 256, 269):
        record_id = id_text(calls[index].record_id)
        proof = client.get(f"/log/proof/{record_id}")
        entry = client.get(f"/log/entry/{record_id}")
        assert entry.content == made[index]
        assert entry["Daybook-Leaf"] == hash_leaf(made[index]).hex()
        assert entry["Content-Type"] == "application/json"
        assert verifier.verify_proof(proof.content.decode(), entry.content, KEYS)[0] == index
        with pytest.raises(verifier.BadProof):
            verifier.verify_proof(proof.content.decode(), made[index - 1], KEYS)


def test_entries_follow_who_may_see_the_record(
    connection: "psycopg.Connection[Any]", client: Client, auditor: User, tmp_path: Path, settings: Any
) -> None:
    mine, other = make_leaf_call(user="ada"), make_leaf_call(user="bo")
    ingest(connection, [mine, other])
    seal_all(open_log(connection, tmp_path))
    mine_url, other_url = (f"/log/entry/{id_text(call.record_id)}" for call in (mine, other))
    bundle = "/log/tile/entries/000.p/2"
    assert client.get(mine_url).status_code == 404
    assert client.get(bundle).status_code == 401
    client.force_login(make_user("ada"))
    assert client.get(mine_url).status_code == 200
    assert client.get(mine_url)["Cache-Control"].startswith("private")
    assert client.get(other_url).status_code == 404
    assert client.get(bundle).status_code == 403
    client.force_login(auditor)
    assert client.get(other_url).status_code == 200
    assert client.get(bundle)["Cache-Control"].startswith("private")
    assert client.get(mine_url, headers={"Authorization": "Bearer nonsense"}).status_code == 401
    client.logout()
    settings.LOG_ENTRIES = "public"
    assert client.get(other_url).status_code == 200
    assert client.get(bundle)["Cache-Control"].startswith("public")


def test_an_entry_can_be_read_before_it_is_sealed(connection: "psycopg.Connection[Any]", client: Client, auditor: User) -> None:
    call = make_leaf_call()
    (leaf,) = ingest(connection, [call])
    client.force_login(auditor)
    assert client.get(f"/log/entry/{id_text(call.record_id)}").content == leaf


def test_bundles_travel_compressed_where_the_client_can_read_it(
    connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path, settings: Any
) -> None:
    settings.LOG_ENTRIES = "public"
    ingest(connection, [make_leaf_call() for _ in range(20)])
    seal_all(open_log(connection, tmp_path))
    plain = client.get("/log/tile/entries/000.p/20")
    packed = client.get("/log/tile/entries/000.p/20", headers={"Accept-Encoding": "gzip"})
    assert packed["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.content) == plain.content
    assert len(packed.content) < len(plain.content) / 2
    assert "Accept-Encoding" in packed["Vary"]
    assert "Content-Encoding" not in client.get("/log/tile/0/000.p/20", headers={"Accept-Encoding": "gzip"})


def test_receipt_keys_are_listed_once_their_leaf_is_sealed(connection: "psycopg.Connection[Any]", client: Client, tmp_path: Path) -> None:
    signer = receipts.ReceiptSigner("daybook.test/log")
    record_id = ids.new_id()
    details = {"key": leaves.base64url(signer.public_key), "key_id": signer.key_id.hex()}
    leaf = leaves.event_leaf("gateway.key", record_id=id_text(record_id), ts_us=ids.time_us(record_id), node="node-1", details=details)
    connection.execute("INSERT INTO audit_outbox (record_id, ts, leaf) VALUES (%s, now(), %s)", [UUID(bytes=record_id), leaf])
    assert json.loads(client.get("/log/receipt-keys").content) == {"keys": []}
    seal_all(open_log(connection, tmp_path))
    text = client.get("/log/receipt-keys").content.decode()
    (key,) = json.loads(text)["keys"]
    assert (key["key_id"], key["node"], key["record"]) == (signer.key_id.hex(), "node-1", id_text(record_id))
    call = make_leaf_call()
    group = signer.sign([b"\x01" * 32, b"\x02" * 32], 1_795_000_000_000_000)
    receipt = verifier.parse_receipt(group.receipt(1, call.record_id))
    verifier.verify_receipt(receipt, verifier.parse_receipt_keys(text))
