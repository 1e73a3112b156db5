"""Queries changed by a click: a time brushed, a value asked for besides another. Text in, text out, pure."""

import re
from datetime import UTC, datetime

from .search import ModelRef, Query, Term, Text, quote, with_term

_TOKEN = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s"])+|"')
_TIME = re.compile(r"(since|until):(.+)", re.IGNORECASE | re.DOTALL)


def times_in(text: str) -> list[tuple[str, str, str]]:
    """The times that a query names: (since or until, what stands there, the query without it)."""
    return [(time[1].lower(), time[2], _cut(text, token.start(), token.end())) for token, time in _times(text)]


def without_times(text: str) -> str:
    for token, _ in reversed(_times(text)):
        text = _cut(text, token.start(), token.end())
    return text.strip()


def _times(text: str) -> list[tuple[re.Match[str], re.Match[str]]]:
    found = ((token, _TIME.fullmatch(token[0])) for token in _TOKEN.finditer(text))
    return [(token, time) for token, time in found if time is not None]


def with_times(text: str, since: datetime, until: datetime) -> str:
    """`text` over [since, until) instead of the times it names."""
    return f"{without_times(text)} since:{_iso(since)} until:{_iso(until)}".strip()


def has_value(query: Query, field: str, value: str) -> bool:
    """Whether `value` is one of the alternatives that `query` asks for in `field`."""
    return any(value in _values(term) for term in query.terms if term.field == field and not term.negated)


def toggled(query: Query, field: str, value: str) -> str:
    """The query with `value` asked for in `field` besides what is asked for there, or no longer where it was."""
    for term in query.terms:
        if term.field != field or term.negated or not (values := _values(term)):
            continue
        kept = [other for other in values if other != value] if value in values else [*values, value]
        written = f"{field}:{','.join(quote(other) for other in kept)}" if kept else ""
        return " ".join(f"{query.text[: term.start]}{written}{query.text[term.end :]}".split())
    return with_term(query.text, field, value)


def _values(term: Term) -> list[str]:
    """The plain values of a term, [] when one of them is more than a plain value."""
    texts = [value.name if isinstance(value, ModelRef) and value.version is None else value for value in term.values]
    plain = [text.value for text in texts if isinstance(text, Text) and not text.prefix]
    return plain if len(plain) == len(texts) else []


def _cut(text: str, start: int, end: int) -> str:
    return f"{text[:start].rstrip()} {text[end:].lstrip()}".strip()


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")
