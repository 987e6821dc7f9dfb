"""Storage commitment that peers request of the node: decided once, reported until it is taken."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.store import requested
from dicom_node.base.store.tables import Delivery, EventRow, RequestedCommitment
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.commitment_answers import CommitmentAnswers
from dicom_node.receive.spool import Spool
from dicom_node.studies.journal import JournalIngest
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import DIGITAL_XRAY, ULTRASOUND, ultrasound
from tests.peers import a_receiver
from tests.unit.receive.objects import changed

ASKING = a_receiver("modality", 104, may=["send"], commit_after="delivered", commit_hours=12)
NO_SUCH, CONFLICT, FAILED = "0112", "0119", "0110"


@dataclass
class Takes:
    """Reports that a modality was given, and what it says to each."""

    says: Callable[[int], str] = lambda times: ""
    reports: list[tuple[Dataset, int]] = field(default_factory=list)

    def __call__(self, information: Dataset, event_type: int) -> str:
        self.reports.append((information, event_type))
        return self.says(len(self.reports))


@pytest.fixture
def inbox(open_inbox: Callable[..., Inbox]) -> Inbox:
    """A node that forwards to an archive, and whose modality asks for commitment."""
    return open_inbox(
        {
            **CONFIG,
            "peers": [ASKING, *CONFIG["peers"][1:], a_receiver("archive", 4243)],
            "rules": [CONFIG["rules"][0] | {"forward": ["archive"]}],
        }
    )


def journal(inbox: Inbox, *lines: str, transaction: str = "2.25.1") -> None:
    """What the listener journals of a request."""
    asked = {"transaction": transaction, "peer": "modality", "objects": list(lines)}
    inbox.tell(events.COMMITMENT_ASKED, calling="MODALITY", **asked)


def ask(inbox: Inbox, *lines: str, **transaction: str) -> None:
    journal(inbox, *lines, **transaction)
    inbox.index()


def of(image: Dataset) -> str:
    return f"{image.SOPInstanceUID} {image.SOPClassUID}"


def there(name: str, inbox: Inbox, calling: str = "MODALITY") -> Dataset:
    """An image that the node took from this sender and the archive has confirmed."""
    image = ultrasound(name)
    inbox.settle(image, calling=calling)
    archive_confirms(inbox)
    return image


def archive_confirms(inbox: Inbox) -> None:
    inbox.write(
        Session.execute,
        update(Delivery)
        .where(Delivery.original_id.is_not(None))
        .values(state=DeliveryState.CONFIRMED, confirmed_at=utc_now()),
    )


def hours_pass(inbox: Inbox, hours: float) -> None:
    with inbox.database.write() as session:
        for row in session.scalars(select(RequestedCommitment)).all():
            row.asked_at -= timedelta(hours=hours)
            if row.decided_at:
                row.decided_at -= timedelta(hours=hours)
            row.next_at = utc_now() - timedelta(seconds=1)


def answered(inbox: Inbox, takes: Takes) -> int:
    """How many requests of the modality are reported on now."""
    peer, open_reporter = inbox.settings.peer("modality"), lambda *_: Mock(report=takes)
    lane = CommitmentAnswers(inbox.database, inbox.settings, peer, "me", open_reporter=open_reporter)
    return lane.run_once()


def state(inbox: Inbox) -> tuple[str, list[str]]:
    (row,) = inbox.rows(RequestedCommitment)
    return row.state.value, [line.split(" ")[1] for line in row.failed]


def judged(inbox: Inbox) -> tuple[str, list[str]]:
    """The state once a modality that takes all has been reported to."""
    answered(inbox, Takes())
    return state(inbox)


def number(inbox: Inbox, kind: events.EventType) -> int:
    return inbox.column(EventRow.number).count(kind.number)


def test_success_is_reported_when_the_archive_has_confirmed_and_once(inbox: Inbox) -> None:
    image, takes = ultrasound("asked"), Takes()
    inbox.receive(image)
    ask(inbox, of(image))
    inbox.settle()
    assert answered(inbox, takes) == 0
    hours_pass(inbox, 1)
    assert answered(inbox, takes) == 0
    assert (state(inbox), takes.reports) == (("waiting", []), [])
    archive_confirms(inbox)
    hours_pass(inbox, 0)
    assert answered(inbox, takes) == 1
    ((report, event_type),) = takes.reports
    assert (report.TransactionUID, event_type) == ("2.25.1", 1)
    (item,) = report.ReferencedSOPSequence
    assert (item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID) == (image.SOPInstanceUID, ULTRASOUND)
    assert "FailedSOPSequence" not in report
    hours_pass(inbox, 1)
    assert answered(inbox, takes) == 0
    assert state(inbox) == ("reported", [])
    for kind in (events.COMMITMENT_ASKED, events.COMMITMENT_DECIDED, events.COMMITMENT_ANSWERED):
        assert number(inbox, kind) == 1


def test_all_objects_of_a_request_are_reported_together(inbox: Inbox) -> None:
    image, takes = there("known", inbox), Takes()
    ask(inbox, of(image), f"1.2.3 {ULTRASOUND}")
    assert answered(inbox, takes) == 0, "it may not be indexed yet"
    hours_pass(inbox, 0.1)
    assert answered(inbox, takes) == 1
    ((report, event_type),) = takes.reports
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [image.SOPInstanceUID]
    (item,) = report.FailedSOPSequence
    failed = (item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID, item.FailureReason)
    assert failed == ("1.2.3", ULTRASOUND, 0x0112)


@pytest.mark.parametrize(
    ("sender", "of_class", "failure"), [("QUICK", ULTRASOUND, NO_SUCH), ("MODALITY", DIGITAL_XRAY, CONFLICT)]
)
def test_what_another_device_sent_is_unknown_to_this_one_and_another_class_is_a_conflict(
    inbox: Inbox, sender: str, of_class: str, failure: str
) -> None:
    ask(inbox, f"{there('asked', inbox, sender).SOPInstanceUID} {of_class}")
    hours_pass(inbox, 0.1)
    assert judged(inbox) == ("reported", [failure])


CHANGED_AFTER_THE_ARCHIVE_HAD_IT: dict[str, list[tuple[dict[str, Any], str]]] = {
    "a conflict, twice": [({"PixelData": bytes(240 * 180 * 3)}, "MODALITY")] * 2,
    "set aside, twice": [({"PatientID": ""}, "MODALITY")] * 2,
    "a correction": [({"PatientName": "Correct^Name"}, "MODALITY")],
    "another side": [({"Laterality": "R"}, "MODALITY")],
    "a time of sending": [({"InstanceCreationTime": "120000"}, "MODALITY")],
    "a conflict, then the first again from elsewhere": [
        ({"PixelData": bytes(240 * 180 * 3)}, "MODALITY"),
        ({}, "QUICK"),
    ],
}


@pytest.mark.parametrize(
    "sent", CHANGED_AFTER_THE_ARCHIVE_HAD_IT.values(), ids=CHANGED_AFTER_THE_ARCHIVE_HAD_IT
)
def test_a_version_that_the_archive_does_not_have_is_not_committed(
    inbox: Inbox, sent: list[tuple[dict[str, Any], str]]
) -> None:
    image = there("version", inbox)
    for values, sender in sent:
        inbox.settle(changed(image, **values), calling=sender)
    ask(inbox, of(image))
    assert judged(inbox) == ("waiting", [])
    hours_pass(inbox, 13)
    assert judged(inbox) == ("reported", [FAILED])


@pytest.mark.parametrize("further", [[], [changed(ultrasound("never", number=2), PatientID="SOMEBODY-ELSE")]])
def test_what_no_archive_confirmed_in_its_time_is_a_failure(inbox: Inbox, further: list[Dataset]) -> None:
    image = ultrasound("never")
    inbox.settle(image)
    inbox.settle(*further)  # a study in quarantine, too
    ask(inbox, of(image))
    for hours in (11, 1.1):
        assert judged(inbox) == ("waiting", [])
        hours_pass(inbox, hours)
    assert judged(inbox) == ("reported", [FAILED])


def test_what_no_rule_forwards_is_a_failure_once_its_study_is_complete(inbox: Inbox) -> None:
    image = ultrasound("left out")
    image.Modality = "OT"
    inbox.receive(image)
    ask(inbox, of(image))
    assert judged(inbox) == ("waiting", [])
    inbox.settle()
    hours_pass(inbox, 0)
    assert judged(inbox) == ("reported", [FAILED])


def test_a_report_is_tried_until_the_modality_takes_it(inbox: Inbox) -> None:
    image = there("away", inbox)
    ask(inbox, of(image))
    ask(inbox, of(image), transaction="2.25.2")
    takes = Takes(says=lambda times: "nobody answers" if times < 3 else "")
    assert answered(inbox, takes) == 0
    assert len(takes.reports) == 1, "who is away is not called for the next report too"
    assert answered(inbox, takes) == 0
    hours_pass(inbox, 1)
    assert answered(inbox, takes) == 2
    assert inbox.column(RequestedCommitment.state) == ["reported"] * 2


@pytest.mark.parametrize("ended", ["released", "open", "lost with its listener"])
def test_nothing_is_committed_while_a_newer_version_may_wait_to_be_indexed(inbox: Inbox, ended: str) -> None:
    image = there("backlog", inbox)
    inbox.opened("newer")
    inbox.receive(changed(image, Laterality="R"), association="newer")
    if ended == "released":
        inbox.released("newer")
    elif ended != "open":
        inbox.listener_restarted()
    journal(inbox, of(image))
    JournalIngest(inbox.database, inbox.folder / "journal", Spool(inbox.folder / "spool", 0)).run_once()
    assert judged(inbox) == ("waiting", [])
    inbox.released("newer")
    inbox.settle()
    archive_confirms(inbox)
    hours_pass(inbox, 0.1)
    assert judged(inbox) == ("reported", [])


def test_a_kill_between_the_report_and_its_note_costs_the_same_report_again(inbox: Inbox) -> None:
    ask(inbox, f"1.2.3 {ULTRASOUND}")
    hours_pass(inbox, 0.1)
    takes = Takes(says=Mock(side_effect=[KeyboardInterrupt, ""]))
    with pytest.raises(KeyboardInterrupt):
        answered(inbox, takes)
    assert [answered(inbox, takes) for _ in range(2)] == [1, 0]
    (first, _), (second, _) = takes.reports
    assert first == second


def test_the_same_transaction_is_taken_once_and_not_too_many_wait(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requested, "MOST_OPEN", 2)
    for transaction in ("2.25.1", "2.25.1", "2.25.2", "2.25.3"):
        ask(inbox, f"1.2.3 {ULTRASOUND}", transaction=transaction)
    assert inbox.column(RequestedCommitment.transaction_uid) == ["2.25.1", "2.25.2"]
    assert [event.fields["reason"] for event in inbox.events(1071)] == [
        "its Transaction UID was used before",
        "too many requests of this peer wait for a report",
    ]
