"""The first thing that anybody does with Daybook, as an outsider would: call, find the record, prove it offline."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from bench.portal import Portal
from config.files import read_env_file

ROOT = Path(__file__).resolve().parents[2]
SEALED_WITHIN_S = 30.0


T = TypeVar("T")


def until(find: Callable[[], T | None], what: str, seconds: float = SEALED_WITHIN_S) -> T:
    deadline = time.monotonic() + seconds
    while (found := find()) is None:
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)
    return found


def predict(portal: Portal, model: str, body: object) -> httpx.Response:
    return httpx.post(f"{portal.gateway}/v1/models/{model}:predict", json=body, headers=portal.headers, timeout=30)


@contextlib.contextmanager
def sign_in(portal: Portal, name: str) -> Iterator[httpx.Client]:
    """A signed-in visitor of the site."""
    passwords = dict(re.findall(r"^(\w+)\s+(\S+)$", (portal.directory / "demo-users.txt").read_text(), re.MULTILINE))
    with httpx.Client(base_url=portal.site, follow_redirects=True, timeout=30) as visitor:
        visitor.get("/accounts/login/")
        form = {"login": name, "password": passwords[name], "csrfmiddlewaretoken": visitor.cookies["csrftoken"]}
        visitor.post("/accounts/login/", data=form, headers={"Referer": portal.site}).raise_for_status()
        yield visitor


@pytest.fixture(scope="module")
def answer(live_portal: Portal) -> httpx.Response:
    return predict(live_portal, "half_plus_two", {"instances": [1.0, 2.0, 5.0]})


@pytest.fixture(scope="module")
def sealed(live_portal: Portal, answer: httpx.Response) -> dict[str, object]:
    """The answer's record as the API gives it, once it's sealed."""
    url = f"{live_portal.site}/api/records/{answer.headers['Daybook-Record']}/"

    def find() -> dict[str, object] | None:
        found = httpx.get(url, headers=live_portal.headers, timeout=30)
        return found.json() if found.status_code == 200 and found.json()["seal"]["state"] == "sealed" else None

    return until(find, "sealed record")


def test_demo_env_is_private_and_complete(live_portal: Portal) -> None:
    file = live_portal.directory / "demo.env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(read_env_file(file)) == {"DAYBOOK_URL", "DAYBOOK_GATEWAY", "DAYBOOK_GRPC", "DAYBOOK_API_KEY", "DAYBOOK_OPERATOR_KEY"}


def test_half_plus_two_is_answered(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()) == (200, {"predictions": [2.5, 3.0, 4.5]})
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", answer.headers["Daybook-Record"])


def test_record_is_found_through_the_api(answer: httpx.Response, sealed: dict[str, object]) -> None:
    assert sealed["leaf_hash"] == answer.headers["Daybook-Leaf"]
    assert {name: sealed[name] for name in ("model", "version", "outcome", "status", "rows")} == {
        "model": "half_plus_two",
        "version": 1,
        "outcome": "ok",
        "status": 200,
        "rows": 3,
    }


def test_record_is_found_on_the_site_with_what_was_asked_and_answered(live_portal: Portal, sealed: dict[str, object]) -> None:
    with sign_in(live_portal, "auditor") as auditor:
        page = auditor.get(f"/audit/records/{sealed['id']}")
    assert page.status_code == 200
    assert str(sealed["leaf_hash"])[:8] in page.text
    assert "half_plus_two" in page.text


def test_proof_is_accepted_offline(live_portal: Portal, answer: httpx.Response, sealed: dict[str, object], tmp_path: Path) -> None:
    for name, path in {"vkey": "vkey", "proof": f"proof/{sealed['id']}", "leaf": f"entry/{sealed['id']}"}.items():
        found = httpx.get(f"{live_portal.site}/log/{path}", headers=live_portal.headers, timeout=30).raise_for_status()
        (tmp_path / name).write_bytes(found.content)
    verified = verify(tmp_path, "proof", "--vkey", "vkey", "--leaf", "leaf", "proof")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    # One changed number in the leaf, and it's refused.
    (tmp_path / "leaf").write_bytes((tmp_path / "leaf").read_bytes().replace(b'"ver":1', b'"ver":2'))
    assert verify(tmp_path, "proof", "--vkey", "vkey", "--leaf", "leaf", "proof").returncode == 1


def test_receipt_is_accepted_offline(live_portal: Portal, answer: httpx.Response, sealed: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "receipt").write_text(answer.headers["Daybook-Receipt"])
    (tmp_path / "keys").write_bytes(httpx.get(f"{live_portal.site}/log/receipt-keys", timeout=30).raise_for_status().content)
    entry = httpx.get(f"{live_portal.site}/log/entry/{sealed['id']}", headers=live_portal.headers, timeout=30).raise_for_status()
    (tmp_path / "leaf").write_bytes(entry.content)
    verified = verify(tmp_path, "receipt", "--keys", "keys", "--leaf", "leaf", "receipt")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def verify(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The verifier on its own: nothing of ours on the path but its one file."""
    alone = directory / "daybook_verify.py"
    alone.write_bytes((ROOT / "audit" / "verifier.py").read_bytes())
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, str(alone), *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_digits_that_the_model_never_saw_are_read(live_portal: Portal) -> None:
    rows = json.loads((ROOT / "demo" / "samples" / "digits.json").read_text())
    answered = predict(live_portal, "digits", {"inputs": {"image": [row["image"] for row in rows]}}).json()["outputs"]
    right = sum(int(found) == row["label"] for found, row in zip(answered["class"], rows, strict=True))
    assert right >= 0.97 * len(rows)


def test_risk_and_verse_are_answered(live_portal: Portal) -> None:
    case = {"fin": 0.0, "age": 20.0, "wexp": 0.0, "mar": 0.0, "paro": 1.0, "prio": 2.0}
    scores = predict(live_portal, "risk", {"instances": [{**case, "race": race} for race in (0.0, 1.0)]}).json()["predictions"]
    assert scores[0] == scores[1], "the score must not use race"
    verse = predict(live_portal, "verse", {"instances": ["Shall I compare"]}).json()["predictions"]
    assert verse[0].startswith(" thee to a summer's day")


def test_demo_sent_its_inputs_and_the_log_verifies(live_portal: Portal, sealed: dict[str, object]) -> None:
    found = httpx.get(
        f"{live_portal.site}/api/records/", params={"q": 'kind:prediction application:"Mail room"'}, headers=live_portal.headers
    )
    assert len(found.json()["results"]) >= 100
    assert live_portal.manage("verify_log").startswith("ok")


def test_every_role_signs_in_and_sees_what_it_may(live_portal: Portal) -> None:
    deployments = {}
    for role in ("viewer", "publisher", "operator", "auditor", "admin"):
        with sign_in(live_portal, role) as visitor:
            deployments[role] = visitor.get("/api/deployments/").status_code
    assert deployments == {"viewer": 403, "publisher": 403, "operator": 200, "auditor": 403, "admin": 200}
