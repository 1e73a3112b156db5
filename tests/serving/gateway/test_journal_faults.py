"""No answer without its record: what callers see while the journal can't be written."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import ids
from tests.audit.calls import leaves_of, read_entries
from tests.serving.gateway.conftest import Door, wait_until
from tests.serving.gateway.snapshots import KEYS

BODY = b'{"instances":[2]}'
REQUEST = (
    f"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['all']}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    + BODY
)


@pytest.fixture
def faulty(start_gateway: Callable[..., Door], tmp_path: Path) -> tuple[Door, Path]:
    fault = tmp_path / "fault"
    door = start_gateway(app="tests.serving.gateway.faulty_app", FAULT_FILE=str(fault), JOURNAL_STALL_S="0.4")
    return door, fault


def is_served(door: Door) -> bool:
    return door.predict("half_plus_two", {"instances": [2]}).status_code == 200


@pytest.mark.parametrize("word", ["EIO", "ENOSPC"])
def test_a_failing_disk_lets_no_prediction_out_and_recovers_by_itself(faulty: tuple[Door, Path], word: str) -> None:
    door, fault = faulty
    assert is_served(door)
    fault.write_text(word)
    answers = [door.predict("half_plus_two", {"instances": [2]}) for _ in range(5)]
    for answer in answers:
        assert answer.status_code == 503
        assert "daybook" in answer.json()["error"]
        assert "predictions" not in answer.text
        assert int(answer.headers["retry-after"]) >= 1
    assert door.get("/v1/models").status_code == 503
    assert door.http.get("/healthz").status_code == 200
    fault.unlink()
    wait_until(lambda: is_served(door), "it recovers")
    good = door.predict("half_plus_two", {"instances": [2]}).headers["daybook-record"]
    door.gateway.stop()
    leaves = {
        ids.text(record): json.loads(leaf) for record, leaf in leaves_of(read_entries(door.gateway.directory / "var/journal")).items()
    }
    assert leaves[good]["o"] == "ok"
    named = [answer.headers["daybook-record"] for answer in answers if "daybook-record" in answer.headers]
    assert all(name in leaves for name in named)


def test_a_stalled_sync_closes_the_connection_unanswered(faulty: tuple[Door, Path]) -> None:
    door, fault = faulty
    assert is_served(door)
    fault.write_text("stall")
    with socket.create_connection(("127.0.0.1", door.gateway.port), timeout=10.0) as connection:
        begun = time.monotonic()
        connection.sendall(REQUEST)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(65_536) == b""  # nobody knows whether it is durable, so nothing is said
        assert time.monotonic() - begun >= 0.3
    assert door.http.get("/readyz").status_code == 503
    assert door.predict("half_plus_two", {"instances": [2]}).status_code == 503
    fault.unlink()
    wait_until(lambda: is_served(door), "it recovers")
