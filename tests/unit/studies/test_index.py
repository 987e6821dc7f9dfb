"""What is acknowledged is indexed once; the same UID again is judged by pixels, identity and the rest."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from sqlalchemy import update

from dicom_node.dicom.identity import Patient, digest
from dicom_node.events import by_number
from dicom_node.model.kinds import ObjectRole, ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.store import deliveries
from dicom_node.store.tables import Instance, Job, ReceivedObject, Result, Study
from dicom_node.store.transitions import utc_now
from tests.inbox_lab import Inbox, encoded
from tests.modality import chest, ultrasound
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


def test_a_faulty_object_that_comes_again_and_again_is_kept_once(inbox: Inbox) -> None:
    image = changed(ultrasound("faulty"), Rows=0)
    inbox.receive(image, image, image)
    inbox.index()
    assert inbox.outcomes() == ["quarantined", "duplicate", "duplicate"]
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
        session.add(
            Result(
                study_id=job.study_id, job_id=job.id, kind=ResultKind.SR, sop_class_uid=known.SOPClassUID,
                sop_instance_uid=known.SOPInstanceUID, series_instance_uid="1.2", path="x", sha256="",
                bytes=0, created_at=utc_now(),
            )
        )  # fmt: skip
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
        image.PatientName, image.PatientID, image.get("IssuerOfPatientID", ""), image.PatientBirthDate,
        image.PatientSex, image.StudyInstanceUID, image.StudyDate, image.StudyTime, image.StudyID,
        image.AccessionNumber, image.ReferringPhysicianName,
    ]  # fmt: skip
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


def zero_rows(ds: Dataset) -> None:
    ds.Rows = ds.Columns = 0


def short_pixels(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:-1000]


def long_pixels(ds: Dataset) -> None:
    ds.PixelData += bytes(10_000)


def no_pixels(ds: Dataset) -> None:
    del ds.PixelData


def no_study_uid(ds: Dataset) -> None:
    ds.StudyInstanceUID = ""


def no_series_uid(ds: Dataset) -> None:
    del ds.SeriesInstanceUID


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (zero_rows, "0 × 0"),
        (short_pixels, "bytes, its attributes say"),
        (long_pixels, "bytes, its attributes say"),
        (no_pixels, "no Pixel Data"),
        (no_study_uid, "Study Instance UID"),
        (no_series_uid, "Series Instance UID"),
    ],
)
def test_a_faulty_image_is_quarantined_with_the_reason_and_its_study_is_listed(
    inbox: Inbox, damage: Callable[[Dataset], None], reason: str
) -> None:
    image = ultrasound("faulty")
    damage(image)
    [name] = inbox.receive(image)
    inbox.settle()
    study = inbox.study(image.get("StudyInstanceUID") or None)
    assert study.state is StudyState.QUARANTINED and reason in study.reason
    assert inbox.outcomes() == ["quarantined"]
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()


def test_a_truncated_data_set_is_quarantined_wherever_it_ends(inbox: Inbox) -> None:
    image = ultrasound("truncated")
    whole = encoded(image)
    meta = str(image.SOPClassUID), str(image.SOPInstanceUID), str(image.file_meta.TransferSyntaxUID)
    cuts = [1, 7, 50, 333, 700, len(whole) // 2, len(whole) - 1]
    for cut in cuts:
        inbox.receive_bytes(whole[:cut], *meta)
    inbox.index()
    assert inbox.outcomes() == ["quarantined"] * len(cuts)


def test_noise_is_quarantined_and_stops_no_other_file(inbox: Inbox) -> None:
    image = ultrasound("after the noise")
    inbox.receive_bytes(bytes(range(256)) * 40, image.SOPClassUID, "1.2.3", "1.2.840.10008.1.2.1")
    inbox.receive_bytes(b"", image.SOPClassUID, "1.2.3", "1.2.840.10008.1.2.1")
    (inbox.folder / "spool" / "incoming" / "stray.dcm").write_bytes(b"no DICOM at all")
    inbox.receive(image)
    inbox.settle()
    assert sorted(inbox.outcomes()) == ["new", "quarantined", "quarantined", "quarantined"]
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED


def test_an_unknown_transfer_syntax_is_quarantined(inbox: Inbox) -> None:
    image = ultrasound("private")
    inbox.receive_bytes(encoded(image), image.SOPClassUID, image.SOPInstanceUID, "1.2.3.4.5.6")
    inbox.index()
    assert "transfer syntax" in inbox.study(image.StudyInstanceUID).reason


def test_a_name_that_its_character_set_does_not_decode_is_quarantined(inbox: Inbox) -> None:
    inbox.receive_bytes(*latin_name_without_character_set("plain"))
    inbox.index()
    assert inbox.outcomes() == ["quarantined"]


def test_a_peer_may_be_known_to_use_a_character_set(inbox: Inbox) -> None:
    data, sop_class, uid, syntax = latin_name_without_character_set("known")
    inbox.receive_bytes(data, sop_class, uid, syntax, calling="LATIN")
    inbox.index()
    assert inbox.outcomes() == ["new"]
    assert inbox.instance(uid).assumed_charset == "ISO_IR 100"


def latin_name_without_character_set(name: str) -> tuple[bytes, str, str, str]:
    image = ultrasound(name)
    image.PatientName = "Mueller^Joerg"
    del image.SpecificCharacterSet
    data = encoded(image).replace(b"Mueller^Joerg", b"M\xfcller^J\xf6rg  ")
    return data, image.SOPClassUID, image.SOPInstanceUID, image.file_meta.TransferSyntaxUID


def test_a_korean_name_with_code_extensions_equals_the_same_name_in_utf_8(inbox: Inbox) -> None:
    image = ultrasound("korean")
    image.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    inbox.receive(image)
    legacy = changed(image, SpecificCharacterSet=["", "ISO 2022 IR 149"])
    legacy.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    inbox.receive(legacy)
    inbox.index()
    assert inbox.outcomes() == ["new", "duplicate"]


def test_sixteen_colour_frames_of_odd_width_are_sound(inbox: Inbox) -> None:
    image = ultrasound("cine", size=(101, 75))
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    image.NumberOfFrames = 16
    image.PixelData = (bytes(101 * 75 * 3) * 16) + b"\0" * (101 * 75 * 3 * 16 % 2)
    inbox.receive(image)
    inbox.index()
    assert inbox.outcomes() == ["new"]


def test_no_event_holds_what_identifies_a_patient(inbox: Inbox) -> None:
    image = ultrasound("secretname")
    renamed = changed(image, PatientName="Other^Secretname")
    inbox.receive(image, renamed, report(renamed))
    inbox.settle()
    rows = inbox.events()
    assert {by_number(row.number).number for row in rows} >= {2001, 2003, 2010, 2011, 3001}
    assert not [row.fields for row in rows if "secretname" in str(row.fields).lower()]


@pytest.mark.data
def test_public_files_of_many_makers_are_indexed_or_quarantined_with_a_reason(
    inbox: Inbox, data: Path
) -> None:
    for path in sorted((data / "dicom" / "files").glob("*.dcm")):
        whole = path.read_bytes()
        with warnings.catch_warnings(action="ignore"):
            meta = dcmread(path, stop_before_pixels=True, force=True).file_meta
            uids = [str(meta.get(f"MediaStorageSOP{kind}UID", "")) for kind in ("Class", "Instance")]
        length = meta.get("FileMetaInformationGroupLength")
        if whole[128:132] == b"DICM" and length is not None and "TransferSyntaxUID" in meta:
            inbox.receive_bytes(whole[144 + length :], *uids, str(meta.TransferSyntaxUID))
    inbox.settle()
    assert inbox.spool.pending() == []
    with inbox.database.read() as session:
        studies = session.query(Study).all()
        assert len(studies) > 40
        assert all(study.reason for study in studies if study.state is StudyState.QUARANTINED)
        assert {study.state for study in studies} <= {
            StudyState.QUEUED, StudyState.NOT_APPLICABLE, StudyState.QUARANTINED,
        }  # fmt: skip


def test_chest_pixels_of_the_modality_lab_are_sound(inbox: Inbox) -> None:
    inbox.receive(chest("cxr", np.zeros((64, 48), np.uint16)))
    inbox.index()
    assert inbox.outcomes() == ["new"]


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
