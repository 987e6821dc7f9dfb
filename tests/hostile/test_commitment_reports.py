"""Storage commitment reports that nobody should send, on a real listener (PS3.4 Annex J)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node import events
from dicom_node.dicom import commitment
from dicom_node.dicom.commitment import SOP_INSTANCE, read_report
from dicom_node.errors import FaultyReport
from dicom_node.scp.connection import limits
from tests.commitment_lab import SOP_CLASS, associate, empty_sequences, report, send_raw_report, send_report
from tests.wire.receiver import Receiver, receiving

PACS: dict[str, Any] = {
    "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "may": ["receive"],
    "confirm": "commitment", "commitment_ae_title": "KEEPER",
}  # fmt: skip
ELSEWHERE = PACS | {
    "name": "far",
    "ae_title": "FAR",
    "host": "192.0.2.9",
    "check_address": True,
    "commitment_ae_title": None,
}
MODALITY = {"name": "us1", "ae_title": "US1"}


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp("listener")
    with receiving(folder, peers=[PACS, ELSEWHERE, MODALITY], unknown_callers="accept") as listener:
        yield listener


def kept(listener: Receiver) -> list[str]:
    return [str(event.fields["transaction"]) for event in listener.events(events.COMMITMENT_REPORTED)]


@pytest.mark.parametrize("calling", ["PACS", "KEEPER"])
def test_the_peer_that_is_asked_may_report_under_its_titles(listener: Receiver, calling: str) -> None:
    transaction = {"PACS": "2.25.1", "KEEPER": "2.25.2"}[calling]
    assert send_report(listener.port, report(transaction, ["1.2"], ["1.3"]), calling=calling) == 0x0000
    (event,) = [e for e in listener.events(events.COMMITMENT_REPORTED) if transaction in e.fields.values()]
    assert (event.fields["committed"], event.fields["failed"]) == ([f"1.2 {SOP_CLASS}"], ["1.3 0112"])


@pytest.mark.parametrize(
    ("calling", "role", "answer"),
    [
        ("US1", True, "no context"),  # a peer that is asked for nothing
        ("STRANGER", True, "no context"),
        ("FAR", True, "rejected"),  # the right title from a wrong address
        ("PACS", False, "no context"),  # it would be the SCU: we take over nothing
    ],
)
def test_nobody_else_may_report(listener: Receiver, calling: str, role: bool, answer: str) -> None:
    before = kept(listener)
    assert send_report(listener.port, report("2.25.3", ["1.2"]), calling=calling, role=role) == answer
    assert kept(listener) == before


def test_we_take_over_no_object(listener: Receiver) -> None:
    ae = AE(ae_title="US1")
    ae.add_requested_context(StorageCommitmentPushModel)
    association = ae.associate("127.0.0.1", listener.port, ae_title="AINODE")
    assert not association.is_established
    assert [context.result for context in association.rejected_contexts] == [3]


def _many(number: int, transaction: str = "2.25.4") -> bytes:
    encoded = encode(report(transaction, [f"1.2.{n}" for n in range(number)]), True, True)
    assert encoded is not None
    return encoded


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x08\x00\x95\x11\xff\xff\xff\x7fabc",
        _many(commitment.MAXIMUM_OBJECTS + 1),
        empty_sequences(900),
        empty_sequences(commitment.MAXIMUM_BYTES // 16),
        _many(1, "1.2.3.4.567890").replace(b"1.2.3.4.567890", b"Mustermann^Max"),
    ],
    ids=["empty", "cut", "many", "deep", "deeper", "name"],
)
def test_what_is_no_report_is_refused_and_the_listener_goes_on(listener: Receiver, encoded: bytes) -> None:
    before, began = kept(listener), time.monotonic()
    assert send_raw_report(listener.port, encoded) == 0x0115
    assert time.monotonic() - began < 20
    assert kept(listener) == before
    assert send_report(listener.port, report("2.25.6", ["1.2"])) == 0x0000
    shown = str([event.fields for event in listener.events(events.COMMITMENT_REPORT_REFUSED)])
    assert "Mustermann" not in shown


def test_a_report_without_end_is_cut(listener: Receiver) -> None:
    assert send_raw_report(listener.port, bytes(commitment.MAXIMUM_BYTES + 2)) is None
    assert send_report(listener.port, report("2.25.7", ["1.2"])) == 0x0000


def test_as_many_reports_as_one_association_may_bring(listener: Receiver) -> None:
    association = associate(listener.port)
    information = report("2.25.8", ["1.2"])
    statuses = [
        association.send_n_event_report(information, 1, StorageCommitmentPushModel, SOP_INSTANCE)[0].Status
        for _ in range(limits.REPORTS_OF_ONE_ASSOCIATION + 1)
    ]
    association.release()
    assert statuses == [0x0000] * limits.REPORTS_OF_ONE_ASSOCIATION + [0x0213]


def test_as_many_objects_as_a_report_may_name_are_read(tmp_path: Path) -> None:
    found = read_report(_many(commitment.MAXIMUM_OBJECTS), UID(ImplicitVRLittleEndian))
    assert len(found.committed) == commitment.MAXIMUM_OBJECTS
    with pytest.raises(FaultyReport, match="limits"):
        read_report(_many(commitment.MAXIMUM_OBJECTS + 1), UID(ImplicitVRLittleEndian))


def _explicit(vr: str, value: object) -> bytes:
    """A report in Explicit VR Little Endian whose Failure Reason has this VR and value."""
    information = report("2.25.9", failed=["1.2"])
    item = information.FailedSOPSequence[0]
    del item.FailureReason
    item.add_new(0x00081197, vr, value)
    encoded = encode(information, False, True)
    assert encoded is not None
    return encoded


@pytest.mark.parametrize(
    ("vr", "value"),
    [("DS", "1e99"), ("IS", "-1"), ("UL", 0x10000), ("SS", -1), ("US", [1, 2]), ("LO", "Mustermann^Max")],
)
def test_a_failure_reason_is_one_number_of_16_bits(vr: str, value: object) -> None:
    with pytest.raises(FaultyReport):
        read_report(_explicit(vr, value), ExplicitVRLittleEndian)
    assert read_report(_explicit("US", 0xFFFF), ExplicitVRLittleEndian).failed == (("1.2", 0xFFFF),)
