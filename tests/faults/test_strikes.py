"""`kill -9` of every process at random instants, under load: nothing that was answered is lost, doubled or wrong.

FAULT_STRIKES (default 50) and FAULT_SEED by environment; the seed is printed.
"""

import asyncio
import base64
import hashlib
import json
import os
import random
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psycopg
import pytest

from bench.open_loop import Answer, Client, run_apart
from bench.portal import Portal, descendants

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ROLES = {
    "gateway": r"config\.gateway",
    "scribe": r"manage\.py scribe",
    "sealer": r"manage\.py sealer",
    "worker": r"celery (?!.*jobs).*worker",
    "jobs": r"celery .*jobs",
    "redis": r"valkey-server",
    "postgres": r"bin/postgres -D|postgres .*-D",
}
RECORD = re.compile(rb"daybook-record: *([0-9a-f-]{36})", re.I)
CALLERS = 16


@dataclass
class Story:
    """What happened: each answer with the number that was asked, each checkpoint that was published, each strike."""

    answers: list[tuple[float, Answer]] = field(default_factory=list)
    checkpoints: set[str] = field(default_factory=set)
    strikes: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)


def pids_of(portal: Portal, role: str) -> list[int]:
    found = []
    for pid in descendants(portal.process.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if re.search(ROLES[role], command):
            found.append(pid)
    return found


async def call(portal: Portal, story: Story, until: asyncio.Event, rng: random.Random) -> None:
    """One caller: asks for numbers that nobody else asks for, one after the other."""
    parts = urlsplit(portal.gateway)
    client = Client(parts.hostname or "", parts.port or 0)
    while not until.is_set():
        number = rng.randrange(1 << 20) / 8
        request = client.request("/v1/models/half_plus_two:predict", json.dumps({"instances": [number]}).encode(), portal.headers)
        try:
            answer = await asyncio.wait_for(client.send(request, time.perf_counter()), 60)
        except TimeoutError:
            pytest.fail("a call hung for more than a minute")
        story.answers.append((number, answer))
        if answer.status != 200:
            await asyncio.sleep(0.05)
    await client.close()


async def watch(portal: Portal, story: Story, until: asyncio.Event) -> None:
    """Collect the checkpoints that the site publishes."""
    async with httpx.AsyncClient(timeout=5) as http:
        while not until.is_set():
            try:
                answer = await http.get(f"{portal.site}/log/checkpoint")
                if answer.status_code == 200:
                    story.checkpoints.add(answer.text)
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.3)


async def strike(portal: Portal, story: Story, rng: random.Random, count: int) -> None:
    """Kill one process, often two, at random instants, and give the supervisor little time to mend it. First each role once."""
    due = rng.sample(sorted(ROLES), len(ROLES))
    while len(story.strikes) < count:
        await asyncio.sleep(rng.uniform(1.0, 5.0))
        roles = tuple(due[:1] or rng.sample(sorted(ROLES), rng.choice((1, 1, 2))))
        struck = []
        for role in roles:
            pids = pids_of(portal, role)
            if pids:
                os.kill(pids[0] if role == "postgres" else rng.choice(pids), signal.SIGKILL)
                struck.append(role)
        due = [role for role in due if role not in struck]
        if struck:
            story.strikes.append((time.perf_counter(), tuple(struck)))


async def live(portal: Portal, rng: random.Random, count: int) -> Story:
    story, until = Story(), asyncio.Event()
    callers = [asyncio.create_task(call(portal, story, until, random.Random(rng.random()))) for _ in range(CALLERS)]
    watcher = asyncio.create_task(watch(portal, story, until))
    await strike(portal, story, rng, count)
    await asyncio.sleep(3)
    until.set()
    await asyncio.gather(*callers, watcher)
    return story


def wait_until_well(portal: Portal, seconds: float = 90) -> None:
    """Everything comes back by itself and the log catches up."""
    deadline = time.monotonic() + seconds
    last = ""
    while time.monotonic() < deadline:
        try:
            gateway = httpx.get(f"{portal.gateway}/readyz", timeout=5)
            site = httpx.get(f"{portal.site}/readyz", timeout=5)
            last = f"{gateway.text} {site.text}"
            if gateway.status_code == site.status_code == 200:
                time.sleep(1)  # the backlog that the scribe tells of is half a second old
                last = f"{portal.num_behind()} records are not sealed"
                if portal.num_behind() == 0:
                    return
        except (httpx.HTTPError, psycopg.Error) as error:
            last = repr(error)
        time.sleep(0.5)
    pytest.fail(f"not well {seconds:.0f} s after the last strike: {last}")


def root_at(hashes: list[bytes]) -> bytes:
    """RFC 6962's MTH in its naive form, over leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + root_at(hashes[:split]) + root_at(hashes[split:])).digest()


def test_whatever_dies_nothing_answered_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    count = int(os.environ.get("FAULT_STRIKES", "50"))
    print(f"FAULT_SEED={seed}")
    portal = Portal(tmp_path)
    try:
        unknown = [role for role in ROLES if not pids_of(portal, role)]
        assert not unknown, f"no process looks like {unknown}: they would never be struck"
        story = run_apart(live(portal, random.Random(seed), count))
        wait_until_well(portal)
        check(portal, story)
    finally:
        portal.stop()
    struck = Counter(role for _, roles in story.strikes for role in roles)
    assert count < len(ROLES) or set(struck) == set(ROLES), f"never struck: {set(ROLES) - set(struck)}"
    statuses = Counter(answer.status for _, answer in story.answers)
    print(f"strikes {dict(struck)}; answers {dict(statuses)}; {len(story.checkpoints)} checkpoints")


def named_record(answer: Answer) -> str:
    """The id that an answer's `Daybook-Record` gives, "" where it has none (no answer at all, or one that couldn't be recorded)."""
    found = RECORD.search(answer.headers)
    return found.group(1).decode() if found else ""


def check(portal: Portal, story: Story) -> None:
    good = [(number, answer) for number, answer in story.answers if answer.status == 200]
    assert len(good) > 100 * len(story.strikes) / 50, "the portal hardly served"
    for number, answer in good:
        [prediction] = json.loads(answer.body)["predictions"]
        assert np.float32(prediction) == np.float32(number * 0.5 + 2.0)
    ids = [named for _, answer in good if (named := named_record(answer))]
    assert len(ids) == len(good), "an answer without its record's id"
    assert len(set(ids)) == len(ids)
    refused = {named for _, answer in story.answers if answer.status != 200 and (named := named_record(answer))}
    assert not refused & set(ids), "a refusal that names the record of an answer"
    with psycopg.connect(portal.database_url) as connection:
        rows: dict[str, int] = dict(
            connection.execute(
                "SELECT id::text, count(*) FROM audit_record WHERE id = ANY(%s::uuid[]) AND outcome = 'ok' GROUP BY id", [ids]
            ).fetchall()
        )
        assert [record for record in ids if rows.get(record) != 1] == [], "an answered call without exactly one record"
        # An aggregate is named by every refusal that it stands for; as a record it is there once like any other.
        named = "SELECT id::text, count(*) FROM audit_record WHERE id = ANY(%s::uuid[]) GROUP BY id"
        known: dict[str, int] = dict(connection.execute(named, [sorted(refused)]).fetchall())
        assert [record for record in refused if known.get(record) != 1] == [], "a refused call whose record is lost or doubled"
        leaves = [bytes(row[0]) for row in connection.execute("SELECT leaf_hash FROM audit_logleaf ORDER BY index").fetchall()]
        sealed = {row[0] for row in connection.execute("SELECT record_id::text FROM audit_logleaf").fetchall()}
        published = {row[0] for row in connection.execute("SELECT note FROM audit_checkpoint").fetchall()}
    assert set(ids) <= sealed, "an answered call that was never sealed"
    assert refused <= sealed, "a refused call that was never sealed"
    for note in story.checkpoints | published:
        _, size, root = note.split("\n")[:3]
        assert root_at(leaves[: int(size)]) == base64.b64decode(root), f"the log forked before size {size}"
    portal.manage("verify_log")
