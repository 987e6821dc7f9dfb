"""Storage commitment and performed procedure steps (MPPS): what is none, of another peer, or too many."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
)
from pynetdicom import association as pynetdicom_association
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.base.dicom import dimse_n
from dicom_node.base.errors import FaultyStep
from dicom_node.base.events import (
    COMMITMENT_ASK_REFUSED,
    COMMITMENT_ASKED,
    COMMITMENT_REPORT_REFUSED,
    COMMITMENT_REPORTED,
    STEP_REFUSED,
    STEP_REPORTED,
    EventType,
)
from dicom_node.receive import limits
from tests.modality import (
    ULTRASOUND,
    assign,
    data_set,
    ultrasounds,
)
from tests.mpps_lab import COMPLETED, IN_PROGRESS, begun, change, create, ended, send_raw, series, status
from tests.pacs_lab import (
    answered,
    associate_for,
    empty_sequences,
    report,
    send_raw_report,
    send_report,
    status_of,
)
from tests.peers import a_peer
from tests.wire.receiver import US, Receiver, receiving


def asked_for(transaction: str, objects: Mapping[str, str] | list[str]) -> Dataset:
    """Action Information; ``objects``: SOP classes by instance, or instances of ultrasound."""
    classes = objects if isinstance(objects, Mapping) else dict.fromkeys(objects, ULTRASOUND)
    return dimse_n.commitment_request(transaction, [(sop_class, uid) for uid, sop_class in classes.items()])


def associate_to_ask(port: int, calling: str = "US1") -> pynetdicom_association.Association:
    """As the SCU, without role selection."""
    return associate_for(StorageCommitmentPushModel, port, calling)


def ask(
    port: int, transaction: str, objects: Mapping[str, str] | list[str], calling: str = "US1", **other: Any
) -> int | str | None:
    """N-ACTION; its status, or why there was none. ``other``: action_type, sop_instance."""
    action, instance = other.get("action_type", 1), other.get("sop_instance", dimse_n.COMMITMENT_INSTANCE)
    asked = (asked_for(transaction, objects), action, StorageCommitmentPushModel, instance)
    answer = answered(associate_to_ask(port, calling), lambda one: one.send_n_action(*asked))
    return answer if isinstance(answer, str) else answer.get("Status")


def ask_raw(port: int, encoded: bytes, calling: str = "US1") -> int | None:
    """N-ACTION with these bytes as Action Information; None: the association was cut."""
    request = assign(
        N_ACTION(),
        ActionTypeID=1,
        RequestedSOPClassUID=StorageCommitmentPushModel,
        RequestedSOPInstanceUID=dimse_n.COMMITMENT_INSTANCE,
    )
    return status_of(associate_to_ask(port, calling), request, "ActionInformation", encoded)


def encoded_request(transaction: str, objects: Mapping[str, str] | list[str]) -> bytes:
    """In Implicit VR Little Endian."""
    return encode(asked_for(transaction, objects), True, True)


AT = {"host": "127.0.0.1", "port": 104}
KEEPS = {"may": ["send", "receive"], "confirm": "commitment"}
ASKS = {"commit_after": "delivered", "mpps": True}
PEERS: list[dict[str, Any]] = [
    a_peer("pacs", commitment_ae_title="KEEPER", **AT, **KEEPS),
    a_peer("us1", commitment_ae_title="US1_SC", **AT, **ASKS),
    a_peer("us2", mpps=True),
    a_peer("ct1"),
    a_peer("far", check_address=True, **KEEPS, **ASKS, **AT | {"host": "192.0.2.9"}),
]


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("listener"), peers=PEERS) as listener:
        yield listener


def begin(listener: Receiver, number: int, calling: str = "US1") -> int | None:
    """The status for a step of this number, in a study of its own."""
    return status(create(listener.port, f"1.2.{number}", begun(f"1.2.3.{number}"), calling))


def transactions(listener: Receiver, kind: EventType) -> list[str]:
    return [str(event.fields["transaction"]) for event in listener.events(kind)]


MAXIMUM = {"report": dimse_n.REPORT_BYTES, "request": dimse_n.REQUEST_BYTES}
DIGITS = "1.2.3.4.567890"  # as long as the name
OBJECTS = {"report": dimse_n.REPORT_OBJECTS, "request": dimse_n.REQUEST_OBJECTS}


def encoded_as(kind: str, number: int, transaction: str = "2.25.4") -> bytes:
    uids = [f"1.2.{n}" for n in range(number)]
    return encoded_request(transaction, uids) if kind == "request" else _raw(report(transaction, uids))


@pytest.mark.parametrize("kind", ["report", "request"])
@pytest.mark.parametrize(
    ("encoded", "answer"),
    [
        (lambda kind: b"", 0x0115),
        (lambda kind: b"\x08\x00\x95\x11\xff\xff\xff\x7fabc", 0x0115),
        (lambda kind: encoded_as(kind, OBJECTS[kind] + 1), 0x0115),
        (lambda kind: empty_sequences(900), 0x0115),
        (lambda kind: empty_sequences(MAXIMUM[kind] // 16), 0x0115),
        (lambda kind: encoded_as(kind, 1, DIGITS).replace(DIGITS.encode(), b"Mustermann^Max"), 0x0115),
        (lambda kind: bytes(MAXIMUM[kind] + 2), None),
    ],
    ids=["empty", "cut", "many", "deep", "deeper", "name", "without end"],
)
def test_what_is_no_report_or_request_is_refused_and_the_listener_goes_on(
    listener: Receiver, kind: str, encoded: Callable[[str], bytes], answer: int | None
) -> None:
    known, send = (COMMITMENT_REPORTED, send_raw_report) if kind == "report" else (COMMITMENT_ASKED, ask_raw)
    data, before, began = encoded(kind), transactions(listener, known), time.monotonic()
    assert send(listener.port, data) == answer
    assert time.monotonic() - began < 20
    assert transactions(listener, known) == before
    transaction = f"2.25.6{time.monotonic_ns()}"
    good = report(transaction, ["1.2"]) if kind == "report" else None
    answer = send_report(listener.port, good) if good else ask(listener.port, transaction, ["1.2"])
    assert answer == 0x0000
    refused = listener.events(COMMITMENT_REPORT_REFUSED, COMMITMENT_ASK_REFUSED)
    assert "Mustermann" not in str([event.fields for event in refused])


@pytest.mark.parametrize("calling", ["US2", "PACS", "CT1", "STRANGER", "FAR"])
def test_nobody_else_may_report_ask_or_tell_of_steps(listener: Receiver, calling: str) -> None:
    """FAR is the right title from a wrong address; PACS without the role would be the SCU of a report."""
    counted = lambda: len(listener.events(COMMITMENT_REPORTED, COMMITMENT_ASKED, STEP_REPORTED))
    known = counted()
    answer = "rejected" if calling in ("FAR", "STRANGER") else "no context"
    information, is_pacs = report("2.25.3", ["1.2"]), calling == "PACS"
    assert send_report(listener.port, information, calling=calling, role=not is_pacs) == answer
    assert ask(listener.port, "2.25.3", ["1.2"], calling) == answer
    if calling != "US2":
        assert create(listener.port, "1.2.3", begun("1.2.3.3"), calling) is None
    assert counted() == known


def test_who_may_ask_may_not_report(listener: Receiver) -> None:
    raw, asker = _raw(report("2.25.3", ["1.2"])), associate_to_ask(listener.port)
    assert send_raw_report(listener.port, raw, association=asker) == 0x0124


def test_a_flood_of_requests_is_refused_for_the_moment(tmp_path: Path) -> None:
    """Of one peer, whatever it asks or tells."""
    with receiving(tmp_path, peers=PEERS) as listener:
        association = associate_to_ask(listener.port)
        statuses = [
            association.send_n_action(
                asked_for(f"2.25.{n}", ["1.2"]), 1, dimse_n.COMMITMENT_CLASS, dimse_n.COMMITMENT_INSTANCE
            )[0].Status
            for n in range(limits.REQUESTS_A_MINUTE + 1)
        ]
        association.release()
        assert statuses == [0x0000] * limits.REQUESTS_A_MINUTE + [0x0213]
        assert begin(listener, 11) == 0x0213
        assert send_report(listener.port, report("2.25.3", ["1.2"])) == 0x0000  # of another peer
        assert len(transactions(listener, COMMITMENT_ASKED)) == limits.REQUESTS_A_MINUTE
        assert len(listener.events(COMMITMENT_ASK_REFUSED, STEP_REFUSED)) == 2


def taken(listener: Receiver) -> list[str]:
    return [str(event.fields["step"]) for event in listener.events(STEP_REPORTED)]


def test_a_step_from_its_begin_to_its_end(listener: Receiver) -> None:
    images = ultrasounds("whole", 2)
    assert begin(listener, 1) == 0x0000
    middle = data_set(PerformedProcedureStepDescription="Mustermann^Max")
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
    assert '"4711' not in kept  # times and UIDs may have these digits


def test_what_is_known_is_not_begun_again_and_what_has_ended_is_not_changed(
    listener: Receiver,
) -> None:
    assert begin(listener, 2) == 0x0000
    assert begin(listener, 2) == 0x0111
    assert status(change(listener.port, "1.2.2", ended())) == 0x0000
    for _ in range(2):
        answer = change(listener.port, "1.2.2", ended())
        # PS3.4 Table F.7.2-2
        assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
        assert answer.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert begin(listener, 2) == 0x0111


def test_no_peer_changes_the_step_of_another_one(listener: Receiver) -> None:
    assert begin(listener, 4) == 0x0000
    assert status(change(listener.port, "1.2.4", ended(), "US2")) == 0x0124
    assert begin(listener, 4, "US2") == 0x0111
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
    assert (answer.Status, answer.ErrorComment) == (0x0120, f"lacks {Tag(keyword)}".replace(", ", ","))


def _raw(step: Dataset) -> bytes:
    return bytes(encode(step, True, True))


def _with_objects(number: int) -> Dataset:
    return assign(
        begun("1.2.3.8"), PerformedSeriesSequence=[series([(US, f"1.2.{n}") for n in range(number)])]
    )


@pytest.mark.parametrize(
    ("encoded", "answer"),
    [
        (lambda: b"", 0x0120),
        (lambda: b"\x08\x00\x95\x11\xff\xff\xff\x7fabc", 0x0120),
        (lambda: _raw(_with_objects(dimse_n.STEP_OBJECTS + 1)), 0x0213),
        (lambda: _raw(begun(*(f"1.2.3.{n}" for n in range(dimse_n.STEP_STUDIES + 1)))), 0x0213),
        (lambda: empty_sequences(900, 0x0040, 0x0340), 0x0110),
        (lambda: empty_sequences(dimse_n.STEP_BYTES // 16, 0x0040, 0x0340), 0x0213),
        (lambda: bytes(dimse_n.STEP_BYTES - 8), 0x0120),
        (lambda: bytes(dimse_n.STEP_BYTES + 8), 0x0213),
        (lambda: _raw(begun("1.2.3.4.567890")).replace(b"1.2.3.4.567890", b"Mustermann^Max"), 0x0106),
        (lambda: _raw(begun("1.2.3.8")).replace(b"\x40\x00\x70\x02", b"\x40\x00\x71\x02"), 0x0120),
        (lambda: b"\x08\x00\x05\x00\x0e\x00\x00\x00Mustermann^Max" + _raw(begun("1.2.3.8"))[8:], 0x0120),
        (lambda: bytes(2 * dimse_n.STEP_BYTES + 2), None),
    ],
    ids=[
        *("empty", "cut", "many", "studies", "deep", "deeper", "zeros", "large", "name", "tag", "charset"),
        "without end",
    ],
)
def test_what_is_no_step_is_refused_and_the_listener_goes_on(
    listener: Receiver, encoded: Callable[[], bytes], answer: int | None
) -> None:
    step = encoded()
    before, began = taken(listener), time.monotonic()
    assert send_raw(listener.port, step, "1.2.8") == answer
    assert time.monotonic() - began < 20
    assert taken(listener) == before
    assert begin(listener, time.monotonic_ns()) == 0x0000
    assert "Mustermann" not in str([event.fields for event in listener.events(STEP_REFUSED)])


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
    with pytest.raises(FaultyStep) as raised:
        dimse_n.read_step_creation(bytes(encode(step, False, True)), UID(ExplicitVRLittleEndian))
    assert "Mustermann" not in str(raised.value)


def test_a_full_disk_takes_no_step(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=PEERS, minimum_free_mib=2**30) as listener:
        assert begin(listener, 14) == 0x0213
        listener.change(peers=PEERS)
        listener.stop()
        listener.start()
        assert begin(listener, 14) == 0x0000
