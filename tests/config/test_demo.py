"""The demo in the database."""

from collections.abc import Mapping
from typing import Any

import pytest

from catalog.services import set_examples
from demo.content import demo_models
from demo.seed import answer_examples
from tests.catalog.factories import make_entry


@pytest.mark.django_db
def test_examples_get_the_models_own_answers_once() -> None:
    digits = next(model for model in demo_models() if model.name == "digits")
    entry = make_entry("digits")
    theirs = {"name": "somebody's own", "request": {"instances": [[1.0]]}}
    set_examples(entry=entry, examples=[*digits.examples, theirs], actor="ada")
    asked: list[Any] = []

    def ask(model: str, body: Mapping[str, Any]) -> Any:
        asked.append((model, body))
        return None if len(asked) == 1 else {"predictions": [len(asked)]}

    assert answer_examples(ask) == len(digits.examples) - 1
    assert answer_examples(ask) == 1  # the one that had no answer the first time
    assert answer_examples(ask) == 0
    answers = {row.name: row.response for row in entry.examples.all()}
    assert answers.pop("somebody's own") is None
    assert None not in answers.values()
    assert [row.name for row in entry.examples.all()] == [*(example["name"] for example in digits.examples), "somebody's own"]
