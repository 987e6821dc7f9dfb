"""A person chooses between patients and versions; what is not taken stays aside and starts nothing again."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from dicom_node.errors import NotAllowedNow
from dicom_node.model.lifecycle import StudyState
from dicom_node.services import studies
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed


def blank(image: Dataset) -> Dataset:
    return changed(image, PixelData=bytes(len(image.PixelData)))


def release(inbox: Inbox, uid: str, *take: int) -> None:
    studies.release(inbox.settings, uid, take)
    inbox.settle()


def analysed(inbox: Inbox, uid: str) -> list[str]:
    """The images of the newest job of a study that was assembled."""
    assert inbox.study(uid).state is StudyState.QUEUED
    return inbox.jobs()[-1].source_uids


def test_a_study_with_a_choice_is_not_released_without_one(inbox: Inbox) -> None:
    image = ultrasound("choose")
    inbox.receive(image, blank(image))
    inbox.settle()
    with pytest.raises(NotAllowedNow, match=f"image {image.SOPInstanceUID} 1 or 2"):
        studies.release(inbox.settings, image.StudyInstanceUID)
    with pytest.raises(NotAllowedNow, match="--take 3 is no option"):
        studies.release(inbox.settings, image.StudyInstanceUID, [1, 3])
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED


def test_a_choice_among_what_was_shown_before_something_came_is_refused(inbox: Inbox) -> None:
    image = ultrasound("stale")
    inbox.receive(image, blank(image))
    inbox.settle()
    shown = {row["as_of"] for row in studies.versions(inbox.settings, image.StudyInstanceUID)}
    inbox.receive(changed(ultrasound("stale", number=2), PatientName="Else^Some", PatientID="P-2"))
    inbox.settle()
    [as_of] = shown
    with pytest.raises(NotAllowedNow, match="something came"):
        studies.release(inbox.settings, image.StudyInstanceUID, [2], as_of=as_of)
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED


@pytest.mark.parametrize("number", [1, 2])
def test_the_version_that_is_taken_counts(inbox: Inbox, number: int) -> None:
    image = ultrasound("pixels")
    other = blank(image)
    inbox.receive(image)
    inbox.receive(changed(other, Manufacturer="Other Maker"), calling="QUICK")
    inbox.settle()
    first, second = studies.versions(inbox.settings, image.StudyInstanceUID)
    assert (first["calling_ae"], first["counts"]) == (["MODALITY"], True)
    assert (second["calling_ae"], second["counts"]) == (["QUICK"], False)
    assert second["differs"]["Manufacturer"] == "Other Maker"
    assert set(second["differs"]) == {"Manufacturer", "PixelData"}
    release(inbox, image.StudyInstanceUID, number)
    assert analysed(inbox, image.StudyInstanceUID) == [image.SOPInstanceUID]
    expected = (image, other)[number - 1]
    assert inbox.file_of(image.SOPInstanceUID).PixelData == expected.PixelData
    for as_of in (None, first["as_of"]):  # nothing came since: the choice itself was the last
        with pytest.raises(NotAllowedNow, match="only one in quarantine"):
            studies.release(inbox.settings, image.StudyInstanceUID, as_of=as_of)


@pytest.mark.parametrize("number", [1, 2])
def test_of_two_patients_all_objects_of_the_chosen_one_are_assembled(inbox: Inbox, number: int) -> None:
    ours = [ultrasound("two", number=number) for number in (1, 2)]
    theirs = [
        changed(ultrasound("two", number=number), PatientID="X", PatientName="Y^Z") for number in (3, 4)
    ]
    inbox.receive(*ours, *theirs)
    inbox.settle()
    rows = studies.versions(inbox.settings, ours[0].StudyInstanceUID)
    assert [(row["choose"], row["objects"], row["counts"]) for row in rows] == [
        ("patient", 2, True),
        ("patient", 2, False),
    ]
    assert rows[1]["differs"] == {"PatientID": "X", "PatientName": "Y^Z"}
    release(inbox, ours[0].StudyInstanceUID, number)
    chosen = (ours, theirs)[number - 1]
    assert analysed(inbox, ours[0].StudyInstanceUID) == [image.SOPInstanceUID for image in chosen]
    assert inbox.study(ours[0].StudyInstanceUID).patient_id == chosen[0].PatientID
    late = changed(ultrasound("two", number=5), PatientID=chosen[0].PatientID)
    late.PatientName = chosen[0].PatientName
    inbox.receive(*ours, *theirs, late)  # nothing that was decided is asked again
    inbox.settle()
    assert len(analysed(inbox, ours[0].StudyInstanceUID)) == 3


@pytest.mark.parametrize("number", [1, 2])
def test_a_study_corrected_in_part_can_go_back_to_the_patient_who_came_first(
    inbox: Inbox, number: int
) -> None:
    images = [ultrasound("part", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle()
    inbox.receive(changed(images[0], PatientID="THE-RIGHT-ONE"))
    inbox.settle()
    rows = studies.versions(inbox.settings, images[0].StudyInstanceUID)
    [first] = [row["number"] for row in rows if row["differs"]["PatientID"] == images[0].PatientID]
    release(inbox, images[0].StudyInstanceUID, first if number == 1 else 3 - first)
    expected = images if number == 1 else images[:1]
    assert analysed(inbox, images[0].StudyInstanceUID) == [image.SOPInstanceUID for image in expected]
    assert inbox.file_of(images[0].SOPInstanceUID).PatientID == (
        images[0].PatientID if number == 1 else "THE-RIGHT-ONE"
    )


def test_an_image_of_two_studies_stays_or_moves(inbox: Inbox) -> None:
    image = ultrasound("one")
    moved = changed(image, StudyInstanceUID="1.2.3.4")
    inbox.receive(image, moved)
    inbox.index()
    rows = studies.versions(inbox.settings, "1.2.3.4")
    assert {row["stands_in"] for row in rows} == {"", image.StudyInstanceUID}
    [here] = [row["number"] for row in rows if not row["stands_in"]]
    release(inbox, "1.2.3.4", here)
    assert analysed(inbox, "1.2.3.4") == [image.SOPInstanceUID]
    release(inbox, image.StudyInstanceUID)
    assert inbox.study(image.StudyInstanceUID).state is StudyState.NOT_APPLICABLE


def test_an_image_that_was_released_in_one_study_cannot_move(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image, changed(image, StudyInstanceUID="1.2.3.4"))
    inbox.index()
    release(inbox, image.StudyInstanceUID)
    rows = studies.versions(inbox.settings, "1.2.3.4")
    [here] = [row["number"] for row in rows if not row["stands_in"]]
    with pytest.raises(NotAllowedNow, match="cannot be taken from there"):
        studies.release(inbox.settings, "1.2.3.4", [here])
    release(inbox, "1.2.3.4", 3 - here)
    assert inbox.study("1.2.3.4").state is StudyState.NOT_APPLICABLE


def test_a_study_with_a_faulty_object_is_released_without_it(inbox: Inbox) -> None:
    image, faulty = ultrasound("faulty"), changed(ultrasound("faulty", number=2), Rows=0)
    inbox.receive(image, faulty)
    inbox.settle()
    assert studies.versions(inbox.settings, image.StudyInstanceUID) == []
    release(inbox, image.StudyInstanceUID)
    assert analysed(inbox, image.StudyInstanceUID) == [image.SOPInstanceUID]
    inbox.receive(faulty)
    inbox.index()
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED


def test_no_event_of_a_choice_names_the_patient(inbox: Inbox) -> None:
    image = ultrasound("secretname")
    other = changed(ultrasound("secretname", number=2), PatientName="Somebody^Secretname", PatientID="")
    inbox.receive(image, other)
    inbox.settle()
    release(inbox, image.StudyInstanceUID, 1)
    rows = inbox.events()
    assert [row.fields["calling"] for row in rows if row.number == 2033] == ["MODALITY"]
    assert not [row.fields for row in rows if "secretname" in str(row.fields).lower()]


def test_a_study_without_uid_is_dismissed_by_its_release(inbox: Inbox) -> None:
    image = ultrasound("nameless")
    image.StudyInstanceUID = ""
    inbox.receive(image)
    inbox.settle()
    study = inbox.study(None)
    assert study.state is StudyState.QUARANTINED
    release(inbox, f"no-uid-{study.id}")
    assert inbox.study(None).state is StudyState.NOT_APPLICABLE


def test_a_copy_that_says_less_is_no_version_to_choose_or_to_fall_back_to(inbox: Inbox) -> None:
    images = [ultrasound("part", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.receive(changed(images[0], PatientName=""), calling="QUICK")
    inbox.settle()
    inbox.receive(changed(images[0], PatientID="THE-RIGHT-ONE"))
    inbox.settle()
    rows = studies.versions(inbox.settings, images[0].StudyInstanceUID)
    assert [row["choose"] for row in rows] == ["patient", "patient"]
    [first] = [row["number"] for row in rows if row["differs"]["PatientID"] == images[0].PatientID]
    release(inbox, images[0].StudyInstanceUID, first)
    assert inbox.file_of(images[0].SOPInstanceUID).PatientName == images[0].PatientName
