"""No answer without its record, on the real process: what the kernel saw, and what happens while nothing can be ingested."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit import ids
from audit.backlog import Backlog, write_backlog
from tests.audit.calls import leaves_of, read_entries
from tests.serving.gateway.conftest import Door, wait_until

NUM_CALLS = 20
_SOME_BYTES = re.compile(r"\) += [1-9]")
_RECORD = re.compile(r"daybook-record: ([0-9a-f-]{36})", re.I)


def journal_of(door: Door) -> Path:
    return door.gateway.directory / "var" / "journal"


def steps_of(trace: str) -> Iterator[str]:
    """What the kernel did, in its order: "write" when one into the journal begins, "sync" when what was written is durable, or the
    record id of an answer that begins to be sent.

    A call that another thread interrupts stands in two lines: begun with its first one, done with its second.
    """
    writing: dict[str, bool] = {}  # by thread, whether its unfinished write also syncs
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.lstrip()
        if call.startswith("pwritev"):
            yield "write"
            syncs = "RWF_DSYNC" in call
            if call.endswith("<unfinished ...>"):
                writing[thread] = syncs
            elif syncs and _SOME_BYTES.search(call):
                yield "sync"
        elif call.startswith("<... pwritev"):
            if writing.pop(thread, False) and _SOME_BYTES.search(call):
                yield "sync"
        elif "fdatasync" in call and re.search(r"\) += 0", call):
            yield "sync"
        elif "HTTP/1.1 200" in call and (found := _RECORD.search(call)):
            yield found.group(1)


def test_the_sync_returns_before_the_answers_first_byte(start_gateway: Callable[..., Door], tmp_path: Path) -> None:
    """RULES 2.9: `kill -9` can't show it, for the page cache survives that."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    calls = "trace=pwritev,pwritev2,fdatasync,sendto,sendmsg,write,writev"
    # -D: strace stands beside the gateway, which stays the process that we stop.
    door = start_gateway(wrapper=(strace, "-D", "-f", "-q", "-s", "2048", "-e", calls, "-o", str(trace)))
    named = [door.predict("half_plus_two", {"instances": [number]}).headers["daybook-record"] for number in range(NUM_CALLS)]
    assert door.gateway.stop() == 0
    ended = re.compile(rf"^{door.gateway.process.pid} +\+\+\+ exited with 0", re.MULTILINE)
    wait_until(lambda: bool(ended.search(trace.read_text())), "the trace is whole")
    steps = list(steps_of(trace.read_text()))
    answers = [place for place, step in enumerate(steps) if step in named]
    assert [steps[place] for place in answers] == named
    for before, place in zip([-1, *answers], answers, strict=False):
        since = steps[before + 1 : place]
        assert "sync" in since[since.index("write") :], f"no sync between write and answer: {since}"


def test_a_backlog_at_its_limit_is_503_until_the_scribe_has_caught_up(start_gateway: Callable[..., Door]) -> None:
    """PostgreSQL down for long: the scribe can't ingest and says how much waits; predictions go on up to the limit."""
    door = start_gateway(JOURNAL_MAX_MB="64")
    limit = 64 << 20

    def tell(waiting: int) -> None:
        now_us = time.time_ns() // 1000
        write_backlog(journal_of(door), Backlog(time_us=now_us, bytes=waiting, records=waiting // 1000, oldest_us=now_us - 60_000_000))

    def status_while(waiting: int) -> int:
        tell(waiting)
        return door.predict("half_plus_two", {"instances": [2]}).status_code

    assert status_while(limit // 2) == 200
    wait_until(lambda: status_while(limit * 95 // 100) == 503, "the backlog is seen")
    refused = door.predict("half_plus_two", {"instances": [2]})
    assert (refused.status_code, "predictions" in refused.text) == (503, False)
    assert "the journal is almost full" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) >= 1
    assert door.http.get("/healthz").status_code == 200
    wait_until(lambda: status_while(0) == 200, "it recovers when the scribe has caught up")
    good = door.predict("half_plus_two", {"instances": [2]}).headers["daybook-record"]
    door.gateway.stop()
    leaves = {ids.text(record): json.loads(leaf) for record, leaf in leaves_of(read_entries(journal_of(door))).items()}
    assert leaves[good]["o"] == "ok"
    assert leaves[refused.headers["daybook-record"]]["o"] == "unavailable"
