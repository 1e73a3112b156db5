"""What a model answered, in a word or two. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any


def first_answer(response: Any, *, output: str, labels: Sequence[str]) -> str:
    """The first row of a predict answer as the record list says it; "" when it can't be said shortly.

    output: the deployment's `answer_output`, needed where a row has several outputs. Scores with a label each give the likeliest
    label, a whole number names its label, anything else that is one value stands for itself.
    """
    predictions = response.get("predictions") if isinstance(response, Mapping) else None
    if not isinstance(predictions, list) or not predictions:
        return ""
    row = predictions[0]
    if isinstance(row, Mapping):
        row = row.get(output)
    if isinstance(row, list):
        if len(row) != 1:
            return _likeliest(row, labels)
        row = row[0]
    return _one_value(row, labels)


def _likeliest(scores: Sequence[Any], labels: Sequence[str]) -> str:
    if not scores or len(scores) != len(labels) or not all(isinstance(score, int | float) for score in scores):
        return ""
    return labels[max(range(len(scores)), key=lambda place: scores[place])]


def _one_value(value: Any, labels: Sequence[str]) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return ""
    if isinstance(value, int) and 0 <= value < len(labels):
        return labels[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value).strip()[:100]
