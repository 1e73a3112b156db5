from typing import Any

import pytest

from catalog.answers import first_answer


@pytest.mark.parametrize(
    ("row", "output", "labels", "words"),
    [
        ({"class": 1, "scores": [0.1, 0.2, 0.7]}, "scores", ["a", "b", "c"], "c"),
        ({"high": 1, "score": 0.4}, "high", ["low", "high"], "high"),
        ({"high": 1, "score": 0.4}, "", ["low", "high"], ""),
        ([0.1, 0.9], "", ["no", "yes"], "yes"),
        ([0.1, 0.9], "", [], ""),
        ([2.5], "y", [], "2.5"),
        (2.123456, "", [], "2.123"),
        ("\n thee to", "", [], "thee to"),
        (7, "", [], "7"),
        (True, "", [], ""),
        ([["a", 0.5]], "", [], ""),
    ],
)
def test_the_first_answer_in_words(row: Any, output: str, labels: list[str], words: str) -> None:
    assert first_answer({"predictions": [row]}, output=output, labels=labels) == words


@pytest.mark.parametrize("response", [None, [], {}, {"predictions": []}, {"error": "late"}, {"predictions": "x"}])
def test_what_holds_no_row_has_no_answer(response: Any) -> None:
    assert first_answer(response, output="", labels=[]) == ""
