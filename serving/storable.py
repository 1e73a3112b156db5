"""Makes what models say of themselves fit for PostgreSQL and JSON, which hold neither NUL nor half surrogates nor NaN.

A graph's names, defaults and errors are arbitrary bytes; none of them may stop a report.
"""

import math
from typing import Any, Final

MAX_TEXT: Final = 16_384


def clean_text(text: str) -> str:
    """The text without what can't be stored, cut at MAX_TEXT characters."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def clean(value: object) -> Any:
    """The same value as JSON can hold it: texts cleaned, keys too; numbers that JSON lacks as text (`NaN`, `Infinity`, `(1+2j)`)."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return clean_text(value)
        case bytes():
            return clean_text(value.decode("utf-8", "replace"))
        case float():
            return value if math.isfinite(value) else _name_float(value)
        case dict():
            return {clean_text(str(key)): clean(item) for key, item in value.items()}
        case list() | tuple():
            return [clean(item) for item in value]
        case _:
            return clean_text(str(value))


def _name_float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
