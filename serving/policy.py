"""Version policies as people write them: `latest:2`, `all`, `specific:1,4`. And labels: `stable=2`."""

from .engine.options import All, Latest, Specific, VersionPolicy
from .engine.versions import MAX_VERSION


class InvalidPolicy(ValueError):
    """The text is not a version policy or label; the message says what was expected."""


def parse_policy(text: str) -> VersionPolicy:
    """Raises InvalidPolicy unless `text` is `latest`, `latest:N` with N ≥ 1, `all` or `specific:V[,V…]`, all within int64."""
    kind, colon, rest = text.strip().partition(":")
    numbers = [_find_number(part.strip()) for part in rest.split(",")]
    if kind == "latest" and not colon:
        return Latest()
    if kind == "latest" and len(numbers) == 1 and numbers[0]:
        return Latest(numbers[0])
    if kind == "all" and not colon:
        return All()
    versions = sorted({number for number in numbers if number is not None})
    if kind == "specific" and None not in numbers:
        return Specific(tuple(versions))
    raise InvalidPolicy(f"{text!r} is not one of latest:N, all, specific:1,2")


def format_policy(policy: VersionPolicy) -> str:
    """The one spelling of a policy; `parse_policy` reads it back."""
    match policy:
        case Latest(num_versions):
            return f"latest:{num_versions}"
        case All():
            return "all"
        case Specific(versions):
            return "specific:" + ",".join(map(str, versions))


def parse_label(text: str) -> tuple[str, int]:
    """`stable=2` → ("stable", 2). Raises InvalidPolicy."""
    label, _, version = (part.strip() for part in text.partition("="))
    number = _find_number(version)
    if not label or "/" in label or ":" in label or number is None:
        raise InvalidPolicy(f"{text!r} is not of the form NAME=VERSION, for example stable=2")
    return label, number


def _find_number(text: str) -> int | None:
    """A version or count that fits into an int64, as versions do everywhere; None for any other text."""
    if not text.isdecimal() or len(text) > 30:
        return None
    number = int(text)
    return number if number <= MAX_VERSION else None
