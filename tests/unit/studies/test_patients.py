"""One patient per study: a contradiction is a conflict, a corrected name a revision."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from dicom_node.dicom.identity import Patient
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.store import deliveries
from dicom_node.store.tables import Instance, Job, ReceivedObject
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_result
from tests.unit.inbox.objects import changed


def test_a_corrected_name_is_a_revision_whose_results_are_issued_again(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle()
    inbox.receive(changed(image, PatientName="Corrected^Name"))
    inbox.index()
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.RECEIVING, 2)
    assert inbox.outcomes() == ["new", "revision"]
    assert inbox.file_of(image.SOPInstanceUID).PatientName == "Corrected^Name"
    inbox.assemble(seconds=300)
    assert [(job.study_revision, job.state) for job in inbox.jobs()] == [
        (1, JobState.CANCELLED),
        (2, JobState.QUEUED),
    ]


def test_a_corrected_name_withdraws_results_that_did_not_leave_yet(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle()
    [job] = inbox.jobs()
    with inbox.database.write() as session:
        session.get_one(Job, job.id).state = JobState.SUCCEEDED
        result = a_result(job)
        session.add(result)
        session.flush()
        delivery_id = deliveries.add(session, result, "pacs").id
    inbox.receive(changed(image, PatientName="Corrected^Name"))
    inbox.index()
    with inbox.database.read() as session:
        delivery = session.get_one(deliveries.Delivery, delivery_id)
        assert delivery.state is DeliveryState.CANCELLED
        assert delivery.withdrawn
        assert delivery.reason == "withdrawn: superseded: patient or study data changed"


def test_two_patients_in_one_study_are_a_conflict(inbox: Inbox) -> None:
    one, other = ultrasound("mixed", number=1), ultrasound("mixed", number=2)
    other.PatientID = "ID-somebody-else"
    inbox.receive(one, other)
    inbox.settle()
    study = inbox.study(one.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED and "two patients" in study.reason
    assert inbox.jobs() == []


def test_the_same_patient_id_of_another_issuer_is_another_patient(inbox: Inbox) -> None:
    one, other = ultrasound("mixed", number=1), ultrasound("mixed", number=2)
    other.IssuerOfPatientID = "ANOTHER HOSPITAL"
    inbox.receive(one, other)
    inbox.index()
    assert inbox.study(one.StudyInstanceUID).state is StudyState.QUARANTINED


def test_a_whole_study_sent_again_under_the_right_patient_id_is_no_conflict(inbox: Inbox) -> None:
    images = [ultrasound("merged", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle()
    inbox.receive(*(changed(image, PatientID="THE-RIGHT-ONE") for image in images))
    inbox.settle()
    study = inbox.study(images[0].StudyInstanceUID)
    assert (study.state, study.patient_id, study.revision) == (StudyState.QUEUED, "THE-RIGHT-ONE", 2)


def test_a_study_sent_again_in_part_under_another_patient_is_quarantined_when_quiet(inbox: Inbox) -> None:
    images = [ultrasound("merged", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle()
    inbox.receive(changed(images[0], PatientID="THE-RIGHT-ONE"))
    inbox.settle()
    assert inbox.study(images[0].StudyInstanceUID).state is StudyState.QUARANTINED


def test_a_korean_name_with_code_extensions_equals_the_same_name_in_utf_8(inbox: Inbox) -> None:
    image = ultrasound("korean")
    image.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    inbox.receive(image)
    legacy = changed(image, SpecificCharacterSet=["", "ISO 2022 IR 149"])
    legacy.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    inbox.receive(legacy)
    inbox.index()
    assert inbox.outcomes() == ["new", "duplicate"]


DIFFERING = [
    {"PatientName": "Somebody^Else"},
    {"PatientBirthDate": "19010203"},
    {"PatientSex": "M"},
    {"PatientID": "ANOTHER"},
    {"PatientID": ""},
]


@pytest.mark.parametrize("values", DIFFERING, ids=str)
@pytest.mark.parametrize("patient_id", ["", "ONE"])
def test_images_that_contradict_each_other_on_the_patient_are_a_conflict(
    inbox: Inbox, patient_id: str, values: dict[str, str]
) -> None:
    said = {"PatientID": patient_id, "PatientSex": "F", "PatientBirthDate": "19700101"}
    one, other = (changed(ultrasound("mixed", number=number), **said) for number in (1, 2))
    inbox.receive(one, changed(other, **values))
    inbox.settle()
    alike = values == {"PatientID": patient_id}
    study = inbox.study(one.StudyInstanceUID)
    assert study.state is (StudyState.QUEUED if alike else StudyState.QUARANTINED)
    assert alike or "two patients" in study.reason


@pytest.mark.parametrize(
    "values",
    [
        {"PatientName": "TEST^mixed^^^"},
        {"PatientName": " test  ^ Mixed"},
        {"PatientName": "Test^mixed=洪^吉洞=홍^길동"},
        {"PatientName": "Ｔｅｓｔ^mixed"},
        {"PatientName": "", "PatientBirthDate": "", "PatientSex": ""},
    ],
    ids=str,
)
def test_the_same_patient_written_otherwise_or_in_part_is_no_conflict(
    inbox: Inbox, values: dict[str, str]
) -> None:
    images = [
        changed(ultrasound("mixed", number=number), PatientBirthDate="19700101", PatientSex="F")
        for number in (1, 2)
    ]
    inbox.receive(images[0], changed(images[1], SpecificCharacterSet="ISO_IR 192", **values))
    inbox.settle()
    assert inbox.study(images[0].StudyInstanceUID).state is StudyState.QUEUED


def test_the_date_of_an_old_device_is_the_same_date() -> None:
    old, new = (Patient.from_values("", "", "Test", date, "") for date in ("1970.01.01", "19700101"))
    assert not old.contradicts(new)


def test_a_name_corrected_in_part_of_a_study_is_a_conflict_when_it_is_quiet(inbox: Inbox) -> None:
    images = [ultrasound("part", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle()
    inbox.receive(changed(images[0], PatientName="Corrected^Name"))
    inbox.settle()
    assert inbox.study(images[0].StudyInstanceUID).state is StudyState.QUARANTINED


WHOLE = {"PatientID": "ID-1", "IssuerOfPatientID": "HERE", "PatientName": "Test^One", "PatientSex": "F"}
NOBODY = {
    "PatientID": "",
    "IssuerOfPatientID": "",
    "PatientName": "",
    "PatientBirthDate": "",
    "PatientSex": "",
}
COPIES = [  # in force before, changed in the copy, from its sender, from another one
    (WHOLE, {"PatientID": "ID-2"}, "revision", "conflict"),
    (WHOLE, {"IssuerOfPatientID": "THERE"}, "revision", "conflict"),
    (WHOLE, {"PatientName": "Right^Name"}, "revision", "conflict"),
    (WHOLE, {"PatientSex": "M"}, "revision", "conflict"),
    (WHOLE, {"PatientName": "Right^Name", "PatientSex": ""}, "conflict", "conflict"),
    (WHOLE, {"PatientID": "ID-2", "IssuerOfPatientID": "", "PatientName": ""}, "conflict", "conflict"),
    (WHOLE, {"PatientID": "", "PatientName": "Right^Name"}, "conflict", "conflict"),
    (WHOLE, {"IssuerOfPatientID": "", "PatientName": "Right^Name"}, "conflict", "conflict"),
    (WHOLE, NOBODY, "set_aside", "set_aside"),
    (WHOLE, {"PatientID": ""}, "set_aside", "set_aside"),
    (WHOLE, {"IssuerOfPatientID": ""}, "set_aside", "set_aside"),
    (WHOLE, {"PatientBirthDate": "", "StudyDescription": "Another"}, "set_aside", "set_aside"),
    (WHOLE, {"StudyDescription": "Another"}, "revision", "set_aside"),
    (WHOLE, {"AccessionNumber": "A-2"}, "revision", "set_aside"),
    (WHOLE, {"ImageComments": "put in order"}, "duplicate", "duplicate"),
    (NOBODY, WHOLE, "revision", "conflict"),
    (NOBODY, {"PatientName": "Test^One"}, "revision", "conflict"),
    (WHOLE | {"PatientID": ""}, {"PatientID": "ID-1"}, "revision", "conflict"),
    (WHOLE | {"PatientSex": ""}, {"PatientSex": "F"}, "revision", "set_aside"),
]


@pytest.mark.parametrize("sender", ["MODALITY", "QUICK"])
def test_what_a_copy_with_another_identity_is_depends_on_its_sender(inbox: Inbox, sender: str) -> None:
    first = [changed(ultrasound(f"copy{n}"), **before) for n, (before, *_) in enumerate(COPIES)]
    inbox.receive(*first)
    inbox.index()
    copies = [changed(ds, **values) for ds, (_, values, *_) in zip(first, COPIES, strict=True)]
    inbox.receive(*copies, calling=sender)
    inbox.index()
    wanted = [its if sender == "MODALITY" else others for _, _, its, others in COPIES]
    assert inbox.outcomes()[len(COPIES) :] == wanted
    for before, copy, outcome in zip(first, copies, wanted, strict=True):
        in_force = copy if outcome == "revision" else before
        assert inbox.file_of(before.SOPInstanceUID).PatientID == in_force.PatientID
        state = inbox.study(before.StudyInstanceUID).state
        assert (state is StudyState.QUARANTINED) is (outcome == "conflict")
    told = [row.fields["instance"] for row in inbox.events() if row.number == 2034]
    aside = [ds for ds, outcome in zip(first, wanted, strict=True) if outcome == "set_aside"]
    assert told == [ds.SOPInstanceUID for ds in aside]
    inbox.receive(*copies, calling=sender)  # what was decided is not decided again
    inbox.index()
    assert set(inbox.outcomes()[2 * len(COPIES) :]) == {"duplicate"}


def test_a_copy_without_identity_takes_neither_the_job_nor_the_place_of_a_purged_image(inbox: Inbox) -> None:
    image = ultrasound("purged")
    inbox.receive(image)
    inbox.settle()
    with inbox.database.write() as session:
        session.execute(update(Instance).values(purged=True))
        session.execute(update(ReceivedObject).values(purged=True))
    before = inbox.instance(image.SOPInstanceUID)
    for _ in range(2):
        inbox.receive(changed(image, **NOBODY), calling="QUICK")
        inbox.settle()
        after = inbox.instance(image.SOPInstanceUID)
        assert (after.path, after.purged, after.patient) == (before.path, True, before.patient)
    study = inbox.study(image.StudyInstanceUID)
    assert (study.revision, study.patient_id) == (1, image.PatientID)
    assert [job.state for job in inbox.jobs()] == [JobState.QUEUED]
    assert inbox.outcomes() == ["new", "set_aside", "duplicate"]


def test_an_image_of_nobody_in_a_study_of_somebody_is_a_conflict(inbox: Inbox) -> None:
    one = changed(ultrasound("somebody", number=1), PatientID="")
    other = changed(ultrasound("somebody", number=2), PatientID="", PatientName="")
    inbox.receive(one, other)
    inbox.settle()
    assert inbox.study(one.StudyInstanceUID).state is StudyState.QUARANTINED
