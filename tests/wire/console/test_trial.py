"""A picture dropped at the console of a fresh node without a PACS, to its result on the page; patients."""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import tomlkit
from PIL import Image
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from ai_pipeline.images.decode import open_dicom
from dicom_node.base.config import loading
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store import views
from dicom_node.people import users
from dicom_node.people.demo import DRAWN_FILM
from dicom_node.people.new_node import create_node
from tests.browser_lab import IN_A_BROWSER, press, signed_in
from tests.console_lab import PASSWORD
from tests.node_lab import Node, running
from tests.ports import free_port
from tests.ultrasound_lab import picture

pytestmark = IN_A_BROWSER

HERE = """
[spool]
minimum_free_mib = 1
[workers]
processes = 1
[console]
enabled = true
port = {port}
"""


@dataclass(frozen=True)
class Site:
    """A node with its console, and an operator's browser at it."""

    node: Node
    page: Page
    complaints: list[str]

    def drop(self, kind: str, name: str, data: bytes, view: str = "") -> float:
        """Choose what the picture shows and drop it; returns the seconds until its result is on the page."""
        self.page.goto("/try")
        self.page.check(f"input[name=kind][value={kind}]")
        self.page.select_option("select[name=View]", view)
        began = time.monotonic()
        self.page.set_input_files("input[name=files]", {"name": name, "mimeType": "", "buffer": data})
        self.page.wait_for_selector("h2:text-is('Result')")
        return time.monotonic() - began


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Chromium) -> Iterator[Site]:
    """A fresh node with the rules that ``dicom-node init`` writes for a node without a PACS."""
    folder, port = tmp_path_factory.mktemp("trial"), free_port()
    made, _ = create_node({"admin": "anna", "data_dir": str(folder / "made")}, folder / "etc", PASSWORD)
    rules = tomlkit.dumps({"rules": tomlkit.parse(made.read_text())["rules"]})
    node = Node(folder / "node", HERE.format(port=port) + rules)
    with running(node):
        settings = loading.load([node.config])
        users.add_user(settings, UserRole.OPERATOR.value, UserRole.OPERATOR, PASSWORD)
        address = f"http://127.0.0.1:{port}"
        page, complaints = signed_in(chromium, address, UserRole.OPERATOR, base_url=address)
        yield Site(node, page, complaints)
        page.context.close()


def film() -> bytes:
    """The drawn film as a PNG."""
    data = io.BytesIO()
    Image.fromarray(open_dicom(DRAWN_FILM).display()).save(data, "PNG")
    return data.getvalue()


def screenshot_of_ultrasound() -> bytes:
    """An ultrasound picture with a name, a date and a number burned in."""
    data = io.BytesIO()
    Image.fromarray(picture(7, (480, 640), colour=True)).save(data, "PNG")
    return data.getvalue()


def test_a_film_has_its_result_beside_it(site: Site) -> None:
    site.drop("chest", "film.png", film(), "PA")
    shown = site.page.inner_text("main")
    assert "AI: " in shown
    assert "Not for diagnostic use" in shown
    assert "Three highest scores" in shown
    assert "One of the three is right in 75 % (67 % to 82 %) of films with a finding." in shown
    assert "Cardiothoracic ratio" in shown
    expect(site.page.locator(".viewer .mark polyline")).not_to_have_count(0)
    site.page.click("button:text-is('Measure')")
    assert site.complaints == []


def test_an_ultrasound_picture_is_seen_before_and_after(site: Site) -> None:
    site.drop("ultrasound", "screen.png", screenshot_of_ultrasound())
    assert "Burned-in annotation" in site.page.inner_text("main")
    over = site.page.locator(".viewer image.over")
    expect(over).to_have_count(1)
    for place, left in (("0", 0), ("100", 640)):
        site.page.fill(".compare input", place)
        assert float(site.page.get_attribute(".viewer clipPath rect", "x") or -1) == left
    assert site.complaints == []


def test_what_is_no_film_is_refused_in_words_and_nothing_is_sent(site: Site) -> None:
    flat = io.BytesIO()
    Image.new("L", (512, 512), 90).save(flat, "PNG")
    site.drop("chest", "grey.png", flat.getvalue())
    assert "Why not: " in site.page.inner_text("main")
    assert "Nothing was assessed, so nothing is excluded." in site.page.inner_text("main")
    assert site.node.read(views.list_deliveries) == []


def test_a_file_that_cannot_be_tried_is_refused_and_the_next_one_is_taken(site: Site) -> None:
    site.page.goto("/try")
    site.page.check("input[name=kind][value=chest]")
    site.page.set_input_files("input[name=files]", {"name": "a.png", "mimeType": "", "buffer": film()[:5000]})
    site.page.wait_for_selector("#problem:has-text('truncated')")
    site.page.evaluate(
        """data => {
          const files = new DataTransfer();
          files.items.add(new File([Uint8Array.from(data)], "film.png"));
          document.getElementById("upload").dispatchEvent(
            new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: files }));
        }""",
        list(film()),
    )
    site.page.wait_for_selector("h2:text-is('Result')")


def test_a_patient_is_registered_chosen_seen_and_removed(site: Site) -> None:
    page = site.page
    page.goto("/patients")
    page.click("summary:text-is('Register a patient')")
    for name, text in (
        ("PatientID", "P-9"),
        ("PatientName", "Müller^Änne"),
        ("PatientBirthDate", "1960-01-02"),
    ):
        page.fill(f"details[open] input[name={name}]", text)
    press(page, "Register")
    expect(page.locator("h1")).to_have_text("Müller, Änne")
    page.click("a:text-is('Upload pictures')")
    page.select_option("select[name=Modality]", "DX")
    page.set_input_files("input[name=files]", {"name": "film.png", "mimeType": "", "buffer": film()})
    page.click("main button:text-is('Send')")
    page.wait_for_selector("text=All of it came to its end")
    page.goto("/patients")
    page.click("section a:text-is('P-9')")
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    press(page, "Remove the registration")
    expect(page.locator("text=Registered patients")).to_have_count(1)
    expect(page.locator("section a:text-is('P-9')")).to_have_count(0)
    assert site.complaints == []
