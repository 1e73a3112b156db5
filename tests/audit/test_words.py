"""Records in words."""

import pytest

from audit import words
from audit.models import Record
from audit.search import OUTCOMES


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ("seven", ("seven", "")),
        ("seven 0.98", ("seven", "0.98")),
        ("7 1.00 (+19)", ("7", "1.00 (+19)")),
        ("low (+2)", ("low", "(+2)")),
        ("2.5", ("2.5", "")),
        ("0.98", ("0.98", "")),
        ("", ("", "")),
        ("line\nbreak", ("line break", "")),
    ],
)
def test_a_label_is_told_from_what_stands_behind_it(answer: str, parts: tuple[str, str]) -> None:
    assert words.answer(Record(answer=answer, outcome="ok")) == parts


def test_a_failure_answers_with_its_error_whole() -> None:
    assert words.answer(Record(error="deadline passed 0.98", outcome="timeout")) == ("deadline passed 0.98", "")


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (Record(actor_type="try-it", user_name="ada", application=""), "ada, trying it"),
        (Record(actor_type="key", application="mail room", user_name="ada"), "mail room"),
        (Record(actor_type="key", application="", user_name="", key_prefix="dbk_1a2b3c4d"), "dbk_1a2b3c4d"),
        (Record(actor_type="anonymous", application="", user_name="", key_prefix="", address="10.0.7.0/24"), "anonymous, 10.0.7.0/24"),
        (Record(kind="system", node="node-1"), "node-1"),
    ],
)
def test_callers_have_names(record: Record, name: str) -> None:
    assert words.caller(record) == name


def test_reads_say_what_was_asked() -> None:
    read = Record(kind="read", verb="status", model="digits", outcome="ok")
    assert (words.subject(read), words.explanation(read)[:16]) == ("status, digits", "The gateway said")
    assert words.subject(Record(kind="read", verb="list", model="", outcome="ok")) == "list of models"


def test_acts_name_what_was_done_and_on_what() -> None:
    assert words.subject(Record(kind="act", verb="deployment.changed", model="digits")) == "deployment changed, digits"
    viewed = Record(kind="act", verb="payload.viewed", model="01a20593-0ed0-7c35-894d-cdc67ae7b4ce")
    assert words.subject(viewed) == "payload viewed, 01a20593"
    created = Record(kind="act", verb="application.created", model="application 7", application="Mail room", user_name="ada")
    assert (words.subject(created), words.caller(created)) == ("application created, Mail room", "ada")


def test_every_outcome_has_a_word_a_reason_and_a_shape() -> None:
    assert set(words.OUTCOMES) == set(words.EXPLANATIONS) == set(OUTCOMES)
    assert {words.outcome_kind(name) for name in OUTCOMES} == {"ok", "warn", "fail"}
