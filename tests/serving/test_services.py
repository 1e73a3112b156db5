import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from django.db.models import F

from audit.models import Record
from catalog.models import Entry
from serving.engine.lifecycle import ModelStatus, VersionStatus
from serving.engine.servable import Signature, TensorSpec
from serving.engine.state import State
from serving.fields import InvalidDeployment
from serving.models import Deployment, PublishedSnapshot, VersionState, WorkerState
from serving.publication import current
from serving.services import change_deployment, create_deployment, desired_models, remove_deployment, report_status
from serving.snapshot import Snapshot

from .factories import SIGNATURE, make_deployment

pytestmark = pytest.mark.django_db


def status(
    name: str = "half_plus_two",
    version: int = 1,
    state: str = "AVAILABLE",
    error_code: str = "OK",
    error_message: str = "",
    signature: Signature = SIGNATURE,
    artifact: str = "a" * 64,
) -> VersionStatus:
    return VersionStatus(
        name, version, State(state), error_code, error_message, artifact=artifact, signatures={"serving_default": signature}
    )


def report(*versions: VersionStatus, worker: str = "worker-1", error_code: str = "OK", error_message: str = "") -> None:
    statuses = [ModelStatus("half_plus_two", error_code, error_message, versions)]
    report_status(worker_id=worker, node="node-1", device="CPU", statuses=statuses)


def published() -> Snapshot:
    snapshot = current()
    assert snapshot is not None
    return snapshot


def test_a_deployment_is_wanted_published_and_catalogued(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, policy="latest:2", labels={"stable": 1})
    assert [(model.name, model.base_path) for model in desired_models()] == [("half_plus_two", deployment.base_path)]
    assert published().deployments["half_plus_two"].labels == {"stable": 1}
    assert Entry.objects.filter(slug="half_plus_two").exists()
    assert Record.objects.filter(kind="act", verb="deployment.created").count() == 1


def test_an_available_version_becomes_the_default(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status(version=1), status(version=2, state="LOADING"))
    view = published().deployments["half_plus_two"]
    assert view.default_version == 1
    assert [(version.version, version.state) for version in view.versions] == [(2, "LOADING"), (1, "AVAILABLE")]
    assert view.versions[1].signatures["serving_default"].inputs["x"].shape == (-1,)


def test_a_report_without_news_publishes_nothing(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status())
    before = published().version
    report(status())
    assert published().version == before


def test_a_report_without_news_leaves_the_time_of_the_last_change(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status())
    since = VersionState.objects.get().since
    report(status())
    assert VersionState.objects.get().since == since


def test_a_failed_load_keeps_its_text(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status(state="END", error_code="NOT_FOUND", error_message="no saved_model.pb in 1"))
    version = published().deployments["half_plus_two"].versions[0]
    assert (version.state, version.error_code, version.error_message) == ("END", "NOT_FOUND", "no saved_model.pb in 1")
    assert published().deployments["half_plus_two"].default_version is None


def test_a_missing_directory_explains_itself_until_it_is_there(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(error_code="NOT_FOUND", error_message="there is no directory /models/half_plus_two")
    view = published().deployments["half_plus_two"]
    assert (view.error_code, view.error_message) == ("NOT_FOUND", "there is no directory /models/half_plus_two")
    report(status())
    assert published().deployments["half_plus_two"].error_code == "OK"


def test_odd_names_defaults_and_texts_are_published(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    odd = TensorSpec("x\0:0", "DT_FLOAT", (-1,))
    defaults = {"x": np.array([1.0, np.nan, -np.inf]), "c": np.array([1 + 2j]), "s": np.array([b"a\0\xff"], object)}
    report(
        status(version=2, state="START", error_code="UNKNOWN", error_message="half a pair \ud800 and NUL \0"),
        status(version=1, signature=Signature("m", {"al\0ias": odd, "half\ud800": odd}, {"y": odd}, defaults)),
    )
    failed, served = published().deployments["half_plus_two"].versions
    assert failed.error_message == "half a pair ? and NUL \ufffd"
    signature = served.signatures["serving_default"]
    assert set(signature.inputs) == {"al\ufffdias", "half?"}
    assert signature.defaults == {"x": [1.0, "NaN", "-Infinity"], "c": ["(1+2j)"], "s": ["a\ufffd\ufffd"]}
    acts = Record.objects.count()
    report(
        status(version=2, state="START", error_code="UNKNOWN", error_message="half a pair \ud800 and NUL \0"),
        status(version=1, signature=Signature("m", {"al\0ias": odd, "half\ud800": odd}, {"y": odd}, defaults)),
    )
    assert Record.objects.count() == acts  # the same again is no news


def test_what_cannot_be_stored_is_an_error_of_its_version_alone(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status(version=2**63), status(version=3, artifact="longer than an artifact's digest" * 9), status(version=2))
    view = published().deployments["half_plus_two"]
    assert [(version.version, version.state, version.error_code) for version in view.versions] == [
        (3, "END", "INTERNAL"),
        (2, "AVAILABLE", "OK"),
    ]
    assert "can't be published" in view.versions[0].error_message


def test_a_version_is_available_while_any_worker_has_it(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status(), worker="worker-1")
    report(status(state="LOADING"), worker="worker-2")
    assert published().deployments["half_plus_two"].default_version == 1
    report(worker="worker-1")
    assert published().deployments["half_plus_two"].default_version is None
    assert VersionState.objects.count() == 1


def let_time_pass(seconds: float) -> None:
    """Since the workers' last reports."""
    WorkerState.objects.update(seen_at=F("seen_at") - timedelta(seconds=seconds))


def test_a_change_after_an_outage_keeps_what_was_served(tmp_path: Path) -> None:
    """PostgreSQL was away, no worker could report, and a person's change comes before the first report."""
    deployment = make_deployment(tmp_path)
    report(status(version=1), worker="worker-1")
    report(status(version=1), status(version=2), worker="worker-2")
    let_time_pass(300)
    change_deployment(deployment=deployment, actor="ada", timeout_ms=500)
    assert published().deployments["half_plus_two"].default_version == 2
    report(status(version=1), worker="worker-1")
    assert published().deployments["half_plus_two"].default_version == 2  # worker-2's turn is yet to come


def test_a_worker_that_falls_silent_beside_others_is_forgotten(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status(version=2), worker="worker-2")
    let_time_pass(20)
    report(status(version=1), worker="worker-1")
    let_time_pass(11)
    report(status(version=1), worker="worker-1")
    assert published().deployments["half_plus_two"].default_version == 1
    assert list(WorkerState.objects.values_list("pk", flat=True)) == ["worker-1"]


def test_a_workers_own_clock_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_deployment(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("django.utils.timezone.now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
        report(status())
    assert WorkerState.objects.live().count() == 1


def test_a_moved_label_stays_until_its_new_version_is_available(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, policy="all", labels={"stable": 1})
    report(status(version=1))
    change_deployment(deployment=deployment, actor="ada", labels={"stable": 2, "next": 2})
    assert published().deployments["half_plus_two"].labels == {"stable": 1, "next": 2}
    report(status(version=1), status(version=2, state="LOADING"))
    assert published().deployments["half_plus_two"].labels["stable"] == 1
    report(status(version=1), status(version=2, state="END", error_code="UNKNOWN", error_message="broken"))
    assert published().deployments["half_plus_two"].labels["stable"] == 1
    report(status(version=1), status(version=2))
    assert published().deployments["half_plus_two"].labels == {"stable": 2, "next": 2}


def test_a_removed_deployment_leaves_no_route(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    remove_deployment(deployment=deployment, actor="ada")
    assert published().deployments == {}
    assert desired_models() == []


def test_changes_reach_workers_and_are_recorded(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path)
    change_deployment(deployment=deployment, actor="ada", batching={"max_batch_size": 8}, policy="all")
    wanted = desired_models()[0]
    assert wanted.batching.max_batch_size == 8
    assert Record.objects.filter(kind="act", verb="deployment.changed").count() == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "no spaces"}, "name"),
        ({"name": "../up"}, "name"),
        ({"policy": "newest"}, "policy"),
        ({"base_path": "/nowhere/at/all"}, "base_path"),
        ({"batching": {"max_batch": 3}}, "batching"),
        ({"batching": {"max_batch_size": 0}}, "batching"),
        ({"batching": {"max_batch_size": 8.5}}, "batching"),
        ({"batching": {"max_batch_size": True}}, "batching"),
        ({"batching": {"allowed_batch_sizes": 8}}, "batching"),
        ({"batching": {"allowed_batch_sizes": ["8"]}}, "batching"),
        ({"answer_labels": [0, 1, 2]}, "answer_labels"),
        ({"answer_labels": ["no\0"]}, "answer_labels"),
        ({"answer_output": "\ud800"}, "answer_output"),
        ({"labels": {"stable": "1"}}, "labels"),
        ({"labels": {"stable": 2**63}}, "labels"),
        ({"labels": {"": 1}}, "labels"),
        ({"policy": "specific:99999999999999999999"}, "policy"),
        ({"policy": "latest:" + "9" * 5000}, "policy"),
        ({"weight": 0}, "weight"),
        ({"weight": 1.5}, "weight"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"stateful": "yes"}, "stateful"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, fields: dict[str, object], field: str) -> None:
    (tmp_path / "m").mkdir()
    arguments = {"name": "m", "base_path": str(tmp_path / "m"), "actor": "ada", "anywhere": True, **fields}
    with pytest.raises(InvalidDeployment) as caught:
        create_deployment(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert not Deployment.objects.exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weight": 0}, "weight: 0 won't do, expected a whole number from 1 to 32767"),
        ({"timeout_ms": 0}, "timeout_ms: 0 won't do, expected a whole number from 1 to 3600000"),
        ({"batching": {"max_batch_size": 8.5}}, "batching: max_batch_size must be a whole number, got 8.5"),
        ({"answer_labels": [0, 1, 2]}, "answer_labels: 0 is not a text"),
    ],
)
def test_a_wrong_change_says_field_value_and_what_was_expected(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    deployment = make_deployment(tmp_path)
    with pytest.raises(InvalidDeployment, match=re.escape(text)):
        change_deployment(deployment=deployment, actor="ada", **changes)  # type: ignore[arg-type]
    assert [model.name for model in desired_models()] == ["half_plus_two"]


def test_a_row_that_cannot_be_served_stops_neither_workers_nor_publication(tmp_path: Path) -> None:
    """Such rows come from releases that checked less."""
    make_deployment(tmp_path, "good")
    make_deployment(tmp_path, "bad")
    Deployment.objects.filter(name="bad").update(timeout_ms=0, answer_labels=[1])
    assert [model.name for model in desired_models()] == ["good"]
    make_deployment(tmp_path, "new")
    view = published().deployments["bad"]
    assert (view.versions, view.error_code) == ((), "FAILED_PRECONDITION")
    assert "timeout_ms: 0 won't do" in view.error_message
    assert published().deployments["new"].error_code == "OK"


def test_a_snapshot_that_cannot_be_read_is_replaced_by_the_next(tmp_path: Path) -> None:
    PublishedSnapshot.objects.create(digest="0" * 64, body=b'{"version": "of another release"}')
    make_deployment(tmp_path)
    assert set(published().deployments) == {"half_plus_two"}


def test_directories_outside_the_model_roots_take_a_shell() -> None:
    with pytest.raises(InvalidDeployment, match="not below one of the model directories"):
        create_deployment(name="m", base_path="/usr", actor="ada")


def test_a_name_is_deployed_once(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    with pytest.raises(InvalidDeployment, match="deployed already"):
        make_deployment(tmp_path)
