from pathlib import Path

import pytest

from audit.models import Record
from catalog.models import Entry
from serving.engine.lifecycle import ModelStatus, VersionStatus
from serving.engine.state import State
from serving.models import Deployment, VersionState
from serving.publication import current
from serving.services import InvalidDeployment, change_deployment, create_deployment, desired_models, remove_deployment, report_status
from serving.snapshot import Snapshot

from .factories import SIGNATURE, make_deployment

pytestmark = pytest.mark.django_db


def status(
    name: str = "half_plus_two", version: int = 1, state: str = "AVAILABLE", error_code: str = "OK", error_message: str = ""
) -> VersionStatus:
    return VersionStatus(
        name, version, State(state), error_code, error_message, artifact="a" * 64, signatures={"serving_default": SIGNATURE}
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


def test_a_version_is_available_while_any_worker_has_it(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    report(status(), worker="worker-1")
    report(status(state="LOADING"), worker="worker-2")
    assert published().deployments["half_plus_two"].default_version == 1
    report(worker="worker-1")
    assert published().deployments["half_plus_two"].default_version is None
    assert VersionState.objects.count() == 1


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
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, fields: dict[str, object], field: str) -> None:
    (tmp_path / "m").mkdir()
    arguments = {"name": "m", "base_path": str(tmp_path / "m"), "actor": "ada", "anywhere": True, **fields}
    with pytest.raises(InvalidDeployment) as caught:
        create_deployment(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert not Deployment.objects.exists()


def test_directories_outside_the_model_roots_take_a_shell() -> None:
    with pytest.raises(InvalidDeployment, match="not below one of the model directories"):
        create_deployment(name="m", base_path="/usr", actor="ada")


def test_a_name_is_deployed_once(tmp_path: Path) -> None:
    make_deployment(tmp_path)
    with pytest.raises(InvalidDeployment, match="deployed already"):
        make_deployment(tmp_path)
