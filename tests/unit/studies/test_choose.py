"""A person's choices for a study in quarantine."""

import errno
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.actions.nouns import STUDIES
from dicom_node.base.errors import NotAllowedNow, StoreAway
from dicom_node.base.lifecycle import (
    StudyState,
)
from dicom_node.base.store import intake
from dicom_node.base.store.tables import (
    Result,
)
from dicom_node.people import studies
from dicom_node.receive.inspection import Inspector
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.unit.jobs.worker_lab import confirm, work
from tests.unit.receive.objects import (
    changed,
)
from tests.unit.studies.studies_lab import analysed_rerun, release
from tests.unit.studies.test_completion import images


def blank(image: Dataset) -> Dataset:
    return changed(image, PixelData=bytes(len(image.PixelData)))


def analysed(inbox: Inbox, uid: str) -> list[str]:
    """The images of the newest job of a study that was assembled."""
    assert inbox.study(uid).state is StudyState.QUEUED
    return inbox.jobs()[-1].source_uids


def test_a_study_with_a_choice_is_released_only_with_one_among_what_is_there_now(inbox: Inbox) -> None:
    image = ultrasound("choose")
    inbox.settle(image, blank(image))
    [as_of] = {row["as_of"] for row in studies.versions(inbox.settings, image.StudyInstanceUID)}
    for take, shown, says in (
        ((), None, f"image {image.SOPInstanceUID} 1 or 2"),
        ((1, 3), None, "--take 3 is no option"),
        ((2,), as_of, "something came"),
    ):
        if shown:
            inbox.settle(changed(ultrasound("choose", number=2), PatientName="Else^Some", PatientID="P-2"))
        with pytest.raises(NotAllowedNow, match=says):
            studies.release(inbox.settings, image.StudyInstanceUID, take, as_of=shown)
    assert inbox.study_of(image).state is StudyState.QUARANTINED


def test_a_version_that_the_disk_does_not_read_now_is_not_left_out(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ultrasound("unread")
    inbox.settle(image, blank(image))
    monkeypatch.setattr(Inspector, "inspect", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StoreAway, match="disk: input/output error"):
        studies.versions(inbox.settings, image.StudyInstanceUID)


@pytest.mark.parametrize("number", [1, 2])
def test_the_version_that_is_taken_counts(inbox: Inbox, number: int) -> None:
    image = ultrasound("pixels")
    other = changed(blank(image), Manufacturer="Other Maker")
    inbox.receive(image)
    inbox.settle(other, calling="QUICK")
    rows = studies.versions(inbox.settings, image.StudyInstanceUID)
    assert [(row["calling_ae"], row["counts"]) for row in rows] == [(["MODALITY"], True), (["QUICK"], False)]
    assert rows[1]["differs"]["Manufacturer"] == "Other Maker"
    assert set(rows[1]["differs"]) == {"Manufacturer", "PixelData"}
    release(inbox, image.StudyInstanceUID, number)
    assert analysed(inbox, image.StudyInstanceUID) == [image.SOPInstanceUID]
    assert inbox.file_of(image).PixelData == (image, other)[number - 1].PixelData
    for as_of in (None, rows[0]["as_of"]):  # nothing came since: the choice itself was the last
        with pytest.raises(NotAllowedNow, match="only one in quarantine"):
            studies.release(inbox.settings, image.StudyInstanceUID, as_of=as_of)


def test_what_says_who_the_patient_is_stands_apart_in_the_list_of_versions(inbox: Inbox) -> None:
    image = ultrasound("who")
    inbox.receive(image)
    inbox.settle(changed(blank(image), PatientBirthDate="19010101", PatientComments="other"))
    rows = studies.versions(inbox.settings, image.StudyInstanceUID)
    shown = {column.title: column for column in STUDIES.actions["versions"].columns}
    assert {shown["differs in who"].value(row) for row in rows} == {
        f"PatientBirthDate={image.PatientBirthDate}",
        "PatientBirthDate=19010101",
    }
    assert shown["and in"].value(rows[-1]) == "PatientComments=other"


@pytest.mark.parametrize("number", [1, 2])
def test_of_two_patients_all_objects_of_the_chosen_one_are_assembled(inbox: Inbox, number: int) -> None:
    other = {"PatientID": "X", "PatientName": "Y^Z"}
    ours = images("two", 2)
    theirs = [changed(ultrasound("two", number=number), **other) for number in (3, 4)]
    uid = ours[0].StudyInstanceUID
    inbox.settle(*ours, *theirs)
    rows = studies.versions(inbox.settings, uid)
    shown = [(row["choose"], row["objects"], row["counts"]) for row in rows]
    assert shown == [("patient", 2, True), ("patient", 2, False)]
    assert rows[1]["differs"] == other
    release(inbox, uid, number)
    chosen = (ours, theirs)[number - 1]
    assert analysed(inbox, uid) == [image.SOPInstanceUID for image in chosen]
    assert inbox.study(uid).patient_id == chosen[0].PatientID
    named = {keyword: chosen[0][keyword].value for keyword in other}
    inbox.settle(*ours, *theirs, changed(ultrasound("two", number=5), **named))
    assert len(analysed(inbox, uid)) == 3, "nothing that was decided is asked again"


@pytest.mark.parametrize("number", [1, 2])
def test_a_study_corrected_in_part_can_go_back_to_the_patient_who_came_first(
    inbox: Inbox, number: int
) -> None:
    sent = images("part", 2)
    uid, before, right = sent[0].StudyInstanceUID, sent[0].PatientID, "THE-RIGHT-ONE"
    inbox.settle(*sent)
    inbox.settle(changed(sent[0], PatientID=right))
    rows = studies.versions(inbox.settings, uid)
    [first] = [row["number"] for row in rows if row["differs"]["PatientID"] == before]
    release(inbox, uid, first if number == 1 else 3 - first)
    assert analysed(inbox, uid) == [image.SOPInstanceUID for image in (sent if number == 1 else sent[:1])]
    assert inbox.file_of(sent[0]).PatientID == (before if number == 1 else right)
    assert before not in str([row.fields for row in inbox.events()])


def test_another_patient_under_a_study_uid_whose_images_were_deleted_is_analysed_alone(node: Inbox) -> None:
    uid = analysed_rerun(node, "two weeks")
    confirm(node)
    node.write(intake.mark_purged, node.study(uid).id)
    other = changed(ultrasound("two weeks", number=2), PatientID="OTHER", AccessionNumber="A2")
    node.settle(other)
    release(node, uid)
    work(node)
    study = node.study(uid)
    assert (study.patient_id, study.accession_number) == ("OTHER", "A2")
    assert node.jobs()[-1].source_uids == [other.SOPInstanceUID]
    assert "No longer here" not in str(dcmread(node.folder / node.rows(Result)[-2].path))


def test_an_image_of_two_studies_stays_or_moves(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.index(image, changed(image, StudyInstanceUID="1.2.3.4"))
    rows = studies.versions(inbox.settings, "1.2.3.4")
    assert {row["stands_in"] for row in rows} == {"", image.StudyInstanceUID}
    [here] = [row["number"] for row in rows if not row["stands_in"]]
    release(inbox, "1.2.3.4", here)
    assert analysed(inbox, "1.2.3.4") == [image.SOPInstanceUID]
    release(inbox, image.StudyInstanceUID)
    assert inbox.study_of(image).state is StudyState.NOT_APPLICABLE


def test_a_study_with_a_faulty_object_is_released_without_it(inbox: Inbox) -> None:
    image, faulty = ultrasound("faulty"), changed(ultrasound("faulty", number=2), Rows=0)
    inbox.settle(image, faulty)
    assert studies.versions(inbox.settings, image.StudyInstanceUID) == []
    release(inbox, image.StudyInstanceUID)
    assert analysed(inbox, image.StudyInstanceUID) == [image.SOPInstanceUID]
    inbox.index(faulty)
    assert inbox.study_of(image).state is StudyState.QUEUED


def test_a_copy_that_says_less_is_no_version_to_choose_or_to_fall_back_to(inbox: Inbox) -> None:
    images = ultrasounds("part", 2)
    inbox.receive(*images)
    inbox.settle(changed(images[0], PatientName=""), calling="QUICK")
    inbox.settle(changed(images[0], PatientID="THE-RIGHT-ONE"))
    rows = studies.versions(inbox.settings, images[0].StudyInstanceUID)
    assert [row["choose"] for row in rows] == ["patient", "patient"]
    [first] = [row["number"] for row in rows if row["differs"]["PatientID"] == images[0].PatientID]
    release(inbox, images[0].StudyInstanceUID, first)
    assert inbox.file_of(images[0]).PatientName == images[0].PatientName
