"""Requests for storage commitment on a real listener: who may ask, and what nobody should (PS3.4 Annex J)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_node import events
from dicom_node.dicom import commitment
from dicom_node.errors import FaultyReport
from dicom_node.scp.connection import limits
from tests.asking_modality import ask, ask_raw, asked_for, associate_to_ask, encoded_request
from tests.commitment_lab import empty_sequences, report
from tests.modality import ULTRASOUND
from tests.wire.receiver import Receiver, receiving

ASKS: dict[str, Any] = {
    "name": "us1", "ae_title": "US1", "host": "127.0.0.1", "port": 104, "may": ["send"],
    "commit_after": "delivered", "commitment_ae_title": "US1_SC",
}  # fmt: skip
FAR = ASKS | {"name": "far", "ae_title": "FAR", "host": "192.0.2.9", "check_address": True}
FAR |= {"commitment_ae_title": "FAR_SC"}
SILENT = {"name": "us2", "ae_title": "US2"}
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "may": ["receive"]}
PACS |= {"confirm": "commitment"}


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp("listener")
    with receiving(folder, peers=[ASKS, FAR, SILENT, PACS], unknown_callers="accept") as listener:
        yield listener


def kept(listener: Receiver) -> list[str]:
    return [str(event.fields["transaction"]) for event in listener.events(events.COMMITMENT_ASKED)]


@pytest.mark.parametrize("calling", ["US1", "US1_SC"])
def test_a_peer_with_commit_after_may_ask_under_its_titles(listener: Receiver, calling: str) -> None:
    transaction = {"US1": "2.25.1", "US1_SC": "2.25.2"}[calling]
    assert ask(listener.port, transaction, ["1.2", "1.3"], calling) == 0x0000
    (event,) = [e for e in listener.events(events.COMMITMENT_ASKED) if transaction in e.fields.values()]
    assert event.fields["objects"] == [f"1.2 {ULTRASOUND}", f"1.3 {ULTRASOUND}"]
    assert (event.fields["peer"], event.fields["calling"]) == ("us1", calling)


@pytest.mark.parametrize(
    ("calling", "answer"),
    [("US2", "no context"), ("STRANGER", "no context"), ("PACS", "no context"), ("FAR", "rejected")],
)
def test_nobody_else_may_ask(listener: Receiver, calling: str, answer: str) -> None:
    before = kept(listener)
    assert ask(listener.port, "2.25.3", ["1.2"], calling) == answer
    assert kept(listener) == before


def test_who_may_ask_may_not_report(listener: Receiver) -> None:
    association = associate_to_ask(listener.port)
    request = N_EVENT_REPORT()
    request.MessageID, request.EventTypeID = 1, 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = (
        commitment.SOP_CLASS,
        commitment.SOP_INSTANCE,
    )
    encoded = encode(report("2.25.3", ["1.2"]), True, True)
    assert encoded is not None
    request.EventInformation = BytesIO(encoded)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    assert answer.Status == 0x0124
    assert listener.events(events.COMMITMENT_REPORTED) == []


@pytest.mark.parametrize(
    ("other", "status"),
    [({"action_type": 2}, 0x0123), ({"sop_instance": UID("1.2.840.10008.1.20.1.2")}, 0x0112)],
)
def test_another_action_or_instance_is_refused(listener: Receiver, other: Any, status: int) -> None:
    before = kept(listener)
    assert ask(listener.port, "2.25.4", ["1.2"], **other) == status
    assert kept(listener) == before


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x08\x00\x95\x11\xff\xff\xff\x7fabc",
        encoded_request("2.25.5", []),
        encoded_request("2.25.5", [f"1.2.{n}" for n in range(commitment.REQUEST_OBJECTS + 1)]),
        empty_sequences(900),
        empty_sequences(commitment.REQUEST_BYTES // 16),
        encoded_request("1.2.3.4.567890", ["1.2"]).replace(b"1.2.3.4.567890", b"Mustermann^Max"),
    ],
    ids=["empty", "cut", "none", "many", "deep", "deeper", "name"],
)
def test_what_is_no_request_is_refused_and_the_listener_goes_on(listener: Receiver, encoded: bytes) -> None:
    before, began = kept(listener), time.monotonic()
    assert ask_raw(listener.port, encoded) == 0x0115
    assert time.monotonic() - began < 20
    assert kept(listener) == before
    assert ask(listener.port, f"2.25.6{len(before)}", ["1.2"]) == 0x0000
    shown = str([event.fields for event in listener.events(events.COMMITMENT_ASK_REFUSED)])
    assert "Mustermann" not in shown


def test_a_request_without_end_is_cut(listener: Receiver) -> None:
    assert ask_raw(listener.port, bytes(commitment.REQUEST_BYTES + 2)) is None
    assert ask(listener.port, "2.25.8", ["1.2"]) == 0x0000


def test_as_many_objects_as_a_request_may_name_fit_into_a_line_that_is_read() -> None:
    longest = {f"{'1' * 55}.{10**7 + n}": f"{'2' * 64}" for n in range(commitment.REQUEST_OBJECTS)}
    found = commitment.read_request(encoded_request("2.25.9", longest), UID(ImplicitVRLittleEndian))
    assert len(found.objects) == commitment.REQUEST_OBJECTS
    assert sum(len(line) + 4 for line in found.lines()) < 2**20 - 1000
    with pytest.raises(FaultyReport, match="limits"):
        commitment.read_request(encoded_request("2.25.9", {**longest, "1.2": "1.3"}), ImplicitVRLittleEndian)


def test_an_instance_that_is_named_twice_counts_once() -> None:
    information = asked_for("2.25.9", ["1.2"])
    information.ReferencedSOPSequence.append(information.ReferencedSOPSequence[0])
    encoded = encode(information, True, True)
    assert encoded is not None
    assert len(commitment.read_request(encoded, ImplicitVRLittleEndian).objects) == 1


def test_a_flood_of_requests_is_refused_for_the_moment(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=[ASKS]) as listener:
        association = associate_to_ask(listener.port)
        statuses = [
            association.send_n_action(
                asked_for(f"2.25.{n}", ["1.2"]), 1, commitment.SOP_CLASS, commitment.SOP_INSTANCE
            )[0].Status
            for n in range(limits.REQUESTS_A_MINUTE + 2)
        ]
        association.release()
        assert statuses == [0x0000] * limits.REQUESTS_A_MINUTE + [0x0213] * 2
        assert len(kept(listener)) == limits.REQUESTS_A_MINUTE
        assert len(listener.events(events.COMMITMENT_ASK_REFUSED)) == 2


def test_many_objects_in_a_minute_are_refused_for_the_moment(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=[ASKS]) as listener:
        many = [f"1.2.{n}" for n in range(commitment.REQUEST_OBJECTS)]
        times = limits.OBJECTS_ASKED_A_MINUTE // commitment.REQUEST_OBJECTS
        statuses = [ask(listener.port, f"2.25.{n}", many) for n in range(times + 1)]
        assert statuses == [0x0000] * times + [0x0213]


def test_on_a_full_disk_no_request_is_taken(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=[ASKS], minimum_free_mib=2**40) as listener:
        assert ask(listener.port, "2.25.1", ["1.2"]) == 0x0213
        assert kept(listener) == []


def test_what_was_answered_is_kept_when_the_listener_is_killed_at_once(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=[ASKS]) as listener:
        assert ask(listener.port, "2.25.1", ["1.2"]) == 0x0000
        listener.kill()
        assert kept(listener) == ["2.25.1"]
