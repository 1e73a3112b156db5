"""Rollups are a fold of the leaves and of nothing else; figures read them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from ddsketch import DDSketch
from django.db import connection as django_connection
from django.db import transaction

from audit import database, figures, rollups
from audit.figures import TrafficPoint
from audit.models import Rollup
from audit.sketch import BadSketch, Sketch, merged

from .calls import make_refusal, make_time_id
from .logs import encode, ingest, make_leaf_call, open_log, seal_all, seeded

MINUTE_US = 60_000_000
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000


@pytest.fixture
def connection() -> Iterator["psycopg.Connection[Any]"]:
    with database.connect() as opened:
        yield opened


def at(minute: float, **changes: Any) -> Any:
    """A call that arrived so many minutes after noon."""
    return make_leaf_call(record_id=make_time_id(NOON_US + round(minute * MINUTE_US)), **changes)


def test_quantiles_are_within_one_percent() -> None:
    rng = np.random.default_rng(7)
    values = np.rint(np.exp(rng.normal(8, 2, 20_000))).astype(np.int64)
    sketch = Sketch()
    sketch.add(values)
    for q in (0.0, 0.01, 0.5, 0.95, 0.99, 1.0):
        exact = np.quantile(values, q, method="lower")
        assert sketch.quantile(q) == pytest.approx(exact, rel=0.01, abs=0.5)
    assert sketch.count == 20_000


def test_the_sketch_answers_as_the_reference_implementation_does() -> None:
    values = [int(value) for value in np.random.default_rng(3).integers(1, 10_000_000, 2_000)]
    reference = DDSketch(0.01)
    for value in values:
        reference.add(value)
    sketch = Sketch()
    sketch.add(values)
    for q in (0.1, 0.5, 0.9, 0.99):
        assert sketch.quantile(q) == pytest.approx(reference.get_quantile_value(q), rel=0.021)


def test_sketches_merge_to_what_one_would_have_been() -> None:
    rng = seeded()
    values = [rng.randrange(0, 1 << rng.randrange(1, 40)) for _ in range(3_000)]
    whole = Sketch()
    whole.add(values)
    parts = []
    for start in range(0, 3_000, 700):
        part = Sketch()
        part.add(values[start : start + 700])
        parts.append(part.encode())
    assert merged(parts).encode() == whole.encode()
    assert Sketch.decode(whole.encode()).encode() == whole.encode()


def test_weights_count_as_repetitions() -> None:
    weighted, plain = Sketch(), Sketch()
    weighted.add([0, 5, 900], [2, 3, 1])
    plain.add([0, 0, 5, 5, 5, 900])
    assert weighted.encode() == plain.encode()
    assert weighted.share_above(6) == pytest.approx(1 / 6)


def test_an_empty_sketch_knows_no_quantile() -> None:
    assert Sketch().quantile(0.5) is None
    assert merged([]).count == 0
    assert Sketch.decode(b"").count == 0


@pytest.mark.parametrize("data", [b"\x02" + bytes(8), b"\x01", b"\x01" + bytes(9), b"hello world!"])
def test_other_bytes_are_no_sketch(data: bytes) -> None:
    with pytest.raises(BadSketch):
        Sketch.decode(data)
    with pytest.raises(BadSketch):
        merged([data])


def test_a_fold_counts_calls_and_passes_other_leaves_on() -> None:
    fold = rollups.Fold()
    leaves = [leaf for _, leaf in encode([make_leaf_call(), make_leaf_call(), make_refusal(count=40)])]
    odd = [b'{"t":"context"}', b"not json", b"", b'{"t":"prediction","ts":99999999999999999}', b'{"t":"prediction","ver":-5}']
    fold.add(leaves + odd)
    assert fold.events == odd
    counts = sorted((key[3], cell.count) for key, cell in fold.cells.items())
    assert counts == [("ok", 2), ("too_many", 40)]


def test_anonymous_callers_share_a_cell() -> None:
    fold = rollups.Fold()
    calls = [
        make_leaf_call(
            actor_type="anonymous", key_prefix="", application="", user="", address=f"10.0.{n}.0/24", record_id=make_time_id(NOON_US)
        )
        for n in range(50)
    ]
    fold.add(leaf for _, leaf in encode(calls))
    assert [key[4] for key in fold.cells] == [""]


@pytest.mark.django_db(transaction=True)
def test_recomputing_from_the_log_changes_nothing(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    rng = seeded()
    calls = [
        at(
            rng.uniform(0, 180),
            model=rng.choice(("digits", "half_plus_two", "nul\0name")),
            version=rng.choice((1, 2, None)),
            outcome=rng.choice(("ok", "timeout", "too_many")),
            user=rng.choice(("ada", "bo")),
            total_us=rng.randrange(0, 10**6),
            queue_us=rng.randrange(0, 1000),
            model_us=rng.randrange(0, 1000),
        )
        for _ in range(700)
    ]
    log = open_log(connection, tmp_path)
    for start in range(0, 700, 130):
        ingest(connection, calls[start : start + 130])
        seal_all(log)
    columns = "bucket, model, version, outcome, caller, count, total_us, queue_us, model_us, sketch"
    order = "bucket, model, version, outcome, caller"
    before = connection.execute(f"SELECT {columns} FROM audit_rollup ORDER BY {order}".encode()).fetchall()
    assert len(before) > 100
    connection.execute("UPDATE audit_rollup SET count = count + 1, sketch = ''")
    connection.execute("DELETE FROM audit_rollup WHERE model = 'digits'")
    for hour in range(3):
        with transaction.atomic(), django_connection.cursor() as cursor:
            rollups.recompute(cursor, NOON + timedelta(hours=hour), NOON + timedelta(hours=hour + 1))
    assert connection.execute(f"SELECT {columns} FROM audit_rollup ORDER BY {order}".encode()).fetchall() == before
    assert {size for (size,) in connection.execute("SELECT DISTINCT tree_size FROM audit_rollup")} == {700}


@pytest.mark.django_db(transaction=True)
def test_figures_are_what_was_sealed(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    calls = [
        at(0.1, total_us=1_000),
        at(0.5, total_us=3_000, queue_us=200),
        at(1.5, outcome="timeout"),
        at(14, outcome="rejected", count=3),
    ]
    calls += [at(29, model="digits", version=3, total_us=500, user="bo")]
    ingest(connection, calls)
    until = NOON + timedelta(minutes=30)
    assert figures.summary(None, NOON, until).count == 0, "what is not sealed is no figure yet"
    seal_all(open_log(connection, tmp_path))

    series = figures.traffic_series(since=NOON, until=until, step_s=600)
    assert series == [
        TrafficPoint(NOON, 2, 0, 1),
        TrafficPoint(NOON + timedelta(minutes=10), 0, 3, 0),
        TrafficPoint(NOON + timedelta(minutes=20), 1, 0, 0),
    ]
    latency = figures.latency_series(since=NOON, until=until, step_s=600, model="half_plus_two")
    assert [point.count for point in latency] == [2, 0, 0]
    assert latency[0].p99_us == pytest.approx(1_000, rel=0.01)
    assert latency[1].p50_us is None

    whole = figures.summary(None, NOON, until)
    assert (whole.answered, whole.refused, whole.failed, whole.callers, whole.tree_size) == (3, 3, 1, 2, 5)
    assert whole.failed_share == pytest.approx(1 / 7)
    one = figures.summary("half_plus_two", NOON, until)
    assert (one.mean_us, one.mean_queue_us, one.count) == (2_000, 250, 6)
    assert [(row.model, row.version, row.summary.count) for row in figures.by_model(NOON, until, by_version=True)] == [
        ("half_plus_two", 1, 6),
        ("digits", 3, 1),
    ]
    assert [(row.outcome, row.count) for row in figures.by_outcome(NOON, until)] == [("ok", 3), ("rejected", 3), ("timeout", 1)]
    assert figures.models_called(NOON) == ["digits", "half_plus_two"]
    assert figures.summary("unknown", NOON, until).p50_us is None


@pytest.mark.django_db(transaction=True)
def test_calls_are_sealed_as_far_as_a_checkpoint_was_signed(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    def sealed() -> tuple[int, int]:
        found = figures.sealed_calls("half_plus_two", NOON, NOON + timedelta(hours=1))
        return found.sealed, found.total

    assert sealed() == (0, 0)
    log = open_log(connection, tmp_path)
    ingest(connection, [at(0), at(1), at(1, model="digits"), at(2, verb="status")])
    assert sealed() == (0, 2)
    log.seal()
    assert sealed() == (0, 2)  # committed, not signed
    log.publish()
    assert sealed() == (2, 2)
    ingest(connection, [at(3)])
    assert sealed() == (2, 3)


@pytest.mark.django_db(transaction=True)
def test_names_for_filters_are_those_called_lately(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    ingest(connection, [at(n, model=name) for n, name in ((-90, "old"), (0, "b"), (1, "a"), (2, "a"), (3, ""))])
    seal_all(open_log(connection, tmp_path))
    assert figures.models_called(NOON) == ["a", "b"]
    assert figures.models_called(NOON - timedelta(hours=2)) == ["a", "b", "old"]


@pytest.mark.django_db
@pytest.mark.parametrize(("step_s", "hours"), [(30, 1), (90, 1), (0, 1), (60, 24 * 365), (60, 0)])
def test_grids_that_cannot_be_drawn_are_refused(step_s: int, hours: int) -> None:
    with pytest.raises(ValueError, match=r"steps|minutes"):
        figures.traffic_series(since=NOON, until=NOON + timedelta(hours=hours), step_s=step_s)


@pytest.mark.django_db(transaction=True)
def test_the_trees_state_is_shown(connection: "psycopg.Connection[Any]", tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert figures.tree_state(now).checkpoint_age_s is None
    ingest(connection, [at(0), at(1)])
    assert (figures.tree_state(now).size, figures.tree_state(now).unsealed) == (0, 2)
    seal_all(open_log(connection, tmp_path))
    state = figures.tree_state(datetime.now(UTC) + timedelta(seconds=9))
    assert (state.size, state.signed_size, state.unsealed, state.sealer_state) == (2, 2, 0, "sealing")
    assert state.checkpoint_age_s == pytest.approx(9, abs=5)
    assert Rollup.objects.count() == 2
