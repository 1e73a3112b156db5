from html.parser import HTMLParser

import pytest

from catalog.markdown import render


class Elements(HTMLParser):
    """What a browser would make of a text: its elements, and the addresses in their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src", "onload", "onerror", "style"}]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        '<a href="javascript:alert(1)">x</a>',
        "![tracker](http://evil.example/pixel.png)",
        "[x](data:text/html,<script>alert(1)</script>)",
        "<iframe src=//evil.example></iframe>",
        "<svg onload=alert(1)>",
        "`<script>`\n\n<style>*{display:none}</style>",
    ],
)
def test_nothing_that_runs_or_fetches_gets_through(text: str) -> None:
    page = Elements()
    page.feed(render(text))
    assert page.names <= {"p", "a", "code", "strong"}
    assert all(address.startswith(("http:", "https:", "mailto:")) for address in page.addresses)


def test_headings_start_below_the_pages_own() -> None:
    assert "<h2>Title</h2>" in render("# Title")
    assert "<h5>" in render("###### deep")


def test_tables_and_links_stay_and_links_are_not_trusted() -> None:
    html = render("| a | b |\n| - | - |\n| 1 | 2 |\n\n[x](https://example.org)")
    assert "<td>2</td>" in html
    assert 'rel="noopener noreferrer"' in html


def test_long_cards_are_cut() -> None:
    assert len(render("a " * 200_000)) < 110_000
