"""Version policies as people write them: `latest:2`, `all`, `specific:1,4`. And labels: `stable=2`."""

from .engine.options import All, Latest, Specific, VersionPolicy


class InvalidPolicy(ValueError):
    """The text is not a version policy or label; the message says what was expected."""


def parse_policy(text: str) -> VersionPolicy:
    """Raises InvalidPolicy unless `text` is `latest`, `latest:N` with N ≥ 1, `all` or `specific:V[,V…]`."""
    kind, colon, rest = text.strip().partition(":")
    parts = [part.strip() for part in rest.split(",")]
    if kind == "latest" and not colon:
        return Latest()
    if kind == "latest" and rest.isdecimal() and int(rest) >= 1:
        return Latest(int(rest))
    if kind == "all" and not colon:
        return All()
    if kind == "specific" and all(part.isdecimal() for part in parts):
        return Specific(tuple(sorted({int(part) for part in parts})))
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
    if not label or "/" in label or ":" in label or not version.isdecimal():
        raise InvalidPolicy(f"{text!r} is not of the form NAME=VERSION, for example stable=2")
    return label, int(version)
