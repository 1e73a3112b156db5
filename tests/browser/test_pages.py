"""The site in a real browser: sign-in, keyboard, search, side panel, paper and lamp, small screens, and the policy's silence."""

import re

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from bench.portal import Portal

from .conftest import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PAGES = ("/", "/catalog/", "/catalog/half_plus_two/", "/audit/", "/audit/records/", "/audit/verify/", "/serving/", "/keys/", "/api/docs/")
DIGITS = "/audit/records/?q=kind:prediction"


@pytest.fixture(scope="module", autouse=True)
def _some_calls(live_portal: Portal) -> None:
    """Enough to scroll through, one of them refused."""
    url = f"{live_portal.gateway}/v1/models/half_plus_two:predict"
    with httpx.Client(headers={"Authorization": f"Bearer {live_portal.key}"}) as client:
        for number in range(40):
            client.post(url, json={"instances": [number, 2.0, 5.0]}).raise_for_status()
        assert client.post(url, json={"instances": ["two"]}).status_code == 400


@pytest.fixture
def auditor(page: Page, passwords: dict[str, str]) -> Page:
    sign_in(page, "auditor", passwords["auditor"])
    return page


def current(page: Page) -> int:
    """The place of the marked row, -1 for none."""
    return int(page.evaluate("[...document.querySelectorAll('[data-row]')].findIndex(row => 'current' in row.dataset)"))


def test_people_sign_in_and_out(page: Page, passwords: dict[str, str]) -> None:
    page.goto("/audit/records/")
    expect(page).to_have_title("Sign in · Daybook")
    page.fill("[name=login]", "auditor")
    page.fill("[name=password]", "wrong")
    page.press("[name=password]", "Enter")
    expect(page.locator(".notice[data-kind=fail]")).to_be_visible()
    page.fill("[name=login]", "auditor")
    page.fill("[name=password]", passwords["auditor"])
    page.press("[name=password]", "Enter")
    expect(page).to_have_url(re.compile(r"/audit/records/$"))
    page.locator(".people > summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in").first).to_be_visible()


def test_slash_focuses_the_search_box_which_finds_models_and_records(auditor: Page) -> None:
    page = auditor
    page.keyboard.press("/")
    expect(page.locator(".bar__search input")).to_be_focused()
    page.keyboard.type("half_plus_two")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/catalog/half_plus_two/$"))
    page.goto(DIGITS)
    record = page.locator("[data-row]").first.get_attribute("data-id") or ""
    page.keyboard.press("/")
    page.keyboard.type(record)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"/audit/records/{record}$"))
    expect(page.locator(".record__head h1")).to_be_visible()


def test_the_list_is_walked_with_j_k_enter_and_escape(auditor: Page) -> None:
    page = auditor
    page.goto(DIGITS)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert current(page) == 0
    page.keyboard.press("j")
    assert current(page) == 1
    page.keyboard.press("Enter")
    panel = page.locator("side-panel[open]")
    second = page.locator("[data-row]").nth(1).get_attribute("data-id") or ""
    expect(panel.get_by_role("link", name="Open the whole record")).to_have_attribute("href", f"/audit/records/{second}")
    page.keyboard.press("j")  # the open record follows
    third = page.locator("[data-row]").nth(2).get_attribute("data-id") or ""
    expect(panel.get_by_role("link", name="Open the whole record")).to_have_attribute("href", f"/audit/records/{third}")
    page.keyboard.press("Escape")
    expect(page.locator("side-panel[open]")).to_have_count(0)
    assert "record=" not in page.url
    assert page.locator("[data-row]").count() >= 40


def test_a_click_opens_the_panel_whose_address_can_be_shared(auditor: Page) -> None:
    page = auditor
    page.goto(DIGITS)
    row = page.locator("[data-row]").nth(3)
    record = row.get_attribute("data-id") or ""
    row.locator(".ledger__model").click()
    expect(page.locator("side-panel[open] h1")).to_be_visible()
    assert f"record={record}" in page.url
    page.reload()
    expect(page.locator("side-panel[open] a", has_text="Open the whole record")).to_have_attribute("href", f"/audit/records/{record}")
    expect(page.locator("[data-row][data-current]")).to_have_attribute("data-id", record)
    page.get_by_role("button", name="Close the record").click()
    expect(page.locator("side-panel[open]")).to_have_count(0)


def test_selecting_text_in_a_row_opens_nothing(auditor: Page) -> None:
    page = auditor
    page.goto(DIGITS)
    box = page.locator("[data-row] .ledger__caller").nth(2).bounding_box()
    assert box
    page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert page.evaluate("getSelection().toString()")
    expect(page.locator("side-panel[open]")).to_have_count(0)


def test_a_query_swaps_the_list_and_goes_into_the_address_and_back(auditor: Page) -> None:
    page = auditor
    page.goto("/audit/records/")
    page.fill("#q", "outcome:rejected")
    page.press("#q", "Enter")
    expect(page.locator(".chip")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"q=outcome%3Arejected"))
    assert page.locator("[data-row]:not([data-kind=warn])").count() == 0
    page.go_back()
    expect(page.locator(".chip")).to_have_count(0)
    page.go_forward()
    page.get_by_label("Remove outcome:rejected").click()
    expect(page.locator(".chip")).to_have_count(0)


def test_a_broken_query_shows_its_fault_where_it_is(auditor: Page) -> None:
    page = auditor
    page.goto("/audit/records/")
    page.fill("#q", "modle:digits")
    page.press("#q", "Enter")
    expect(page.locator(".fault mark")).to_have_text("modle:digits")
    expect(page.locator(".fault")).to_contain_text("did you mean model")


def test_the_query_line_completes_fields_and_values(auditor: Page) -> None:
    page = auditor
    page.goto("/audit/records/")
    page.click("#q")
    page.keyboard.type("outc")
    expect(page.locator(".completions li").first).to_have_text("outcome:")
    page.keyboard.press("Tab")
    page.keyboard.type("rej")
    page.keyboard.press("Tab")
    expect(page.locator("#q")).to_have_value("outcome:rejected ")


def test_a_brush_over_the_histogram_narrows_the_time(auditor: Page) -> None:
    page = auditor
    page.goto("/audit/records/?q=since:1h")
    box = page.locator(".histogram__bars").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + 20, steps=6)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"since%3A20\d\d.*until%3A20\d\d"))
    assert page.locator("[data-row]").count() > 0


def test_a_brush_keeps_terms_in_quotes_whole(auditor: Page) -> None:
    page = auditor
    page.goto('/audit/records/?q=application:"Mail room" since:1h')
    box = page.locator(".histogram__bars").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + 20, steps=6)
    page.mouse.up()
    expect(page.locator("#q")).to_have_value(re.compile(r'^application:"Mail room" since:20\S+ until:20\S+'))


def test_new_records_are_announced_without_moving_what_is_read(auditor: Page, live_portal: Portal) -> None:
    page = auditor
    page.goto(DIGITS)
    first = page.locator("[data-row]").first
    before, place = first.get_attribute("data-id"), first.bounding_box()
    url = f"{live_portal.gateway}/v1/models/half_plus_two:predict"
    httpx.post(url, json={"instances": [1.0]}, headers={"Authorization": f"Bearer {live_portal.key}"}).raise_for_status()
    bar = page.locator(".new-records a")
    expect(bar).to_contain_text("new record", timeout=15_000)
    assert (first.get_attribute("data-id"), first.bounding_box()) == (before, place)
    bar.click()
    expect(page.locator("[data-row]").first).not_to_have_attribute("data-id", before or "")


def test_an_auditor_opens_a_payload_and_finds_that_written_down(auditor: Page) -> None:
    page = auditor
    page.goto("/audit/records/?q=kind:prediction+outcome:ok+-user:auditor")
    record = page.locator("[data-row]").first.get_attribute("data-id")
    page.goto(f"/audit/records/{record}")
    expect(page.get_by_text("Request and answer are closed")).to_be_visible()
    page.get_by_role("button", name="Show content").click()
    expect(page.locator("json-view").first).to_contain_text("instances")
    page.goto(f"/audit/records/{record}")
    expect(page.locator("#thread li")).to_contain_text("payload viewed by auditor")


def test_json_folds_with_the_keyboard(auditor: Page) -> None:
    page = auditor
    page.goto(DIGITS)
    page.goto(f"/audit/records/{page.locator('[data-row]').first.get_attribute('data-id')}")
    tree = page.locator("#leaf json-view")
    top = tree.locator("details").first
    top.locator("summary").first.focus()
    page.keyboard.press("ArrowLeft")
    expect(top).not_to_have_attribute("open", "")
    page.keyboard.press("ArrowRight")
    expect(top).to_have_attribute("open", "")


def test_charts_are_drawn_under_the_policy_and_follow_the_theme(auditor: Page) -> None:
    page = auditor
    page.goto("/audit/")
    expect(page.locator("vega-chart svg")).to_have_count(2)
    fill = "getComputedStyle(document.querySelector('vega-chart svg .mark-rect path')).fill"
    paper = page.evaluate(fill)
    page.locator("theme-toggle button").click()
    page.wait_for_function(f"{fill} !== '{paper}'")


def test_paper_and_lamp_are_kept(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    page.goto("/")
    assert page.evaluate(ground) == "rgb(251, 250, 246)"
    page.locator("theme-toggle button").click()
    assert page.evaluate(ground) == "rgb(20, 23, 26)"
    page.goto("/catalog/")
    assert page.evaluate(ground) == "rgb(20, 23, 26)"
    page.locator("theme-toggle button").click()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(20, 23, 26)"  # the choice was the system's: it is followed again


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_no_page_is_wider_than_its_window(chromium: Browser, live_portal: Portal, passwords: dict[str, str], width: int) -> None:
    context = chromium.new_context(base_url=live_portal.site, viewport={"width": width, "height": 844}, is_mobile=width < 600)
    page = context.new_page()
    sign_in(page, "admin", passwords["admin"])
    page.goto(DIGITS)
    record = page.locator("[data-row]").first.get_attribute("data-id")
    for path in (*PAGES, f"/audit/records/{record}", "/audit/records/?q=modle:x", "/nowhere"):
        page.goto(path)
        page.wait_for_load_state("load")
        excess = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert excess <= 0, f"{path} at {width}: {excess} px"
    context.close()


def test_a_tap_on_a_small_screen_opens_the_records_page(chromium: Browser, live_portal: Portal, passwords: dict[str, str]) -> None:
    context = chromium.new_context(base_url=live_portal.site, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    sign_in(page, "auditor", passwords["auditor"])
    page.goto(DIGITS)
    row = page.locator("[data-row]").nth(1)
    record = row.get_attribute("data-id")
    row.locator(".ledger__model").tap()
    expect(page).to_have_url(re.compile(rf"/audit/records/{record}$"))
    context.close()


def test_every_page_has_one_heading_a_title_and_named_controls(auditor: Page) -> None:
    page = auditor
    titles = set()
    for path in PAGES:
        page.goto(path)
        assert page.locator("h1").count() == 1, path
        titles.add(page.title())
        unnamed = page.evaluate(
            """[...document.querySelectorAll('button, a[href], input:not([type=hidden]), select, textarea')]
              .filter(e => e.checkVisibility() && !(e.innerText || e.ariaLabel || e.title || e.labels?.length || e.querySelector('title')
                || e.getAttribute('aria-labelledby')))
              .map(e => e.outerHTML.slice(0, 120))"""
        )
        assert unnamed == [], path
    assert len(titles) == len(PAGES)


def test_focus_is_seen_and_the_first_stop_skips_to_the_page(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_text_stands_out_from_its_ground_in_both_themes(page: Page) -> None:
    """WCAG AA for the pairs that tokens.css promises."""
    page.goto("/")
    ratio = """(pair) => {
      const probe = document.createElement('span');
      document.body.append(probe);
      const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
      const light = (name) => {
        probe.style.color = `var(--${name})`;
        const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map((value) => linear(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const [low, high] = pair.map(light).sort((a, b) => a - b);
      probe.remove();
      return (high + 0.05) / (low + 0.05);
    }"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for ground in ("paper", "raised", "sunken", "hover", "select"):
            for ink in ("ink", "quiet", "accent", "fail", "warn"):
                assert page.evaluate(ratio, [ink, ground]) >= 4.5, (scheme, ink, ground)
        for ground in ("paper", "raised"):
            for series in range(1, 9):
                assert page.evaluate(ratio, [f"series-{series}", ground]) >= 4.5, (scheme, series, ground)
            assert page.evaluate(ratio, ["control", ground]) >= 3, (scheme, "control", ground)
        for ink, ground in (
            ("on-accent", "accent"),
            ("on-fail", "fail"),
            ("accent", "accent-wash"),
            ("fail", "fail-wash"),
            ("warn", "warn-wash"),
        ):
            assert page.evaluate(ratio, [ink, ground]) >= 4.5, (scheme, ink, ground)


def test_what_is_renewed_by_itself_leaves_the_focus_and_open_folds_alone(page: Page, passwords: dict[str, str]) -> None:
    sign_in(page, "operator", passwords["operator"])
    page.goto("/serving/")
    fold = page.locator("details.fold").first
    if fold.count():
        fold.locator("summary").click()
    change = page.locator("#change-digits")
    change.focus()
    page.locator("#deployments").evaluate("region => region.dataset.old = 'yes'")
    expect(page.locator("#deployments[data-old]")).to_have_count(0, timeout=15_000)
    expect(change).to_be_focused()
    if fold.count():
        expect(fold).to_have_attribute("open", "")
    page.locator("#deployments copy-button button").first.focus()
    page.locator("#deployments").evaluate("region => region.dataset.old = 'yes'")
    expect(page.locator("#deployments[data-old]")).to_have_count(0, timeout=15_000)
    expect(page.locator("#deployments copy-button button").first).to_be_focused()
    page.goto("/")
    newest = page.locator("#latest a").first
    newest.focus()
    page.locator("#latest").evaluate("region => region.dataset.old = 'yes'")
    expect(page.locator("#latest[data-old]")).to_have_count(0, timeout=15_000)
    expect(page.locator("#latest a:focus")).to_have_count(1)
