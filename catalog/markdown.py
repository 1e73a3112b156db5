"""Cards and descriptions written by people: CommonMark in, safe HTML out."""

from functools import cache

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

_TAGS = {
    "a", "abbr", "b", "blockquote", "br", "code", "dd", "del", "dl", "dt", "em", "h2", "h3", "h4", "h5", "hr", "i", "kbd", "li", "ol", "p",
    "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_MAX_CHARS = 100_000


def render(text: str) -> SafeString:
    """HTML that may stand in a page: no raw HTML, no images (they would tell a stranger's server who reads), links without trust."""
    html = _parser().render(text[:_MAX_CHARS])
    return mark_safe(  # nh3 is the guard; the parser's `html: False` only keeps people's angle brackets readable
        nh3.clean(html, tags=_TAGS, attributes={"a": {"href", "title"}, "ol": {"start"}}, url_schemes={"http", "https", "mailto"})
    )


def first_sentence(text: str, limit: int = 200) -> str:
    """The first sentence of a plain text, cut at a word."""
    line = " ".join(text.split())
    end = line.find(". ")
    sentence = line[: end + 1] if 0 < end < limit else line
    return sentence if len(sentence) <= limit else sentence[: limit - 1].rsplit(" ", 1)[0] + "…"


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables; headings start at h2, since the page has its h1."""
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 30}).enable(["table", "strikethrough"])
    parser.core.ruler.push("lower_headings", _lower_headings)
    return parser


def _lower_headings(state: object) -> None:
    for token in state.tokens:  # type: ignore[attr-defined]
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1]) + 1, 5)}"
