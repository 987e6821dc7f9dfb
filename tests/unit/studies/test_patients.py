"""One patient per study: a contradiction is a conflict, a corrected name a revision."""

from __future__ import annotations

import pytest

from dicom_node.dicom.identity import Patient
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.store import deliveries
from dicom_node.store.tables import Job, Result
from dicom_node.store.transitions import utc_now
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import (
    changed,
)


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
        result = Result(
            study_id=job.study_id, job_id=job.id, kind=ResultKind.SR, sop_instance_uid="1.2.9",
            sop_class_uid="1.2", series_instance_uid="1.2.8", path="results/x", sha256="", bytes=1,
            created_at=utc_now(),
        )  # fmt: skip
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
    old, new = (Patient.of("", "", "Test", date, "") for date in ("1970.01.01", "19700101"))
    assert not old.contradicts(new)


def test_a_name_corrected_in_part_of_a_study_is_a_conflict_when_it_is_quiet(inbox: Inbox) -> None:
    images = [ultrasound("part", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle()
    inbox.receive(changed(images[0], PatientName="Corrected^Name"))
    inbox.settle()
    assert inbox.study(images[0].StudyInstanceUID).state is StudyState.QUARANTINED
