"""Reports on performed procedure steps, as they should be and as nobody should send them, on a listener."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import ModalityPerformedProcedureStep, Verification

from dicom_node import events
from dicom_node.dicom import performed_step
from dicom_node.dicom.performed_step import read_creation, read_modification
from dicom_node.errors import FaultyStep
from dicom_node.inbox.steps import KnownStep, StepFolder
from dicom_node.model.kinds import StepStatus
from dicom_node.scp import command, statuses
from dicom_node.scp.connection import limits
from tests.modality import ultrasound
from tests.mpps_lab import COMPLETED, IN_PROGRESS, associate, begun, change, create, ended, send_raw, series
from tests.wire.receiver import Receiver, receiving

US = "1.2.840.10008.5.1.4.1.1.6.1"
PEERS: list[dict[str, Any]] = [
    {"name": "us1", "ae_title": "US1", "mpps": True},
    {"name": "us2", "ae_title": "US2", "mpps": True},
    {"name": "ct1", "ae_title": "CT1"},
    {"name": "far", "ae_title": "FAR", "host": "192.0.2.9", "check_address": True, "mpps": True},
]


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp("listener")
    with receiving(folder, peers=PEERS, unknown_callers="accept") as listener:
        yield listener


def status(answer: Dataset | None) -> int | None:
    return None if answer is None else answer.get("Status")


def taken(listener: Receiver) -> list[str]:
    return [str(event.fields["step"]) for event in listener.events(events.STEP_BEGUN, events.STEP_CHANGED)]


def test_a_step_from_its_begin_to_its_end(listener: Receiver) -> None:
    images = [ultrasound("whole", number=number) for number in (1, 2)]
    assert status(create(listener.port, "1.2.1", begun("1.2.3.1"))) == 0x0000
    middle = Dataset()
    middle.PerformedProcedureStepDescription = "Mustermann^Max"
    assert status(change(listener.port, "1.2.1", middle)) == 0x0000
    assert status(change(listener.port, "1.2.1", ended(images))) == 0x0000
    lines = [event.fields for event in listener.events() if event.fields.get("step") == "1.2.1"]
    assert [(line["number"], line["status"]) for line in lines] == [
        (0, IN_PROGRESS),
        (1, IN_PROGRESS),
        (2, COMPLETED),
    ]
    assert lines[2]["objects"] == [image.SOPInstanceUID for image in images]
    assert [line["studies"] for line in lines] == [["1.2.3.1"]] * 3
    kept = "".join(path.read_text() for path in listener.data_dir.rglob("*.json*") if path.is_file())
    assert "Mustermann" not in kept
    assert "4711" not in kept


def test_what_is_known_is_not_begun_again_and_what_has_ended_is_not_changed(listener: Receiver) -> None:
    assert status(create(listener.port, "1.2.2", begun("1.2.3.2"))) == 0x0000
    assert status(create(listener.port, "1.2.2", begun("1.2.3.2"))) == 0x0111
    assert status(change(listener.port, "1.2.2", ended())) == 0x0000
    for _ in range(2):
        answer = change(listener.port, "1.2.2", ended())
        assert answer is not None
        # PS3.4 Table F.7.2-2
        assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
        assert answer.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert status(create(listener.port, "1.2.2", begun("1.2.3.2"))) == 0x0111


def test_a_step_that_is_not_known_is_not_changed(listener: Receiver) -> None:
    assert status(change(listener.port, "1.2.404", ended())) == 0x0112


@pytest.mark.parametrize(("calling", "answer"), [("CT1", None), ("STRANGER", None), ("FAR", None)])
def test_nobody_else_gets_the_context(listener: Receiver, calling: str, answer: int | None) -> None:
    before = taken(listener)
    assert status(create(listener.port, "1.2.3", begun("1.2.3.3"), calling)) is answer
    assert taken(listener) == before


def test_no_peer_changes_the_step_of_another_one(listener: Receiver) -> None:
    assert status(create(listener.port, "1.2.4", begun("1.2.3.4"))) == 0x0000
    assert status(change(listener.port, "1.2.4", ended(), "US2")) == 0x0124
    assert status(create(listener.port, "1.2.4", begun("1.2.3.4"), "US2")) == 0x0111
    assert status(change(listener.port, "1.2.4", ended())) == 0x0000


@pytest.mark.parametrize(
    "keyword",
    [
        "ScheduledStepAttributesSequence", "PerformedProcedureStepID", "PerformedStationAETitle",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepStatus",
        "Modality",
    ],
)  # fmt: skip
def test_what_a_step_needs_to_begin(listener: Receiver, keyword: str) -> None:
    step = begun("1.2.3.5")
    step[keyword].value = None
    assert status(create(listener.port, "1.2.5", step)) == 0x0121
    del step[keyword]
    answer = create(listener.port, "1.2.5", step)
    assert answer is not None
    tag = tag_for_keyword(keyword)
    assert tag is not None
    assert (answer.Status, answer.ErrorComment) == (0x0120, f"lacks {Tag(tag)}".replace(", ", ","))


def test_the_answer_names_what_is_missing_by_tags() -> None:
    asked = command.NormalizedCommand(command.N_CREATE_RQ, 7, str(performed_step.SOP_CLASS), "1.2", True)
    encoded = command.encode_normalized_response(
        asked, command.NormalizedAnswer(statuses.STEP_MISSING, missing=[0x00400253, 0x00080060])
    )
    answer = command.read_elements(encoded)
    assert answer[0x1005] == bytes.fromhex("4000530208006000")
    assert (answer[0x0100], answer[0x0120], answer[0x0900]) == (b"\x40\x81", b"\x07\x00", b"\x20\x01")


@pytest.mark.parametrize("word", ["COMPLETED", "DISCONTINUED", "SCHEDULED"])
def test_a_step_begins_in_progress(listener: Receiver, word: str) -> None:
    step = begun("1.2.3.6")
    step.PerformedProcedureStepStatus = word
    assert status(create(listener.port, "1.2.6", step)) == 0x0106


@pytest.mark.parametrize(
    "keyword", ["PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence"]
)
def test_what_a_step_needs_to_end(listener: Receiver, keyword: str) -> None:
    uid = f"1.2.7.{performed_step.LAST.index(keyword)}"
    assert status(create(listener.port, uid, begun("1.2.3.7"))) == 0x0000
    without = ended()
    del without[keyword]
    assert status(change(listener.port, uid, without)) == 0x0121
    only = Dataset()
    only[keyword] = ended()[keyword]
    assert status(change(listener.port, uid, only)) == 0x0000  # in a request of its own
    assert status(change(listener.port, uid, without)) == 0x0000


def _raw(step: Dataset) -> bytes:
    encoded = encode(step, True, True)
    assert encoded is not None
    return encoded


def _with_objects(number: int) -> Dataset:
    step = begun("1.2.3.8")
    step.PerformedSeriesSequence = [series([(US, f"1.2.{n}") for n in range(number)])]
    return step


def _deep(depth: int) -> bytes:
    """Performed Series Sequences of undefined length within each other (PS3.5 7.5)."""
    opened = struct.pack("<HHI", 0x0040, 0x0340, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return opened * depth


@pytest.mark.parametrize(
    ("encoded", "answer"),
    [
        (b"", 0x0120),
        (b"\x08\x00\x95\x11\xff\xff\xff\x7fabc", 0x0120),
        (_raw(_with_objects(performed_step.MAXIMUM_OBJECTS + 1)), 0x0213),
        (_raw(begun(*(f"1.2.3.{n}" for n in range(performed_step.MAXIMUM_STUDIES + 1)))), 0x0213),
        (_deep(900), 0x0110),
        (_deep(performed_step.MAXIMUM_BYTES // 16), 0x0213),
        (bytes(performed_step.MAXIMUM_BYTES - 8), 0x0120),
        (bytes(performed_step.MAXIMUM_BYTES + 8), 0x0213),
        (_raw(begun("1.2.3.4.567890")).replace(b"1.2.3.4.567890", b"Mustermann^Max"), 0x0106),
        (_raw(begun("1.2.3.8")).replace(b"\x40\x00\x70\x02", b"\x40\x00\x71\x02"), 0x0120),
        (b"\x08\x00\x05\x00\x0e\x00\x00\x00Mustermann^Max" + _raw(begun("1.2.3.8"))[8:], 0x0120),
    ],
    ids=["empty", "cut", "many", "studies", "deep", "deeper", "zeros", "large", "name", "tag", "charset"],
)
def test_what_is_no_step_is_refused_and_the_listener_goes_on(
    listener: Receiver, encoded: bytes, answer: int
) -> None:
    before, began = taken(listener), time.monotonic()
    assert send_raw(listener.port, encoded, "1.2.8") == answer
    assert time.monotonic() - began < 20
    assert taken(listener) == before
    shown = str([event.fields for event in listener.events(events.STEP_REFUSED)])
    assert "Mustermann" not in shown


def test_a_step_without_end_is_cut(listener: Receiver) -> None:
    assert send_raw(listener.port, bytes(2 * performed_step.MAXIMUM_BYTES + 2), "1.2.9") is None
    assert status(create(listener.port, "1.2.9", begun("1.2.3.9"))) == 0x0000


@pytest.mark.parametrize(
    ("vr", "value"),
    [("LO", "Mustermann^Max"), ("US", 7), ("OB", b"\1\2"), ("UI", "1.2"), ("PN", "Mustermann^Max")],
)
@pytest.mark.parametrize(
    "keyword", ["ScheduledStepAttributesSequence", "PerformedSeriesSequence", "PerformedProcedureStepStatus"]
)
def test_a_wrong_type_is_refused(vr: str, value: object, keyword: str) -> None:
    step = begun("1.2.3.10")
    tag = step[keyword].tag
    del step[tag]
    step.add_new(tag, vr, value)
    encoded = encode(step, False, True)
    assert encoded is not None
    with pytest.raises(FaultyStep) as raised:
        read_creation(encoded, UID(ExplicitVRLittleEndian))
    assert "Mustermann" not in str(raised.value)


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "ProtocolName"])
def test_a_series_has_its_attributes_of_type_1(keyword: str) -> None:
    step = ended([ultrasound("series")])
    del step.PerformedSeriesSequence[0][keyword]
    with pytest.raises(FaultyStep, match="has no value"):
        read_modification(_raw(step), UID(ImplicitVRLittleEndian))


def test_as_many_objects_as_a_step_may_name_pass_through_the_journal(listener: Receiver) -> None:
    step = _with_objects(0)
    long = [f"1.2.826.0.1.3680043.10.543.1{n:035d}" for n in range(performed_step.MAXIMUM_OBJECTS)]
    step.PerformedSeriesSequence = [series([(US, uid) for uid in long])]
    assert len(_raw(step)) < performed_step.MAXIMUM_BYTES
    assert status(create(listener.port, "1.2.10", step)) == 0x0000
    (event,) = [one for one in listener.events(events.STEP_BEGUN) if one.fields["step"] == "1.2.10"]
    assert len(event.fields["objects"]) == performed_step.MAXIMUM_OBJECTS


@pytest.mark.parametrize("uid", ["", "Mustermann^Max", "1" * 65])
def test_a_step_without_a_uid_is_refused(listener: Receiver, uid: str) -> None:
    association = associate(listener.port)
    request = _request(uid)
    (context,) = association.accepted_contexts
    association._reactor_checkpoint.clear()
    association.dul.socket.send(_pdata(context.context_id, request))
    _, answer = association.dimse.get_msg(block=True)
    association.abort()
    assert answer is not None
    assert answer.Status == 0x0117


def _request(uid: str) -> bytes:
    """The command set of an N-CREATE without data set, whatever its UID."""
    value = uid.encode()
    value += b"\0" * (len(value) % 2)
    sop_class = str(ModalityPerformedProcedureStep).encode() + b"\0"
    parts = (
        (0x0002, sop_class), (0x0100, b"\x40\x01"), (0x0110, b"\x01\x00"), (0x0800, b"\x01\x01"),
        (0x1000, value),
    )  # fmt: skip
    body = b"".join(struct.pack("<HHI", 0, element, len(one)) + one for element, one in parts)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _pdata(context_id: int, command: bytes) -> bytes:
    value = struct.pack(">IBB", len(command) + 2, context_id, 3) + command
    return struct.pack(">BBI", 4, 0, len(value)) + value


def test_as_many_reports_as_one_association_may_bring(listener: Receiver) -> None:
    association = associate(listener.port)
    assert status(create(listener.port, "1.2.11", begun("1.2.3.11"))) == 0x0000
    nothing = Dataset()
    nothing.PerformedProcedureStepDescription = ""
    statuses = [
        association.send_n_set(nothing, ModalityPerformedProcedureStep, "1.2.11")[0].Status
        for _ in range(limits.STEP_REPORTS_OF_ONE_ASSOCIATION + 1)
    ]
    association.release()
    assert statuses == [0x0000] * limits.STEP_REPORTS_OF_ONE_ASSOCIATION + [0x0213]


def test_of_modalities_that_begin_one_step_at_the_same_time_one_does(listener: Receiver) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(
            lambda n: status(create(listener.port, "1.2.12", begun("1.2.3.12"), f"US{n % 2 + 1}")), range(6)
        )
    assert sorted(answers, key=str) == [0x0000, *[0x0111] * 5]


def test_it_is_not_served_in_the_context_of_another_class(listener: Receiver) -> None:
    ae = AE(ae_title="US1")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", listener.port, ae_title="AINODE")
    assert association.is_established
    (context,) = association.accepted_contexts
    association.dul.socket.send(_pdata(context.context_id, _request("1.2.13")))
    association.join(10)
    assert association.is_aborted
    assert status(create(listener.port, "1.2.13", begun("1.2.3.13"))) == 0x0000


def test_a_full_disk_takes_no_step(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=PEERS, minimum_free_mib=2**30) as listener:
        assert status(create(listener.port, "1.2.14", begun("1.2.3.14"))) == 0x0213
        listener.change(peers=PEERS)
        listener.stop()
        listener.start()
        assert status(create(listener.port, "1.2.14", begun("1.2.3.14"))) == 0x0000


@pytest.mark.parametrize("place", ["steps", "steps/lock"])
def test_a_folder_that_cannot_be_written_takes_no_step(tmp_path: Path, place: str) -> None:
    with receiving(tmp_path, peers=PEERS) as listener:
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        # A file where a folder must be, and the reverse: root may write everywhere.
        _put: Callable[[], object] = path.touch if place == "steps" else path.mkdir
        _put()
        assert status(create(listener.port, "1.2.15", begun("1.2.3.15"))) == 0x0213


def test_a_step_is_known_for_a_while_only(tmp_path: Path) -> None:
    folder = StepFolder(tmp_path / "steps")
    for uid in ("1.1", "1.2"):
        with folder.locked():
            folder.write(KnownStep(uid, "us1", "US1", StepStatus.IN_PROGRESS, 0, ("1.2.3",)))
    old = folder._path("1.1")
    os.utime(old, (time.time() - 100, time.time() - 100))
    folder.forget(60)
    with folder.locked():
        assert folder.read("1.1") is None
        assert folder.read("1.2") == KnownStep("1.2", "us1", "US1", StepStatus.IN_PROGRESS, 0, ("1.2.3",))


def test_where_no_peer_has_it_there_is_no_folder(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=PEERS[2:3]) as listener:
        assert create(listener.port, "1.2.16", begun("1.2.3.16"), "CT1") is None
        assert not (tmp_path / "steps").exists()
