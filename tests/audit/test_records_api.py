"""/api/records/ and the acts: reading, who may, and what reading leaves behind."""

import asyncio
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import connection as django_connection
from django.db import transaction
from django.test import Client

from audit import acts, database, ids
from audit.models import Outbox, Record
from audit.scribe import Scribe, ScribeOptions
from audit.store import PayloadStore

from .calls import MASTER_KEY, make_call, make_recorder
from .logs import ingest, make_leaf_call, open_log, seal_all
from .test_search import make_user

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def connection() -> Iterator["psycopg.Connection[Any]"]:
    with database.connect() as opened:
        yield opened


@pytest.fixture
def auditor() -> User:
    return make_user("olga", "view_record", "view_payload")


@pytest.fixture(autouse=True)
def _master_key(tmp_path: Path, settings: Any) -> None:
    settings.MASTER_KEY_FILE = tmp_path / "master.key"
    settings.MASTER_KEY_FILE.write_bytes(MASTER_KEY)


def test_records_are_listed_in_pages(connection: "psycopg.Connection[Any]", client: Client, auditor: User) -> None:
    calls = [make_leaf_call() for _ in range(5)]
    ingest(connection, calls)
    client.force_login(auditor)
    page = client.get("/api/records/", {"q": "model:half_plus_two", "limit": "2"}).json()
    seen = [result["id"] for result in page["results"]]
    assert page["newer"] is None
    while page["older"]:
        page = client.get(page["older"]).json()
        seen += [result["id"] for result in page["results"]]
    assert seen == [ids.text(call.record_id) for call in reversed(calls)]
    newer = client.get(page["newer"]).json()
    assert [result["id"] for result in newer["results"]] == seen[2:4]


def test_a_record_says_all_that_its_row_does(connection: "psycopg.Connection[Any]", client: Client, auditor: User, tmp_path: Path) -> None:
    call = make_leaf_call(outcome="timeout", status=504, error="deadline passed")
    ingest(connection, [call])
    client.force_login(auditor)
    address = f"/api/records/{ids.text(call.record_id)}/"
    shown = client.get(address).json()
    assert shown["seal"]["state"] == "waiting"
    seal_all(open_log(connection, tmp_path / "log"))
    shown = client.get(address).json()
    assert shown["seal"] == {
        "state": "sealed",
        "index": 0,
        "proof": f"/log/proof/{ids.text(call.record_id)}",
        "entry": f"/log/entry/{ids.text(call.record_id)}",
    }
    expected = {
        "model": "half_plus_two", "version": 1, "outcome": "timeout", "status": 504, "error": "deadline passed", "user": "ada",
        "key": "dbk_1a2b3c4d", "trace": bytes(range(16)).hex(), "total_us": 1234, "batch": {"id": 77, "size": 12, "index": 3}, "count": 1,
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    assert client.get(shown["seal"]["proof"]).status_code == 200


def test_lists_follow_who_may_see_them(connection: "psycopg.Connection[Any]", client: Client) -> None:
    mine, other = make_leaf_call(user="ada"), make_leaf_call(user="bo")
    ingest(connection, [mine, other])
    assert client.get("/api/records/").status_code == 401
    client.force_login(make_user("ada"))
    assert [result["user"] for result in client.get("/api/records/").json()["results"]] == ["ada"]
    assert client.get(f"/api/records/{ids.text(mine.record_id)}/").status_code == 200
    for record_id in (ids.text(other.record_id), uuid4()):
        assert client.get(f"/api/records/{record_id}/").status_code == 404
        assert client.get(f"/api/records/{record_id}/payload/").status_code == 404
    assert client.get("/api/records/nonsense/").status_code == 404
    assert client.delete(f"/api/records/{ids.text(mine.record_id)}/").status_code == 405


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"q": "modle:x"}, "q"),
        ({"before": "x"}, "detail"),
        ({"after": "AAAA"}, "detail"),
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"limit": "9" * 5_000}, "limit"),  # more digits than int() takes
        ({"limit": "many"}, "limit"),
    ],
)
def test_bad_questions_are_400_and_say_where(client: Client, auditor: User, parameters: dict[str, str], field: str) -> None:
    client.force_login(auditor)
    response = client.get("/api/records/", parameters)
    assert response.status_code == 400
    assert field in response.json()


def test_a_list_asks_the_same_few_questions_however_long_it_is(
    connection: "psycopg.Connection[Any]", client: Client, auditor: User, django_assert_max_num_queries: Any
) -> None:
    ingest(connection, [make_leaf_call() for _ in range(60)])
    client.force_login(auditor)
    with django_assert_max_num_queries(12):
        assert len(client.get("/api/records/").json()["results"]) == 60


# Payloads


def write_call(path: Path, settings: Any, **changes: Any) -> str:
    """One call through a real recorder and a real scribe; its record id."""
    settings.JOURNAL_DIR = path / "journal"
    settings.JOURNAL_DIR.mkdir()
    call = make_call(**changes)

    async def record() -> None:
        recorder = make_recorder(settings.JOURNAL_DIR)
        recorder.start(asyncio.get_running_loop())
        await recorder.append(call)
        await recorder.close()

    asyncio.run(record())
    options = ScribeOptions(directory=settings.JOURNAL_DIR, node="node-1")
    scribe = Scribe(database.connect, PayloadStore(f"file://{path}/payloads"), options)
    scribe.step()
    scribe._disconnect()
    return ids.text(call.record_id)


def test_an_auditors_view_of_a_payload_is_recorded_before_it_is_shown(client: Client, auditor: User, tmp_path: Path, settings: Any) -> None:
    record_id = write_call(tmp_path, settings)
    client.force_login(auditor)
    shown = client.get(f"/api/records/{record_id}/payload/").json()
    assert b64decode(shown["request"]) == b'{"instances": [1.0, 2.0, 5.0]}'
    assert b64decode(shown["response"]) == b'{"predictions": [2.5, 3.0, 4.5]}'
    view = Record.objects.get(kind="act")
    assert (view.verb, view.model, view.user_name) == ("payload.viewed", record_id, "olga")
    assert Outbox.objects.filter(record_id=view.id).exists()


def test_callers_see_their_own_payload_and_operators_none(client: Client, tmp_path: Path, settings: Any) -> None:
    record_id = write_call(tmp_path, settings)
    client.force_login(make_user("ada"))
    assert client.get(f"/api/records/{record_id}/payload/").status_code == 200
    client.force_login(make_user("paul", "view_record"))
    assert client.get(f"/api/records/{record_id}/").status_code == 200
    assert client.get(f"/api/records/{record_id}/payload/").status_code == 403
    assert not Record.objects.filter(kind="act").exists()


def test_a_record_without_payload_says_so(connection: "psycopg.Connection[Any]", client: Client, auditor: User) -> None:
    call = make_leaf_call()
    ingest(connection, [call])
    client.force_login(auditor)
    response = client.get(f"/api/records/{ids.text(call.record_id)}/payload/")
    assert response.status_code == 410
    assert "journal segment" in response.json()["detail"]


# Acts


def test_an_act_is_a_record_with_a_leaf_that_names_nobody(settings: Any) -> None:
    record_id = acts.record_act(kind="key.revoked", actor="ada", subject="dbk_1", details={"keys": 3, "by": ["a", "b"]}, address="::1")
    row = Record.objects.get(id=record_id)
    assert (row.kind, row.verb, row.model, row.user_name, row.actor_type) == ("act", "key.revoked", "dbk_1", "ada", "user")
    leaf = bytes(Outbox.objects.get(record_id=record_id).leaf)
    said = orjson.loads(leaf)
    assert leaf == orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    assert (said["t"], said["act"], said["on"], said["d"]) == ("act", "key.revoked", "dbk_1", {"keys": 3, "by": ["a", "b"]})
    assert said["id"] == str(record_id)
    assert b"ada" not in leaf


def test_an_act_happens_with_its_change_or_not_at_all() -> None:
    with transaction.atomic():
        acts.record_act(kind="key.revoked", actor="ada", subject="dbk_1", details={})
        transaction.set_rollback(True)
    assert not Record.objects.exists()
    assert not Outbox.objects.exists()


@pytest.mark.parametrize("details", [{"score": 0.5}, {"n": 1 << 60}, {"text": "x" * 9_000}, {"\u00fc": 1}, {"when": object()}])
def test_details_that_no_leaf_holds_are_refused(details: dict[str, Any]) -> None:
    with pytest.raises(acts.BadAct):
        acts.record_act(kind="key.revoked", actor="ada", subject="dbk_1", details=details)
    assert not Record.objects.exists()


def test_processes_act_under_their_own_name_and_odd_text_is_cleaned() -> None:
    record_id = acts.record_act(kind="version.state", actor="worker:node-1", subject="a\0" + "b" * 500, details={})
    row = Record.objects.get(id=record_id)
    assert row.actor_type == "system"
    assert row.model.startswith("a\ufffdbbb")
    assert len(row.model) == 128
    assert isinstance(record_id, UUID)
    assert not django_connection.in_atomic_block
