"""One model that isn't there, or isn't there yet, takes the gateway from nobody."""

from collections.abc import Callable

from serving.gateway.health import model_state
from serving.snapshot import Deployment, Version
from tests.serving.gateway.conftest import Door
from tests.serving.gateway.snapshots import make_deployment, make_version

MISSING = "Could not find base path /models/gone for servable gone"
BODY = {"instances": [2.0]}


def make_bare(name: str, error: str = "", *versions: Version, code: str = "NOT_FOUND") -> Deployment:
    """A deployment that can't be called."""
    return Deployment(name, "key", versions, {}, None, error_code=code if error else "OK", error_message=error)


def test_what_a_model_is_waiting_for() -> None:
    loading, ended = Version(1, "LOADING"), Version(2, "END")
    assert model_state(make_bare("m")) == "coming"
    assert model_state(make_bare("m", MISSING)) == "failed"
    assert model_state(make_bare("m", "", ended, loading)) == "coming"
    assert model_state(make_bare("m", "", ended)) == "failed"
    assert model_state(make_deployment("p:", "slow", error_message="can't be read now")) == "ready"


def test_a_missing_directory_holds_up_no_start_and_is_named(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway(ready=False)
    door.publish_and_wait(gone=make_bare("gone", MISSING))
    ready = door.http.get("/readyz")
    assert (ready.status_code, ready.json()["models"]["gone"]) == (200, "failed")
    predicted = door.predict("gone", BODY)
    assert (predicted.status_code, predicted.json()["error"]) == (404, f"Servable not found for request: Latest(gone): {MISSING}")
    status = door.get("/v1/models/gone")
    assert (status.status_code, status.json()["error"]) == (404, f"Could not find any versions of model gone: {MISSING}")
    listed = {model["name"]: model["status"] for model in door.get("/v1/models").json()["models"]}
    assert listed["gone"] == {"error_code": "NOT_FOUND", "error_message": MISSING}
    assert listed["half_plus_two"] == {"error_code": "OK", "error_message": ""}


def test_a_directory_that_cannot_be_read_now_is_worth_another_try(door: Door) -> None:
    door.publish_and_wait(gone=make_bare("gone", "Could not read base path", code="UNAVAILABLE"))
    try:
        answer = door.predict("gone", BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    finally:
        door.publish_and_wait()


def test_a_model_deployed_later_is_waited_for_once_it_has_been_ready(start_gateway: Callable[..., Door]) -> None:
    door = start_gateway()

    def readiness(*versions: Version, default: int | None = None) -> int:
        door.publish_and_wait(later=Deployment("later", "key", versions, {}, default))
        return door.http.get("/readyz").status_code

    loading = make_version(door.prefix, "half_plus_two", state="LOADING")
    assert readiness() == 200
    assert readiness(loading) == 200
    assert readiness(make_version(door.prefix, "half_plus_two"), default=1) == 200
    assert readiness(loading) == 503
    door.publish_and_wait()
    assert door.http.get("/readyz").status_code == 200
    assert readiness(loading) == 200  # removed and deployed again
