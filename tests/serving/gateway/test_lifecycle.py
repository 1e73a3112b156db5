"""Start, stop and faults of the gateway's own process."""

import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit import ids
from config.processes import port_is_free
from tests.audit.calls import leaves_of, read_entries
from tests.serving.gateway.conftest import Door, wait_until
from tests.serving.gateway.redis_server import RedisServer
from tests.serving.gateway.snapshots import KEYS

ODD_CLOCK = Path(__file__).with_name("odd_clock")


def predict_later(door: Door, seconds: float) -> "tuple[threading.Thread, list[httpx.Response]]":
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(door.predict("slow", {"instances": [seconds]})))
    thread.start()
    wait_until(lambda: "daybook_in_flight 1.0" in httpx.get(f"{door.gateway.url}/metrics").text, "the call is under way")
    return thread, answers


def journal_leaves(door: Door) -> dict[str, dict[str, Any]]:
    """By record id, what a stopped gateway has left in its journal."""
    entries = read_entries(door.gateway.directory / "var" / "journal")
    return {ids.text(record): json.loads(leaf) for record, leaf in leaves_of(entries).items()}


def test_sigterm_finishes_what_is_under_way(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway()
    thread, answers = predict_later(door, 1.5)
    door.gateway.process.send_signal(signal.SIGTERM)
    wait_until(lambda: port_is_free("127.0.0.1", door.gateway.port), "nobody listens any more", timeout_s=1.2)
    thread.join()
    assert answers[0].json() == {"predictions": [1.5]}
    assert door.gateway.process.wait(15) == 0
    record = answers[0].headers["daybook-record"]
    assert journal_leaves(door)[record]["o"] == "ok"


def test_questions_about_models_are_reads_in_the_journal(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway()
    paths = ("/v1/models", "/v1/models/half_plus_two", "/v1/models/half_plus_two/metadata", "/v1/models/nobody")
    reads = {door.get(path).headers["daybook-record"]: path for path in paths}
    called = door.predict("half_plus_two", {"instances": [2]}).headers["daybook-record"]
    door.gateway.stop()
    leaves = journal_leaves(door)
    assert {leaves[record]["t"] for record in reads} == {"read"}
    assert {path: leaves[record]["o"] for record, path in reads.items()} == dict.fromkeys(paths[:3], "ok") | {paths[3]: "rejected"}
    assert leaves[called]["t"] == "prediction"


def test_names_that_callers_invent_stand_in_the_error_alone(start_gateway: Callable[..., Door]) -> None:
    """Figures are kept by model name; a name for each refused call would be as many cells as anybody likes."""
    door = start_gateway()
    answers = [door.predict("invented", {"instances": [1]}), door.get("/v1/models/invented"), door.predict("invented", {}, key="nobody")]
    door.gateway.stop()
    leaves = [journal_leaves(door)[answer.headers["daybook-record"]] for answer in answers]
    assert [(leaf["m"], leaf["st"]) for leaf in leaves] == [("", 404), ("", 404), ("", 401)]
    assert leaves[0]["err"] == "Servable not found for request: Latest(invented)"


def test_what_outlives_the_grace_is_503(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway(GATEWAY_GRACE_S="0.3")
    thread, answers = predict_later(door, 3.0)
    door.gateway.process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    thread.join()
    assert time.monotonic() - begun < 2.0
    assert answers[0].status_code == 503
    assert answers[0].headers["retry-after"]
    assert door.gateway.process.wait(15) == 0
    assert journal_leaves(door)[answers[0].headers["daybook-record"]]["o"] == "unavailable"


def test_a_body_that_outlives_the_grace_is_503(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway(GATEWAY_GRACE_S="0.3", BODY_TIMEOUT_S="20")
    head = f"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['all']}\r\nContent-Length: 17\r\n\r\n"
    with socket.create_connection(("127.0.0.1", door.gateway.port), timeout=10.0) as connection:
        connection.sendall(head.encode() + b'{"inst')
        wait_until(lambda: "daybook_in_flight 1.0" in httpx.get(f"{door.gateway.url}/metrics").text, "the call is under way")
        door.gateway.process.send_signal(signal.SIGTERM)
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"daybook-record" in answer
    assert door.gateway.process.wait(15) == 0


def test_a_killed_gateway_leaves_nobody_listening(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway()
    door.gateway.process.kill()
    door.gateway.process.wait()
    wait_until(lambda: port_is_free("127.0.0.1", door.gateway.port), "nobody listens any more", timeout_s=5.0)


def test_a_caller_who_leaves_is_cancelled_and_recorded(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway()
    body = b'{"instances":[1.5]}'
    head = f"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['all']}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", door.gateway.port)) as connection:
        connection.sendall(head + body)
        wait_until(lambda: "daybook_in_flight 1.0" in door.http.get("/metrics").text, "the call is under way")
    cancelled = 'daybook_refused_total{code="CANCELLED",model="slow",status="499"} 1.0'
    wait_until(lambda: cancelled in door.http.get("/metrics").text, "the call is cancelled", timeout_s=1.2)
    door.gateway.stop()
    assert [leaf["o"] for leaf in journal_leaves(door).values() if leaf.get("m") == "slow"] == ["cancelled"]


def test_every_answer_is_in_the_journal_once(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway()
    answers = {
        "ok": door.predict("half_plus_two", {"instances": [1, 2]}),
        "rejected": door.predict("half_plus_two", {"instances": []}),
        "model_error": door.predict("broken", {"instances": [1]}),
        "timeout": door.predict("slow", {"instances": [0.5]}, headers={"Daybook-Timeout-Ms": "50"}),
    }
    door.predict("digits", {"instances": [1]})
    for _ in range(30):
        assert door.predict("half_plus_two", {}, key="nobody").headers["daybook-record"]
    door.gateway.stop()
    leaves = journal_leaves(door)
    for outcome, answer in answers.items():
        leaf = leaves[answer.headers["daybook-record"]]
        assert (leaf["o"], leaf.get("st", 200), leaf["m"]) == (outcome, answer.status_code, answer.request.url.path[11:-8])
    ok = leaves[answers["ok"].headers["daybook-record"]]
    assert (ok["m"], ok["ver"], ok["a"]["t"]) == ("half_plus_two", 1, "key")
    refused = [leaf for leaf in leaves.values() if leaf.get("st") == 401]
    assert sum(leaf.get("cnt", 1) for leaf in refused) == 30
    assert len(refused) <= 6  # counted by the second
    contexts = [leaf["d"]["ctx"] for leaf in leaves.values() if leaf["t"] == "context"]
    assert ok["ctx"] in contexts


@pytest.mark.parametrize("year", [1999, 2031])
def test_a_wrong_clock_stops_nobody(start_gateway: Callable[..., Door], year: int) -> None:
    off_s = datetime(year, 6, 1, tzinfo=UTC).timestamp() - time.time()
    door = start_gateway(ODD_CLOCK_S=str(off_s), PYTHONPATH=str(ODD_CLOCK))
    answer = door.predict("half_plus_two", {"instances": [2]})
    assert answer.json() == {"predictions": [3.0]}
    record = bytes.fromhex(answer.headers["daybook-record"].replace("-", ""))
    assert datetime.fromtimestamp(ids.time_us(record) / 1e6, UTC).year == year
    assert door.predict("half_plus_two", {"instances": [2]}, key=KEYS["expired"]).status_code == 401
    assert door.predict("slow", {"instances": [0.5]}, headers={"Daybook-Timeout-Ms": "50"}).status_code == 504
    assert door.http.get("/readyz").status_code == 200


def test_redis_may_go_and_come_back(start_gateway: Callable[..., Door], tmp_path_factory: pytest.TempPathFactory) -> None:
    server = RedisServer(Path(tmp_path_factory.mktemp("r")))
    server.start()
    try:
        door = start_gateway(REDIS_URL=server.url, ready=False)
        assert door.get("/v1/models/half_plus_two").status_code == 503  # nobody has told it of any model or key
        door.redis = server.client()
        door.publish_and_wait()
        refused = door.predict("half_plus_two", {"instances": [1]})
        assert (refused.status_code, refused.headers["daybook-error"]) == (503, "UNAVAILABLE")  # no worker there
        assert int(refused.headers["retry-after"]) >= 1
        server.kill()
        begun = time.monotonic()
        assert door.predict("half_plus_two", {"instances": [1]}).status_code == 503
        assert time.monotonic() - begun < 1.0
        assert door.get("/v1/models/half_plus_two").status_code == 200
        wait_until(lambda: door.http.get("/readyz").json()["checks"]["redis"] != "ok", "readiness tells")
        file = next((door.gateway.directory / "var" / "run").glob("snapshot-*.json"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        begun = time.monotonic()
        door.gateway.stop()
        assert time.monotonic() - begun < 10.0
        door.gateway.start(ready=False)
        assert door.get("/v1/models/half_plus_two").status_code == 200  # from the file
        server.start()
        wait_until(lambda: door.http.get("/readyz").json()["checks"]["redis"] == "ok", "it is back")
        door.publish_and_wait()
    finally:
        server.kill()
        door.redis.close()


def test_the_gateway_imports_no_framework() -> None:
    import subprocess
    import sys

    script = "import sys, serving.gateway.app; print([name for name in ('django', 'tensorflow', 'celery') if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert found.stdout.strip() == "[]"
