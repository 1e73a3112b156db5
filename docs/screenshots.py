"""Pictures of every page for the documentation, light and dark, wide and narrow, from a running demo.

    make run                                  (in another terminal)
    .venv/bin/python docs/screenshots.py      [--var var] [--out docs/images] [--page record …]

Signs in with the demo's users, drives the system's Chromium and writes `<page>-<theme>-<width>.png`. It fails when a page answers
with an error, is wider than its window, or trips over the Content-Security-Policy: pictures of a broken page are no documentation.
Look at them before a change of the look is called done.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = {1440: 960, 390: 844}
TALLEST = {1440: 2200, 390: 3200}  # of a picture; what is below is more of the same
THEMES = ("light", "dark")


@dataclass(frozen=True)
class Shot:
    """`path` may hold {record}, the newest answered call of the digits model, and {application}, the person's first. user "" = a visitor.

    press: what to click before the picture is taken, until: what then appears.
    """

    name: str
    path: str
    user: str = ""
    show_content: bool = False
    full: bool = True
    press: str = ""
    until: str = ""


SHOTS = (
    Shot("home", "/"),
    Shot("home-signed-in", "/", "auditor"),
    Shot("catalog", "/catalog/"),
    Shot("model", "/catalog/digits/", "viewer", press=".sample", until="answer-view .answer__record .seal"),
    Shot("dashboard", "/audit/", "auditor"),
    Shot("records", "/audit/records/", "auditor", full=False),
    Shot("record", "/audit/records/{record}", "auditor", show_content=True),
    Shot("serving", "/serving/", "operator"),
    Shot("register", "/serving/register/", "operator"),
    Shot("keys", "/keys/", "auditor"),
    Shot("application", "{application}", "auditor"),
    Shot("sign-in", "/accounts/login/", full=False),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--var", type=Path, default=ROOT / "var", help="where the running demo keeps its state")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--page", action="append", choices=[shot.name for shot in SHOTS], help="only this page; repeatable")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium")
    options = parser.parse_args()
    base = environment(options.var / "demo.env")["DAYBOOK_URL"].rstrip("/")
    passwords = demo_passwords(options.var / "demo-users.txt")
    options.out.mkdir(parents=True, exist_ok=True)
    shots = [shot for shot in SHOTS if not options.page or shot.name in options.page]
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--force-color-profile=srgb"])
        for user in sorted({shot.user for shot in shots}):
            for theme in THEMES:
                for width in WIDTHS:
                    with signed_in(browser, base, user, passwords, theme, width) as page:
                        for shot in shots:
                            if shot.user == user:
                                faults += take(page, base, shot, options.out / f"{shot.name}-{theme}-{width}.png")
        browser.close()
    for fault in faults:
        print(fault, file=sys.stderr)
    size = sum(path.stat().st_size for path in options.out.glob("*.png"))
    print(f"{len(list(options.out.glob('*.png')))} pictures, {size / 1e6:.1f} MB in {options.out}")
    return 1 if faults else 0


def environment(path: Path) -> dict[str, str]:
    """`KEY=value` lines. Raises SystemExit with what to do when the demo isn't there."""
    try:
        return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    except FileNotFoundError:
        sys.exit(f"{path} is not there: start the demo with `make run` and wait until it is ready")


def demo_passwords(path: Path) -> dict[str, str]:
    """The demo's users and their passwords, one pair a line."""
    pairs = (line.replace(":", " ").replace("=", " ").split() for line in path.read_text().splitlines())
    return {pair[0]: pair[-1] for pair in pairs if len(pair) >= 2}


@contextmanager
def signed_in(browser: Browser, base: str, user: str, passwords: dict[str, str], theme: str, width: int) -> Iterator[Page]:
    is_narrow = width < 600
    context = browser.new_context(
        viewport={"width": width, "height": WIDTHS[width]},
        color_scheme=theme,  # type: ignore[arg-type]  # one of the two
        reduced_motion="reduce",
        is_mobile=is_narrow,
        has_touch=is_narrow,
        device_scale_factor=1,
    )
    page = context.new_page()
    if user:
        page.goto(f"{base}/accounts/login/")
        page.fill("main [name=login]", user)
        page.fill("main [name=password]", passwords[user])
        page.press("main [name=password]", "Enter")
        page.wait_for_url(f"{base}/")
    yield page
    context.close()


def take(page: Page, base: str, shot: Shot, target: Path) -> list[str]:
    """One picture; what was wrong with the page, in words."""
    faults: list[str] = []
    page.on("console", lambda message: faults.append(f"{shot.name}: {message.text}") if "Security Policy" in message.text else None)
    path = shot.path.replace("{record}", newest_record(page, base)) if "{record}" in shot.path else shot.path
    path = path.replace("{application}", first_application(page, base)) if "{application}" in path else path
    response = page.goto(base + path)
    if response is None or not response.ok:
        return [f"{shot.name}: {path} answered {response.status if response else 'nothing'}"]
    if shot.show_content and (button := page.get_by_role("button", name="Show content")).count():
        button.click()
    page.wait_for_load_state("load")
    page.evaluate("document.fonts.ready")
    for chart in page.locator("vega-chart").all():
        chart.locator("svg, canvas").first.wait_for(timeout=10_000)
    if shot.press and (sample := page.locator(shot.press)).count():
        sample.first.click()
        page.locator(shot.until).first.wait_for(timeout=10_000)
    page.evaluate("scrollTo(0, 0)")  # a form's answer may have scrolled to its place
    page.wait_for_timeout(250)
    excess = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if excess > 0:
        faults.append(f"{target.name}: {excess} px wider than its window")
    width, height = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST.get(width, height))}
    page.screenshot(path=target, full_page=True, clip=clip if shot.full else {**clip, "height": WIDTHS.get(width, height)})  # type: ignore[arg-type]
    return faults


def newest_record(page: Page, base: str) -> str:
    page.goto(f"{base}/audit/records/?q=model:digits+outcome:ok+kind:prediction+rows:1+-user:auditor")
    found = page.locator("[data-row]").first.get_attribute("data-id")
    if not found:
        sys.exit("the demo has no answered call of the digits model yet")
    return found


def first_application(page: Page, base: str) -> str:
    page.goto(f"{base}/keys/")
    found = page.locator("main a[href^='/keys/applications/']").first.get_attribute("href")
    if not found:
        sys.exit("the demo has no application yet")
    return found


if __name__ == "__main__":
    sys.exit(main())
