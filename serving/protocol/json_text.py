"""JSON text as TensorFlow Serving reads and quotes it.

It parses with RapidJSON and the flags iterative, NaN-and-Inf and stop-when-done: `NaN`, `Infinity`, `Inf` and their negatives are
numbers, whatever follows the first complete value is ignored, and bytes in strings need not be UTF-8. `parse_json` gives the same
values through orjson, and through Python's own scanner where the text is not strict JSON; the scanner's faults are given RapidJSON's
texts and byte offsets. Nesting is bounded (orjson 1024 levels, the scanner by the interpreter's limit), which RapidJSON's isn't.

Source: RapidJSON, error/en.h and reader.h; TensorFlow Serving, util/json_tensor.cc.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import orjson

from .errors import ProtocolError

DEBUG_BYTES: Final = 256

_decoder: Final = json.JSONDecoder()
_WHITESPACE: Final = re.compile(r"[ \t\n\r]*")
_BOM: Final = b"\xef\xbb\xbf"
_SHORT_INFINITY: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|Inf(?:inity)?', re.DOTALL)
_ARRAY, _OBJECT = "Missing a comma or ] after an array element.", "Missing a comma or } after an object member."
_TEXTS: Final = {  # Python's words for a fault → RapidJSON's
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}
TOO_DEEP: Final = "JSON Parse error: Nesting is too deep."


def parse_json(body: bytes) -> Any:
    """The first JSON value in `body`. Raises ProtocolError with RapidJSON's words.

    Bytes that are not UTF-8 come out as surrogates in the way of `surrogateescape`; `string_bytes` turns them back.
    """
    if not body:
        raise ProtocolError("JSON Parse error: The document is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return _scan(body)


def string_bytes(text: str) -> bytes:
    """The bytes of a JSON string. Raises ProtocolError for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ProtocolError("JSON Parse error: The surrogate pair in string is invalid.") from None


def type_name(value: object) -> str:
    match value:
        case None:
            return "Null"
        case bool():
            return "True" if value else "False"
        case dict():
            return "Object"
        case list():
            return "Array"
        case str():
            return "String"
        case _:
            return "Number"


def debug_text(value: object) -> str:
    """A value as errors quote it: pretty-printed, at most 256 bytes. Takes no longer for a large value than for a small one."""
    if isinstance(value, float):
        narrow = -3.4028234e38 <= value <= 3.4028234e38
        return format_float(float(np.float32(value)), narrow=True) if narrow else format_float(value, narrow=False)
    pieces: list[str] = []
    size = 0
    for piece in _pretty(value, "\n"):
        pieces.append(piece)
        size += len(piece)
        if size > DEBUG_BYTES:
            break
    text = "".join(pieces).encode("utf-8", "replace")
    return text[:DEBUG_BYTES].decode("utf-8", "ignore")


def format_float(value: float, *, narrow: bool) -> str:
    """`%g` where that parses back to the same number, else 9 (float32, `narrow`) or 17 digits; `.0` on whole ones."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    text = f"{value:g}"
    parsed = float(np.float32(text)) if narrow else float(text)
    if parsed != value:
        text = f"{value:.9g}" if narrow else f"{value:.17g}"
    return text if "." in text or "e" in text else text + ".0"


def _pretty(value: object, line: str) -> Iterator[str]:
    """RapidJSON's PrettyWriter: four spaces a level. Depth is bounded by the caller, who stops after 256 bytes."""
    if isinstance(value, dict | list) and value:
        inner = line + "    "
        yield "{" if isinstance(value, dict) else "["
        items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
        for number, (key, item) in enumerate(items):
            yield ("," if number else "") + inner
            if key is not None:
                yield json.dumps(key[:DEBUG_BYTES], ensure_ascii=False) + ": "
            yield from _pretty(item, inner)
        yield line + ("}" if isinstance(value, dict) else "]")
    elif isinstance(value, str):
        yield json.dumps(value[: DEBUG_BYTES + 1], ensure_ascii=False)
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        yield repr(float(value)) if value.bit_length() < 1024 else "Infinity"
    else:
        yield json.dumps(value)


def _scan(body: bytes) -> Any:
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    text = body.decode("utf-8", "surrogateescape")
    start = _find_value(text, body)
    try:
        return _decoder.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        if text.startswith(("Inf", "-Inf"), error.pos):
            return _scan_short_infinities(text, start)
        raise _parse_error(error, text) from None
    except RecursionError:
        raise ProtocolError(TOO_DEEP) from None
    except ValueError:  # an integer of more digits than Python converts
        raise ProtocolError("JSON Parse error: Number too big to be stored in double.") from None


def _scan_short_infinities(text: str, start: int) -> Any:
    """`Inf` and `-Inf`, which Python's scanner doesn't know."""

    def widen(token: re.Match[str]) -> str:
        found = token.group()
        return "Infinity" if found == "Inf" else found

    try:
        return _decoder.raw_decode(_SHORT_INFINITY.sub(widen, text), start)[0]
    except json.JSONDecodeError as error:
        raise _parse_error(error, text) from None
    except (RecursionError, ValueError):
        raise ProtocolError(TOO_DEEP) from None


def _find_value(text: str, body: bytes) -> int:
    found = _WHITESPACE.match(text)
    start = found.end() if found else 0
    if start == len(text):
        raise ProtocolError(f"JSON Parse error: The document is empty. at offset: {len(body)}")
    return start


def _parse_error(error: json.JSONDecodeError, text: str) -> ProtocolError:
    words = _TEXTS.get(error.msg)
    if words is None:  # "Expecting ',' delimiter"
        words = _OBJECT if _inside_object(text, error.pos) else _ARRAY
    if words in (_ARRAY, _OBJECT) and text[error.pos : error.pos + 1] == ".":
        words = "Miss fraction part in number."
    offset = len(text[: error.pos].encode("utf-8", "surrogateescape"))
    return ProtocolError(f"JSON Parse error: {words} at offset: {offset}")


_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[][{}]', re.DOTALL)


def _inside_object(text: str, end: int) -> bool:
    """Whether the innermost bracket open at `end` is a brace. Only far into a long text, where looking costs too much, a guess."""
    if end > 1 << 20:
        return False
    open_brackets: list[str] = []
    for found in _BRACKETS.finditer(text, 0, end):
        bracket = found.group()
        if bracket in "[{":
            open_brackets.append(bracket)
        elif bracket in "]}" and open_brackets:
            open_brackets.pop()
    return bool(open_brackets) and open_brackets[-1] == "{"
