"""A deployment's fields: what they may be, in which form they are stored, and the `DesiredModel` that they make.

Forms and the API check form; what counts is checked here, whoever asks. What passes can be stored, published and served: one row
that can't be would stop everybody's changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from .engine.errors import InvalidOptions
from .engine.options import BatchingOptions, DesiredModel
from .engine.versions import MAX_VERSION
from .models import NAME, Deployment, is_below
from .policy import InvalidPolicy, format_policy, parse_policy

MAX_WEIGHT: Final = 32_767  # as the column
MAX_TIMEOUT_MS: Final = 3_600_000
MAX_POLICY: Final = 200  # characters, as the column
MAX_PATH: Final = 1000
MAX_TEXT: Final = 100
MAX_CLASSES: Final = 100_000

_BATCHING_NAMES: Final = frozenset(field.name for field in fields_of(BatchingOptions))


class InvalidDeployment(ValueError):
    """What was asked for can't be served; `field` names what is wrong and the message what was expected."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def check_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields as they are stored. Raises InvalidDeployment for the first wrong one, KeyError for a name that isn't known."""
    return {name: CHECKS[name](name, value) for name, value in given.items()}


def check_name(name: str) -> None:
    """Raises InvalidDeployment."""
    if not NAME.regex.match(name):  # type: ignore[union-attr]
        raise InvalidDeployment("name", f"{name!r} won't do: {NAME.message}")


def check_path(base_path: str, *, anywhere: bool) -> str:
    """The resolved base path. anywhere: also outside MODEL_ROOTS. Raises InvalidDeployment."""
    path = Path(_text("base_path", base_path, MAX_PATH)).expanduser().resolve()
    if not anywhere and not is_below(str(path), [str(Path(root).resolve()) for root in settings.MODEL_ROOTS]):
        roots = ", ".join(map(str, settings.MODEL_ROOTS))
        raise InvalidDeployment("base_path", f"{base_path} is not below one of the model directories ({roots})")
    if not path.is_dir():
        raise InvalidDeployment("base_path", f"{path} is not a directory, expected one that holds a directory per version")
    return _text("base_path", str(path), MAX_PATH)


def make_desired(deployment: Deployment) -> DesiredModel:
    """What workers shall do for this row. Raises InvalidDeployment for a row that nobody can serve."""
    names = ("policy", "labels", "batching", "weight", "timeout_ms")
    given = check_fields({name: getattr(deployment, name) for name in names})
    try:
        return DesiredModel(
            name=deployment.name,
            base_path=deployment.base_path,
            platform=deployment.platform,
            policy=parse_policy(given["policy"]),
            labels=given["labels"],
            batching=_make_batching(given["batching"]),
            weight=given["weight"],
            stateful=deployment.stateful,
            timeout=given["timeout_ms"] / 1000,
        )
    except InvalidOptions as error:
        raise InvalidDeployment("base_path", str(error)) from error


def _text(field: str, value: object, longest: int) -> str:
    """A text that PostgreSQL and JSON can hold."""
    if not isinstance(value, str):
        raise InvalidDeployment(field, f"{value!r} is not a text")
    if len(value) > longest:
        raise InvalidDeployment(field, f"a text of {len(value)} characters, expected at most {longest}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidDeployment(field, f"{value!r} holds a NUL or half of a surrogate pair, expected a text that can be stored")
    return value


def _whole(field: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InvalidDeployment(field, f"{value!r} won't do, expected a whole number from {least} to {most}")
    return value


def _policy(field: str, value: object) -> str:
    try:
        text = format_policy(parse_policy(_text(field, value, MAX_POLICY)))
    except InvalidPolicy as error:
        raise InvalidDeployment(field, str(error)) from error
    return _text(field, text, MAX_POLICY)


def _labels(field: str, value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise InvalidDeployment(field, f'{value!r} won\'t do, expected versions by label, such as {{"stable": 2}}')
    labels = {}
    for label, version in value.items():
        if not _text(field, label, MAX_TEXT):
            raise InvalidDeployment(field, f"the label of version {version!r} is empty, expected a name such as stable")
        if type(version) is not int or not 0 <= version <= MAX_VERSION:
            raise InvalidDeployment(field, f"{label} is {version!r}, expected a version: a whole number from 0 to {MAX_VERSION}")
        labels[label] = version
    return labels


def _batching(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidDeployment(field, f'{value!r} won\'t do, expected options by name, such as {{"max_batch_size": 32}}')
    if unknown := sorted(map(str, value.keys() - _BATCHING_NAMES)):
        raise InvalidDeployment(field, f"{unknown[0]!r} is not an option, expected some of {', '.join(sorted(_BATCHING_NAMES))}")
    _make_batching(value)
    return dict(value)


def _make_batching(value: Mapping[str, Any]) -> BatchingOptions:
    """JSON has lists where options have tuples."""
    sizes = value.get("allowed_batch_sizes", ())
    if not isinstance(sizes, list | tuple):
        raise InvalidDeployment("batching", f"allowed_batch_sizes is {sizes!r}, expected a list of whole numbers")
    try:
        return BatchingOptions(**{**value, "allowed_batch_sizes": tuple(sizes)})
    except InvalidOptions as error:
        raise InvalidDeployment("batching", str(error)) from error


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidDeployment(field, f"{value!r} won't do, expected true or false")
    return value


def _classes(field: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or len(value) > MAX_CLASSES:
        raise InvalidDeployment(field, f"expected a list of at most {MAX_CLASSES} class names")
    return [_text(field, name, MAX_TEXT) for name in value]


CHECKS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "policy": _policy,
    "labels": _labels,
    "batching": _batching,
    "weight": lambda field, value: _whole(field, value, 1, MAX_WEIGHT),
    "stateful": _flag,
    "timeout_ms": lambda field, value: _whole(field, value, 1, MAX_TIMEOUT_MS),
    "answer_output": lambda field, value: _text(field, value, MAX_TEXT),
    "answer_labels": _classes,
}
