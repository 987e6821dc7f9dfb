"""The page of a study leads to the viewers that the site names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dicom_node.config.settings import ConsoleSettings
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed

OHIF = "https://ohif.example.org/viewer?StudyInstanceUIDs={study}"
WEASIS = "weasis://$dicom:rs --request accession={accession}"


def page(inbox: Inbox, accession: str) -> str:
    inbox.receive(changed(ultrasound("one"), AccessionNumber=accession))
    inbox.settle()
    own = ConsoleSettings(open_in={"OHIF": OHIF, "Weasis": WEASIS})
    settings = inbox.settings.model_copy(update={"console": own})
    browser = ConsoleLab(settings, inbox.database).browser(UserRole.VIEWER)
    browser.get("/studies/1")
    return browser.text


@pytest.mark.usefixtures("console")
def test_each_viewer_is_a_link_with_the_numbers_of_the_study(inbox: Inbox) -> None:
    shown = page(inbox, "A 1&x")
    uid = ultrasound("one").StudyInstanceUID
    assert f'href="https://ohif.example.org/viewer?StudyInstanceUIDs={uid}"' in shown
    assert "accession=A%201%26x" in shown and "Open in Weasis" in shown
    assert 'rel="noopener noreferrer"' in shown


@pytest.mark.usefixtures("console")
def test_a_study_without_the_number_has_no_link(inbox: Inbox) -> None:
    shown = page(inbox, "")
    assert "Open in OHIF" in shown and "Open in Weasis" not in shown


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("javascript://%0aalert(1){study}", "must begin with one of https://"),
        ("//viewer/{study}", "must begin with one of"),
        ("https://viewer.example.org/", "must have {study}"),
        ("https://viewer.example.org/{study}?patient={name}", "only {study} and {accession}"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_in_words(address: str, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy.replace("{", r"\{").replace("}", r"\}")):
        ConsoleSettings(open_in={"PACS": address})
