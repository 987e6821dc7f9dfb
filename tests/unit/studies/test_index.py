"""What is acknowledged is indexed once; the same UID again is judged by pixels, identity and the rest."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from sqlalchemy import update

from dicom_node.dicom.identity import digest
from dicom_node.events import by_number
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.store.tables import Instance, ReceivedObject
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_result
from tests.unit.inbox.objects import (
    changed,
    in_syntax,
    key_object,
    own_result,
    report,
    secondary_capture,
    small_xray,
)


def test_an_acknowledged_object_is_indexed_and_its_bytes_are_kept(inbox: Inbox) -> None:
    image = ultrasound("one")
    [name] = inbox.receive(image)
    sent = (inbox.folder / "spool" / "incoming" / f"{name}.dcm").read_bytes()
    assert inbox.index() == 1
    row = inbox.instance(image.SOPInstanceUID)
    kept = inbox.folder / row.path
    assert kept.read_bytes() == sent
    assert row.role is ObjectRole.SOURCE
    assert row.pixels_sha256 == hashlib.sha256(image.PixelData).hexdigest()
    assert inbox.spool.pending() == []
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.patient_id, study.revision) == (StudyState.RECEIVING, image.PatientID, 1)


def test_a_second_scan_indexes_nothing_again(inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"))
    assert inbox.index() == 1
    assert inbox.index() == 0
    assert inbox.outcomes() == ["new"]


def test_the_same_bytes_again_are_a_duplicate_and_kept_once(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image, image)
    inbox.settle()
    inbox.receive(image)
    inbox.settle()
    assert inbox.outcomes() == ["new", "duplicate", "duplicate"]
    assert len(list((inbox.folder / "spool").rglob("*.dcm"))) == 1
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 1)
    assert len(inbox.jobs()) == 1
    with inbox.database.read() as session:
        assert len({row.path for row in session.query(ReceivedObject)}) == 1


def test_other_bytes_of_the_same_image_are_kept_beside_it(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image, changed(image, SeriesDescription="another"), in_syntax(image, RLELossless))
    inbox.settle()
    assert inbox.outcomes() == ["new", "duplicate", "duplicate"]
    assert len(list((inbox.folder / "spool").rglob("*.dcm"))) == 3


def test_a_copy_whose_first_file_was_lost_is_kept(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.index()
    lost = inbox.folder / inbox.instance(image.SOPInstanceUID).path
    lost.unlink()
    inbox.receive(image)
    inbox.index()
    assert len(list((inbox.folder / "spool").rglob("*.dcm"))) == 1


def test_a_reason_names_the_object_its_sender_and_the_time(inbox: Inbox) -> None:
    image = changed(ultrasound("faulty"), Rows=0)
    inbox.receive(image)
    inbox.index()
    reason = inbox.study(image.StudyInstanceUID).reason
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert f"object {image.SOPInstanceUID} from MODALITY, {today}" in reason and "UTC" in reason


def test_another_description_is_a_duplicate(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.index()
    inbox.receive(changed(image, SeriesDescription="put in order by the PACS"))
    inbox.index()
    assert inbox.outcomes() == ["new", "duplicate"]


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_another_lossless_transfer_syntax_is_a_duplicate(inbox: Inbox, syntax: str) -> None:
    image = small_xray("one")
    inbox.receive(image)
    inbox.index()
    inbox.receive(in_syntax(image, syntax))
    inbox.index()
    assert inbox.outcomes() == ["new", "duplicate"]


def test_other_pixels_under_the_same_uid_are_a_conflict_and_nothing_is_overwritten(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle()
    other = changed(image, PixelData=bytes(len(image.PixelData)))
    [name] = inbox.receive(other)
    inbox.index()
    assert inbox.outcomes() == ["new", "conflict"]
    study = inbox.study(image.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED and "other pixels" in study.reason
    assert inbox.file_of(image.SOPInstanceUID).PixelData == image.PixelData
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()
    assert [job.state for job in inbox.jobs()] == [JobState.CANCELLED]


def test_another_study_uid_under_the_same_sop_uid_quarantines_both_studies(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image, changed(image, StudyInstanceUID="1.2.3.4"))
    inbox.index()
    assert inbox.outcomes() == ["new", "conflict"]
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED
    assert inbox.study("1.2.3.4").state is StudyState.QUARANTINED


def test_own_results_reports_and_captures_start_no_job_and_reopen_nothing(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle()
    before = inbox.study(image.StudyInstanceUID)
    inbox.receive(own_result(image), report(image), key_object(image), secondary_capture(image))
    inbox.settle()
    after = inbox.study(image.StudyInstanceUID)
    assert inbox.outcomes() == ["new"] * 5
    assert (after.state, after.revision) == (before.state, 1)
    assert len(inbox.jobs()) == 1
    roles = [inbox.instance(ds.SOPInstanceUID).role for ds in (own_result(image), report(image))]
    assert roles == [ObjectRole.OWN, ObjectRole.NON_SOURCE]
    assert 2007 in {row.number for row in inbox.events()}


def test_a_result_of_this_node_is_told_from_what_only_bears_its_mark(inbox: Inbox) -> None:
    """Anybody can copy the Device UID; an image that is not analysed for it must not pass in silence."""
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle()
    (job,) = inbox.jobs()
    known, copied = own_result(image), own_result(image)
    copied.SOPInstanceUID = f"{known.SOPInstanceUID}.7"
    with inbox.database.write() as session:
        session.add(a_result(job, sop_instance_uid=known.SOPInstanceUID))
    inbox.receive(known, copied)
    inbox.settle()
    told = {row.fields["instance"]: row.number for row in inbox.events() if row.number in (2006, 2007)}
    assert told == {known.SOPInstanceUID: 2006, copied.SOPInstanceUID: 2007}
    assert len(inbox.jobs()) == 1


REPORT_ONLY = (
    "no rule applies; closest is ultrasound: its SOP class is no ultrasound or X-ray image "
    "and modality SR does not match US"
)


def test_a_study_without_images_is_not_applicable(inbox: Inbox) -> None:
    document = report(ultrasound("one"))
    inbox.receive(document)
    inbox.settle()
    study = inbox.study(document.StudyInstanceUID)
    assert (study.state, study.reason) == (StudyState.NOT_APPLICABLE, REPORT_ONLY)


def test_secondary_captures_of_a_named_peer_start_the_rule_that_names_it(inbox: Inbox) -> None:
    inbox.receive(secondary_capture(ultrasound("one")), calling="GRABBER")
    inbox.settle()
    assert [job.rule for job in inbox.jobs()] == ["grabbed"]


def test_whatever_results_copy_makes_a_revision_when_it_changes(inbox: Inbox) -> None:
    image = ultrasound("described")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99TEST", "Breast"
    for change in (
        {},
        {"ImageComments": "not copied"},
        {"StudyDescription": "Another"},
        {"PatientWeight": "70.5"},
        {"ProcedureCodeSequence": [code]},
        {"ProcedureCodeSequence": [changed(code, CodeMeaning="Thyroid")]},
    ):
        inbox.receive(changed(image, **change))
        inbox.index()
    assert inbox.outcomes() == ["new", "duplicate", *["revision"] * 4]


def test_an_object_indexed_before_an_upgrade_is_compared_by_what_its_hash_speaks_for(inbox: Inbox) -> None:
    image = ultrasound("upgraded")
    image.StudyDescription = "Breast"
    inbox.receive(image)
    inbox.index()
    eleven = [
        image.PatientName,
        image.PatientID,
        image.get("IssuerOfPatientID", ""),
        image.PatientBirthDate,
        image.PatientSex,
        image.StudyInstanceUID,
        image.StudyDate,
        image.StudyTime,
        image.StudyID,
        image.AccessionNumber,
        image.ReferringPhysicianName,
    ]
    before = digest(map(str, eleven))
    with inbox.database.write() as session:
        session.execute(update(Instance).values(identity_sha256=before))
    inbox.receive(changed(image, ImageComments="sent again"), changed(image, StudyDescription="Thyroid"))
    inbox.index()
    assert inbox.outcomes() == ["new", "duplicate", "duplicate"]
    assert inbox.instance(image.SOPInstanceUID).identity_sha256 == before
    inbox.receive(changed(image, PatientName="Right^Name"))
    inbox.receive(changed(image, PatientName="Right^Name", ImageComments="sent again"))
    inbox.index()
    assert inbox.outcomes()[3:] == ["revision", "duplicate"]


def test_a_late_image_makes_one_new_revision(inbox: Inbox) -> None:
    images = [ultrasound("late", number=number) for number in (1, 2, 3)]
    inbox.receive(images[0])
    inbox.settle()
    inbox.receive(*images[1:])
    inbox.settle()
    study = inbox.study(images[0].StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 2)
    newest = inbox.jobs()[-1]
    assert newest.study_revision == 2
    assert newest.source_uids == [image.SOPInstanceUID for image in images]
    assert [job.state for job in inbox.jobs()] == [JobState.CANCELLED, JobState.QUEUED]


def test_a_store_of_priority_high_makes_the_study_stat(inbox: Inbox) -> None:
    image = ultrasound("urgent")
    inbox.receive(image, priority=1)
    inbox.settle()
    assert inbox.study(image.StudyInstanceUID).priority == 1
    assert {job.priority for job in inbox.jobs()} == {1}


def test_no_event_holds_what_identifies_a_patient(inbox: Inbox) -> None:
    image = ultrasound("secretname")
    renamed = changed(image, PatientName="Other^Secretname")
    inbox.receive(image, renamed, report(renamed))
    inbox.settle()
    rows = inbox.events()
    assert {by_number(row.number).number for row in rows} >= {2001, 2003, 2010, 2011, 3001}
    assert not [row.fields for row in rows if "secretname" in str(row.fields).lower()]


def test_an_own_result_that_a_pacs_changed_on_its_way_back_is_no_conflict(inbox: Inbox) -> None:
    image = ultrasound("one")
    result = own_result(image)
    inbox.receive(image, result)
    inbox.settle()
    inbox.receive(changed(result, PixelData=bytes(len(result.PixelData)), PatientID="COERCED"))
    inbox.settle()
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.revision, study.patient_id) == (StudyState.QUEUED, 1, image.PatientID)


@pytest.mark.debian("postgresql")
def test_the_index_works_on_postgresql_too(tmp_path: Path, postgres_url: str) -> None:
    inbox = Inbox(tmp_path / "var", url=postgres_url)
    image, late = (ultrasound("postgres", number=number) for number in (1, 2))
    inbox.opened("a1")
    inbox.receive(image, image, own_result(image), report(image), association="a1")
    inbox.index()
    assert inbox.assemble(300) == 0
    inbox.released("a1")
    inbox.settle()
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED
    inbox.receive(late, *(changed(one, PatientName="Corrected^Name") for one in (image, late)))
    inbox.settle()
    inbox.receive(changed(image, PixelData=bytes(len(image.PixelData))))
    inbox.index()
    revised = ["revision", "revision"]
    assert inbox.outcomes() == ["new", "duplicate", "new", "new", "new", *revised, "conflict"]
    assert [job.state.value for job in inbox.jobs()] == ["cancelled", "cancelled"]
    inbox.close()
