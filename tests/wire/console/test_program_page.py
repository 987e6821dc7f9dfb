"""An admin tries a rule's program on a study in a browser, and sees verdicts and pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import Delivery, Result
from tests import ct_lab
from tests.browser_lab import IN_A_BROWSER, served_app, signed_in
from tests.console_lab import ConsoleLab, console_of
from tests.inbox_lab import Inbox
from tests.unit.people.test_program_trial import DERIVES

pytestmark = IN_A_BROWSER

SLICES = ct_lab.ct_slices("one", 2, side=64)
# The second object is of another patient: both are refused.
MIXED = DERIVES.replace("CHANGE", "if file.name == '2.dcm': image.PatientID = 'SOMEBODY'")
FAILS = "import sys; sys.exit('no weights here')"


@dataclass
class Site:
    """A console, with an admin's browser at it."""

    inbox: Inbox
    lab: ConsoleLab
    page: Page
    complaints: list[str]
    script: Path

    def run(self, code: str) -> str:
        """Try a program of these lines as a person does; returns the text of the page at its end."""
        self.script.write_text(code)
        self.page.goto("/programs")
        self.page.click("button:text-is('Try')")
        self.page.wait_for_selector("h2:text-is('Result'), p.problem", timeout=120_000)
        return self.page.inner_text("main")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Chromium) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("programs")
    script = ct_lab.program(folder, "")
    inbox = Inbox(folder / "node", ct_lab.configuration(script))
    inbox.settle(*SLICES)
    lab = console_of(inbox)
    with served_app(lab) as address:
        page, complaints = signed_in(chromium, address, UserRole.ADMIN, base_url=address)
        yield Site(inbox, lab, page, complaints, script)
        page.context.close()
    inbox.close()


def test_objects_that_would_be_sent_are_shown_with_their_pictures(site: Site) -> None:
    shown = site.run(DERIVES.replace("CHANGE", ""))
    assert shown.count("would be sent") == 2
    assert "repaired in 2 objects: " in shown
    pictures = site.page.locator("td img")
    expect(pictures).to_have_count(2)
    for picture in pictures.all():
        assert picture.evaluate("picture => picture.naturalWidth") == 64
    assert site.inbox.rows(Result) == []
    assert site.inbox.rows(Delivery) == []
    assert site.complaints == []


def test_an_object_of_another_patient_is_refused_with_the_reason(site: Site) -> None:
    shown = site.run(MIXED)
    assert "of another patient" in shown
    assert "SOMEBODY" not in shown
    assert shown.count("refused") >= 2
    expect(site.page.locator("td img")).to_have_count(0)


def test_a_program_that_fails_shows_what_it_printed(site: Site) -> None:
    shown = site.run(FAILS)
    assert "the program ended with 1" in shown
    site.page.click("summary")
    assert "no weights here" in site.page.inner_text("pre")


def test_the_page_of_a_trial_is_for_admins_and_its_sight_is_noted(site: Site) -> None:
    place = site.page.url.removeprefix(site.page.url.partition("/programs")[0])
    assert site.lab.browser(UserRole.OPERATOR).get(place) == 403
    assert site.lab.audited("study_seen")
