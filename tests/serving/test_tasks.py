"""Control tasks reach every worker, and do nothing where no engine is."""

from pathlib import Path

import pytest
from kombu.common import Broadcast

from config.celery import CONTROL, app, broker_url
from serving import tasks
from serving.models import Deployment


def test_control_tasks_are_broadcast_and_the_rest_goes_to_jobs() -> None:
    control = app.amqp.router.route({}, "serving.control.nudge")
    assert isinstance(control["queue"], Broadcast)
    assert control["queue"].exchange.type == "fanout"
    assert control["declare"] == [CONTROL]
    assert app.amqp.router.route({}, "serving.load")["queue"].name == "jobs"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:secret@host:6379/2", "redis://:secret@host:6379/2"),
        ("unix:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
        ("unix://:p@/run/r.sock?db=3", "redis+socket://:p@/run/r.sock?virtual_host=3"),
    ],
)
def test_the_broker_is_the_same_redis(url: str, expected: str) -> None:
    assert broker_url(url) == expected


def test_without_an_engine_control_tasks_do_nothing() -> None:
    assert tasks.nudge() is None
    assert tasks.status() is None
    assert tasks.drain("n1") is None
    assert tasks.retry("m") is None


@pytest.mark.django_db
def test_load_and_unload_change_what_is_desired(tmp_path: Path, settings: object) -> None:
    settings.MODEL_ROOTS = (tmp_path,)  # type: ignore[attr-defined]
    (tmp_path / "m" / "1").mkdir(parents=True)
    tasks.load("m", str(tmp_path / "m"), "ann")
    assert Deployment.objects.get(name="m").policy == "latest:1"
    tasks.load("m", str(tmp_path / "m"), "ann", "specific:1")
    assert Deployment.objects.get(name="m").policy == "specific:1"
    tasks.unload("m", "ann")
    tasks.unload("m", "ann")
    assert not Deployment.objects.filter(name="m").exists()
