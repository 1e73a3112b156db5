"""Try-it in a real browser, through the real gateway, to the real model, into the real log."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from bench.portal import Portal

from .conftest import sign_in

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SEVEN = [(0.25, 0.15), (0.75, 0.15), (0.6, 0.45), (0.42, 0.9)]  # strokes as parts of the pad


def draw(page: Page, points: list[tuple[float, float]]) -> None:
    box = page.locator("draw-pad .draw__pad").bounding_box()
    assert box is not None
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=8)
    page.mouse.up()


def answered(page: Page) -> str:
    headline = page.locator("answer-view .answer__value").first
    expect(headline).to_be_visible()
    return headline.inner_text().split()[0]


def test_a_visitor_asks_an_open_model_and_sees_it_sealed(page: Page) -> None:
    page.goto("/catalog/half_plus_two/")
    page.fill(".try__field input", "1, 2, 5")
    page.click(".try button[type=submit]")
    cells = page.locator("answer-view .answer__short")
    expect(cells).to_have_text(["2.5", "3", "4.5"])
    expect(page.locator("answer-view .answer__record")).to_contain_text("Sealed in the log", timeout=15_000)
    assert page.locator("answer-view .answer__record copy-button").get_attribute("data-text")
    expect(page.locator("answer-view .timing [data-part=model]").last).to_be_visible()


def test_every_digit_of_the_test_rows_is_read_and_leads_to_its_record(page: Page, passwords: dict[str, str]) -> None:
    sign_in(page, "auditor", passwords["auditor"])
    page.goto("/catalog/digits/")
    samples = page.locator(".sample")
    names = [samples.nth(index).get_attribute("aria-label") or "" for index in range(samples.count())]
    assert len(names) == 10
    right = 0
    for index, name in enumerate(names):
        with page.expect_response(re.compile(r":predict$")) as response:
            samples.nth(index).click()
        assert response.value.status == 200
        record = response.value.headers["daybook-record"]
        expect(page.locator("answer-view .answer__record a")).to_have_attribute("href", f"/audit/records/{record}")
        right += answered(page) == name.rpartition(" ")[2]
    assert right >= 9
    page.click("answer-view .answer__record a")
    expect(page.locator("main")).to_contain_text("digits")
    expect(page.locator("main")).to_contain_text("auditor")


def test_a_drawn_digit_is_read(page: Page, passwords: dict[str, str]) -> None:
    sign_in(page, "viewer", passwords["viewer"])
    page.goto("/catalog/digits/")
    page.click(".try button[type=submit]")
    expect(page.locator(".try__error")).to_contain_text("draw something first")
    draw(page, SEVEN)
    with page.expect_request(re.compile(r":predict$")) as request:
        page.click(".try button[type=submit]")
    [image] = json.loads(request.value.post_data or "")["instances"]
    assert len(image) == 8
    assert all(len(row) == 8 and all(0 <= value <= 16 for value in row) for row in image)
    assert "daybook-try-it" in request.value.headers
    assert answered(page) == "7"
    page.click("draw-pad button")
    page.click(".try button[type=submit]")
    expect(page.locator(".try__error")).to_be_visible()


def test_json_and_form_say_the_same(page: Page) -> None:
    page.goto("/catalog/half_plus_two/")
    page.fill(".try__field input", "4")
    page.click("[data-act=raw]")
    assert json.loads(page.input_value("#try-raw"))["instances"] == [4]
    page.fill("#try-raw", '{"instances": [10]}')
    page.click(".try button[type=submit]")
    assert answered(page) == "7"


def test_what_the_model_refuses_is_shown_with_its_text(page: Page) -> None:
    page.goto("/catalog/half_plus_two/")
    page.click("[data-act=raw]")
    page.fill("#try-raw", '{"instances": ["two"]}')
    page.click(".try button[type=submit]")
    notice = page.locator("answer-view .notice")
    expect(notice).to_contain_text("400")
    expect(notice).to_contain_text("is not of expected type: float")
    expect(page.locator("answer-view .answer__record .seal")).to_be_visible()
    page.fill("#try-raw", "{")
    page.click(".try button[type=submit]")
    expect(page.locator(".try__error")).to_contain_text("not JSON")


def test_a_tf_example_is_serialized_in_the_browser(page: Page, passwords: dict[str, str]) -> None:
    sign_in(page, "viewer", passwords["viewer"])
    page.goto("/catalog/risk/")
    page.select_option("#try-signature", "classify")
    expect(page.locator(".try__fields:not([hidden]) example-input")).to_be_visible()
    page.click(".try button[type=submit]")
    assert answered(page) in {"low", "high"}
    expect(page.locator("answer-view .bars dt")).to_have_text(["low", "high"])


def test_visitors_are_asked_to_sign_in_where_a_key_is_needed(page: Page) -> None:
    page.goto("/catalog/risk/")
    expect(page.locator("try-it")).to_have_count(0)
    page.click("#try a[href^='/accounts/login/']")
    expect(page).to_have_url(re.compile(r"/accounts/login/\?next=/catalog/risk/"))


def test_the_catalog_is_searched_by_typing_and_by_facets(page: Page) -> None:
    page.goto("/catalog/")
    page.fill("#catalog-query", "dig")
    option = page.locator("#catalog-suggestions [role=option]").first
    expect(option).to_contain_text("Handwritten digits")
    page.press("#catalog-query", "ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    page.press("#catalog-query", "Escape")
    page.press("#catalog-query", "Enter")
    expect(page).to_have_url(re.compile(r"\?q=dig$"))
    expect(page.locator(".entry")).to_have_count(1)
    page.goto("/catalog/")
    page.click(".facet a:has-text('Text generation')")
    expect(page).to_have_url(re.compile(r"\?task=text-generation$"))
    expect(page.locator(".entry")).to_have_count(1)
    expect(page.locator(".chip")).to_contain_text("Text generation")
    page.fill("#catalog-query", "verse")
    page.press("#catalog-query", "Enter")
    expect(page).to_have_url(re.compile(r"\?q=verse&task=text-generation$"))
    page.go_back()
    expect(page).to_have_url(re.compile(r"\?task=text-generation$"))
    expect(page.locator("#catalog-query")).to_have_value("")
    page.click(".chip a")
    expect(page.locator(".entry")).to_have_count(4)


def test_pages_fit_a_small_screen(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for address in ("/catalog/", "/catalog/half_plus_two/", "/catalog/digits/", "/catalog/?q=zebra"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), address


def test_code_on_the_page_runs_as_it_stands(page: Page, live_portal: Portal, tmp_path: Path) -> None:
    page.goto("/catalog/half_plus_two/")
    code = page.locator("#use pre[data-lang=bash] code").first.inner_text()
    answer = subprocess.run(
        ["sh", "-c", code], env={**os.environ, "DAYBOOK_API_KEY": live_portal.key}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == {"predictions": [2.5, 3.0, 4.5]}
