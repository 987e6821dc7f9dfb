"""The page of an image in a real browser: marks on and off, before and after, frames; by keys alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from dicom_node.model.roles import UserRole
from tests.browser_lab import debian_chromium, served, signed_in
from tests.unit.console.illustrated import FRAMES, analysed

pytestmark = pytest.mark.debian("chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("viewer")
    with analysed(folder) as node, served(node) as address, debian_chromium() as chromium:
        page, complaints = signed_in(chromium, address, UserRole.VIEWER, base_url=address)
        yield page
        assert complaints == []


def test_marks_are_switched_off_by_a_key(page: Page) -> None:
    page.goto("/studies/images/1")
    mark = page.locator("g.mark")
    assert mark.is_visible()
    assert mark.locator("text").inner_html().startswith("Mark suspected, 0.75")
    page.focus(".marks-on")
    page.keyboard.press("Space")
    assert not mark.is_visible()


def test_the_slider_goes_from_before_to_after(page: Page) -> None:
    page.goto("/studies/images/1")
    page.click("text=Cleaned")
    page.wait_for_selector("#compare")  # shown by the page's script
    page.focus("#compare input")
    share = {}
    for key in ("Home", "End"):
        page.keyboard.press(key)
        share[key] = page.locator("#after rect").get_attribute("width")
    assert share == {"Home": "240", "End": "0"}


def test_frames_of_a_cine_come_by_keys_and_play(page: Page) -> None:
    page.goto("/studies/images/2?frame=2")
    assert page.locator("g.mark").is_visible()
    page.focus("#cine input")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"text=3 of {FRAMES}")
    assert page.locator("#received").get_attribute("href") == "/studies/images/2/3"
    assert not page.locator("g.mark").is_visible()
    page.click("text=Play")
    page.wait_for_selector(f"text=1 of {FRAMES}")
    page.click("text=Stop")


def test_without_script_links_do_the_same(page: Page) -> None:
    browser = page.context.browser
    assert browser is not None
    plain = browser.new_context(java_script_enabled=False, storage_state=page.context.storage_state())
    quiet = plain.new_page()
    quiet.goto(page.url.split("/studies")[0] + "/studies/images/2")
    quiet.click("text=Cleaned")
    quiet.click("text=Next frame")
    assert quiet.locator("h1").inner_text() == "Cleaned"
    assert quiet.locator("#over").get_attribute("href").endswith("/2")  # type: ignore[union-attr]
    assert not quiet.locator("#compare").is_visible()
    plain.close()
