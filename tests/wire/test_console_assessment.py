"""Results that wait for an assessment, in a real browser: by keys, in the dark, on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.model.roles import UserRole
from tests.browser_lab import debian_chromium, served, signed_in
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import work

pytestmark = pytest.mark.debian("chromium")
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}


def test_a_reader_rejects_a_finding_then_the_results_and_thinks_again(tmp_path: Path) -> None:
    made = illustrated()
    made["rules"][0]["assess_first"] = True
    node = Inbox(tmp_path / "var", made)
    node.receive(ultrasound("one"))
    node.settle()
    work(node)
    with served(node) as address, debian_chromium() as chromium:
        page, complaints = signed_in(chromium, address, UserRole.READER, base_url=address)
        page.goto("/studies/1")
        page.focus("#findings summary >> nth=0")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.type("a rib")
        page.screenshot(path=tmp_path / "held.png", full_page=True)
        page.click("#findings button[value=rejected]")
        page.wait_for_selector("#findings >> text=reader: a rib")
        page.click("#held summary")
        page.fill("#held input[name=because]", "see the finding")
        page.click("#held details button")
        page.wait_for_selector("text=The results were rejected")
        page.screenshot(path=tmp_path / "rejected.png", full_page=True)
        page.click("#findings button[value=accepted] >> nth=0")
        page.wait_for_selector("#findings .state.confirmed")
        page.click("text=Accept and send after all")
        page.wait_for_selector("h1 ~ .state.delivering")
        viewer, more = signed_in(chromium, address, UserRole.VIEWER, base_url=address, **PHONE)
        viewer.goto("/studies/1")
        viewer.screenshot(path=tmp_path / "phone.png", full_page=True)
        assert viewer.evaluate("document.documentElement.scrollWidth") <= 390
        assert viewer.locator("#findings button").count() == 0
        assert complaints == more == []
    node.close()
