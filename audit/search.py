"""The query language of the record list: text → tree, pure.

    model:digits@3 outcome:timeout,unavailable -status:504 latency:>50ms caller:"my app" since:2h

A query is terms, all of which must hold; a term is `field:value`, with `-` before it for "not". Values divided by commas are
alternatives. Text ends in `*` for "starts with" and stands in quotes when it has spaces, commas or colons. Numbers take `>`, `>=`,
`<`, `<=` and ranges `a..b` (both ends in); durations the units us, ms, s, m (alone: ms), sizes B, kB, MB; `status:4xx` is a range.
`since:` and `until:` take `2h`-like ages (s, m, h, d, w) or ISO dates and times, UTC unless they say otherwise. A record id, a
trace id (32 hex) or a leaf hash (64 hex) stands alone. Page, API and saved searches share this one reading of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from uuid import UUID

from .record import CALL_KINDS

MAX_LENGTH = 1_000
MAX_TERMS = 30
OUTCOMES = (
    "ok",
    "rejected",
    "model_error",
    "timeout",
    "cancelled",
    "unavailable",
    "too_many",
    "stream_aborted",
    "cached",
    "shadow",
)
KINDS = (*CALL_KINDS, "act", "system")


class SearchError(ValueError):
    """A query that can't be read. `start` and `end` are character positions in the text."""

    def __init__(self, message: str, start: int, end: int) -> None:
        super().__init__(message)
        self.message = message
        self.start = start
        self.end = end


@dataclass(frozen=True, slots=True)
class Text:
    """Equal to `value`, or starting with it."""

    value: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Interval:
    """Whole numbers from `low` to `high`, both in; None is open."""

    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by name, one version of it or all."""

    name: Text
    version: int | None


@dataclass(frozen=True, slots=True)
class Identifier:
    """Raw bytes: 16 of a record id or a trace, 32 of a leaf hash."""

    value: bytes


Value = Text | Interval | ModelRef | Identifier


@dataclass(frozen=True, slots=True)
class Term:
    """One condition; the alternatives in `values` have one type. `start` and `end` are its place in the query's text."""

    field: str
    values: tuple[Value, ...]
    negated: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query: every term and both times hold. `since` is in, `until` is out."""

    text: str
    terms: tuple[Term, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def identifier(self, field: str) -> bytes | None:
        """The one identifier asked for in `field` ("record", "trace" or "leaf"), if the query has exactly that."""
        for term in self.terms:
            if term.field == field and not term.negated and len(term.values) == 1 and isinstance(term.values[0], Identifier):
                return term.values[0].value
        return None


EMPTY = Query("")

_DURATION_US = {"us": 1, "µs": 1, "ms": 1_000, "": 1_000, "s": 1_000_000, "m": 60_000_000}
_SIZE_BYTES = {"": 1, "b": 1, "kb": 1_000, "kib": 1_024, "mb": 1_000_000, "mib": 1 << 20}
_COUNT = {"": 1}
_AGE_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LARGEST = (1 << 63) - 1


class _BadValue(ValueError):
    """What is wrong with one value; `_parse_term` adds the place."""


def _text(raw: str, quoted: bool) -> Value:
    if not quoted and raw.endswith("*"):
        return Text(raw[:-1], prefix=True)
    return Text(raw)


def _model(raw: str, quoted: bool) -> Value:
    name, at, version = ("", "", "") if quoted else raw.rpartition("@")
    if not at:
        name, version = raw, ""
    if version and not (version.isascii() and version.isdigit() and int(version) <= _LARGEST):
        raise _BadValue(f"version {version!r} is not a number: write model:name@3")
    if at and not version:
        raise _BadValue("the version after @ is missing")
    text = _text(name, quoted)
    if not isinstance(text, Text) or not (text.value or text.prefix):
        raise _BadValue("the model's name is missing")
    return ModelRef(text, int(version) if version else None)


def _word(*words: str) -> Callable[[str, bool], Value]:
    def parse(raw: str, quoted: bool) -> Value:
        if raw not in words:
            near = get_close_matches(raw, words, n=1)
            raise _BadValue(f"{raw!r} is none of {', '.join(words)}" + (f"; did you mean {near[0]}?" if near else ""))
        return Text(raw)

    return parse


def _number(units: dict[str, int]) -> Callable[[str, bool], Value]:
    pattern = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)")
    names = ", ".join(unit for unit in units if unit)

    def one(raw: str) -> int:
        match = pattern.fullmatch(raw) if raw.isascii() or "µ" in raw else None
        if not match or len(match[1]) > 18:
            raise _BadValue(f"{raw!r} is not a number")
        factor = units.get(match[2]) or units.get(match[2].lower())
        if factor is None:
            raise _BadValue(f"{raw!r} has no unit known here ({names})" if names else f"{raw!r} is not a whole number")
        whole, _, fraction = match[1].partition(".")
        value = int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)
        if value > _LARGEST:
            raise _BadValue(f"{raw!r} is too large")
        return value

    def parse(raw: str, quoted: bool) -> Value:
        for sign in (">=", "<=", ">", "<"):
            if raw.startswith(sign):
                value = one(raw[len(sign) :].strip())
                if sign[0] == ">":
                    return Interval(value + (sign == ">"), None)
                return Interval(None, value - (sign == "<"))
        if ".." in raw:
            low, _, high = raw.partition("..")
            interval = Interval(one(low) if low else None, one(high) if high else None)
            if interval.low is not None and interval.high is not None and interval.low > interval.high:
                raise _BadValue(f"the range {raw} is empty: its start is above its end")
            return interval
        value = one(raw)
        return Interval(value, value)

    return parse


def _status(raw: str, quoted: bool) -> Value:
    if re.fullmatch(r"[1-5]xx", raw):
        return Interval(int(raw[0]) * 100, int(raw[0]) * 100 + 99)
    return _number(_COUNT)(raw, quoted)


def _record_id(raw: str, quoted: bool) -> Value:
    try:
        return Identifier(UUID(raw).bytes)
    except ValueError:
        raise _BadValue(f"{raw!r} is not a record id") from None


def _hex(size_bytes: int, what: str) -> Callable[[str, bool], Value]:
    def parse(raw: str, quoted: bool) -> Value:
        if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size_bytes}}}", raw):
            raise _BadValue(f"{raw!r} is not {what} ({2 * size_bytes} hex digits)")
        return Identifier(bytes.fromhex(raw))

    return parse


# field → how its values are read. The names are those of the record's columns where a column has that meaning.
FIELDS: dict[str, Callable[[str, bool], Value]] = {
    "model": _model,
    "version": _number(_COUNT),
    "signature": _text,
    "outcome": _word(*OUTCOMES),
    "status": _status,
    "kind": _word(*KINDS),
    "protocol": _text,
    "verb": _text,
    "caller": _text,  # application, key prefix or user, whichever is equal
    "application": _text,
    "key": _text,
    "user": _text,
    "actor": _text,
    "address": _text,
    "answer": _text,
    "error": _text,
    "worker": _text,
    "device": _text,
    "node": _text,
    "latency": _number(_DURATION_US),
    "queue": _number(_DURATION_US),
    "compute": _number(_DURATION_US),
    "rows": _number(_COUNT),
    "batch": _number(_COUNT),
    "request": _number(_SIZE_BYTES),
    "response": _number(_SIZE_BYTES),
    "record": _record_id,
    "trace": _hex(16, "a trace id"),
    "leaf": _hex(32, "a leaf hash"),
}
ALIASES = {"app": "application", "id": "record", "size": "request", "m": "model", "o": "outcome"}

_TOKEN = re.compile(
    r"""(?P<minus>-?)
        (?:(?P<field>[A-Za-z_]+):)?
        (?P<value>(?:"(?:[^"\\]|\\.)*"|[^\s",]|,)*)""",
    re.VERBOSE,
)
_ALTERNATIVE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,]*)')


def parse(text: str, now: datetime) -> Query:
    """Read a query. `now` (aware) is what ages count from. Raises SearchError with the place of the first fault."""
    if len(text) > MAX_LENGTH:
        raise SearchError(f"the query has {len(text)} characters, more than {MAX_LENGTH}", MAX_LENGTH, len(text))
    if "\0" in text:
        raise SearchError("the query has a NUL character", text.index("\0"), text.index("\0") + 1)
    terms: list[Term] = []
    since: datetime | None = None
    until: datetime | None = None
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = _TOKEN.match(text, at)
        assert match is not None  # every part of the pattern may be empty
        start, end = at, match.end()
        if end == start or (end < len(text) and not text[end].isspace()):
            place = max(end, start)
            raise SearchError("a quote is opened here and not closed", place, len(text))
        at = end
        field, raw, negated = match["field"], match["value"], bool(match["minus"])
        if field is None:
            terms.append(_lone(raw, negated, start, end))
            continue
        name = ALIASES.get(field.lower(), field.lower())
        if not raw:
            raise SearchError(f"{field}: has no value", start, end)
        if name in ("since", "until"):
            if negated:
                raise SearchError(f"-{name}: is not a condition; use {'until' if name == 'since' else 'since'}:", start, end)
            moment = _moment(raw.strip('"'), now, start, end)
            if name == "since":
                since = moment if since is None else max(since, moment)
            else:
                until = moment if until is None else min(until, moment)
            continue
        terms.append(_parse_term(name, field, raw, negated, start, end))
        if len(terms) > MAX_TERMS:
            raise SearchError(f"more than {MAX_TERMS} terms", start, len(text))
    if since is not None and until is not None and since >= until:
        raise SearchError("since: is not before until:, so nothing can match", 0, len(text))
    return Query(text, tuple(terms), since, until)


def _parse_term(name: str, field: str, raw: str, negated: bool, start: int, end: int) -> Term:
    read = FIELDS.get(name)
    if read is None:
        near = get_close_matches(name, [*FIELDS, "since", "until"], n=1)
        hint = f"; did you mean {near[0]}:?" if near else f"; fields are {', '.join(FIELDS)}, since, until"
        raise SearchError(f"there is no field {field}:{hint}", start, end)
    values: list[Value] = []
    try:
        for value, quoted in _alternatives(raw):
            values.append(read(value, quoted))
    except _BadValue as error:
        raise SearchError(f"{field}: {error}", start, end) from error
    return Term(name, tuple(values), negated, start, end)


def _alternatives(raw: str) -> list[tuple[str, bool]]:
    """Divide at the commas outside quotes; (value, was quoted)."""
    parts: list[tuple[str, bool]] = []
    at = 0
    while True:
        match = _ALTERNATIVE.match(raw, at)
        assert match is not None  # the second branch may be empty
        quoted = match[1] is not None
        value = re.sub(r"\\(.)", r"\1", match[1]) if quoted else match[2]
        if not quoted and (not value or '"' in value):
            raise _BadValue("a value is missing between commas" if not value else "a quote stands inside a value")
        parts.append((value, quoted))
        at = match.end()
        if at == len(raw):
            return parts
        if raw[at] != ",":
            raise _BadValue("something follows the closing quote")
        at += 1


def _lone(raw: str, negated: bool, start: int, end: int) -> Term:
    """A word without a field: only identifiers are clear enough."""
    word = raw.strip('"')
    if re.fullmatch(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", word):
        return Term("record", (Identifier(UUID(word).bytes),), negated, start, end)
    if re.fullmatch(r"[0-9a-fA-F]{32}", word):
        # A record id without its hyphens is a UUIDv7; a trace id is anything.
        is_record = word[12] == "7" and word[16] in "89abAB"
        return Term("record" if is_record else "trace", (Identifier(bytes.fromhex(word)),), negated, start, end)
    if re.fullmatch(r"[0-9a-fA-F]{64}", word):
        return Term("leaf", (Identifier(bytes.fromhex(word)),), negated, start, end)
    if match := re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}", word):
        return Term("trace", (Identifier(bytes.fromhex(match[1])),), negated, start, end)
    hint = f"outcome:{word}" if word in OUTCOMES else f"model:{quote(word) if word.strip(':,') else 'name'}"
    raise SearchError(f"{raw!r} is neither a record id nor a trace; say where to look, such as {hint}", start, end)


def _moment(raw: str, now: datetime, start: int, end: int) -> datetime:
    if match := re.fullmatch(r"(\d{1,6})([smhdw])", raw):
        try:
            return now - timedelta(seconds=int(match[1]) * _AGE_S[match[2]])
        except OverflowError:
            raise SearchError(f"{raw} is too long ago", start, end) from None
    if raw in ("now", "today", "yesterday"):
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[raw]
    try:
        moment = datetime.fromisoformat(raw)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise SearchError(f"{raw!r} is neither an age such as 2h nor a date such as 2026-11-01T09:30", start, end) from None


def quote(value: str) -> str:
    """A text value as a query would write it, so that `parse` reads exactly it."""
    if value and re.fullmatch(r"[^\s\",:*\\<>]+", value) and ".." not in value:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def with_term(text: str, field: str, value: str, *, negated: bool = False) -> str:
    """`text` with one more term, as a click on a value makes it. A term that is there already isn't repeated."""
    term = f"{'-' if negated else ''}{field}:{quote(value)}"
    there = {match[0] for match in _TOKEN.finditer(text)}
    return text.strip() if term in there else f"{text} {term}".strip()


def without_term(text: str, term: Term) -> str:
    """`text` with one of its own terms cut out."""
    return f"{text[: term.start].rstrip()} {text[term.end :].lstrip()}".strip()
