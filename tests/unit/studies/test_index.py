"""The index of received objects: what is faulty, floods, corrections, crashes, and whose they are."""

import hashlib
import random
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.config.sections import InspectionSettings
from dicom_node.dicom.identity import Patient
from dicom_node.events import STUDY_MAY_BE_INCOMPLETE, by_number
from dicom_node.inbox.header import Arrival, encode_header
from dicom_node.inbox.inspection import Inspected
from dicom_node.inbox.inspector import Inspector, ReaderLost
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.store import views
from dicom_node.store.tables import Delivery, Instance, Job, ReceivedObject, Study
from dicom_node.store.transitions import steady_now, utc_now
from dicom_node.studies import scan
from dicom_node.studies.comparison import compare, reconcile, reindex
from dicom_node.studies.purge import purge
from dicom_node.studies.scan import CrashRecord
from tests.inbox_lab import INSPECTOR, Inbox, encoded
from tests.modality import ULTRASOUND, ultrasound
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


REGION = Dataset()


REGION.CodeValue, REGION.CodingSchemeDesignator, REGION.CodeMeaning = "53120007", "SCT", "Upper limb"


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
SENT_AGAIN: list[dict[str, Any]] = [
    {"InstanceCreationDate": "20260102", "InstanceCreationTime": "120000"},
    {"ContributingEquipmentSequence": [REGION], "RetrieveAETitle": "GATEWAY"},
    {"SpecificCharacterSet": "ISO_IR 192", "ImageComments": ""},
    {"DataSetTrailingPadding": bytes(6)},
]
OF_ONE_UID: dict[str, tuple[Dataset, list[Dataset], list[str]]] = {
    "whatever a header says": (XRAY, [changed(XRAY, **one) for one in SAID], ["revision"] * len(SAID)),
    "another colour model": (
        IMAGE,
        [OTHER_COLOURS, changed(OTHER_COLOURS, PlanarConfiguration=1)],
        ["revision"] * 2,
    ),
    "what differs each time": (
        IMAGE,
        [*(changed(IMAGE, **one) for one in SENT_AGAIN), WITH_PRIVATE],
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
    wrong = {"conflict", "quarantined"} & set(inbox.outcomes())
    states = {row.state for row in inbox.rows(Study)}
    assert states == {StudyState.QUARANTINED if wrong else StudyState.RECEIVING}
    assert inbox.spool_files() == len(set(map(id, [first, *further]))), "each is kept, once"


def test_other_pixels_under_the_same_uid_are_a_conflict_and_nothing_is_overwritten(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.settle(image)
    [name] = inbox.receive(changed(image, PixelData=bytes(len(image.PixelData))))
    inbox.index()
    assert inbox.outcomes() == ["new", "conflict"]
    study = inbox.study(image.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED and "other pixels" in study.reason
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
from dicom_node.config.settings import Settings
from dicom_node.inbox.inspector import Inspector
from dicom_node.inbox.spool import Spool
from dicom_node.store.database import Database
from dicom_node.studies.scan import Indexer

folder = Path(sys.argv[1])
settings = Settings.model_validate({"node": {"data_dir": folder}})
inspector = Inspector(settings.inspection)
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
        image.SOPInstanceUID = f"1.2.3.{number - (number % 10 == 9)}"
        image.StudyInstanceUID = f"1.2.4.{number // 20}"
        names += inbox.receive(image)
    while inbox.spool.pending() and kills < 2:
        command = [sys.executable, "-c", VICTIM, str(inbox.folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as victim:
            assert victim.stdout is not None and victim.stdout.readline() == "ready\n"
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


EXPLICIT = "1.2.840.10008.1.2.1"


def flood(inbox: Inbox, objects: int, calling: str = "MODALITY") -> None:
    for number in range(objects):
        uid = f"2.25.{len(calling)}.{number}"
        inbox.receive_bytes(FAULTY, ULTRASOUND, uid, EXPLICIT, calling=calling)


def test_faulty_objects_of_one_sender_are_one_entry_with_a_count(inbox: Inbox) -> None:
    flood(inbox, 40)
    flood(inbox, 3, "QUICK")
    inbox.index()
    assert inbox.outcomes() == ["quarantined"] * 43, "each object is kept and known"
    more = "more faulty objects of this sender"
    shown = [study["reason"].split("; and ")[1] for study in inbox.read(views.list_studies)]
    assert sorted(shown) == [f"2 {more}", f"39 {more}"]
    numbers = [event.number for event in inbox.events()]
    told = events.OBJECT_QUARANTINED.number, events.STUDY_QUARANTINED.number
    assert [numbers.count(one) for one in told] == [2, 2]


def test_a_round_of_indexing_ends_and_studies_of_who_is_behind_wait(inbox: Inbox) -> None:
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
        ({"Rows": 0, "Columns": 0}, "0 × 0"),
        ({"PixelData": IMAGE.PixelData[:-1000]}, "bytes, its attributes say"),
        ({"PixelData": IMAGE.PixelData + bytes(10_000)}, "bytes, its attributes say"),
        ({"PixelData": None}, "no Pixel Data"),
        ({"StudyInstanceUID": ""}, "Study Instance UID"),
        ({"SeriesInstanceUID": None}, "Series Instance UID"),
    ],
    ids=["says where it came from", "size", "short", "long", "no pixels", "study", "series"],
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
    assert study.state is StudyState.QUARANTINED and reason in study.reason
    assert inbox.outcomes() == ["quarantined"]
    assert (inbox.folder / "spool" / "quarantine" / f"{name}.dcm").exists()


KEYWORDS = ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID")


@pytest.mark.parametrize(
    ("keyword", "syntax"), [*product(KEYWORDS, [EXPLICIT]), *product(["PatientID"], LOSSLESS[:3])]
)
def test_a_tag_that_stands_twice_is_quarantined_under_its_first_value(
    inbox: Inbox, keyword: str, syntax: str
) -> None:
    """DCMTK and Orthanc file the object by the first, pydicom reads the last."""
    deflated = syntax == DeflatedExplicitVRLittleEndian
    image, second = in_syntax(XRAY, EXPLICIT if deflated else syntax), Dataset()
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
    data = forged[132:] + encoded(image)
    inbox.receive_bytes(data, image.SOPClassUID, image.SOPInstanceUID, "1.2.840.10008.1.2.1")
    inbox.settle()
    study = inbox.study(image.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED and "(0002,0000) is in the data set" in study.reason
    assert inbox.scalars(select(ReceivedObject.calling_ae)) == ["MODALITY"]


@pytest.mark.parametrize("vr", ["OB", "SQ"])
def test_a_patient_id_that_is_no_text_is_no_patient_id(inbox: Inbox, vr: str) -> None:
    image = ultrasound("no text")
    image[Tag("PatientID")] = DataElement(Tag("PatientID"), vr, b"B2B2" if vr == "OB" else [Dataset()])
    inbox.settle(image)
    reason = inbox.study(image.StudyInstanceUID).reason
    assert f"PatientID (0010,0020) has the value representation {vr}, not LO" in reason


def test_a_truncated_copy_of_an_intact_image_is_set_aside_and_its_study_goes_on(inbox: Inbox) -> None:
    inbox.settle(IMAGE)
    before = inbox.instance(IMAGE.SOPInstanceUID)
    for _ in range(2):
        cut = encoded(IMAGE)[:-1000]
        inbox.receive_bytes(cut, IMAGE.SOPClassUID, IMAGE.SOPInstanceUID, EXPLICIT, calling="STRANGER")
    inbox.settle()
    assert inbox.outcomes() == ["new", "quarantined", "quarantined"]
    assert inbox.study(IMAGE.StudyInstanceUID).state is StudyState.QUEUED
    after = inbox.instance(IMAGE.SOPInstanceUID)
    assert (after.path, after.received_at) == (before.path, before.received_at)
    [told] = [row.fields for row in inbox.events() if row.number == 2008]
    assert told["calling"] == "STRANGER" and told["reason"]
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
        inbox.receive_bytes(data, image.SOPClassUID, "1.2.3", EXPLICIT)
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
    image = ultrasound("cine", size=(101, 75))
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    image.NumberOfFrames = 16
    image.PixelData = (bytes(101 * 75 * 3) * 16) + b"\0" * (101 * 75 * 3 * 16 % 2)
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
    assert len(studies) > 40 and {study.state for study in studies} <= ends
    assert all(study.reason for study in studies if study.state is StudyState.QUARANTINED)


class Standing(Inspector):
    """An inspector whose process stands still at the first tries, as with a stalled disk; then that of all
    tests reads.
    """

    turn = threading.Lock()

    def __init__(self, tries: int, second_tries: int = 0) -> None:
        super().__init__(InspectionSettings())
        self.tries, self.second_tries = tries, second_tries
        self.goes_on = threading.Event()

    def fresh(self) -> Inspector:
        fresh = Standing(self.second_tries)
        fresh.inspect_again = partial(self._wait, fresh.inspect_again)  # type: ignore[method-assign]
        return fresh

    def _wait(self, inspect: Callable[..., Inspected], *given: Any) -> Inspected:
        self.goes_on.wait(60)
        return inspect(*given)

    def _ask(self, request: dict[str, Any], size: int, times: int) -> dict[str, Any]:
        self.tries -= 1
        if self.tries >= 0:
            raise ReaderLost("reading it took more than 30 s (inspection.seconds)")
        with self.turn:
            return INSPECTOR._ask(request, size, times)


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


def test_a_corrected_name_is_a_revision_that_withdraws_results_and_has_them_issued_again(
    inbox: Inbox,
) -> None:
    inbox.settle(IMAGE)
    inbox.delivery(inbox.jobs()[0], DeliveryState.PENDING)
    inbox.settle(changed(IMAGE, PatientName="Corrected^Name"))
    assert inbox.outcomes() == ["new", "revision"]
    assert inbox.file_of(IMAGE.SOPInstanceUID).PatientName == "Corrected^Name"
    [row] = inbox.rows(Delivery)
    assert (row.state, row.withdrawn) == (DeliveryState.CANCELLED, True)
    assert row.reason == "withdrawn: superseded: an image came again with another header"
    jobs = [(job.study_revision, job.state) for job in inbox.jobs()]
    assert jobs == [(1, JobState.CANCELLED), (2, JobState.QUEUED)]


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


DIFFERING = [
    {"PatientName": "Somebody^Else"},
    {"PatientBirthDate": "19010203"},
    {"PatientSex": "M"},
    {"PatientID": "ANOTHER"},
    {"PatientID": ""},
]


@pytest.mark.parametrize(
    ("patient_id", "values"),
    [*product(["", "ONE"], DIFFERING), ("ONE", {"IssuerOfPatientID": "ANOTHER HOSPITAL"})],
    ids=str,
)
def test_images_that_contradict_each_other_on_the_patient_are_a_conflict(
    inbox: Inbox, patient_id: str, values: dict[str, str]
) -> None:
    said = {"PatientID": patient_id, "PatientSex": "F", "PatientBirthDate": "19700101"}
    one, other = (changed(ultrasound("mixed", number=number), **said) for number in (1, 2))
    inbox.settle(one, changed(other, **values))
    alike = values == {"PatientID": patient_id}
    study = inbox.study(one.StudyInstanceUID)
    assert study.state is (StudyState.QUEUED if alike else StudyState.QUARANTINED)
    assert alike or ("two patients" in study.reason and inbox.jobs() == [])


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
    inbox.settle(images[0], changed(images[1], SpecificCharacterSet="ISO_IR 192", **values))
    assert inbox.study(images[0].StudyInstanceUID).state is StudyState.QUEUED


def test_the_date_of_an_old_device_is_the_same_date() -> None:
    old, new = (Patient.from_values("", "", "Test", date, "") for date in ("1970.01.01", "19700101"))
    assert not old.contradicts(new)


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
        in_force = copy if outcome == "revision" else before
        assert inbox.file_of(before.SOPInstanceUID).PatientID == in_force.PatientID
        state = inbox.study(before.StudyInstanceUID).state
        assert (state is StudyState.QUARANTINED) is (outcome == "conflict")
    told = [row.fields["instance"] for row in inbox.events() if row.number == 2034]
    aside = [ds for ds, outcome in zip(first, wanted, strict=True) if outcome == "set_aside"]
    assert told == [ds.SOPInstanceUID for ds in aside]
    inbox.index(*copies, calling=sender)  # what was decided is not decided again
    again = ["duplicate" if outcome == "revision" else outcome for outcome in wanted]
    assert inbox.outcomes()[2 * len(COPIES) :] == again


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


def test_an_image_of_nobody_in_a_study_of_somebody_is_a_conflict(inbox: Inbox) -> None:
    one = changed(ultrasound("somebody", number=1), PatientID="")
    inbox.settle(one, changed(ultrasound("somebody", number=2), PatientID="", PatientName=""))
    assert inbox.study(one.StudyInstanceUID).state is StudyState.QUARANTINED


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
    assert reindex(*stores, lambda *at: told.append(at)) == 5 and told[-1] == (5, 5)
    again.settle()
    for image in images:
        study = again.study(image.StudyInstanceUID)
        assert (study.state, study.revision) == (StudyState.QUEUED, 1)
    assert again.study(faulty.StudyInstanceUID).state is StudyState.QUARANTINED
    assert not str(compare(*stores)) and reindex(*stores, lambda _done, _of: None) == 0
    assert len(again.outcomes()) == 5
    again.close()


def test_a_reindexed_study_waits_for_its_other_objects(inbox: Inbox) -> None:
    """Its objects came long ago, but they are still being put back: no revision for each of them."""
    images = [ultrasound("slow", number=number) for number in (1, 2)]
    inbox.settle(*images)
    again = lose_database(inbox)
    paths = compare(again.database, again.spool, again.files).unknown
    for path in paths:
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
            monkeypatch.setattr(scan, "_THIS_PROCESS", f"process {number}")
        record = CrashRecord(tmp_path / "open")
        stalled.append(record.noted("healthy.dcm"))
        stalled[-1].__enter__()  # reading does not end before the node does
        if end == "stopped":
            record.clear()
    monkeypatch.setattr(scan, "_THIS_PROCESS", scan._THIS_PROCESS if end == "reloaded" else "process 2")
    assert CrashRecord(tmp_path / "open").count("healthy.dcm") == blamed
