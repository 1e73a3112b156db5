import json
from typing import Any

import pytest
from django.test import Client

from catalog import services
from catalog.models import Entry
from catalog.services import ReportedVersion

from .factories import DIGIT_NAMES, DIGITS, make_entry, make_user, signature, spec

pytestmark = pytest.mark.django_db


@pytest.fixture
def digits() -> Entry:
    entry = make_entry(
        "digits",
        signatures=DIGITS,
        class_names=DIGIT_NAMES,
        image_range=[16, 0],
        access="open",
        labels={"stable": 1},
        summary="Reads a digit.",
    )
    services.set_examples(entry=entry, examples=[{"name": "a seven", "request": {"instances": [[[0.0] * 8] * 8]}}], actor="ada")
    return entry


def config_of(html: str) -> dict[str, Any]:
    start = html.index('<script id="try-it-config" type="application/json">')
    text = html[html.index(">", start) + 1 : html.index("</script>", start)]
    value: dict[str, Any] = json.loads(text)
    return value


def test_model_page_has_every_section(client: Client, digits: Entry) -> None:
    html = client.get("/catalog/digits/").content.decode()
    for section in ("try", "use", "card", "reference", "versions", "changes", "owner"):
        assert f'id="{section}"' in html
        assert f'href="#{section}"' in html
    assert "<title>digits: Reads a digit. · Daybook</title>" in html
    assert "stable is version 1" in html
    assert "Published in the catalog" in html
    assert "by ada" not in html  # visitors learn what changed, not who did it


def test_try_it_gets_what_the_signature_says(client: Client, digits: Entry) -> None:
    config = config_of(client.get("/catalog/digits/").content.decode())
    assert config["class_names"] == DIGIT_NAMES
    assert config["url"].endswith("/v1/models/digits:predict")
    assert config["token_url"] == ""
    [form] = config["forms"]
    assert form["fields"][0]["widget"] == "draw"
    client.force_login(make_user("vera"))
    assert config_of(client.get("/catalog/digits/").content.decode())["token_url"] == "/serving/try-it-token/"


def test_visitors_are_asked_to_sign_in_where_a_key_is_needed(client: Client) -> None:
    make_entry(access="key")
    html = client.get("/catalog/half_plus_two/").content.decode()
    assert "<try-it" not in html
    assert "/accounts/login/?next=/catalog/half_plus_two/" in html
    client.force_login(make_user("vera"))
    assert "<try-it" in client.get("/catalog/half_plus_two/").content.decode()


def test_visitors_see_examples_drawn_with_their_answers(client: Client) -> None:
    entry = make_entry("digits", signatures=DIGITS, access="key")
    request = {"instances": [[[0.0] * 8] * 7 + [[16.0] * 8]]}
    answer = {"predictions": [{"class": 7, "scores": [0.0] * 7 + [0.9, 0.05, 0.05]}]}
    services.set_examples(entry=entry, examples=[{"name": "a seven", "request": request, "response": answer}], actor="ada")
    html = client.get("/catalog/digits/").content.decode()
    assert 'class="exchange__in"' in html
    assert "<svg" in html[html.index("exchange__in") : html.index("exchange__out")]
    assert "0.900" in html[html.index("exchange__out") :]


def test_code_names_the_chosen_version_or_label(client: Client, digits: Entry) -> None:
    assert "/v1/models/digits:predict" in client.get("/catalog/digits/").content.decode()
    assert "/v1/models/digits/labels/stable:predict" in client.get("/catalog/digits/?pin=stable").content.decode()
    part = client.get("/catalog/digits/?pin=1", headers={"HX-Request": "true"}).content.decode()
    assert "/v1/models/digits/versions/1:predict" in part
    assert "<html" not in part
    assert "/v1/models/digits:predict" in client.get("/catalog/digits/?pin=<x>").content.decode()
    assert "/v1/models/digits:predict" in client.get("/catalog/digits/?pin=" + "1" * 5_000).content.decode()


def test_load_errors_stand_in_full_for_operators(client: Client, digits: Entry) -> None:
    client.force_login(make_user("olga", "operator"))
    message = "Can't parse <saved_model.pb>: truncated at byte 4096"
    services.record_states(name="digits", versions=[ReportedVersion(2, "END", "DATA_LOSS", message)], labels={}, default_version=None)
    html = client.get("/catalog/digits/").content.decode()
    assert "truncated at byte 4096" in html
    assert "&lt;saved_model.pb&gt;" in html
    assert "failed to load" in html
    assert "<try-it" not in html


def test_an_entry_without_versions_or_words_has_a_page(client: Client) -> None:
    make_entry("bare", signatures=None)
    html = client.get("/catalog/bare/").content.decode()
    assert "No version has been ready yet" in html
    assert html.count("not stated") >= 10


def test_hostile_words_stay_words(client: Client) -> None:
    evil = "</script><script>alert(1)</script>"
    entry = make_entry("evil", summary=evil[:200], access="open", title="x" + evil, class_names=[evil])
    services.update_card(entry=entry, actor="ada", card=evil, intended_use=evil)
    services.set_examples(entry=entry, examples=[{"name": evil, "request": {"instances": [evil]}}], actor="ada")
    for page in ("/catalog/evil/", "/catalog/", f"/catalog/?q={evil}", f"/catalog/-/suggestions/?q={evil}"):
        assert "<script>alert" not in client.get(page).content.decode()


def test_json_is_given_to_who_prefers_it(client: Client, digits: Entry) -> None:
    answer = client.get("/catalog/digits/", headers={"Accept": "application/json"})
    assert answer.json()["slug"] == "digits"
    assert "Accept" in answer["Vary"]
    assert client.get("/catalog/digits/", headers={"Accept": "text/html,*/*"})["Content-Type"].startswith("text/html")


def test_openapi_of_all_and_of_one_version(client: Client, digits: Entry) -> None:
    document = client.get("/catalog/digits/openapi.json").json()
    media = document["paths"]["/v1/models/digits:predict"]["post"]["requestBody"]["content"]["application/json"]
    assert media["examples"]["a-seven"]["value"] == {"instances": [[[0.0] * 8] * 8]}
    one = client.get("/catalog/digits/openapi.json?version=1").json()
    assert "/v1/models/digits/versions/1:predict" in one["paths"]
    assert client.get("/catalog/digits/openapi.json?version=9").status_code == 404
    assert client.get("/catalog/digits/openapi.json?version=x").status_code == 404


def test_list_answers_with_a_part_to_htmx_and_whole_to_history(client: Client, digits: Entry) -> None:
    whole = client.get("/catalog/?q=digit")
    assert b"<html" in whole.content
    assert "HX-Request" in whole["Vary"]
    part = client.get("/catalog/?q=digit&access=open", headers={"HX-Request": "true"}).content.decode()
    assert part.lstrip().startswith("<span")
    assert 'id="results"' in part
    assert '<input type="hidden" name="access" value="open">' in part
    assert b"<html" in client.get("/catalog/", headers={"HX-Request": "true", "HX-History-Restore-Request": "true"}).content


def test_posting_to_reading_pages_is_refused(client: Client, digits: Entry) -> None:
    for page in ("/catalog/", "/catalog/digits/", "/catalog/digits/openapi.json"):
        assert client.post(page).status_code == 405


def test_owner_edits_card_and_tags(client: Client) -> None:
    client.force_login(make_user("ada", "publisher"))
    entry = make_entry("digits", signatures=DIGITS, class_names=DIGIT_NAMES)
    form = {
        "name": "Digits",
        "summary": "Reads one digit.",
        "lifecycle": "preview",
        "visibility": "internal",
        "tags": "task:image-classification\ndomain:science",
        "evaluation": "held out | accuracy | 0.98 | ada",
        "card": "# Hello",
    }
    wrong = client.post("/catalog/digits/edit/", {**form, "tags": "task:nonsense", "evaluation": "just one"})
    assert wrong.status_code == 422
    assert "The taxonomy has no" in wrong.content.decode()
    assert client.post("/catalog/digits/edit/", form).status_code == 302
    entry.refresh_from_db()
    assert (entry.name, entry.lifecycle, entry.visibility) == ("Digits", "preview", "internal")
    assert entry.evaluation == [{"dataset": "held out", "metric": "accuracy", "value": "0.98", "measured_by": "ada"}]
    assert client.post("/catalog/digits/edit/", {**form, "lifecycle": "retired"}).status_code == 422
    html = client.get("/catalog/digits/").content.decode()
    assert "<h2>Hello</h2>" in html
    assert "by ada" in html


def test_thirty_signatures_render(client: Client) -> None:
    make_entry("wide", signatures={f"s{i}": signature({"x": spec(-1, i + 1)}, {"y": spec(-1)}) for i in range(30)}, access="open")
    html = client.get("/catalog/wide/").content.decode()
    assert html.count('class="signature"') == 30


def test_list_and_model_pages_keep_their_query_budgets(client: Client, digits: Entry, django_assert_max_num_queries: Any) -> None:
    for number in range(12):
        make_entry(f"more-{number}", tags=["task:translation"], team="nlp", summary="More.")
    with django_assert_max_num_queries(14):
        client.get("/catalog/?q=more&task=translation&access=key")
    with django_assert_max_num_queries(24):  # five of them a time limit on the search for acts, and its head
        client.get("/catalog/digits/")
    with django_assert_max_num_queries(8):
        client.get("/api/apis/?q=more")
