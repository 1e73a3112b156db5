"""Requests that share a batch don't feel each other: through the gateway, the streams and the worker."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest

from bench.open_loop import Answer, Client, run_apart
from bench.portal import Portal

pytestmark = pytest.mark.end_to_end


async def at_once(portal: Portal, model: str, bodies: Sequence[object], headers: dict[str, str]) -> list[Answer]:
    parts = urlsplit(portal.gateway)
    client = Client(parts.hostname or "", parts.port or 0)
    requests = [client.request(f"/v1/models/{model}:predict", json.dumps(body).encode(), headers) for body in bodies]
    due = time.perf_counter()
    answers = await asyncio.gather(*(client.send(request, due) for request in requests))
    await client.close()
    return list(answers)


def ask(portal: Portal, model: str, bodies: Sequence[object], **headers: str) -> list[Answer]:
    """Send all bodies at the same moment, each on a connection of its own."""
    return run_apart(at_once(portal, model, bodies, {**portal.headers, **headers}))


def predictions(answer: Answer) -> object:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["predictions"]


def batch_sizes(portal: Portal, model: str, answered: int) -> set[int]:
    """Of the `answered` predictions, once the scribe has brought them all."""
    deadline = time.monotonic() + 30
    while True:
        with psycopg.connect(portal.database_url) as connection:
            sizes = [
                row[0]
                for row in connection.execute(
                    "SELECT batch_size FROM audit_record WHERE model = %s AND verb = 'predict' AND outcome = 'ok'", [model]
                )
            ]
        if len(sizes) >= answered:
            assert len(sizes) == answered
            return set(sizes)
        assert time.monotonic() < deadline, f"{len(sizes)} of {answered} records of {model} arrived"
        time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def _registered(live_portal: Portal, test_models: dict[str, str]) -> None:
    for name in ("picky", "batch_norm", "reshapes", "random"):
        live_portal.register(name, Path(test_models[name]))


def test_five_bad_requests_leave_fifty_good_ones_alone(live_portal: Portal) -> None:
    live_portal.manage("shell", "-c", BATCH_WINDOW)
    time.sleep(4)
    bodies: list[object] = [{"instances": [[number, -number]]} for number in range(50)]
    for place in (3, 14, 25, 36, 47):
        bodies.insert(place, {"instances": [["NaN", 1.0]]} if place % 2 else {"instances": [[float("inf"), 2.0]]})
    answers = ask(live_portal, "picky", bodies)
    for body, answer in zip(bodies, answers, strict=True):
        rows = body["instances"]  # type: ignore[index]
        if isinstance(rows[0][0], int):
            assert predictions(answer) == [[2.0 * rows[0][0], 2.0 * rows[0][1]]]
        else:
            assert answer.status == 400
            assert b"not a number" in answer.body
    assert sum(answer.status == 200 for answer in answers) == 50
    assert max(batch_sizes(live_portal, "picky", 50)) > 1, "the requests never shared a batch"


BATCH_WINDOW = """
from serving.models import Deployment
from serving.services import change_deployment
change_deployment(deployment=Deployment.objects.get(name="picky"), actor="test", batching={"batch_timeout": 0.3, "max_batch_size": 64})
"""


def test_a_model_that_normalises_over_its_batch_is_answered_as_unbatched(live_portal: Portal) -> None:
    rng = np.random.default_rng(5)
    inputs = [rng.normal(size=(rows, 3)).astype(np.float32) for rows in (1, 2, 3, 4) * 10]
    answers = ask(live_portal, "batch_norm", [{"instances": rows.tolist()} for rows in inputs])
    for rows, answer in zip(inputs, answers, strict=True):
        expected = (rows - rows.mean(0)) / (rows.std(0) + 1e-3)
        np.testing.assert_allclose(np.array(predictions(answer)), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_reshapes_across_rows_is_answered_as_unbatched(live_portal: Portal) -> None:
    inputs = [[[float(place), float(place + row)] for row in range(2)] for place in range(40)]
    answers = ask(live_portal, "reshapes", [{"instances": rows} for rows in inputs])
    for rows, answer in zip(inputs, answers, strict=True):
        assert predictions(answer) == np.array(rows).T.reshape(-1, 2).tolist()


def test_a_random_model_runs_one_request_at_a_time(live_portal: Portal) -> None:
    answers = ask(live_portal, "random", [{"instances": [[float(place), 0.0]]} for place in range(40)])
    for place, answer in enumerate(answers):
        value = predictions(answer)[0][0]  # type: ignore[index]
        assert place <= value < place + 1
    assert batch_sizes(live_portal, "random", 40) == {1}
