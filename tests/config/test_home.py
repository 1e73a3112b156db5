"""Home and the search box."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client

from audit import database, ids
from catalog.models import Entry
from catalog.services import set_examples
from config.logs import LineFormatter
from config.views import destination
from serving.models import Application, Deployment
from tests.audit.logs import ingest, make_leaf_call, open_log, seal_all
from tests.audit.test_search import make_user
from tests.catalog.factories import DIGIT_NAMES, DIGITS, make_entry

SEVEN = {"predictions": [{"class": 7, "scores": [0.0] * 7 + [0.9, 0.05, 0.05]}]}
RECORD = "01a20593-0ed0-7c35-894d-cdc67ae7b4ce"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "/catalog/"),
        (RECORD, f"/audit/records/{RECORD}"),
        (RECORD.replace("-", "").upper(), f"/audit/records/{RECORD}"),
        ("model:digits since:2h", "/audit/records/?q=model%3Adigits+since%3A2h"),
        ("model:digits latency:>x", "/audit/records/?q=model%3Adigits+latency%3A%3Ex"),
        ("9ccbac58" * 4, f"/audit/records/?q={'9ccbac58' * 4}"),
        ("#12", "/audit/records/?q=%2312"),
        ("handwriting", "/catalog/?q=handwriting"),
        ("what: a colon", "/catalog/?q=what%3A+a+colon"),
        ("digits", "/catalog/digits/"),
        ("DIGITS", "/catalog/digits/"),
        ("secret", "/catalog/?q=secret"),
    ],
)
def test_the_search_box_understands(text: str, place: str) -> None:
    make_entry("digits", signatures=DIGITS)
    make_entry("secret", visibility="owners")
    assert destination(text, AnonymousUser()) == place


@pytest.mark.django_db
def test_searching_redirects(client: Client) -> None:
    assert client.get("/search/", {"q": "handwriting\0"}).headers["Location"] == "/catalog/?q=handwriting"


@pytest.mark.django_db(transaction=True)
def test_a_place_in_the_log_leads_to_its_record(tmp_path: Path) -> None:
    call = make_leaf_call()
    with database.connect() as connection:
        ingest(connection, [call])
        seal_all(open_log(connection, tmp_path))
    assert destination("#0", AnonymousUser()) == f"/audit/records/{ids.text(call.record_id)}"


@pytest.mark.django_db(transaction=True)
def test_visitors_see_public_models_and_what_was_sealed_of_them(client: Client, tmp_path: Path) -> None:
    Entry.objects.create(slug="digits", name="digits", default_version=1)
    Entry.objects.create(slug="secret", name="secret", default_version=1, visibility="owners")
    seen, hidden, waiting = (make_leaf_call(model=name, version=1, user="ada", answer="seven") for name in ("digits", "secret", "digits"))
    with database.connect() as connection:
        ingest(connection, [seen, hidden])
        seal_all(open_log(connection, tmp_path))
        ingest(connection, [waiting])
    html = client.get("/").content.decode()
    assert "Every prediction, written down before it is answered." in html
    assert f"/log/proof/{ids.text(seen.record_id)}" in html
    for kept in ("secret", "ada", "seven", ids.text(hidden.record_id), ids.text(waiting.record_id)):
        assert kept not in html
    fragment = client.get("/", headers={"HX-Request": "true"}).content.decode()
    assert fragment.lstrip().startswith('<div id="latest"')


@pytest.mark.django_db(transaction=True)
def test_people_see_what_they_own_call_and_audit(client: Client, tmp_path: Path) -> None:
    ada = User.objects.create_user("ada")
    Entry.objects.create(slug="digits", name="digits", owner=ada)
    Application.objects.create(name="mail room", owner=ada)
    calls: list[Any] = [make_leaf_call(model="digits", user="ada", application="mail room") for _ in range(3)]
    calls.append(make_leaf_call(model="digits", user="ada", application="mail room", outcome="timeout", status=504, error="late"))
    calls.append(make_leaf_call(model="digits", user="bob", application="case desk"))
    with database.connect() as connection:
        ingest(connection, calls)
        seal_all(open_log(connection, tmp_path))
    client.force_login(ada)
    html = client.get("/").content.decode()
    assert "What you own" in html
    assert "What you call" in html
    assert 'data-label="Calls">5' in html  # owned: everybody's
    assert 'data-label="Calls">4' in html  # called: one's own
    assert "What you audit" not in html
    client.force_login(make_user("olga", "view_record"))
    assert "What you audit" in client.get("/").content.decode()


@pytest.mark.django_db
def test_home_offers_visitors_what_they_can_do_and_draws_the_answer(client: Client) -> None:
    request = {"instances": [[[0.0] * 8] * 7 + [[16.0] * 8]]}
    digits = make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES, access="key", calls=100)
    set_examples(entry=digits, examples=[{"name": "seven", "request": request, "response": SEVEN}], actor="ada")
    make_entry("half_plus_two", access="open", calls=1)
    Deployment.objects.create(name="digits", base_path="/models/digits", answer_output="scores", answer_labels=DIGIT_NAMES)
    html = client.get("/").content.decode()
    assert "→ 7" in html
    assert html.index("/catalog/half_plus_two/#try") < html.index("/accounts/login/?next=%2Fcatalog%2Fdigits%2F%23try")
    assert html.count(">Try it<") == html.count(">Sign in to try<") == 1
    client.force_login(User.objects.create_user("ada"))
    html = client.get("/").content.decode()
    assert html.index("/catalog/digits/#try") < html.index("/catalog/half_plus_two/#try")
    assert html.count(">Try it<") == 2


@pytest.mark.django_db
def test_an_empty_portal_says_what_will_come(client: Client) -> None:
    html = client.get("/").content.decode()
    assert "No model is ready yet" in html
    assert "No prediction is sealed yet" in html


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "status", "words"), [("/nowhere", 404, "No such page in this book"), ("/audit/nothing/", 404, "No such page")]
)
def test_errors_have_the_frame_and_say_what_to_do(client: Client, path: str, status: int, words: str) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert words in response.content.decode()
    assert 'class="bar"' in response.content.decode()


@pytest.mark.django_db
@pytest.mark.urls("tests.config.failing_urls")
def test_a_page_that_breaks_names_its_log_line(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(raise_request_exception=False)
    response = client.get("/fail/")
    assert response.status_code == 500
    html = response.content.decode()
    [line] = [record for record in caplog.records if record.name == "django.request"]
    assert re.fullmatch(r"[0-9a-f]{8}", line.error_id)  # type: ignore[attr-defined]  # config.logs.ErrorId
    assert f"<code>{line.error_id}</code>" in html  # type: ignore[attr-defined]
    assert f"error_id={line.error_id}" in LineFormatter().format(line)  # type: ignore[attr-defined]
    assert line.exc_info
