"""Who may do what, through the real door, and what a refusal gives away: nothing."""

import time
from base64 import b64encode

import pytest

from serving.gateway.tryit import mint
from tests.serving.gateway.conftest import Door, wait_until
from tests.serving.gateway.snapshots import KEYS, SECRET, SITE, make_deployment, make_key, make_version

BODY = {"instances": [2.0]}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEYS['all']}"},
        {"Authorization": f"bearer   {KEYS['all']}"},
        {"X-API-Key": KEYS["all"]},
        {"Authorization": KEYS["all"]},
        {"Authorization": "Basic " + b64encode(f"anybody:{KEYS['all']}".encode()).decode()},
        {"Authorization": "Basic " + b64encode(f"{KEYS['all']}:".encode()).decode()},
    ],
)
def test_a_key_is_taken_from_each_header(door: Door, headers: dict[str, str]) -> None:
    assert door.predict("half_plus_two", BODY, key=None, headers=headers).json() == {"predictions": [3.0]}


@pytest.mark.parametrize(
    "authorization",
    ["Bearer nobody", "Bearer", "Basic", "Basic !!!", "Basic " + "A" * 4000, "Digest x", "Bearer " + "a" * 5000, "Basic " + "/w=="],
)
def test_a_wrong_key_is_refused_also_where_none_is_needed(door: Door, authorization: str) -> None:
    for model in ("half_plus_two", "open_half"):
        answer = door.predict(model, BODY, key=None, headers={"Authorization": authorization})
        assert answer.status_code == 401
        assert answer.json() == {"error": "The API key is not valid."}
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["daybook-record"]


def test_without_a_key_only_open_models_answer(door: Door) -> None:
    assert door.predict("open_half", BODY, key=None).json() == {"predictions": [3.0]}
    for model in ("half_plus_two", "subscribed"):
        answer = door.predict(model, BODY, key=None)
        assert (answer.status_code, answer.json()) == (401, {"error": f"The model {model} needs an API key."})


def test_a_key_opens_what_it_names(door: Door) -> None:
    assert door.predict("half_plus_two", BODY, key=KEYS["one"]).status_code == 200
    assert door.predict("open_half", BODY, key=KEYS["one"]).status_code == 200
    answer = door.predict("picky", BODY, key=KEYS["one"])
    assert (answer.status_code, answer.json()) == (403, {"error": "The API key dbk_00000002 may not use the model picky."})
    assert door.predict("nobody", {}, key=KEYS["one"]).status_code == 404


def test_a_scope_is_needed(door: Door) -> None:
    assert door.get("/v1/models/half_plus_two", key=KEYS["metadata"]).status_code == 200
    for model in ("half_plus_two", "open_half"):
        answer = door.predict(model, BODY, key=KEYS["metadata"])
        assert (answer.status_code, answer.json()) == (403, {"error": "The API key dbk_00000003 lacks the scope predict."})


def test_an_expired_key_opens_nothing(door: Door) -> None:
    assert door.predict("half_plus_two", BODY, key=KEYS["expired"]).json() == {"error": "The API key has expired."}


def test_a_refusal_quotes_no_key(door: Door) -> None:
    answer = door.predict("half_plus_two", BODY, key="dbk_99999999_stolen")
    assert "stolen" not in answer.text + str(answer.headers)
    assert "stolen" not in door.gateway.log


def test_a_revoked_key_stops_working_within_a_second(door: Door) -> None:
    assert door.predict("half_plus_two", BODY, key=KEYS["one"]).status_code == 200
    door.publish(without_keys=("one",))
    revoked = time.monotonic()
    wait_until(lambda: door.predict("half_plus_two", BODY, key=KEYS["one"]).status_code == 401, "the key is refused")
    assert time.monotonic() - revoked < 2.0  # one second, and room for a busy machine
    door.publish_and_wait()
    assert door.predict("half_plus_two", BODY, key=KEYS["one"]).status_code == 200


def test_the_list_shows_what_the_caller_may_use(door: Door) -> None:
    def names(key: str | None) -> set[str]:
        return {model["name"] for model in door.get("/v1/models", key=key).json()["models"]}

    assert names(None) == {"open_half"}
    assert names(KEYS["one"]) == {"open_half", "half_plus_two"}
    assert {"open_half", "half_plus_two", "picky"} <= names(KEYS["all"])
    assert "subscribed" not in names(KEYS["all"])
    assert "subscribed" in names(KEYS["subscriber"])


def test_a_subscription_model_answers_approved_applications_only(door: Door) -> None:
    assert door.predict("subscribed", BODY, key=KEYS["subscriber"]).json() == {"predictions": [3.0]}
    assert door.get("/v1/models/subscribed/metadata", key=KEYS["subscriber"]).status_code == 200
    text = "The API key dbk_00000001 is of no application that the owner of the model subscribed has approved."
    refused = [
        door.predict("subscribed", BODY),
        door.get("/v1/models/subscribed"),
        door.get("/v1/models/subscribed/metadata"),
        door.get("/v1/models/subscribed/openapi.json"),
    ]
    assert [(answer.status_code, answer.json()) for answer in refused] == [(403, {"error": text})] * 4


def test_an_approval_ends_with_the_snapshot_that_lacks_it(door: Door) -> None:
    assert door.predict("subscribed", BODY, key=KEYS["subscriber"]).status_code == 200
    door.publish_and_wait(without_keys=("subscriber",), with_keys=(make_key("subscriber"),))
    assert door.predict("subscribed", BODY, key=KEYS["subscriber"]).status_code == 403
    door.publish_and_wait()


def test_people_try_a_subscription_model_only_with_an_approval_or_as_its_owners(door: Door) -> None:
    def asked(user: str) -> int:
        headers = {"Daybook-Try-It": token(api="subscribed", user=user), "Origin": SITE}
        return door.predict("subscribed", BODY, key=None, headers=headers).status_code

    door.publish_and_wait(subscribed=make_deployment(door.prefix, "subscribed", subscribers=("grace",), seen_by=("olga",)))
    assert [asked(user) for user in ("ada", "grace", "olga")] == [403, 200, 200]
    door.publish_and_wait()


def everything_said_of(door: Door, model: str, key: str | None, headers: dict[str, str] | None = None) -> list[tuple[int, str]]:
    """Status and text of each way to ask, with the model's name taken out."""
    base = f"/v1/models/{model}"
    answers = [
        door.predict(model, BODY, key=key, headers=headers),
        door.predict(f"{model}/versions/1", BODY, key=key, headers=headers),
        door.predict(f"{model}/labels/stable", BODY, key=key, headers=headers),
        door.predict(model, b"[", key=key, headers=headers),
        *(door.get(base + rest, key=key) for rest in ("", "/versions/1", "/labels/stable", "/metadata", "/openapi.json")),
    ]
    assert model not in {row["name"] for row in door.get("/v1/models", key=key).json()["models"]}
    return [(answer.status_code, answer.text.replace(model, "MODEL")) for answer in answers]


@pytest.mark.parametrize("access", ["open", "key"])
def test_a_model_that_is_hidden_from_a_caller_answers_as_if_it_were_not_there(door: Door, access: str) -> None:
    unknown = {key: everything_said_of(door, "nobody", key) for key in (None, KEYS["foreign"])}
    assert {status for status, _ in unknown[None]} <= {400, 404}
    door.publish_and_wait(
        half_plus_two=make_deployment(door.prefix, "half_plus_two", access=access, visibility="owners", seen_by=("ada",)),
        picky=make_deployment(door.prefix, "picky", access=access, visibility="internal"),
    )
    try:
        for key, said in unknown.items():
            assert everything_said_of(door, "half_plus_two", key) == said
        assert everything_said_of(door, "picky", None) == unknown[None]
        assert door.predict("half_plus_two", BODY).json() == {"predictions": [3.0]}
        assert door.get("/v1/models/picky", key=KEYS["foreign"]).status_code == 200
        grace = {"Daybook-Try-It": token(user="grace"), "Origin": SITE}
        assert door.predict("half_plus_two", BODY, key=None, headers=grace).status_code == 404
        ada = {"Daybook-Try-It": token(user="ada"), "Origin": SITE}
        assert door.predict("half_plus_two", BODY, key=None, headers=ada).status_code == 200
    finally:
        door.publish_and_wait()


def token(**changes: object) -> str:
    fields: dict[str, object] = {"secret": SECRET, "user": "ada", "api": "half_plus_two", "origin": SITE, **changes}
    return mint(**fields)  # type: ignore[arg-type]


def test_a_try_it_token_opens_its_model_from_the_site(door: Door) -> None:
    headers = {"Daybook-Try-It": token(), "Origin": SITE}
    answer = door.predict("half_plus_two", BODY, key=None, headers=headers)
    assert answer.json() == {"predictions": [3.0]}
    assert answer.headers["access-control-allow-origin"] == SITE
    assert door.predict("picky", BODY, key=None, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("sent", "origin"),
    [
        (token(secret="another"), SITE),
        (token(origin="http://evil.example"), SITE),
        (token(), "http://evil.example"),
        (token(now_us=1), SITE),
        (token(now_us=4_000_000_000_000_000), SITE),
        (token()[:-2], SITE),
        ("x" + token(), SITE),
        ("a.b", SITE),
        (".", SITE),
        ("é", SITE),
        ("x" * 10_000, SITE),
    ],
)
def test_other_try_it_tokens_open_nothing(door: Door, sent: str, origin: str) -> None:
    headers = {b"Daybook-Try-It": sent.encode(), b"Origin": origin.encode()}
    answer = door.http.post("/v1/models/half_plus_two:predict", json=BODY, headers=headers)
    assert answer.status_code == 401


def test_a_model_that_is_still_loading_is_503_and_one_that_failed_404(door: Door) -> None:
    prefix = door.prefix
    loading = make_deployment(prefix, "picky", versions=(make_version(prefix, "picky", state="LOADING"),), default_version=None)
    failed = make_deployment(
        prefix, "broken", versions=(make_version(prefix, "broken", state="END", error_message="no files"),), default_version=None
    )
    new = make_deployment(prefix, "slow", versions=(), default_version=None)
    door.publish_and_wait(picky=loading, broken=failed, slow=new)
    try:
        for model in ("picky", "slow"):
            answer = door.predict(model, BODY)
            assert (answer.status_code, answer.json()) == (503, {"error": f"Servable not found for request: Latest({model})"})
            assert int(answer.headers["retry-after"]) >= 1
        assert door.predict("broken", BODY).status_code == 404
        status = door.get("/v1/models/broken").json()["model_version_status"]
        assert status == [{"version": "1", "state": "END", "status": {"error_code": "OK", "error_message": "no files"}}]
        assert door.get("/v1/models/slow").json() == {"error": "Could not find any versions of model slow"}
        ready = door.http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["models"]["broken"] == "failed"
        assert ready.json()["models"]["picky"] == "coming"
    finally:
        door.publish_and_wait()
