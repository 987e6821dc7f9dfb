"""A real browser at the console: what a page does with what came, files to send, keys alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from dicom_node.model.roles import UserRole
from tests.browser_lab import debian_chromium, served, signed_in
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed, small_xray
from tests.waiting import wait_until

pytestmark = pytest.mark.debian("chromium")


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    """Two studies; their jobs wait, since no worker runs."""
    inbox = Inbox(tmp_path_factory.mktemp("console"))
    inbox.receive(changed(ultrasound("one"), PatientName="<b>Bold</b>"), small_xray("two"))
    inbox.settle()
    yield inbox
    inbox.close()


@pytest.fixture(scope="module")
def address(inbox: Inbox) -> Iterator[str]:
    with served(inbox) as place:
        yield place


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with debian_chromium() as browser:
        yield browser


def test_pictures_are_shown_and_names_are_text(chromium: Chromium, address: str) -> None:
    page, _ = signed_in(chromium, address, UserRole.VIEWER)
    page.goto(f"{address}/studies/1")
    assert page.inner_text("h1") == "<b>Bold</b>"
    wait_until(lambda: page.evaluate("document.querySelector('figure img').naturalWidth") == 240, 60)
    page.click("figure a")
    page.evaluate("document.querySelector('.received').decode()")
    assert page.locator("svg.stage").get_attribute("viewBox") == "0 0 240 180"


def test_an_upload_shows_what_became_of_each_file(
    chromium: Chromium, address: str, tmp_path: Path, inbox: Inbox
) -> None:
    ultrasound("three").save_as(tmp_path / "three.dcm", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    data = io.BytesIO()
    Image.new("L", (40, 30), 90).save(data, "PNG")
    (tmp_path / "scan.png").write_bytes(data.getvalue())
    page, complaints = signed_in(chromium, address, UserRole.OPERATOR)
    page.click("nav >> text=Upload")
    files = [tmp_path / name for name in ("three.dcm", "notes.txt", "scan.png")]
    page.set_input_files("input[name=files]", files)
    page.evaluate("document.getElementById('upload').dataset.largest = 1000")
    page.click("main button:has-text('Send')")
    page.wait_for_selector("#problem >> text=That is larger than 2.0 GiB: send it in parts")
    page.evaluate("document.getElementById('upload').dataset.largest = 2 ** 31")
    page.fill("input[name=PatientID]", "P-9")
    page.fill("input[name=PatientName]", "Doe^Jane")
    page.click("main button:has-text('Send')")
    page.wait_for_selector("text=2 objects taken, 1 refused")
    page.wait_for_selector("text=Objects still being read: 2 of 2")
    inbox.settle()
    page.wait_for_selector("#upload-now a:text-is('P-9')")
    expect(page.locator("#upload-now tbody tr")).to_have_count(2)
    expect(page.locator("td:text-is('notes.txt')")).to_have_count(1)
    assert complaints == []
    page.click("nav >> text=Studies")
    expect(page.locator("tbody tr")).to_have_count(4)


def test_keys_alone_reach_everything(chromium: Chromium, address: str) -> None:
    page, _ = signed_in(chromium, address, UserRole.VIEWER)
    page.goto(address)
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText"))
        shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert shown != "none", reached
        if reached[-1].endswith("studies failed"):
            break
    assert reached[:3] == ["To the content", "DICOM AI node", "Overview"]
    assert reached[-1].endswith("studies failed")
