"""A real Chromium on a real portal. What a page logs as an error, and what its policy refuses, fails the test."""

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from bench.portal import Portal, running


@pytest.fixture(scope="session")
def live_portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """The demo, started as a person starts it."""
    with running(tmp_path_factory.mktemp("portal")) as portal:
        yield portal


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.fail("no Chromium on the PATH; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, live_portal: Portal) -> Iterator[Page]:
    """A page of a new visitor; addresses are relative to the site."""
    context = chromium.new_context(base_url=live_portal.site, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    page = context.new_page()
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # A refused call is logged as "Failed to load resource" too; whether a status was meant is for the test to say.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            errors.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def passwords(live_portal: Portal) -> dict[str, str]:
    """Of the demo's people, by name."""
    lines = (live_portal.directory / "demo-users.txt").read_text()
    return dict(re.findall(r"^(\w+)\s+(\S+)$", lines, re.MULTILINE))


def sign_in(page: Page, name: str, password: str) -> None:
    page.goto("/accounts/login/")
    page.fill("[name=login]", name)
    page.fill("[name=password]", password)
    page.press("[name=password]", "Enter")
    page.wait_for_url(lambda url: "/accounts/login/" not in url)
