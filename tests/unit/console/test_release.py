"""Releasing a study from quarantine by page."""

from __future__ import annotations

import re

from dicom_console.forms import choices
from dicom_node.model.lifecycle import StudyState
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed


def other_pixels(image: object) -> object:
    return changed(image, PixelData=bytes(255 - value for value in image.PixelData))  # type: ignore[attr-defined]


def arrive(inbox: Inbox, *versions: object) -> None:
    for place, version in enumerate(versions):
        inbox.receive(version, calling=("MODALITY", "QUICK")[place])
    inbox.settle()


def test_a_person_chooses_between_two_versions_of_an_image(console: ConsoleLab, inbox: Inbox) -> None:
    image = ultrasound("one")
    arrive(inbox, image, other_pixels(image))
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/studies/1")
    assert 'href="/studies/1/versions"' in browser.text
    browser.get("/studies/1/versions")
    assert re.findall(r"<dd>(MODALITY|QUICK)</dd>", browser.text) == ["MODALITY", "QUICK"]
    seen = browser.field("as_of")
    pictures = re.findall(r'src="(/studies/received/[^"]+)"', browser.text)
    shown = [(browser.get(address), browser.content)[1] for address in pictures]
    assert len(set(shown)) == len(shown) == 2
    assert browser.post("/studies/1/release") == 409
    assert "choose first" in browser.text
    assert browser.post("/studies/1/release", take1="2") == 409  # nobody says what was looked at
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 303
    assert inbox.study(image.StudyInstanceUID).state is StudyState.RECEIVING
    assert inbox.file_of(image.SOPInstanceUID).PixelData != image.PixelData
    assert console.audited("study_released") == [{"taken": [2]}]
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 409


def test_what_came_after_the_page_was_made_is_not_taken_by_its_number(
    console: ConsoleLab, inbox: Inbox
) -> None:
    image = ultrasound("one")
    arrive(inbox, image, other_pixels(image))
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/studies/1/versions")
    stale = browser.field("as_of")
    inbox.receive(changed(ultrasound("one", number=2), PatientName="Else^Some", PatientID="P-2"))
    inbox.settle()
    assert browser.post("/studies/1/release", take1="2", as_of=stale) == 409
    assert "something came for the study meanwhile" in browser.text
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED
    assert inbox.study(image.StudyInstanceUID).patient_id == "ID-one"
    assert console.audited("study_released") == []


def test_of_two_patients_one_is_taken_and_answers_about_the_other_do_not_count(
    console: ConsoleLab, inbox: Inbox
) -> None:
    image = ultrasound("one")
    arrive(inbox, image, changed(other_pixels(image), PatientName="Else^Some", PatientID="P-2"))  # type: ignore[arg-type]
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/studies/1/versions")
    assert "Which patient is right?" in browser.text
    assert "Some" in browser.text
    takes = {"take1": "1", "take3": "9-2", "take9": "junk"}
    assert browser.post("/studies/1/release", **takes, as_of=browser.field("as_of")) == 303
    assert inbox.study(image.StudyInstanceUID).patient_id == "ID-one"
    assert "Else" not in str(console.audited("study_released"))


def test_a_study_with_a_faulty_object_needs_no_choice(console: ConsoleLab, inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image, changed(ultrasound("one", number=2), Rows=0))
    inbox.settle()
    browser = console.browser(UserRole.OPERATOR)
    assert browser.get("/studies/1/versions") == 200
    assert "There is nothing to choose" in browser.text
    assert browser.post("/studies/1/release") == 303
    assert inbox.study(image.StudyInstanceUID).state is StudyState.RECEIVING


def test_a_study_that_is_not_in_quarantine_says_so(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"))
    browser = console.browser(UserRole.OPERATOR)
    assert browser.get("/studies/1/versions") == 200
    assert "nothing to release" in browser.text
    assert browser.post("/studies/1/release") == 409
    assert browser.get("/studies/9/versions") == 404


def test_answers_of_the_other_patient_are_left_out() -> None:
    assert choices.applicable(["1", "3-1", "5-2", "junk", "7-", "-1", "9" * 40]) == [1, 3]
