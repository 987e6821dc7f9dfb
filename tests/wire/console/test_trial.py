"""A picture dropped at the console of a fresh node without a PACS, to its result on the page; patients."""

import io
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from dicom_node.base.store import views
from tests.browser_lab import IN_A_BROWSER, press
from tests.trial_lab import Site, film, fresh_site, screenshot_of_ultrasound

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Chromium) -> Iterator[Site]:
    with fresh_site(tmp_path_factory.mktemp("trial"), chromium) as site:
        yield site


def test_a_film_has_its_result_beside_it(site: Site) -> None:
    site.drop("DX PA", "film.png", film())
    shown = site.page.inner_text("main")
    assert "AI: " in shown
    assert "Not for diagnostic use" in shown
    assert "Three highest scores" in shown
    assert "One of the three is right in 75 % (67 % to 82 %) of films with a finding." in shown
    assert "Cardiothoracic ratio" in shown
    assert "Taken as a film, view PA." in shown
    expect(site.page.locator(".viewer .mark polyline")).not_to_have_count(0)
    site.page.click("button:text-is('Measure')")
    assert site.complaints == []


def test_a_film_that_is_dropped_first_waits_for_what_it_shows(site: Site) -> None:
    page = site.page
    page.goto("/try")
    page.set_input_files("input[name=files]", {"name": "film.png", "mimeType": "", "buffer": film()})
    assert page.url.endswith("/try")
    page.check("input[name=Shows][value='DX AP']")
    page.wait_for_selector("h2:text-is('Result')")
    shown = page.inner_text("main")
    assert "Taken as a film, view AP." in shown
    assert "Cardiothoracic ratio: not measured: projection AP, not PA." in shown
    assert site.complaints == []


def test_a_film_that_is_called_ultrasound_is_refused(site: Site) -> None:
    site.drop("US", "film.png", film())
    shown = site.page.inner_text("main")
    assert "Why not: the pixels look like a chest film, and it was sent as US: send it as that." in shown
    assert "Nothing was assessed, so nothing is excluded." in shown


def test_an_ultrasound_picture_is_seen_before_and_after(site: Site) -> None:
    site.drop("US", "screen.png", screenshot_of_ultrasound())
    assert "Burned-in annotation" in site.page.inner_text("main")
    over = site.page.locator(".viewer image.over")
    expect(over).to_have_count(1)
    for place, left in (("0", 640), ("100", 0)):  # at "Before" nothing of it is shown cleaned
        site.page.fill(".compare input", place)
        assert float(site.page.get_attribute(".viewer clipPath rect", "x") or -1) == left
        assert float(site.page.get_attribute(".viewer .divide", "x1") or -1) == left
    assert site.complaints == []


def test_what_is_no_film_is_refused_in_words_and_nothing_is_sent(site: Site) -> None:
    flat = io.BytesIO()
    Image.new("L", (512, 512), 90).save(flat, "PNG")
    site.drop("DX", "grey.png", flat.getvalue())
    assert "Why not: " in site.page.inner_text("main")
    assert "Nothing was assessed, so nothing is excluded." in site.page.inner_text("main")
    with site.node.reading() as session:
        assert views.list_deliveries(session) == []


def test_a_file_that_cannot_be_tried_is_refused_and_the_next_one_is_taken(site: Site) -> None:
    site.page.goto("/try")
    site.page.check("input[name=Shows][value=DX]")
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
    assert [said for said in site.complaints if "400 (Bad Request)" not in said] == []
    site.complaints.clear()


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
    page.click("summary:text-is('Remove')")
    press(page, "Remove the registration")
    expect(page.locator("text=Registered patients")).to_have_count(1)
    expect(page.locator("section a:text-is('P-9')")).to_have_count(0)
    assert site.complaints == []
