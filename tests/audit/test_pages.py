"""The daybook's pages as people get them: what they show, who may see what, what looking leaves behind, how many queries they take."""

import asyncio
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import connection as django_connection
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext

from audit import database, figures, ids
from audit.models import LogHead, Outbox, PayloadKey, Record
from audit.record import Call
from audit.scribe import Scribe, ScribeOptions
from audit.store import PayloadStore
from config import context_processors

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


def write_call(path: Path, settings: Any, **changes: Any) -> str:
    """A call through the real journal and scribe; its record id."""
    settings.JOURNAL_DIR = path / "journal"
    settings.JOURNAL_DIR.mkdir(exist_ok=True)
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


def get(client: Client, path: str, status: int = 200, **query: str) -> str:
    response = client.get(path, query)
    assert response.status_code == status, response.content[:2000]
    return response.content.decode()


def rows(html: str) -> list[str]:
    return re.findall(r'data-id="([0-9a-f-]{36})"', html)


def seals(html: str) -> list[str]:
    return re.findall(r'<svg class="seal" data-state="(\w+)"', html[html.index("<tbody>") : html.index("</table>")])


# The list


def test_the_list_shows_each_record_once_through_all_pages(connection: Any, client: Client, auditor: User) -> None:
    calls = [make_leaf_call() for _ in range(230)]
    ingest(connection, calls)
    client.force_login(auditor)
    seen: list[str] = []
    path: str | None = "/audit/records/"
    while path:
        html = client.get(path).content.decode()
        seen += rows(html)
        found = re.search(r'href="([^"]+)"[^>]*rel="next"', html)
        path = found[1].replace("&amp;", "&") if found else None
    assert seen == [ids.text(call.record_id) for call in reversed(calls)]


def test_a_query_narrows_the_list_and_shows_its_conditions(connection: Any, client: Client, auditor: User) -> None:
    fast, slow = make_leaf_call(total_us=1_000), make_leaf_call(total_us=90_000)
    ingest(connection, [fast, slow])
    client.force_login(auditor)
    html = get(client, "/audit/records/", q="latency:>50ms since:1h")
    assert rows(html) == [ids.text(slow.record_id)]
    assert 'aria-label="Remove latency:&gt;50ms"' in html
    assert "<title>latency:&gt;50ms since:1h · Records · Daybook</title>" in html


def test_a_query_that_cannot_be_read_shows_its_fault_in_place(client: Client, auditor: User) -> None:
    client.force_login(auditor)
    html = get(client, "/audit/records/", status=422, q="modle:digits since:2h")
    assert "<mark>modle:digits</mark>" in html
    assert "did you mean model" in html


def test_seals_tell_durable_sealed_and_changed_apart(connection: Any, client: Client, auditor: User, tmp_path: Path) -> None:
    honest, changed, waiting = make_leaf_call(), make_leaf_call(), make_leaf_call()
    ingest(connection, [honest, changed])
    seal_all(open_log(connection, tmp_path / "log"))
    ingest(connection, [waiting])
    Record.objects.filter(id=ids.text(changed.record_id)).update(leaf_hash=b"\1" * 32)
    client.force_login(auditor)
    assert seals(get(client, "/audit/records/")) == ["durable", "broken", "sealed"]


def test_a_fragment_request_gets_the_region_that_changes(connection: Any, client: Client, auditor: User) -> None:
    ingest(connection, [make_leaf_call()])
    client.force_login(auditor)
    fragment = client.get("/audit/records/", headers={"HX-Request": "true"}).content.decode()
    assert fragment.lstrip().startswith('<div id="records"')
    whole = client.get("/audit/records/", headers={"HX-Request": "true", "HX-History-Restore-Request": "true"}).content.decode()
    assert "<!doctype html>" in whole


def test_what_came_after_the_top_is_counted(connection: Any, client: Client, auditor: User) -> None:
    ingest(connection, [make_leaf_call()])
    client.force_login(auditor)
    found = re.search(r'hx-get="(/audit/records/new/[^"]+)"', get(client, "/audit/records/"))
    assert found
    assert "new record" not in get(client, found[1].replace("&amp;", "&"))
    ingest(connection, [make_leaf_call(), make_leaf_call()])
    assert "2 new records" in get(client, found[1].replace("&amp;", "&"))


def test_histogram_bars_and_facets_lead_to_narrower_queries(connection: Any, client: Client, auditor: User, tmp_path: Path) -> None:
    ingest(connection, [make_leaf_call(), make_leaf_call(outcome="timeout", status=504, error="deadline passed")])
    seal_all(open_log(connection, tmp_path / "log"))
    client.force_login(auditor)
    html = get(client, "/audit/records/", q="model:half_plus_two since:24h")
    assert "at tree size 2" in html
    assert "q=model%3Ahalf_plus_two+since%3A24h+outcome%3Atimeout" in html  # the facet
    assert re.search(r"q=model%3Ahalf_plus_two\+since%3A[^&\"]+\+until%3A", html)  # a bar


def test_callers_see_their_own_records_and_no_others(connection: Any, client: Client) -> None:
    own, other = make_leaf_call(user="ada"), make_leaf_call(user="bob")
    ingest(connection, [own, other])
    client.force_login(make_user("ada"))
    assert rows(get(client, "/audit/records/")) == [ids.text(own.record_id)]
    assert client.get(f"/audit/records/{ids.text(other.record_id)}").status_code == 404
    assert client.get("/audit/").headers["Location"] == "/audit/records/"


@pytest.mark.parametrize("path", ["/audit/", "/audit/records/", "/audit/records/01234567-89ab-7def-8123-456789abcdef"])
def test_visitors_are_asked_to_sign_in(client: Client, path: str) -> None:
    assert client.get(path).headers["Location"] == f"/accounts/login/?next={path}"


def test_hostile_values_are_written_as_text(connection: Any, client: Client, auditor: User) -> None:
    ingest(connection, [make_leaf_call(model="<img src=x>", error="</pre><script>", outcome="rejected", status=400)])
    client.force_login(auditor)
    html = get(client, "/audit/records/")
    assert "<img src=x>" not in html
    assert "</pre><script>" not in html


# Query budgets


def queries(client: Client, path: str) -> int:
    client.get(path)  # content types, sessions and the footer's state are known from here on
    context_processors._kept.until = math.inf  # also when the machine is slow
    with CaptureQueriesContext(
        django_connection,
    ) as captured:
        assert client.get(path).status_code == 200
    context_processors._kept.until = 0.0
    return len([query for query in captured if query["sql"].startswith(("SELECT", "WITH", "\n"))])


def test_the_list_takes_as_many_queries_for_many_records_as_for_one(connection: Any, client: Client, auditor: User) -> None:
    client.force_login(auditor)
    ingest(connection, [make_leaf_call()])
    few = queries(client, "/audit/records/")
    ingest(connection, [make_leaf_call() for _ in range(120)])
    assert queries(client, "/audit/records/") <= few + 1  # where the log began, once there is more than a page
    assert few <= 18


def test_the_dashboard_takes_as_many_queries_for_many_models_as_for_one(
    connection: Any, client: Client, auditor: User, tmp_path: Path
) -> None:
    client.force_login(auditor)
    ingest(connection, [make_leaf_call()])
    log = open_log(connection, tmp_path / "log")
    seal_all(log)
    few = queries(client, "/audit/")
    ingest(connection, [make_leaf_call(model=f"model_{number}", version=number + 1) for number in range(12)])
    seal_all(log)
    assert queries(client, "/audit/") == few
    assert few <= 20


# The dashboard


def test_the_dashboard_says_the_tree_size_and_leads_to_records(connection: Any, client: Client, auditor: User, tmp_path: Path) -> None:
    ingest(connection, [make_leaf_call(answer="seven"), make_leaf_call(outcome="model_error", status=500, error="x")])
    seal_all(open_log(connection, tmp_path / "log"))
    client.force_login(auditor)
    html = get(client, "/audit/")
    assert "2 leaves are sealed" in html
    assert html.count("t tree size 2") >= 4
    assert "/audit/records/?q=model%3Ahalf_plus_two+since%3A1h" in html
    assert "seven" in html
    assert '"calls": 1' in html  # the chart's data


def test_only_what_a_checkpoint_covers_is_called_sealed(connection: Any, client: Client, auditor: User, tmp_path: Path) -> None:
    ingest(connection, [make_leaf_call() for _ in range(5)])
    seal_all(open_log(connection, tmp_path / "log"))
    LogHead.objects.update(signed_size=3)
    client.force_login(auditor)
    html = get(client, "/audit/")
    assert "3 leaves are sealed" in html
    assert "2 wait to be sealed" in html
    frame = {"tree": figures.tree_state(datetime.now(UTC)), "version": "1"}
    assert "3 sealed leaves" in render_to_string("_components/foot.html", {"frame": frame})


def test_an_empty_dashboard_says_what_to_do(client: Client, auditor: User) -> None:
    client.force_login(auditor)
    html = get(client, "/audit/")
    assert "No calls in the last 24 hours" in html
    assert "Nothing is sealed yet" in html


def test_unknown_ranges_and_models_fall_back(connection: Any, client: Client, auditor: User, tmp_path: Path) -> None:
    ingest(connection, [make_leaf_call()])
    seal_all(open_log(connection, tmp_path / "log"))
    client.force_login(auditor)
    assert "All models" in get(client, "/audit/", range="99y", model="no-such")
    assert "half_plus_two, last 7 days · Daybook</title>" in get(client, "/audit/", range="7d", model="half_plus_two").replace(
        " · Dashboard", ""
    )


# One record


def test_a_sealed_record_shows_its_proof_and_the_commands(connection: Any, client: Client, auditor: User, tmp_path: Path) -> None:
    calls = [make_leaf_call() for _ in range(5)]
    ingest(connection, calls)
    seal_all(open_log(connection, tmp_path / "log"))
    client.force_login(auditor)
    html = get(client, f"/audit/records/{ids.text(calls[2].record_id)}")
    assert "Sealed as leaf 2 of 5" in html
    assert html.count("data-side=") == 3
    assert f"/log/proof/{ids.text(calls[2].record_id)}" in html
    assert "daybook-verify proof --vkey log.vkey" in html
    assert re.search(r"daybook-verify receipt --keys keys.json --leaf [0-9a-f]{8}\.leaf receipt.txt", html)
    assert 'data-kind="fail" role="alert"' not in html


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"leaf_hash": b"\1" * 32}, "The leaf in the log is not the one that this row names"),
        ({"outcome": "timeout"}, "The row says something else in outcome"),
        ({"total_us": 1}, "The row says something else in total_us"),
    ],
)
def test_a_changed_row_fails_verification(
    connection: Any, client: Client, auditor: User, tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    call = make_leaf_call()
    ingest(connection, [call])
    seal_all(open_log(connection, tmp_path / "log"))
    Record.objects.filter(id=ids.text(call.record_id)).update(**change)
    client.force_login(auditor)
    html = get(client, f"/audit/records/{ids.text(call.record_id)}")
    assert "Verification failed" in html
    assert fault in html


def test_a_record_that_waits_says_so(connection: Any, client: Client, auditor: User) -> None:
    call = make_leaf_call()
    ingest(connection, [call])
    client.force_login(auditor)
    html = get(client, f"/audit/records/{ids.text(call.record_id)}")
    assert "waiting to be sealed" in html
    assert "durable and not sealed yet" in html


def test_an_auditor_opens_a_payload_only_by_asking_and_leaves_a_trace(client: Client, auditor: User, tmp_path: Path, settings: Any) -> None:
    record_id = write_call(tmp_path, settings)
    client.force_login(auditor)
    html = get(client, f"/audit/records/{record_id}")
    assert "Request and answer are closed" in html
    assert "instances" not in html
    assert not Record.objects.filter(kind="act").exists()
    shown = client.post(f"/audit/records/{record_id}").content.decode()
    assert "&quot;instances&quot;: [1.0, 2.0, 5.0]" in shown
    assert "&quot;predictions&quot;: [2.5, 3.0, 4.5]" in shown
    view = Record.objects.get(kind="act")
    assert (view.verb, view.model, view.user_name) == ("payload.viewed", record_id, "olga")
    assert Outbox.objects.filter(record_id=view.id).exists()
    assert "payload viewed</a> by olga" in get(client, f"/audit/records/{record_id}")


def test_the_caller_sees_the_own_payload_at_once(client: Client, tmp_path: Path, settings: Any) -> None:
    record_id = write_call(tmp_path, settings, user="ada")
    client.force_login(make_user("ada"))
    assert "&quot;instances&quot;: [1.0, 2.0, 5.0]" in get(client, f"/audit/records/{record_id}")
    assert not Record.objects.filter(kind="act").exists()


def test_an_operator_sees_facts_and_no_payload(client: Client, tmp_path: Path, settings: Any) -> None:
    record_id = write_call(tmp_path, settings)
    client.force_login(make_user("oscar", "view_record"))
    assert "Not for you" in get(client, f"/audit/records/{record_id}")
    assert client.post(f"/audit/records/{record_id}").status_code == 403
    assert not Record.objects.filter(kind="act").exists()


def test_an_erased_payload_is_called_erased_and_the_proof_stands(connection: Any, client: Client, tmp_path: Path, settings: Any) -> None:
    record_id = write_call(tmp_path, settings, user="ada")
    seal_all(open_log(connection, tmp_path / "log"))
    PayloadKey.objects.update(wrapped=None, destroyed_at="2026-11-22T00:00:00Z")
    client.force_login(make_user("ada"))
    html = get(client, f"/audit/records/{record_id}")
    assert "Erased" in html
    assert "the log still verifies" in html
    assert "Sealed as leaf" in html


def test_a_payload_in_another_nodes_journal_is_on_its_way(client: Client, tmp_path: Path, settings: Any) -> None:
    record_id = write_call(tmp_path, settings, user="ada")
    settings.JOURNAL_DIR = tmp_path / "elsewhere"
    settings.JOURNAL_DIR.mkdir()
    client.force_login(make_user("ada"))
    assert "Still on its way" in get(client, f"/audit/records/{record_id}")


def test_a_picture_and_its_scores_are_drawn(client: Client, tmp_path: Path, settings: Any) -> None:
    image = ",".join(str(cell % 17) for cell in range(64))
    scores = ",".join(["0.01"] * 7 + ["0.91"] + ["0.01"] * 2)
    changes: dict[str, Any] = {"request": f'{{"instances": [[{image}]]}}'.encode(), "response": f'{{"predictions": [[{scores}]]}}'.encode()}
    record_id = write_call(tmp_path, settings, user="ada", model="digits", rows=1, **changes)
    client.force_login(make_user("ada"))
    html = get(client, f"/audit/records/{record_id}")
    assert 'viewBox="0 0 8 8"' in html
    assert re.search(r'data-top>\s*<dt title="7">7</dt>.*?0\.910', html, re.DOTALL)


def test_the_panel_is_the_record_without_its_frame(connection: Any, client: Client, auditor: User) -> None:
    call = make_leaf_call()
    ingest(connection, [call])
    client.force_login(auditor)
    html = client.get(f"/audit/records/{ids.text(call.record_id)}", headers={"HX-Request": "true"}).content.decode()
    assert "<!doctype html>" not in html
    assert "Open the whole record" in html


def test_an_aggregate_says_for_how_many_it_stands(connection: Any, client: Client, auditor: User) -> None:
    call: Call = make_leaf_call(outcome="too_many", status=429, error="rate", count=37)
    ingest(connection, [call])
    client.force_login(auditor)
    assert "×37" in get(client, "/audit/records/")
    assert "37 refusals alike" in get(client, f"/audit/records/{ids.text(call.record_id)}")


def test_everybody_may_read_how_to_verify(client: Client) -> None:
    html = get(client, "/audit/verify/")
    assert "daybook-verify log --vkey log.vkey" in html
