"""What becomes of a further version of an object: a duplicate, a revision, set aside or a conflict."""

from itertools import product
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_node.base.dicom.identity import Patient
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    DeliveryState,
    JobState,
    StudyState,
)
from dicom_node.base.store.tables import (
    Delivery,
    Instance,
    Job,
    ReceivedObject,
    Study,
)
from tests.inbox_lab import Inbox, encoded
from tests.modality import data_set, ultrasound, ultrasounds
from tests.result_reading import coded
from tests.unit.receive.objects import (
    changed,
    in_syntax,
    small_xray,
)

ISSUER, ELSEWHERE = (data_set(UniversalEntityID=f"1.2.{n}", UniversalEntityIDType="ISO") for n in (3, 4))
REGION = coded("53120007", "SCT", "Upper limb")


WITH_PRIVATE = ultrasound("one")
WITH_PRIVATE.private_block(0x11, "MAKER", create=True).add_new(1, "LO", "sent again")


IMAGE, XRAY = ultrasound("one"), small_xray("said")
SWAPPED = changed(XRAY)
SWAPPED.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
BLANK, NOTHING = changed(IMAGE, PixelData=bytes(len(IMAGE.PixelData))), changed(IMAGE, Rows=0)
OTHER_COLOURS = changed(IMAGE, PhotometricInterpretation="YBR_FULL")
KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"
SAID: list[dict[str, Any]] = [
    {"ImageLaterality": "R"},
    {"ViewPosition": "AP"},
    {"PatientOrientation": ["R", "F"]},
    {"BodyPartExamined": "HAND"},
    {"ImagerPixelSpacing": [0.286, 0.286]},
    {"AcquisitionDate": "20260101"},
    {"SeriesDescription": "another"},
    {"WindowCenter": "1024"},
    {"PhotometricInterpretation": "MONOCHROME1"},
    {"AnatomicRegionSequence": [REGION]},
    {"AnatomicRegionSequence": [changed(REGION, CodeMeaning="Arm")]},
    {"RedPaletteColorLookupTableData": bytes(70_000)},
    {"RedPaletteColorLookupTableData": bytes(69_999) + b"1"},
    {"StudyDescription": "Another"},
    {"PatientWeight": "70.5"},
    {"ProcedureCodeSequence": [REGION]},
    {"ProcedureCodeSequence": [changed(REGION, CodeMeaning="Arm")]},
]
LOSSLESS = (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless)
OF_ONE_UID: dict[str, tuple[Dataset, list[Dataset], list[str]]] = {
    "whatever a header says": (XRAY, [changed(XRAY, **one) for one in SAID], ["revision"] * len(SAID)),
    "another colour model": (
        IMAGE,
        [OTHER_COLOURS, changed(OTHER_COLOURS, PlanarConfiguration=1)],
        ["revision"] * 2,
    ),
    "what differs each time": (
        IMAGE,
        [
            changed(IMAGE, InstanceCreationDate="20260102", InstanceCreationTime="120000"),
            changed(IMAGE, ContributingEquipmentSequence=[REGION], RetrieveAETitle="GATEWAY"),
            changed(IMAGE, SpecificCharacterSet="ISO_IR 192", ImageComments=""),
            changed(IMAGE, DataSetTrailingPadding=bytes(6)),
            WITH_PRIVATE,
        ],
        ["duplicate"] * 5,
    ),
    "another lossless syntax": (XRAY, [in_syntax(XRAY, one) for one in LOSSLESS], ["duplicate"] * 4),
    "a name in two character sets": (
        changed(IMAGE, PatientName=KOREAN),
        [changed(IMAGE, SpecificCharacterSet=["", "ISO 2022 IR 149"], PatientName=KOREAN)],
        ["duplicate"],
    ),
    "a copy of the second": (
        IMAGE,
        [BLANK, BLANK, NOTHING, NOTHING],
        ["conflict", "conflict", "quarantined", "quarantined"],
    ),
    "the same bytes in big endian": (XRAY, [SWAPPED], ["conflict"]),
    "in another study": (IMAGE, [changed(IMAGE, StudyInstanceUID="1.2.3.4")], ["conflict"]),
    "after a faulty one": (NOTHING, [IMAGE], ["new"]),
    "faulty again": (NOTHING, [NOTHING] * 2, ["quarantined"] * 2),
}


@pytest.mark.parametrize(("first", "further", "outcomes"), OF_ONE_UID.values(), ids=OF_ONE_UID)
def test_what_is_made_of_a_further_object_under_one_uid(
    inbox: Inbox, first: Dataset, further: list[Dataset], outcomes: list[str]
) -> None:
    inbox.index(first, *further)
    assert inbox.outcomes()[1:] == outcomes
    assert set(inbox.column(Study.state)) == {
        StudyState.QUARANTINED
        if {"conflict", "quarantined"} & set(inbox.outcomes())
        else StudyState.RECEIVING
    }
    assert inbox.spool_files() == len(set(map(id, [first, *further]))), "each is kept, once"


def test_other_pixels_under_the_same_uid_are_a_conflict_and_nothing_is_overwritten(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.settle(image)
    [name] = inbox.receive(changed(image, PixelData=bytes(len(image.PixelData))))
    inbox.index()
    assert inbox.outcomes() == ["new", "conflict"]
    study = inbox.study_of(image)
    assert study.state is StudyState.QUARANTINED
    assert "other pixels" in study.reason
    assert inbox.file_of(image).PixelData == image.PixelData
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()
    assert inbox.column(Job.state) == [JobState.CANCELLED]


def test_a_truncated_copy_of_an_intact_image_is_set_aside_and_its_study_goes_on(inbox: Inbox) -> None:
    inbox.settle(IMAGE)
    before = inbox.instance(IMAGE)
    for _ in range(2):
        inbox.receive_bytes(
            encoded(IMAGE)[:-1000],
            IMAGE.SOPClassUID,
            IMAGE.SOPInstanceUID,
            ExplicitVRLittleEndian,
            calling="STRANGER",
        )
    inbox.settle()
    assert inbox.outcomes() == ["new", "quarantined", "quarantined"]
    assert inbox.study_of(IMAGE).state is StudyState.QUEUED
    after = inbox.instance(IMAGE)
    assert (after.path, after.received_at) == (before.path, before.received_at)
    [told] = [row.fields for row in inbox.events(2034)]
    assert told["calling"] == "STRANGER"
    assert told["reason"]
    assert len(list((inbox.folder / "spool" / "quarantine").glob("*.dcm"))) == 1


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "AccessionNumber"])
def test_a_faulty_copy_that_says_another_identity_stops_the_study(inbox: Inbox, keyword: str) -> None:
    """It may be a correction: nothing may leave with the old name after it came."""
    image = ultrasound("good")
    inbox.settle(image)
    inbox.settle(changed(changed(image, **{keyword: "OTHER"}), Rows=0))
    assert inbox.study_of(image).state is StudyState.QUARANTINED


def test_a_faulty_copy_in_another_study_stops_that_study(inbox: Inbox) -> None:
    """It says what nobody knows of the other study, though its patient is the same."""
    image, other = ultrasound("good"), f"{IMAGE.StudyInstanceUID}.9"
    inbox.settle(image)
    inbox.settle(changed(changed(image, StudyInstanceUID=other), Rows=0))
    assert inbox.study(other).state is StudyState.QUARANTINED


@pytest.mark.parametrize("state", sorted(OPEN_DELIVERIES | {DeliveryState.DEAD}))
def test_a_corrected_name_is_a_revision_that_withdraws_results_and_has_them_issued_again(
    inbox: Inbox, state: DeliveryState
) -> None:
    inbox.settle(IMAGE)
    inbox.delivery(inbox.jobs()[0], state)
    inbox.settle(changed(IMAGE, PatientName="Corrected^Name"))
    assert inbox.outcomes() == ["new", "revision"]
    assert inbox.file_of(IMAGE).PatientName == "Corrected^Name"
    [row] = inbox.rows(Delivery)
    under_way = state in (DeliveryState.SENDING, DeliveryState.UNCONFIRMED)
    assert row.withdrawn
    assert row.state is (state if under_way else DeliveryState.CANCELLED)
    assert under_way or row.reason == "not sent: an image came again with another header"
    assert [(job.study_revision, job.state) for job in inbox.jobs()] == [
        (1, JobState.CANCELLED),
        (2, JobState.QUEUED),
    ]


def test_a_whole_study_sent_again_under_the_right_patient_id_is_no_conflict(inbox: Inbox) -> None:
    images = ultrasounds("merged", 2)
    inbox.settle(*images)
    inbox.settle(*(changed(image, PatientID="THE-RIGHT-ONE") for image in images))
    study = inbox.study_of(images[0])
    assert (study.state, study.patient_id, study.revision) == (StudyState.QUEUED, "THE-RIGHT-ONE", 2)


@pytest.mark.parametrize("values", [{"PatientID": "THE-RIGHT-ONE"}, {"PatientName": "Corrected^Name"}])
def test_a_study_sent_again_in_part_under_another_patient_is_quarantined_when_quiet(
    inbox: Inbox, values: dict[str, str]
) -> None:
    images = ultrasounds("merged", 2)
    inbox.settle(*images)
    inbox.settle(changed(images[0], **values))
    assert inbox.study_of(images[0]).state is StudyState.QUARANTINED


@pytest.mark.parametrize(
    ("patient_id", "values", "alike"),
    [
        *(
            (patient_id, values, values == {"PatientID": patient_id})
            for patient_id, values in product(
                ["", "ONE"],
                [
                    {"PatientName": "Somebody^Else"},
                    {"PatientBirthDate": "19010203"},
                    {"PatientSex": "M"},
                    {"PatientID": "ANOTHER"},
                    {"PatientID": ""},
                ],
            )
        ),
        ("ONE", {"IssuerOfPatientID": "ANOTHER HOSPITAL"}, False),
        ("ONE", {"IssuerOfPatientIDQualifiersSequence": [ISSUER]}, False),
        ("", {"PatientName": ""}, False),  # of nobody, in a study of somebody
        ("ONE", {"PatientName": "", "PatientBirthDate": "", "PatientSex": ""}, True),
        ("ONE", {"PatientName": "TEST^mixed^^^"}, True),
        ("ONE", {"PatientName": " test  ^ Mixed"}, True),
        ("ONE", {"PatientName": "Test^mixed=洪^吉洞=홍^길동"}, True),
        ("ONE", {"PatientName": "Ｔｅｓｔ^mixed"}, True),
        ("ONE", {"PatientID": " ONE"}, False),
    ],
    ids=str,
)
def test_images_that_contradict_each_other_on_the_patient_are_a_conflict_and_no_others(
    inbox: Inbox, patient_id: str, values: dict[str, str], alike: bool
) -> None:
    said = {"PatientID": patient_id, "PatientSex": "F", "PatientBirthDate": "19700101"}
    one, other = (changed(ultrasound("mixed", number=number), **said) for number in (1, 2))
    inbox.settle(one, changed(other, SpecificCharacterSet="ISO_IR 192", **values))
    study = inbox.study_of(one)
    assert study.state is (StudyState.QUEUED if alike else StudyState.QUARANTINED)
    assert alike or ("two patients" in study.reason and inbox.jobs() == [])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (("", "Test", "1970.01.01"), ("", "Test", "19700101"), True),  # as old devices write it
        (("", "Test", "00000000"), ("", "Test", "19700101"), True),  # no date
        (("", "Test=洪", ""), ("", "Test==홍", ""), True),
        (("", "Test=洪", ""), ("", "Test=吉", ""), False),
        (("", "Test==홍", ""), ("", "Test==길", ""), False),
        (("", "=洪", ""), ("", "", ""), False),  # somebody and nobody
        (("", "==홍", ""), ("", "", ""), False),
        (("1", "Test", ""), ("1", "", ""), True),
        (("1", "Test", ""), ("2", "Test", ""), False),
        (("1", "Test", ""), (" ", "Test", ""), False),
    ],
)
def test_patients_are_alike_unless_id_date_or_a_group_of_the_name_differs_or_one_is_nobody(
    one: tuple[str, str, str], other: tuple[str, str, str], *, alike: bool
) -> None:
    first, second = (Patient.from_values(known, "", name, date, "") for known, name, date in (one, other))
    assert first.contradicts(second) is second.contradicts(first) is not alike


WHOLE = {"PatientID": "ID-1", "IssuerOfPatientID": "HERE", "PatientName": "Test^One", "PatientSex": "F"}


QUALIFIED = {**WHOLE, "IssuerOfPatientIDQualifiersSequence": [ISSUER]}
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
    (QUALIFIED, {"IssuerOfPatientIDQualifiersSequence": [ELSEWHERE]}, "revision", "conflict"),
    (QUALIFIED, {"IssuerOfPatientIDQualifiersSequence": []}, "set_aside", "set_aside"),
    (QUALIFIED, {"IssuerOfPatientID": ""}, "set_aside", "set_aside"),
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
    (WHOLE, {"ImageComments": "put in order"}, "revision", "set_aside"),
    (WHOLE, {"InstanceCreationTime": "120000"}, "duplicate", "duplicate"),
    (NOBODY, WHOLE, "revision", "conflict"),
    (NOBODY, {"PatientName": "Test^One"}, "revision", "conflict"),
    (WHOLE | {"PatientID": ""}, {"PatientID": "ID-1"}, "revision", "conflict"),
    (WHOLE | {"PatientSex": ""}, {"PatientSex": "F"}, "revision", "set_aside"),
]


@pytest.mark.parametrize("sender", ["MODALITY", "QUICK"])
def test_what_a_copy_with_another_identity_is_depends_on_its_sender(inbox: Inbox, sender: str) -> None:
    first = [changed(ultrasound(f"copy{n}"), **before) for n, (before, *_) in enumerate(COPIES)]
    inbox.index(*first)
    copies = [changed(ds, **values) for ds, (_, values, *_) in zip(first, COPIES, strict=True)]
    inbox.index(*copies, calling=sender)
    wanted = [its if sender == "MODALITY" else others for _, _, its, others in COPIES]
    assert inbox.outcomes()[len(COPIES) :] == wanted
    for before, copy, outcome in zip(first, copies, wanted, strict=True):
        assert inbox.file_of(before).PatientID == (copy if outcome == "revision" else before).PatientID
        assert (inbox.study_of(before).state is StudyState.QUARANTINED) is (outcome == "conflict")
    aside = [ds.SOPInstanceUID for ds, outcome in zip(first, wanted, strict=True) if outcome == "set_aside"]
    assert [row.fields["instance"] for row in inbox.events(2034)] == aside
    inbox.index(*copies, calling=sender)  # what was decided is not decided again
    assert inbox.outcomes()[2 * len(COPIES) :] == [
        "duplicate" if outcome == "revision" else outcome for outcome in wanted
    ]


def test_a_copy_without_identity_takes_neither_the_job_nor_the_place_of_a_purged_image(inbox: Inbox) -> None:
    image = ultrasound("purged")
    inbox.settle(image)
    inbox.put(Instance, purged=True)
    inbox.put(ReceivedObject, purged=True)
    before = inbox.instance(image)
    for _ in range(2):
        inbox.settle(changed(image, **NOBODY), calling="QUICK")
        after = inbox.instance(image)
        assert (after.path, after.purged, after.patient) == (before.path, True, before.patient)
    study = inbox.study_of(image)
    assert (study.revision, study.patient_id) == (1, image.PatientID)
    assert inbox.column(Job.state) == [JobState.QUEUED]
    assert inbox.outcomes() == ["new", "set_aside", "set_aside"]
