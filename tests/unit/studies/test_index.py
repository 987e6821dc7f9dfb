"""From received objects to complete studies: index, assembly, purge."""

import fcntl
import hashlib
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from pydicom import config, dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom.dsutils import encode
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.dimse_n import STEP_CLASS
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import JobCancelled, NotAllowedNow
from dicom_node.base.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_SENT,
    DELIVERY_STARTED,
    NO_RULE,
    OBJECT_QUARANTINED,
    STEP_REPORTED,
    STEPS_FULFILLED,
    STEPS_NOT_AWAITED,
    STUDY_MAY_BE_INCOMPLETE,
    STUDY_QUARANTINED,
    STUDY_RERUN,
    EventType,
    by_number,
)
from dicom_node.base.lifecycle import (
    END_STATES,
    OPEN_DELIVERIES,
    OPEN_JOBS,
    DeliveryState,
    JobState,
    ObjectRole,
    StepStatus,
    StudyState,
)
from dicom_node.base.store import intake, requested, views
from dicom_node.base.store.tables import (
    Delivery,
    Instance,
    Job,
    PerformedStep,
    ReceivedObject,
    Result,
    StepObject,
    Study,
)
from dicom_node.base.store.transitions import move, settle_study, steady_now, utc_now
from dicom_node.deliver import outbox
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import audit, disk, held_results, rule_trial, spool, studies
from dicom_node.people.outbox import discard_deliveries, send_again, send_study
from dicom_node.receive.inspection import Inspected, Inspector, ReaderLost
from dicom_node.receive.listener import PerformedSteps
from dicom_node.receive.messages import N_CREATE_RQ, N_SET_RQ, Command
from dicom_node.receive.spool import Arrival, encode_header
from dicom_node.studies import choose, indexing
from dicom_node.studies.choose import Choice
from dicom_node.studies.indexing import compare, purge, purge_results, reconcile, reindex
from tests.inbox_lab import INSPECTOR, Inbox, encoded
from tests.modality import ULTRASOUND, assign, chest, ultrasound
from tests.mpps_lab import COMPLETED, DISCONTINUED, IN_PROGRESS, WITH_STEPS, begun, ended
from tests.result_reading import coded
from tests.rows import a_result
from tests.unit.dicom_console.illustrated import illustrated
from tests.unit.jobs.worker_lab import configuration, confirm, work
from tests.unit.receive.objects import (
    changed,
    in_syntax,
    key_object,
    own_result,
    report,
    secondary_capture,
    small_xray,
)


def test_an_acknowledged_object_is_indexed_once_and_its_bytes_are_kept(inbox: Inbox) -> None:
    image = ultrasound("one")
    [name] = inbox.receive(image)
    sent = (inbox.folder / "spool" / "incoming" / f"{name}.dcm").read_bytes()
    assert [inbox.index(), inbox.index()] == [1, 0]
    row = inbox.instance(image.SOPInstanceUID)
    assert (inbox.folder / row.path).read_bytes() == sent
    assert row.role is ObjectRole.SOURCE
    assert row.pixels_sha256 == hashlib.sha256(image.PixelData).hexdigest()
    assert inbox.spool.pending() == []
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.patient_id, study.revision) == (StudyState.RECEIVING, image.PatientID, 1)


def test_the_same_bytes_again_are_a_duplicate_and_kept_once_while_they_are_there(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.settle(image, image)
    inbox.settle(image)
    assert inbox.outcomes() == ["new", "duplicate", "duplicate"]
    assert len({row.path for row in inbox.rows(ReceivedObject)}) == inbox.spool_files() == 1
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.revision, len(inbox.jobs())) == (StudyState.QUEUED, 1, 1)
    (inbox.folder / inbox.instance(image.SOPInstanceUID).path).unlink()
    inbox.index(image)
    assert inbox.spool_files() == 1, "a lost file is made good"


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
    assert {row.state for row in inbox.rows(Study)} == {
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
    study = inbox.study(image.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED
    assert "other pixels" in study.reason
    assert inbox.file_of(image.SOPInstanceUID).PixelData == image.PixelData
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()
    assert [job.state for job in inbox.jobs()] == [JobState.CANCELLED]


def test_own_results_reports_and_captures_start_no_job_and_reopen_nothing(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.settle(image)
    before = inbox.study(image.StudyInstanceUID)
    inbox.settle(own_result(image), report(image), key_object(image), secondary_capture(image))
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
    inbox.settle(image)
    (job,) = inbox.jobs()
    known, copied = own_result(image), own_result(image)
    copied.SOPInstanceUID = f"{known.SOPInstanceUID}.7"
    inbox.add(a_result(job, sop_instance_uid=known.SOPInstanceUID))
    inbox.settle(known, copied)
    told = {row.fields["instance"]: row.number for row in inbox.events() if row.number in (2006, 2007)}
    assert told == {known.SOPInstanceUID: 2006, copied.SOPInstanceUID: 2007}
    assert len(inbox.jobs()) == 1


def test_secondary_captures_of_a_named_peer_start_the_rule_that_names_it(inbox: Inbox) -> None:
    inbox.settle(secondary_capture(ultrasound("one")), calling="GRABBER")
    assert [job.rule for job in inbox.jobs()] == ["grabbed"]


def test_a_late_image_makes_one_new_revision(inbox: Inbox) -> None:
    images = [ultrasound("late", number=number) for number in (1, 2, 3)]
    inbox.settle(images[0])
    inbox.settle(*images[1:])
    study = inbox.study(images[0].StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 2)
    newest = inbox.jobs()[-1]
    assert newest.study_revision == 2
    assert newest.source_uids == [image.SOPInstanceUID for image in images]
    assert [job.state for job in inbox.jobs()] == [JobState.CANCELLED, JobState.QUEUED]


def test_no_event_holds_what_identifies_a_patient(inbox: Inbox) -> None:
    image = ultrasound("secretname")
    renamed = changed(image, PatientName="Other^Secretname")
    inbox.settle(image, renamed, report(renamed))
    rows = inbox.events()
    assert {by_number(row.number).number for row in rows} >= {2001, 2003, 2010, 2011, 3001}
    assert not [row.fields for row in rows if "secretname" in str(row.fields).lower()]


def test_an_own_result_that_a_pacs_changed_on_its_way_back_is_no_conflict(inbox: Inbox) -> None:
    image = ultrasound("one")
    result = own_result(image)
    inbox.settle(image, result)
    inbox.settle(changed(result, PixelData=bytes(len(result.PixelData)), PatientID="COERCED"))
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.revision, study.patient_id) == (StudyState.QUEUED, 1, image.PatientID)


ROOT = Path(__file__).resolve().parents[3]


OBJECTS = 80


VICTIM = """
import sys, time
from pathlib import Path
from dicom_node.base.config.settings import Settings
from dicom_node.receive.inspection import Inspector
from dicom_node.receive.spool import Spool
from dicom_node.base.store.database import Database
from dicom_node.studies.indexing import Indexer

folder = Path(sys.argv[1])
settings = Settings.model_validate({"node": {"data_dir": folder}})
inspector = Inspector()
inspector.start()
indexer = Indexer(Database(settings.database_url), Spool(folder / "spool", 0), settings, inspector)
print("ready", flush=True)
while True:
    indexer.run_once()
    time.sleep(0.01)
"""
"""What the node's indexing thread does."""


def test_a_killed_indexer_indexes_each_acknowledged_object_once(inbox: Inbox) -> None:
    chance, kills, names = random.Random(20260102), 0, []
    image = ultrasound("crash", size=(24, 18))
    for number in range(OBJECTS):
        # Four studies; every tenth object comes twice.
        instance, study = f"1.2.3.{number - (number % 10 == 9)}", f"1.2.4.{number // 20}"
        assign(image, SOPInstanceUID=instance, StudyInstanceUID=study)
        names += inbox.receive(image)
    while inbox.spool.pending() and kills < 2:
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(inbox.folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as victim:
            assert victim.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.2))
            victim.kill()
        kills += 1
    assert kills > 1
    inbox.reopen()
    inbox.index()
    assert inbox.spool.pending() == []
    receptions = inbox.rows(ReceivedObject)
    assert sorted(row.spool_name for row in receptions) == sorted(names)
    assert all((inbox.folder / row.path).is_file() for row in receptions)
    assert len(inbox.rows(Instance)) == OBJECTS - OBJECTS // 10
    assert inbox.outcomes().count("duplicate") == OBJECTS // 10


FAULTY = b"\x08\x00\x05\x00CS\x02\x00??"


def flood(inbox: Inbox, objects: int, calling: str = "MODALITY") -> None:
    for number in range(objects):
        inbox.receive_bytes(
            FAULTY, ULTRASOUND, f"2.25.{len(calling)}.{number}", ExplicitVRLittleEndian, calling=calling
        )


def test_faulty_objects_of_one_sender_are_one_entry_with_a_count(inbox: Inbox) -> None:
    flood(inbox, 40)
    flood(inbox, 3, "QUICK")
    inbox.index()
    assert inbox.outcomes() == ["quarantined"] * 43, "each object is kept and known"
    more = "more faulty objects of this sender"
    assert sorted(study["reason"].split("; and ")[1] for study in inbox.read(views.list_studies)) == [
        f"2 {more}",
        f"39 {more}",
    ]
    numbers = [event.number for event in inbox.events()]
    assert [numbers.count(one.number) for one in (OBJECT_QUARANTINED, STUDY_QUARANTINED)] == [2, 2]


def test_a_round_of_indexing_ends_and_studies_of_who_is_behind_wait(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_BATCH_SECONDS", 60)  # however busy this machine is
    late = ultrasound("late", number=2)
    inbox.receive(ultrasound("late"), calling="QUICK")
    inbox.receive(ultrasound("good"), calling="MODALITY")
    flood(inbox, 80, "QUICK")
    inbox.receive(late, calling="QUICK")
    inbox.indexer.run_once(seconds=0)
    in_an_hour = steady_now() + timedelta(seconds=50)
    inbox.assembler.run_once(in_an_hour, behind=inbox.indexer.behind)
    assert inbox.indexer.behind
    assert inbox.study(ultrasound("good").StudyInstanceUID).state is not StudyState.RECEIVING
    assert inbox.study(late.StudyInstanceUID).state is StudyState.RECEIVING, "an image of it waits"
    while inbox.indexer.behind:
        inbox.indexer.run_once(seconds=0)
    inbox.assembler.run_once(in_an_hour + timedelta(seconds=50), behind=inbox.indexer.behind)
    study = inbox.study(late.StudyInstanceUID)
    assert (study.state is not StudyState.RECEIVING, study.revision) == (True, 1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"Rows": 0, "Columns": 0},
            f"object {IMAGE.SOPInstanceUID} from MODALITY, {datetime.now(UTC):%Y-%m}",
        ),
        ({"Rows": 0, "Columns": 0}, "; send it again repaired, or release the study without it"),
        ({"Rows": 0, "Columns": 0}, "0 × 0"),
        ({"PixelData": IMAGE.PixelData[:-1000]}, "bytes, its attributes say"),
        ({"PixelData": IMAGE.PixelData + bytes(10_000)}, "bytes, its attributes say"),
        ({"PixelData": None}, "no Pixel Data"),
        ({"StudyInstanceUID": ""}, "Study Instance UID"),
        ({"SeriesInstanceUID": None}, "Series Instance UID"),
    ],
    ids=[
        "says where it came from",
        "says what to do",
        "size",
        "short",
        "long",
        "no pixels",
        "study",
        "series",
    ],
)
def test_a_faulty_image_is_quarantined_with_the_reason_and_its_study_is_listed(
    inbox: Inbox, values: dict[str, Any], reason: str
) -> None:
    image = changed(IMAGE, **values)
    for keyword in [keyword for keyword, value in values.items() if value is None]:
        delattr(image, keyword)
    [name] = inbox.receive(image)
    inbox.settle()
    study = inbox.study(image.get("StudyInstanceUID") or None)
    assert study.state is StudyState.QUARANTINED
    assert reason in study.reason
    assert inbox.outcomes() == ["quarantined"]
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()


@pytest.mark.parametrize(
    ("keyword", "syntax"),
    [
        *product(
            ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID"), [ExplicitVRLittleEndian]
        ),
        *product(["PatientID"], LOSSLESS[:3]),
    ],
)
def test_a_tag_that_stands_twice_is_quarantined_under_its_first_value(
    inbox: Inbox, keyword: str, syntax: str
) -> None:
    """DCMTK and Orthanc file the object by the first, pydicom reads the last."""
    deflated = syntax == DeflatedExplicitVRLittleEndian
    image, second = in_syntax(XRAY, ExplicitVRLittleEndian if deflated else syntax), Dataset()
    setattr(second, keyword, "1.2.826.0.1.3680043.10.543.99")
    second.file_meta = image.file_meta
    data = encoded(image) + encoded(second)  # behind the Pixel Data, where only some parsers look
    if deflated:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
    inbox.receive_bytes(data, image.SOPClassUID, image.SOPInstanceUID, syntax)
    inbox.settle()
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.patient_id) == (StudyState.QUARANTINED, image.PatientID)
    assert f"{Tag(keyword)} is given twice".upper() in study.reason.upper()
    assert inbox.outcomes() == ["quarantined"]


def test_a_data_set_does_not_replace_what_the_listener_wrote_of_its_arrival(inbox: Inbox) -> None:
    """PS3.10 7.1: the header ends where its Group Length says, whatever the data set begins with."""
    image = ultrasound("forged")
    forged = encode_header(
        Arrival("listener-1", "ROOM9", "AINODE", "10.0.0.9", 0, datetime.now(UTC)),
        image.SOPClassUID,
        image.SOPInstanceUID,
        "1.2.840.10008.1.2.4.70",
    )
    inbox.receive_bytes(
        forged[132:] + encoded(image), image.SOPClassUID, image.SOPInstanceUID, "1.2.840.10008.1.2.1"
    )
    inbox.settle()
    study = inbox.study(image.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED
    assert "(0002,0000) is in the data set" in study.reason
    assert inbox.scalars(select(ReceivedObject.calling_ae)) == ["MODALITY"]


def test_an_object_of_another_class_than_its_request_is_quarantined(inbox: Inbox) -> None:
    inbox.receive_bytes(
        encoded(IMAGE), "1.2.840.10008.5.1.4.1.1.7", IMAGE.SOPInstanceUID, ExplicitVRLittleEndian
    )
    inbox.settle()
    study = inbox.study(IMAGE.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED
    assert "SOP Class UID differs from the one in the C-STORE request" in study.reason


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "said"),
    [
        ("PatientID", "OB", b"B2B2", "PatientID (0010,0020) has the value representation OB, not LO"),
        ("PatientID", "SQ", [Dataset()], "PatientID (0010,0020) has the value representation SQ, not LO"),
        ("SOPInstanceUID", "OB", b"1.2.34", "SOP Instance UID (0008,0018) is no UID"),
        # Orthanc files these under another patient than a result that repeats what is read here.
        ("SOPInstanceUID", "UN", b"1.2.34", "SOP Instance UID (0008,0018) is no UID"),
        ("PatientID", "LO", "4711 \0", "Patient ID (0010,0020) is written in a way that others"),
        ("PatientID", "LO", "47\x0011", "Patient ID (0010,0020) is written in a way that others"),
        ("PatientID", "UN", b"47112 ", "Patient ID (0010,0020) is written in a way that others"),
        ("SpecificCharacterSet", "CS", "UTF_8", "Patient ID (0010,0020) is written in a way that others"),
    ],
)
def test_an_identifier_that_others_may_read_as_another_one_is_none(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, keyword: str, vr: str, value: object, said: str
) -> None:
    monkeypatch.setattr(config, "replace_un_with_known_vr", False)  # UN is sent as UN
    image = ultrasound("nö text")
    image[Tag(keyword)] = DataElement(Tag(keyword), vr, value)
    inbox.receive_bytes(encoded(image), image.SOPClassUID, "1.2.3.4", ExplicitVRLittleEndian)
    inbox.settle()
    assert said in inbox.study(image.StudyInstanceUID).reason


def test_a_truncated_copy_of_an_intact_image_is_set_aside_and_its_study_goes_on(inbox: Inbox) -> None:
    inbox.settle(IMAGE)
    before = inbox.instance(IMAGE.SOPInstanceUID)
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
    assert inbox.study(IMAGE.StudyInstanceUID).state is StudyState.QUEUED
    after = inbox.instance(IMAGE.SOPInstanceUID)
    assert (after.path, after.received_at) == (before.path, before.received_at)
    [told] = [row.fields for row in inbox.events() if row.number == 2034]
    assert told["calling"] == "STRANGER"
    assert told["reason"]
    assert len(list((inbox.folder / "spool" / "quarantine").glob("*.dcm"))) == 1


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "AccessionNumber"])
def test_a_faulty_copy_that_says_another_identity_stops_the_study(inbox: Inbox, keyword: str) -> None:
    """It may be a correction: nothing may leave with the old name after it came."""
    image = ultrasound("good")
    inbox.settle(image)
    inbox.settle(changed(changed(image, **{keyword: "OTHER"}), Rows=0))
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED


def test_noise_and_what_is_cut_off_are_quarantined_and_stop_no_other_file(inbox: Inbox) -> None:
    image = ultrasound("after the noise")
    whole = encoded(ultrasound("cut off"))
    cuts = [1, 7, 50, 333, 700, len(whole) // 2, len(whole) - 1]
    for data in (bytes(range(256)) * 40, b"", *(whole[:cut] for cut in cuts)):
        inbox.receive_bytes(data, image.SOPClassUID, "1.2.3", ExplicitVRLittleEndian)
    inbox.receive_bytes(whole, image.SOPClassUID, "1.2.4", "1.2.3.4.5.6")  # a transfer syntax of nobody
    (inbox.folder / "spool" / "incoming" / "stray.dcm").write_bytes(b"no DICOM at all")
    inbox.settle(image)
    assert sorted(inbox.outcomes()) == ["new", *["quarantined"] * 11]
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED


def test_a_name_that_its_character_set_does_not_decode_is_quarantined_but_for_a_peer_that_is_known_to_use_it(
    inbox: Inbox,
) -> None:
    inbox.receive_bytes(*latin_name_without_character_set("plain"))
    data, sop_class, uid, syntax = latin_name_without_character_set("known")
    inbox.receive_bytes(data, sop_class, uid, syntax, calling="LATIN")
    inbox.index()
    assert (inbox.outcomes(), inbox.instance(uid).assumed_charset) == (["quarantined", "new"], "ISO_IR 100")


def latin_name_without_character_set(name: str) -> tuple[bytes, str, str, str]:
    image = ultrasound(name)
    image.PatientName = "Mueller^Joerg"
    del image.SpecificCharacterSet
    data = encoded(image).replace(b"Mueller^Joerg", b"M\xfcller^J\xf6rg  ")
    return data, image.SOPClassUID, image.SOPInstanceUID, image.file_meta.TransferSyntaxUID


def test_sixteen_colour_frames_of_odd_width_are_sound(inbox: Inbox) -> None:
    image = changed(
        ultrasound("cine", size=(101, 75)),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1",
        NumberOfFrames=16,
        PixelData=bytes(101 * 75 * 3 * 16),
    )
    inbox.index(image)
    assert inbox.outcomes() == ["new"]


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
    studies = inbox.rows(Study)
    ends = {StudyState.QUEUED, StudyState.NOT_APPLICABLE, StudyState.QUARANTINED}
    assert len(studies) > 40
    assert {study.state for study in studies} <= ends
    assert all(study.reason for study in studies if study.state is StudyState.QUARANTINED)


class Standing(Inspector):
    """An inspector whose process stands still at the first tries, as with a stalled disk; then that of all
    tests reads.
    """

    turn = threading.Lock()

    def __init__(self, tries: int, second_tries: int = 0) -> None:
        super().__init__()
        self.tries, self.second_tries = tries, second_tries
        self.goes_on = threading.Event()

    def fresh(self) -> Inspector:
        fresh = Standing(self.second_tries)
        fresh.inspect = partial(self._wait, fresh.inspect)  # type: ignore[method-assign]
        return fresh

    def _wait(self, inspect: Callable[..., Inspected], *given: Any, **how: bool) -> Inspected:
        self.goes_on.wait(60)
        return inspect(*given, **how)

    def _ask(self, request: dict[str, Any], size: int, again: bool) -> dict[str, Any]:
        self.tries -= 1
        if self.tries >= 0:
            raise ReaderLost("reading it took more than 30 s")
        with self.turn:
            return INSPECTOR._ask(request, size, again)


@pytest.mark.parametrize(("tries", "outcomes"), [((1, 0), ["new"] * 2), ((2, 1), ["new", "quarantined"])])
def test_an_object_is_faulty_only_when_a_second_reader_fails_too(
    open_inbox: Callable[..., Inbox], tries: tuple[int, int], outcomes: list[str]
) -> None:
    images = [ultrasound("stalled", number=number) for number in (1, 2)]
    with closing(Standing(*tries)) as inspector:
        inbox = open_inbox(inspector=inspector)
        inbox.opened("a1")
        inbox.receive(*images, association="a1")
        inbox.released("a1")
        inbox.index()
        assert inbox.indexer.behind, "its study is not complete"
        assert inbox.index(ultrasound("other"), calling="QUICK") == 1, "a second try holds up nobody else's"
        inspector.goes_on.set()
        while inbox.spool.pending():
            inbox.index()
            assert inbox.spool.pending() == [] or inbox.indexer.behind
        inbox.settle()
        inbox.indexer.leave()
    assert sorted(inbox.outcomes()) == ["new", *outcomes]
    assert inbox.study(images[0].StudyInstanceUID).state is StudyState.QUEUED
    told = [row.fields for row in inbox.events() if row.number == STUDY_MAY_BE_INCOMPLETE.number]
    assert [row["objects"] for row in told] == [1] * outcomes.count("quarantined")


def test_an_object_that_the_disk_cannot_read_is_tried_again_and_its_study_waits(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.receive(*(ultrasound("stalled", number=number) for number in (1, 2)))
    path = inbox.spool.pending()[0]
    kept = path.rename(inbox.folder / "kept")
    path.symlink_to("/proc/self/mem")  # EIO
    inbox.index()
    assert inbox.outcomes() == ["new"]
    assert inbox.indexer.behind
    monkeypatch.setattr(indexing, "_LONGEST_WAIT", timedelta(seconds=-1))
    inbox.index()
    assert not inbox.indexer.behind, "for a bad sector nothing waits for ever"
    kept.rename(path)
    inbox.reopen()
    inbox.index()
    assert inbox.outcomes() == ["new", "new"]


@pytest.mark.parametrize("state", sorted(OPEN_DELIVERIES | {DeliveryState.DEAD}))
def test_a_corrected_name_is_a_revision_that_withdraws_results_and_has_them_issued_again(
    inbox: Inbox, state: DeliveryState
) -> None:
    inbox.settle(IMAGE)
    inbox.delivery(inbox.jobs()[0], state)
    inbox.settle(changed(IMAGE, PatientName="Corrected^Name"))
    assert inbox.outcomes() == ["new", "revision"]
    assert inbox.file_of(IMAGE.SOPInstanceUID).PatientName == "Corrected^Name"
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
    images = [ultrasound("merged", number=number) for number in (1, 2)]
    inbox.settle(*images)
    inbox.settle(*(changed(image, PatientID="THE-RIGHT-ONE") for image in images))
    study = inbox.study(images[0].StudyInstanceUID)
    assert (study.state, study.patient_id, study.revision) == (StudyState.QUEUED, "THE-RIGHT-ONE", 2)


@pytest.mark.parametrize("values", [{"PatientID": "THE-RIGHT-ONE"}, {"PatientName": "Corrected^Name"}])
def test_a_study_sent_again_in_part_under_another_patient_is_quarantined_when_quiet(
    inbox: Inbox, values: dict[str, str]
) -> None:
    images = [ultrasound("merged", number=number) for number in (1, 2)]
    inbox.settle(*images)
    inbox.settle(changed(images[0], **values))
    assert inbox.study(images[0].StudyInstanceUID).state is StudyState.QUARANTINED


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
        ("", {"PatientName": ""}, False),  # of nobody, in a study of somebody
        ("ONE", {"PatientName": "", "PatientBirthDate": "", "PatientSex": ""}, True),
        ("ONE", {"PatientName": "TEST^mixed^^^"}, True),
        ("ONE", {"PatientName": " test  ^ Mixed"}, True),
        ("ONE", {"PatientName": "Test^mixed=洪^吉洞=홍^길동"}, True),
        ("ONE", {"PatientName": "Ｔｅｓｔ^mixed"}, True),
        *(("ONE", {"PatientID": other}, False) for other in (" ONE", "ONE\t", "ONE\u3000")),
    ],
    ids=str,
)
def test_images_that_contradict_each_other_on_the_patient_are_a_conflict_and_no_others(
    inbox: Inbox, patient_id: str, values: dict[str, str], alike: bool
) -> None:
    said = {"PatientID": patient_id, "PatientSex": "F", "PatientBirthDate": "19700101"}
    one, other = (changed(ultrasound("mixed", number=number), **said) for number in (1, 2))
    inbox.settle(one, changed(other, SpecificCharacterSet="ISO_IR 192", **values))
    study = inbox.study(one.StudyInstanceUID)
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
        assert (
            inbox.file_of(before.SOPInstanceUID).PatientID
            == (copy if outcome == "revision" else before).PatientID
        )
        assert (inbox.study(before.StudyInstanceUID).state is StudyState.QUARANTINED) is (
            outcome == "conflict"
        )
    aside = [ds.SOPInstanceUID for ds, outcome in zip(first, wanted, strict=True) if outcome == "set_aside"]
    assert [row.fields["instance"] for row in inbox.events() if row.number == 2034] == aside
    inbox.index(*copies, calling=sender)  # what was decided is not decided again
    assert inbox.outcomes()[2 * len(COPIES) :] == [
        "duplicate" if outcome == "revision" else outcome for outcome in wanted
    ]


def test_a_copy_without_identity_takes_neither_the_job_nor_the_place_of_a_purged_image(inbox: Inbox) -> None:
    image = ultrasound("purged")
    inbox.settle(image)
    inbox.put(Instance, purged=True)
    inbox.put(ReceivedObject, purged=True)
    before = inbox.instance(image.SOPInstanceUID)
    for _ in range(2):
        inbox.settle(changed(image, **NOBODY), calling="QUICK")
        after = inbox.instance(image.SOPInstanceUID)
        assert (after.path, after.purged, after.patient) == (before.path, True, before.patient)
    study = inbox.study(image.StudyInstanceUID)
    assert (study.revision, study.patient_id) == (1, image.PatientID)
    assert [job.state for job in inbox.jobs()] == [JobState.QUEUED]
    assert inbox.outcomes() == ["new", "set_aside", "set_aside"]


def lose_database(inbox: Inbox) -> Inbox:
    """As after ``rm node.db*`` and a restart."""
    inbox.close()
    for path in inbox.folder.glob("node.db*"):
        path.unlink()
    return Inbox(inbox.folder)


def test_a_lost_database_is_named_and_its_studies_come_back(inbox: Inbox) -> None:
    images = [ultrasound(name, number=number) for name in ("one", "two") for number in (1, 2)]
    faulty = changed(ultrasound("faulty"), Rows=0)
    inbox.settle(*images, faulty)
    again = lose_database(inbox)
    stores = again.database, again.spool, again.files
    reconcile(*stores)
    [event] = again.events()
    assert (event.number, event.fields["unknown"], event.fields["missing"]) == (2030, 5, 0)
    assert "spool reindex" in event.fields["remedy"]
    told: list[tuple[int, int]] = []
    assert reindex(*stores, lambda *at: told.append(at)) == 5
    assert told[-1] == (5, 5)
    again.settle()
    for image in images:
        study = again.study(image.StudyInstanceUID)
        assert (study.state, study.revision) == (StudyState.QUEUED, 1)
    assert again.study(faulty.StudyInstanceUID).state is StudyState.QUARANTINED
    assert not str(compare(*stores))
    assert reindex(*stores, lambda _done, _of: None) == 0
    assert len(again.outcomes()) == 5
    assert [e.number for e in again.events() if e.number in (2030, 2036)] == [
        2030,
        2036,
    ]
    again.close()


def test_a_reindexed_study_waits_for_its_other_objects(inbox: Inbox) -> None:
    """Its objects came long ago, but they are still being put back: no revision for each of them."""
    images = [ultrasound("slow", number=number) for number in (1, 2)]
    inbox.settle(*images)
    again = lose_database(inbox)
    for path in compare(again.database, again.spool, again.files).unknown:
        again.spool.put_back(path)
        again.index()
        assert again.assemble(seconds=0) == 0
    again.settle()
    assert again.study(images[0].StudyInstanceUID).revision == 1
    again.close()


def test_a_row_whose_file_is_gone_is_named(inbox: Inbox) -> None:
    image = ultrasound("gone")
    inbox.index(image)
    (inbox.folder / inbox.instance(image.SOPInstanceUID).path).unlink()
    reconcile(inbox.database, inbox.spool, inbox.files)
    assert inbox.events()[-1].fields["missing"] == 1


def test_the_purge_reaches_what_outlived_it_and_never_what_was_never_indexed(inbox: Inbox) -> None:
    known, unknown = ultrasound("known"), ultrasound("unknown")
    inbox.settle(known, unknown)
    inbox.write(Session.execute, delete(Job))
    inbox.put(Study, inbox.study(known.StudyInstanceUID).id, state=StudyState.NOT_APPLICABLE)
    lost = inbox.study(unknown.StudyInstanceUID).id
    for table in (Instance, ReceivedObject):
        inbox.write(Session.execute, delete(table).where(table.study_id == lost))
    path = inbox.folder / inbox.instance(known.SOPInstanceUID).path
    held = path.read_bytes()
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=1000)) == 1
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(held)  # a crash between the commit and the deletion
    assert inbox.spool_files() == 2
    reconcile(inbox.database, inbox.spool, inbox.files)
    assert inbox.spool_files() == 1
    assert (inbox.events()[-1].number, inbox.events()[-1].fields["unknown"]) == (2030, 1)
    reindex(inbox.database, inbox.spool, inbox.files, lambda _done, _of: None)
    inbox.index()
    assert inbox.study(unknown.StudyInstanceUID).state is StudyState.RECEIVING


@pytest.mark.parametrize(("end", "blamed"), [("killed", 2), ("stopped", 0), ("reloaded", 0)])
def test_only_a_death_of_the_node_is_blamed_on_the_object_that_was_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, blamed: int
) -> None:
    stalled = []
    for number in range(2):
        if end != "reloaded":
            monkeypatch.setattr(indexing, "_THIS_PROCESS", f"process {number}")
        record = indexing.CrashRecord(tmp_path / "open")
        stalled.append(record.noted("healthy.dcm"))
        stalled[-1].__enter__()  # reading does not end before the node does
        if end == "stopped":
            record.clear()
    monkeypatch.setattr(
        indexing, "_THIS_PROCESS", indexing._THIS_PROCESS if end == "reloaded" else "process 2"
    )
    assert indexing.CrashRecord(tmp_path / "open").count("healthy.dcm") == blamed


DAY = timedelta(days=1)


# Images become studies and jobs: quiet times, steps, late images, versions and what runs again


def waits(inbox: Inbox, uid: str, seconds: float, began: datetime) -> bool:
    """Whether the study is due so long after an object that was indexed between ``began`` and now."""
    return began <= inbox.study(uid).due_at - timedelta(seconds=seconds) <= steady_now()


@pytest.mark.parametrize(("calling", "seconds"), [("MODALITY", 30), ("QUICK", 1)])
def test_an_ultrasound_waits_for_its_quiet_time_or_that_of_the_peer(
    inbox: Inbox, calling: str, seconds: float
) -> None:
    image, began = ultrasound("quiet"), steady_now()
    inbox.index(image, calling=calling)
    assert waits(inbox, image.StudyInstanceUID, seconds, began)
    moment, second = inbox.study(image.StudyInstanceUID).due_at, timedelta(seconds=1)
    assert inbox.assembler.run_once(moment - second) == 0
    assert inbox.study(image.StudyInstanceUID).state is StudyState.RECEIVING
    assert inbox.assembler.run_once(moment + second) == 1
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED
    assert [job.state for job in inbox.jobs()] == [JobState.QUEUED]


def test_each_further_image_begins_the_quiet_time_anew(inbox: Inbox) -> None:
    for number in range(3):
        image, began = ultrasound("single", number=number), steady_now()
        inbox.index(image, association=f"a{number}")
    assert waits(inbox, image.StudyInstanceUID, 30, began)


@pytest.mark.parametrize("restored", [False, True])
def test_an_open_association_holds_its_studies_until_it_is_released_or_the_node_restored(
    inbox: Inbox, restored: bool
) -> None:
    inbox.opened("a1")
    one, other = ultrasound("one"), ultrasound("other")
    inbox.receive(one, association="a1")
    inbox.index(other, association="a2")
    assert inbox.assemble(600) == 1
    assert [inbox.study(image.StudyInstanceUID).state for image in (one, other)] == [
        StudyState.RECEIVING,
        StudyState.QUEUED,
    ]
    if restored:  # its listener ended after the backup, and its journal was read to the end
        shutil.rmtree(inbox.folder / "journal")
        reindex(inbox.database, inbox.spool, inbox.files, lambda *_: None)
    else:
        inbox.released("a1")
    inbox.index()
    assert inbox.assemble(600) == 1


@pytest.mark.parametrize("node_died_too", [False, True])
def test_associations_of_a_listener_that_died_hold_nothing(inbox: Inbox, node_died_too: bool) -> None:
    inbox.opened("a1")
    inbox.receive(ultrasound("lost"), association="a1")
    if not node_died_too:
        inbox.index()
    inbox.listener_restarted()
    if node_died_too:
        inbox.reopen()
    inbox.index()
    assert inbox.assemble(600) == 1


def test_a_listener_that_does_not_come_back_holds_its_studies_no_longer(inbox: Inbox) -> None:
    with (inbox.folder / "scp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inbox.opened("a1")
        inbox.index(ultrasound("gone"), association="a1")
        assert inbox.assemble(3000) == 0
    inbox.reopen()  # else it is looked at two seconds later
    inbox.index()
    assert inbox.assemble(3000) == 1


def test_a_journal_line_is_ingested_once_over_restarts(inbox: Inbox) -> None:
    inbox.opened("a1")
    inbox.index()
    inbox.reopen()
    inbox.released("a1")
    inbox.index()
    assert [row.number for row in inbox.events()] == [1001, 1002]


def test_a_companion_prolongs_the_wait_but_its_study_alone_starts_nothing(inbox: Inbox) -> None:
    capture = secondary_capture(ultrasound("companion"))
    inbox.settle(capture)
    study = inbox.study(capture.StudyInstanceUID)
    assert study.state is StudyState.NOT_APPLICABLE
    assert "secondary_captures_from does not name its sender" in study.reason
    inbox.settle(ultrasound("companion"))
    study = inbox.study(capture.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 2)


def test_a_study_that_no_rule_takes_is_not_applicable(inbox: Inbox) -> None:
    image = chest("no rule", np.zeros((32, 32), np.uint16))
    inbox.settle(image)
    study = inbox.study(image.StudyInstanceUID)
    closest = "no rule applies; closest is ultrasound: modality DX does not match US"
    assert (study.state, study.reason) == (StudyState.NOT_APPLICABLE, closest)
    [told] = [event for event in inbox.events() if event.number == NO_RULE.number]
    assert told.fields["reason"] == closest


@pytest.mark.parametrize("moved", [-DAY, DAY], ids=["back", "on"])
def test_a_clock_that_is_set_a_day_on_or_back_moves_no_quiet_time(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, moved: timedelta
) -> None:
    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + moved

    first, second = (ultrasound("clock", number=number) for number in (1, 2))
    inbox.index(first)
    monkeypatch.setattr("dicom_node.receive.spool.datetime", Moved)
    monkeypatch.setattr("dicom_node.base.store.transitions.utc_now", lambda: Moved.now(UTC))
    inbox.opened("a1")
    inbox.index(second, association="a1")
    assert inbox.assemble(600) == 0  # the association is open
    inbox.released("a1")
    inbox.index()
    assert inbox.assemble(0) == 0
    assert inbox.assemble(70) == 1
    study = inbox.study(first.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 1)


def test_two_patients_that_stood_in_a_study_unseen_stop_it_and_keep_no_other_waiting(inbox: Inbox) -> None:
    one, other = (ultrasound("mixed", number=number) for number in (1, 2))
    good = ultrasound("good")
    inbox.index(one, other, good)
    row = inbox.instance(other.SOPInstanceUID)
    inbox.put(Instance, row.id, patient="another" + row.patient)  # as if indexing had not looked
    assert inbox.assemble(seconds=1000) == 2
    assert inbox.study(one.StudyInstanceUID).state is StudyState.QUARANTINED
    assert inbox.study(good.StudyInstanceUID).state is not StudyState.RECEIVING


NAMES = (f"life{number}" for number in count())


MADE = {"report": report, "own result": own_result}


VALUES = {
    "renamed": {"PatientName": "Another^Name"},
    "other patient": {"PatientID": "X"},
    "faulty": {"Rows": 0},
}


STEPS = strategies.one_of(
    strategies.tuples(
        strategies.just("send"),
        strategies.integers(1, 3),
        strategies.sampled_from(
            ["same", "renamed", "other patient", "other pixels", "faulty", "report", "own result"]
        ),
    ),
    strategies.tuples(strategies.just("send"), strategies.integers(1, 3), strategies.just("same")),
    strategies.tuples(strategies.sampled_from(["quiet", "confirm", "release", "rerun"])),
    strategies.tuples(
        strategies.just("work"), strategies.sampled_from(["succeeded", "failed", "not_applicable", "again"])
    ),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    """One node for all examples: each has a study of its own."""
    with closing(Inbox(tmp_path_factory.mktemp("life") / "var")) as shared:
        yield shared


class Life:
    """One study and what may happen to it."""

    def __init__(self, inbox: Inbox, name: str) -> None:
        self.inbox, self.name = inbox, name
        self.queue = JobQueue(inbox.database, inbox.settings.workers)
        self.uid = str(ultrasound(name, size=(16, 12)).StudyInstanceUID)

    def send(self, number: int, variant: str) -> None:
        self.inbox.index(self._made(number, variant))

    def quiet(self) -> None:
        self.inbox.assemble(seconds=600)

    def work(self, end: str) -> None:
        """One job, ended like that."""
        job = self.queue.claim("elsewhere/1/1/x")
        if job is None:
            return
        if end == "again":
            self.queue.retry_at(job, utc_now(), "again")
            return
        row = self.inbox.get(Job, job.id)
        state = JobState.CANCELLED if row.cancel_requested else JobState(end)
        self.inbox.write(self.queue.complete_if_owner, job, state, end)
        if state is JobState.SUCCEEDED:
            uid = derived_uid(self.name, str(job.id), str(job.attempts))
            self.inbox.delivery(row, DeliveryState.PENDING, sop_instance_uid=uid)
        self.inbox.write(settle_study, job.study_id)

    def confirm(self) -> None:
        with self.inbox.database.write() as session:
            for row in session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING)):
                for event in (DELIVERY_STARTED, DELIVERY_SENT, DELIVERY_CONFIRMED):
                    move(session, row, event)
                settle_study(session, row.result.study_id)

    def release(self) -> None:
        for study in self.inbox.scalars(
            select(Study.id).filter_by(study_instance_uid=self.uid, state=StudyState.QUARANTINED)
        ):
            choice = Choice(self.inbox.database, self.inbox.settings)
            rows = choice.rows(study)
            patient = rows[0]["number"] if rows and not rows[0]["sop_instance_uid"] else None
            first = {(row["if_taken"], row["sop_instance_uid"]): row["number"] for row in reversed(rows)}
            asked = [
                number for question, number in first.items() if question[0] == patient or not question[1]
            ]
            choice.release(study, asked)

    def rerun(self) -> None:
        if (study := self.inbox.write(intake.study, self.uid)) is not None:
            with suppress(NotAllowedNow):
                self.inbox.write(choose.rerun, study.id, self.inbox.settings)

    def _made(self, number: int, variant: str) -> Dataset:
        image = ultrasound(self.name, number=number, size=(16, 12))
        if variant in MADE:
            return MADE[variant](image)
        if variant == "other pixels":
            return changed(image, PixelData=bytes(len(image.PixelData)))
        return changed(image, **VALUES.get(variant, {}))


def check(inbox: Inbox, uid: str, sent: int) -> None:
    """What holds at every moment."""
    with inbox.database.read() as session:
        study = session.scalar(select(Study).where(Study.study_instance_uid == uid))
        if study is None:
            assert sent == 0
            return
        receptions = session.scalars(select(ReceivedObject).where(ReceivedObject.study_id == study.id)).all()
        assert len(receptions) == sent
        assert all((inbox.folder / row.path).is_file() for row in receptions)
        twice = select(Instance.sop_instance_uid).group_by(Instance.sop_instance_uid).having(func.count() > 1)
        assert session.scalars(twice).all() == []
        if study.state is StudyState.QUARANTINED:
            assert study.reason
            jobs = session.scalars(select(Job).where(Job.study_id == study.id))
            assert [job.state for job in jobs if job.state in OPEN_JOBS and not job.cancel_requested] == []
            results = session.scalars(select(Result).where(Result.study_id == study.id))
            assert not OPEN_DELIVERIES & {row.state for result in results for row in result.deliveries}
        if study.state is StudyState.RECEIVING:
            assert study.due_at is not None


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(steps=strategies.lists(STEPS, max_size=14))
def test_a_study_comes_to_an_end_whatever_happens(shared: Inbox, steps: list[tuple[object, ...]]) -> None:
    life = Life(shared, next(NAMES))
    sent = 0
    for step, *arguments in steps:
        getattr(life, str(step))(*arguments)
        sent += step == "send"
        check(shared, life.uid, sent)
    life.quiet()
    for _ in range(5):
        life.work("succeeded")
    life.confirm()
    check(shared, life.uid, sent)
    if sent:
        assert shared.study(life.uid).state in END_STATES
    assert shared.spool.pending() == []


@pytest.fixture
def with_steps(open_inbox: Callable[..., Inbox]) -> Inbox:
    return open_inbox(WITH_STEPS)


class Modality:
    """Reports as the listener takes them from the peer ``modality``, without a network."""

    def __init__(self, with_steps: Inbox) -> None:
        self.inbox = with_steps
        self._numbers = count(1)
        self.steps = PerformedSteps(with_steps.folder, with_steps.journal)

    def begin(self, *studies: str, peer: str = "modality") -> str:
        uid = f"1.2.826.7.{next(self._numbers)}"
        assert self._take(N_CREATE_RQ, uid, begun(*studies), peer) == 0x0000
        return uid

    def set(self, uid: str, objects: Sequence[Dataset] = (), status: str = COMPLETED) -> None:
        assert self._take(N_SET_RQ, uid, ended(objects, status), "modality") == 0x0000

    def _take(self, field: int, uid: str, step: Dataset, peer: str) -> int:
        command = Command(field, 1, STEP_CLASS, uid, True)
        fields = {"association": "m1", "calling": "MODALITY", "peer": peer}
        return self.steps.handle(
            command, encode(step, False, True), ExplicitVRLittleEndian, peer, fields
        ).status.code


@pytest.fixture
def modality(with_steps: Inbox) -> Modality:
    return Modality(with_steps)


def images(name: str, number: int = 3) -> list[Dataset]:
    return [ultrasound(name, number=one) for one in range(1, number + 1)]


def is_complete(with_steps: Inbox, image: Dataset, seconds: float = 0) -> bool:
    """Index, assemble as if so many seconds had passed, and look."""
    with_steps.index()
    with_steps.assembler.run_once(steady_now() + timedelta(seconds=seconds))
    return with_steps.study(image.StudyInstanceUID).state is not StudyState.RECEIVING


def told(with_steps: Inbox, event: EventType) -> list[dict[str, Any]]:
    return [dict(row.fields) for row in with_steps.events() if row.number == event.number]


def test_the_last_image_before_the_end(with_steps: Inbox, modality: Modality) -> None:
    sent = images("end")
    with_steps.opened("a1")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.receive(*sent, association="a1")
    assert not is_complete(with_steps, sent[0], 19 * 60)
    modality.set(step, sent)
    assert is_complete(with_steps, sent[0])  # no quiet time, and the association is open still
    assert [len(job.source_uids) for job in with_steps.jobs()] == [3]
    assert told(with_steps, STEPS_FULFILLED)[0]["steps"] == 1


@pytest.mark.parametrize(("ends", "missing"), [(False, 0), (True, 2)])
def test_a_step_that_never_ends_or_images_that_never_come_are_not_awaited_for_ever(
    with_steps: Inbox, modality: Modality, ends: bool, missing: int
) -> None:
    sent = images("endless")
    step = modality.begin(sent[0].StudyInstanceUID)
    if ends:
        modality.set(step, sent)
    with_steps.receive(sent[0])
    assert not is_complete(with_steps, sent[0], 30 + 19 * 60)
    assert is_complete(with_steps, sent[0], 30 + 21 * 60)
    (event,) = told(with_steps, STEPS_NOT_AWAITED)
    assert (event["steps"], event["going_on"], event["missing"]) == (1, int(not ends), missing)


@pytest.mark.parametrize(("named", "status"), [(0, COMPLETED), (0, DISCONTINUED), (2, COMPLETED)])
def test_images_that_no_step_names_have_their_quiet_time(
    with_steps: Inbox, modality: Modality, named: int, status: str
) -> None:
    sent = images("more")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.receive(*sent)
    modality.set(step, sent[:named], status)
    assert not is_complete(with_steps, sent[0], 29)
    assert is_complete(with_steps, sent[0], 31)


def test_a_correction_of_a_complete_study_has_its_quiet_time(with_steps: Inbox, modality: Modality) -> None:
    sent = images("renamed")
    with_steps.receive(*sent)
    modality.set(modality.begin(sent[0].StudyInstanceUID), sent)
    assert is_complete(with_steps, sent[0])
    for image in sent:
        with_steps.index(changed(image, PatientName="Corrected^Name"))
        with_steps.assembler.run_once()
    assert with_steps.study(sent[0].StudyInstanceUID).state is StudyState.RECEIVING
    assert is_complete(with_steps, sent[0], 100)
    assert with_steps.study(sent[0].StudyInstanceUID).state is StudyState.QUEUED


def test_reports_of_two_listeners_are_read_in_any_order(with_steps: Inbox) -> None:
    for number, status, seconds, objects in (
        (1, COMPLETED, 60, ["1.1", "1.2"]),
        (0, IN_PROGRESS, 0, []),
        (1, COMPLETED, 61, ["1.1", "1.2"]),
    ):
        at = utc_now() + timedelta(seconds=seconds)
        report = {"step": "1.9", "peer": "modality", "calling": "M", "status": status, "number": number}
        with_steps.write(requested.keep_step, report | {"studies": ["1.8"], "objects": objects}, at)
    (row,) = with_steps.rows(PerformedStep)
    assert (row.status, with_steps.read(requested.objects_named, row.id)) == (StepStatus.COMPLETED, 2)
    assert row.ended_at - row.begun_at > timedelta(seconds=59)


def test_a_restart_of_the_indexer_reads_no_report_twice_and_leaves_none_out(
    with_steps: Inbox, modality: Modality
) -> None:
    sent = images("restart")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.index()
    modality.set(step, sent)
    with_steps.reopen()
    with_steps.receive(*sent)
    with_steps.reopen()
    assert is_complete(with_steps, sent[0])
    assert len(told(with_steps, STEP_REPORTED)) == 2


@pytest.mark.debian("postgresql")
def test_the_same_in_postgresql(open_inbox: Callable[..., Inbox], postgres_url: str) -> None:
    with_steps = open_inbox(WITH_STEPS, url=postgres_url)
    modality, sent = Modality(with_steps), images("postgres")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.index()
    with_steps.receive(*sent)
    assert not is_complete(with_steps, sent[0], 300)
    modality.set(step, sent)
    assert is_complete(with_steps, sent[0])
    assert any(row.study_id for row in with_steps.events() if row.number == 1081)
    disk.forget_past(with_steps.database, with_steps.settings, utc_now() + timedelta(days=401))
    assert with_steps.rows(StepObject) == []


def blank(image: Dataset) -> Dataset:
    return changed(image, PixelData=bytes(len(image.PixelData)))


def release(inbox: Inbox, uid: str, *take: int) -> None:
    studies.release(inbox.settings, uid, take)
    inbox.settle()


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
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED


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
    assert inbox.file_of(image.SOPInstanceUID).PixelData == (image, other)[number - 1].PixelData
    for as_of in (None, rows[0]["as_of"]):  # nothing came since: the choice itself was the last
        with pytest.raises(NotAllowedNow, match="only one in quarantine"):
            studies.release(inbox.settings, image.StudyInstanceUID, as_of=as_of)


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
    assert inbox.file_of(sent[0].SOPInstanceUID).PatientID == (before if number == 1 else right)
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
    assert inbox.study(image.StudyInstanceUID).state is StudyState.NOT_APPLICABLE


def test_a_study_with_a_faulty_object_is_released_without_it(inbox: Inbox) -> None:
    image, faulty = ultrasound("faulty"), changed(ultrasound("faulty", number=2), Rows=0)
    inbox.settle(image, faulty)
    assert studies.versions(inbox.settings, image.StudyInstanceUID) == []
    release(inbox, image.StudyInstanceUID)
    assert analysed(inbox, image.StudyInstanceUID) == [image.SOPInstanceUID]
    inbox.index(faulty)
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED


def test_a_copy_that_says_less_is_no_version_to_choose_or_to_fall_back_to(inbox: Inbox) -> None:
    images = [ultrasound("part", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle(changed(images[0], PatientName=""), calling="QUICK")
    inbox.settle(changed(images[0], PatientID="THE-RIGHT-ONE"))
    rows = studies.versions(inbox.settings, images[0].StudyInstanceUID)
    assert [row["choose"] for row in rows] == ["patient", "patient"]
    [first] = [row["number"] for row in rows if row["differs"]["PatientID"] == images[0].PatientID]
    release(inbox, images[0].StudyInstanceUID, first)
    assert inbox.file_of(images[0].SOPInstanceUID).PatientName == images[0].PatientName


@pytest.fixture
def node(open_inbox: Callable[..., Inbox]) -> Inbox:
    return open_inbox(configuration())


def with_rule(node: Inbox, **values: Any) -> Settings:
    """The configuration with a changed rule, and a second PACS."""
    config = configuration()
    config["peers"].append({**config["peers"][1], "name": "second", "ae_title": "SECOND", "port": 4243})
    config["rules"][0] |= values
    return Settings.model_validate(config | {"node": {"data_dir": node.folder}})


def analysed_rerun(node: Inbox, name: str, **values: str) -> str:
    """Receive, assemble and run one study; its UID."""
    image = changed(ultrasound(name), **values)
    node.settle(image)
    work(node)
    return str(image.StudyInstanceUID)


def sent(node: Inbox) -> list[tuple[str, str]]:
    """Destination and state of every delivery."""
    return [(row.destination, row.state.value) for row in node.rows(Delivery)]


def numbers(node: Inbox) -> list[int]:
    return [event.number for event in node.events()]


def test_a_delivered_study_is_analysed_again_and_nothing_is_sent_twice(node: Inbox) -> None:
    uid = analysed_rerun(node, "again")
    confirm(node)
    before = sent(node)
    assert node.study(uid).state is StudyState.DELIVERED
    assert len(before) == 2
    [row] = studies.rerun_rules(node.settings, [uid])
    assert (row["rule"], row["pipeline"], row["queued"], row["sources"]) == ("rule", "obedient", True, 1)
    assert node.study(uid).state is StudyState.QUEUED
    assert STUDY_RERUN.number in numbers(node)
    work(node)
    assert sent(node) == before
    assert node.study(uid).state is StudyState.DELIVERED
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED] * 2


def test_what_waits_for_another_destination_is_withdrawn_when_the_rule_names_a_new_one(node: Inbox) -> None:
    uid = analysed_rerun(node, "moved")
    for wanted, states in (
        (with_rule(node, send_to=["second"]), {("pacs", "cancelled"), ("second", "pending")}),
        (node.settings, {("pacs", "pending"), ("second", "cancelled")}),  # what is wanted again is sent again
    ):
        studies.rerun_rules(wanted, [uid])
        work(node, wanted)
        assert set(sent(node)) == states
    assert len(node.rows(Result)) == 2, "results were built once"


@pytest.mark.parametrize("assess_first", [False, True])
def test_of_before_a_correction_no_person_sends_anything(node: Inbox, assess_first: bool) -> None:
    """Neither what waited, was discarded or rejected, nor to a further peer; also while the new job waits."""
    settings, image = with_rule(node, assess_first=assess_first), ultrasound("corrected")
    uid = str(image.StudyInstanceUID)
    node.settle(image)
    work(node, settings)
    if assess_first:
        held_results.reject_results(settings, uid, because="of another patient")
    else:
        discard_deliveries(settings, [1], because="of another patient")
    node.settle(changed(image, PatientID="RIGHT"))
    for refused in (
        partial(send_again, settings, [1]),
        partial(send_again, settings, [2]),
        partial(send_study, settings, uid, "second"),
        partial(held_results.accept_results, settings, uid, rejected=True),
    ):
        with pytest.raises(NotAllowedNow):
            refused()
    work(node, settings)
    if assess_first:
        held_results.accept_results(settings, uid)
    send_study(settings, uid, "second")
    pending = [row.result_id for row in node.rows(Delivery) if row.state is DeliveryState.PENDING]
    assert len(pending) == 4
    assert {node.get(Result, number).job_id for number in pending} == {2}
    node.settle(image)
    send_again(node.settings, dead=True)
    work(node, settings)
    assert sent(node)[1] == ("pacs", "discarded" if assess_first else "pending"), "it is wanted again"


def test_a_job_that_runs_is_stopped_and_the_new_one_waits_for_it(node: Inbox) -> None:
    image = ultrasound("running")
    node.settle(image)
    queue = JobQueue(node.database, node.settings.workers)
    running = queue.claim("elsewhere/1/1/x")
    studies.rerun_rules(node.settings, [str(image.StudyInstanceUID)])
    assert queue.claim("elsewhere/1/1/y") is None, "two jobs of one rule and study do not run together"
    with pytest.raises(JobCancelled):
        queue.heartbeat(running, 0.5, "analysing")
    node.write(queue.complete_if_owner, running, JobState.CANCELLED)
    node.write(settle_study, running.study_id)
    assert node.study(image.StudyInstanceUID).state is StudyState.QUEUED
    work(node)
    assert [job.state for job in node.jobs()] == [JobState.CANCELLED, JobState.SUCCEEDED]


def test_what_may_not_be_run_again_is_refused_with_a_sentence_and_nothing_is_queued(node: Inbox) -> None:
    good, conflict, purged = (analysed_rerun(node, name) for name in ("good", "conflict", "purged"))
    node.settle(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    node.write(intake.mark_purged, node.study(purged).id)
    coming = ultrasound("coming")
    node.index(coming)
    for uid, sentence in (
        (conflict, "is in quarantine"),
        (purged, "were purged"),
        (str(coming.StudyInstanceUID), "is still being received"),
    ):
        with pytest.raises(NotAllowedNow, match=sentence):
            studies.rerun_rules(node.settings, [good, uid])
    assert node.study(good).revision == 1
    assert STUDY_RERUN.number not in numbers(node)


def test_a_changed_rule_is_replayed_over_the_studies_that_it_missed(node: Inbox) -> None:
    ovary, breast = analysed_rerun(node, "ovary"), analysed_rerun(node, "breast", BodyPartExamined="BREAST")
    purged = analysed_rerun(node, "purged")
    node.write(intake.mark_purged, node.study(purged).id)
    analysed_rerun(node, "conflict")
    node.settle(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    since, jobs = node.study(ovary).last_received_at, len(node.jobs())
    for same in (node.settings, with_rule(node, name="renamed"), with_rule(node, when={"body_part": "KNEE"})):
        assert rule_trial.replay_rules(same, since, dry_run=False) == [], "what was delivered stays"
    second = with_rule(node, send_to=["pacs", "second"], when={"body_part": "OVARY"})

    def replayed(dry_run: bool) -> list[tuple[str, bool]]:
        rows = rule_trial.replay_rules(second, since, dry_run=dry_run)
        assert rows[0]["destinations"] == ["pacs", "second"]
        assert "were purged" in rows[-1]["reason"]
        return [(row["study_instance_uid"], row["queued"]) for row in rows]

    assert replayed(True) == [(ovary, False), (purged, False)]
    assert len(node.jobs()) == jobs, "nothing was changed"
    assert node.study(ovary).revision == 1, "nothing was changed"
    assert replayed(False) == [(ovary, True), (purged, False)]
    assert node.study(ovary).state is StudyState.QUEUED
    assert node.study(breast).revision == 1
    told = [(row["study"], row["actor"], row["fields"]) for row in node.read(audit.rows)]
    assert told == [(ovary, "command line", {"replay": True})], "neither foreseen nor refused ones"
    work(node, second)
    assert {peer for peer, _ in sent(node)} == {"pacs", "second"}
    assert [row["queued"] for row in rule_trial.replay_rules(second, since, dry_run=False)] == [False]
    assert rule_trial.replay_rules(second, utc_now(), dry_run=False) == []


# Files leave once nobody needs them, and whoever deletes waits for whoever reads


def ended_study(inbox: Inbox, name: str, state: StudyState, delivery: DeliveryState) -> int:
    """A study with one result on which everything happened now; returns the id of its delivery."""
    image = ultrasound(name)
    inbox.settle(image, image, changed(image, InstanceCreationTime="120000"))
    job = inbox.jobs()[-1]
    inbox.put(Job, job.id, state=JobState.SUCCEEDED, finished_at=utc_now())
    inbox.put(Study, job.study_id, state=state)
    inbox.delivery(job, delivery, created_at=utc_now())
    sent = inbox.rows(Delivery)[-1].id
    if delivery is DeliveryState.CONFIRMED:
        inbox.put(Delivery, sent, confirmed_at=utc_now())
    return sent


def test_a_confirmed_study_is_purged_after_its_days_and_no_other_ever(inbox: Inbox) -> None:
    ended_study(inbox, "dead", StudyState.FAILED, DeliveryState.DEAD)
    ended_study(inbox, "way", StudyState.DELIVERING, DeliveryState.UNCONFIRMED)
    ended_study(inbox, "done", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    assert purge(inbox.database, inbox.settings, utc_now() + 13 * DAY) == 0
    assert inbox.spool_files() == 6
    assert purge(inbox.database, inbox.settings, utc_now() + 15 * DAY) == 2
    assert inbox.spool_files() == 4
    assert purge(inbox.database, inbox.settings, utc_now() + 1000 * DAY) == 0
    assert inbox.events()[-1].number == 2021


def test_a_purged_object_that_comes_again_is_a_duplicate_whose_file_is_used(inbox: Inbox) -> None:
    ended_study(inbox, "again", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    purge(inbox.database, inbox.settings, utc_now() + 15 * DAY)
    image = ultrasound("again")
    inbox.index(image)
    assert inbox.outcomes()[-1] == "duplicate"
    assert inbox.file_of(image.SOPInstanceUID).PixelData == image.PixelData


STUDY = 1


@pytest.fixture
def delivered(open_inbox: Callable[..., Inbox], postgres_url: str) -> Inbox:
    """Its only study was delivered."""
    delivered = open_inbox(illustrated(), url=postgres_url)
    delivered.settle(ultrasound("one"))
    work(delivered)
    confirm(delivered)
    return delivered


def purged(delivered: Inbox) -> list[bool]:
    """Of each image; and none that is not has lost its file."""
    rows = delivered.rows(Instance)
    assert all(row.purged or (delivered.folder / row.path).is_file() for row in rows)
    return [row.purged for row in rows]


@pytest.mark.debian("postgresql")
@pytest.mark.parametrize(
    ("look", "image", "left"),
    [
        (1, ultrasound("one", number=2), [False, False]),
        (2, ultrasound("one", number=2), [True, False]),
        (2, ultrasound("one"), [False]),
    ],
    ids=[
        "its study is no longer to be purged",
        "it waits until the others are marked",
        "once more, byte for byte: its file may not count as stored",
    ],
)
def test_an_image_that_comes_while_its_study_is_purged_is_kept(
    delivered: Inbox, monkeypatch: pytest.MonkeyPatch, look: int, image: Dataset, left: list[bool]
) -> None:
    delivered.receive(image)
    late, looks, purgeable = threading.Thread(target=delivered.index), count(1), intake.purgeable

    def meanwhile(*of: Any) -> list[int]:
        found = purgeable(*of)
        if next(looks) == look:
            late.start()
            late.join(timeout=30 if look == 1 else 1)
        return found

    monkeypatch.setattr(intake, "purgeable", meanwhile)
    spool.delete_received(delivered.settings, [STUDY])
    late.join()
    assert purged(delivered) == left


@pytest.mark.debian("postgresql")
def test_a_result_that_a_person_sends_again_while_its_study_is_purged_keeps_its_file(
    delivered: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.delete_received(delivered.settings, [STUDY])
    [sent, *_] = delivered.rows(Delivery)
    delivered.put(Delivery, sent.id, state=DeliveryState.DISCARDED)
    file = delivered.folder / delivered.get(Result, sent.result_id).path
    settle = outbox.settle_study
    other = threading.Thread(
        target=purge_results, args=(delivered.database, keeping(delivered, 1), utc_now() + 2 * DAY)
    )

    def meanwhile(*of: Any) -> None:
        other.start()
        other.join(timeout=2)
        assert not other.is_alive()
        assert file.is_file()
        settle(*of)

    monkeypatch.setattr(outbox, "settle_study", meanwhile)
    delivered.write(outbox.retry, sent.id)
    other.join()
    assert delivered.get(Delivery, sent.id).state is DeliveryState.PENDING
    assert (delivered.get(Result, sent.result_id).purged, file.is_file()) == (False, True)


LATER = 401 * DAY


def with_file(inbox: Inbox, name: str, state: StudyState, delivery: DeliveryState) -> tuple[int, Path]:
    """As ``ended_study``, and the file of its result."""
    number = ended_study(inbox, name, state, delivery)
    file = inbox.folder / "results" / "ab" / f"{name}.dcm"
    inbox.put(Result, inbox.get(Delivery, number).result_id, path=f"results/ab/{name}.dcm")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"result")
    return number, file


def keeping(inbox: Inbox, days: float = 400) -> Settings:
    settings = inbox.settings
    return settings.model_copy(update={"spool": settings.spool.model_copy(update={"result_days": days})})


def test_the_file_of_a_confirmed_result_goes_after_its_days_and_after_the_images(inbox: Inbox) -> None:
    _, file = with_file(inbox, "done", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 0  # its images are here
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + 399 * DAY) == 0
    assert file.is_file()
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 1
    assert (file.exists(), [row.purged for row in inbox.rows(Result)]) == (False, [True])
    assert inbox.events()[-1].number == 2021
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 0


@pytest.mark.parametrize(
    ("state", "delivery"),
    [
        (StudyState.FAILED, DeliveryState.DEAD),
        (StudyState.DELIVERING, DeliveryState.UNCONFIRMED),
        (StudyState.QUARANTINED, DeliveryState.CONFIRMED),
    ],
)
def test_what_is_not_confirmed_or_stands_in_quarantine_stays(
    inbox: Inbox, state: StudyState, delivery: DeliveryState
) -> None:
    _, file = with_file(inbox, "stays", state, delivery)
    inbox.put(Instance, purged=True)
    inbox.put(Job, state=JobState.SUCCEEDED)
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 0
    assert (file.is_file(), [row.purged for row in inbox.rows(Result)]) == (True, [False])


def test_what_has_no_file_any_more_is_sent_nowhere_again(inbox: Inbox) -> None:
    number, _ = with_file(inbox, "gone", StudyState.CANCELLED, DeliveryState.CANCELLED)
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 1
    with pytest.raises(NotAllowedNow, match="result_days"):
        inbox.write(outbox.retry, number)
