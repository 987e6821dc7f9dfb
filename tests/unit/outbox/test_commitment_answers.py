"""What a modality is told of the objects for which it asked for storage commitment, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from dicom_node import events
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import COMMITMENT_ASKED
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.outbox.commitment_answers import CommitmentAnswers, give_up_others
from dicom_node.scu import Check
from dicom_node.store import requested
from dicom_node.store.tables import Delivery, RequestedCommitment
from dicom_node.store.transitions import utc_now
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import DIGITAL_XRAY, ULTRASOUND, ultrasound
from tests.unit.inbox.objects import changed

ASKING = {"name": "modality", "ae_title": "MODALITY", "host": "127.0.0.1", "port": 104, "may": ["send"]}
ASKING |= {"commit_after": "delivered", "commit_hours": 12}
ARCHIVE = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 4243, "may": ["receive"]}
NO_SUCH, CONFLICT, FAILED = "0112", "0119", "0110"


@dataclass
class Takes:
    """Reports that a modality was given, and what it says to each."""

    says: Callable[[int], str] = lambda times: ""
    reports: list[tuple[Dataset, int]] = field(default_factory=list)

    def __call__(self, peer: PeerSettings, settings: Settings) -> Takes:
        return self

    def report(self, information: Dataset, event_type: int) -> str:
        self.reports.append((information, event_type))
        return self.says(len(self.reports))

    def check(self) -> Check:
        raise AssertionError

    def close(self) -> None:
        pass


def asking(folder: Path, **of_archive: Any) -> Inbox:
    rule = CONFIG["rules"][0] | {"forward": ["archive"]}
    peers = [ASKING, *CONFIG["peers"][1:], ARCHIVE | of_archive]
    return Inbox(folder, {**CONFIG, "peers": peers, "rules": [rule]})


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = asking(tmp_path)
    yield inbox
    inbox.close()


def ask(inbox: Inbox, *lines: str, transaction: str = "2.25.1") -> None:
    """As the listener journals it."""
    fields: dict[str, Any] = {"transaction": transaction, "calling": "MODALITY", "peer": "modality"}
    inbox.tell(COMMITMENT_ASKED, **fields, objects=list(lines))  # type: ignore[arg-type]
    inbox.index()


def of(image: Dataset) -> str:
    return f"{image.SOPInstanceUID} {image.SOPClassUID}"


def archive_confirms(inbox: Inbox) -> None:
    with inbox.database.write() as session:
        mine = update(Delivery).where(Delivery.original_id.is_not(None))
        session.execute(mine.values(state=DeliveryState.CONFIRMED, confirmed_at=utc_now()))


def hours_pass(inbox: Inbox, hours: float) -> None:
    with inbox.database.write() as session:
        for row in session.scalars(select(RequestedCommitment)).all():
            row.asked_at -= timedelta(hours=hours)
            if row.decided_at:
                row.decided_at -= timedelta(hours=hours)
            row.next_at = utc_now() - timedelta(seconds=1)


def answers(inbox: Inbox, takes: Takes) -> CommitmentAnswers:
    return CommitmentAnswers(
        inbox.database, inbox.settings, inbox.settings.peer("modality"), "me", open_reporter=takes
    )


def rows(inbox: Inbox) -> list[RequestedCommitment]:
    with inbox.database.read() as session:
        found = list(session.scalars(select(RequestedCommitment).order_by(RequestedCommitment.id)))
        session.expunge_all()
        return found


def state(inbox: Inbox) -> tuple[str, list[str]]:
    (row,) = rows(inbox)
    return row.state.value, [line.split(" ")[1] for line in row.failed]


def number(inbox: Inbox, kind: events.EventType) -> int:
    return [event.number for event in inbox.events()].count(kind.number)


def test_success_is_reported_when_the_archive_has_confirmed_and_once(inbox: Inbox) -> None:
    image, takes = ultrasound("asked"), Takes()
    inbox.receive(image)
    ask(inbox, of(image))
    inbox.settle()
    assert answers(inbox, takes).run_once() == 0
    hours_pass(inbox, 1)
    assert answers(inbox, takes).run_once() == 0
    assert (state(inbox), takes.reports) == (("waiting", []), [])
    archive_confirms(inbox)
    hours_pass(inbox, 0)
    assert answers(inbox, takes).run_once() == 1
    ((report, event_type),) = takes.reports
    assert (report.TransactionUID, event_type) == ("2.25.1", 1)
    (item,) = report.ReferencedSOPSequence
    assert (item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID) == (image.SOPInstanceUID, ULTRASOUND)
    assert "FailedSOPSequence" not in report
    hours_pass(inbox, 1)
    assert answers(inbox, takes).run_once() == 0
    assert state(inbox) == ("reported", [])
    for kind in (events.COMMITMENT_ASKED, events.COMMITMENT_DECIDED, events.COMMITMENT_ANSWERED):
        assert number(inbox, kind) == 1


def test_all_objects_of_a_request_are_reported_together(inbox: Inbox) -> None:
    image, takes = ultrasound("known"), Takes()
    inbox.receive(image)
    inbox.settle()
    archive_confirms(inbox)
    ask(inbox, of(image), f"1.2.3 {ULTRASOUND}")
    assert answers(inbox, takes).run_once() == 0, "it may not be indexed yet"
    hours_pass(inbox, 0.1)
    assert answers(inbox, takes).run_once() == 1
    ((report, event_type),) = takes.reports
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [image.SOPInstanceUID]
    (item,) = report.FailedSOPSequence
    assert (item.ReferencedSOPInstanceUID, item.FailureReason) == ("1.2.3", 0x0112)
    assert item.ReferencedSOPClassUID == ULTRASOUND


def test_an_object_that_is_not_indexed_yet_is_no_unknown_one(inbox: Inbox) -> None:
    image = ultrasound("behind")
    ask(inbox, of(image))
    answers(inbox, Takes()).run_once()
    inbox.receive(image)
    inbox.settle()
    archive_confirms(inbox)
    hours_pass(inbox, 0)
    assert answers(inbox, Takes()).run_once() == 1
    assert state(inbox) == ("reported", [])


def test_what_another_device_sent_is_unknown_to_this_one(inbox: Inbox) -> None:
    image = ultrasound("theirs")
    inbox.receive(image, calling="QUICK")
    inbox.settle()
    archive_confirms(inbox)
    ask(inbox, of(image))
    hours_pass(inbox, 0.1)
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("reported", [NO_SUCH])


def test_another_class_is_a_conflict(inbox: Inbox) -> None:
    image = ultrasound("class")
    inbox.receive(image)
    inbox.settle()
    archive_confirms(inbox)
    ask(inbox, f"{image.SOPInstanceUID} {DIGITAL_XRAY}")
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("reported", [CONFLICT])


@pytest.mark.parametrize("why", ["archive away", "quarantined", "conflict", "corrected"])
def test_what_no_archive_confirmed_in_its_time_is_a_failure(inbox: Inbox, why: str) -> None:
    image = ultrasound("never")
    inbox.receive(image)
    inbox.settle()
    if why == "conflict":  # its newest object is another one than the archive has
        archive_confirms(inbox)
        pixels = bytes(reversed(image.PixelData))
        inbox.receive(changed(image, PixelData=pixels))
        inbox.settle()
    elif why == "corrected":
        archive_confirms(inbox)
        inbox.receive(changed(image, PatientName="Correct^Name"))
        inbox.settle()
    elif why == "quarantined":
        inbox.receive(changed(ultrasound("never", number=2), PatientID="SOMEBODY-ELSE"))
        inbox.settle()
    ask(inbox, of(image))
    for hours in (11, 1.1):
        answers(inbox, Takes()).run_once()
        assert state(inbox) == ("waiting", [])
        hours_pass(inbox, hours)
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("reported", [FAILED])


def test_what_no_rule_forwards_is_a_failure_once_its_study_is_complete(inbox: Inbox) -> None:
    image = ultrasound("left out")
    image.Modality = "OT"
    inbox.receive(image)
    ask(inbox, of(image))
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("waiting", [])
    inbox.settle()
    hours_pass(inbox, 0)
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("reported", [FAILED])


def test_a_peer_that_is_not_asked_confirms_nothing(tmp_path: Path) -> None:
    inbox = asking(tmp_path, confirm="none")
    image = ultrasound("unasked")
    inbox.receive(image)
    inbox.settle()
    archive_confirms(inbox)
    ask(inbox, of(image))
    answers(inbox, Takes()).run_once()
    assert state(inbox) == ("waiting", [])
    inbox.close()


def test_a_report_is_tried_until_the_modality_takes_it(inbox: Inbox) -> None:
    image = ultrasound("away")
    inbox.receive(image)
    inbox.settle()
    archive_confirms(inbox)
    ask(inbox, of(image))
    ask(inbox, of(image), transaction="2.25.2")
    takes = Takes(says=lambda times: "nobody answers" if times < 3 else "")
    assert answers(inbox, takes).run_once() == 0
    assert len(takes.reports) == 1, "who is away is not called for the next report too"
    assert answers(inbox, takes).run_once() == 0
    hours_pass(inbox, 1)
    assert answers(inbox, takes).run_once() == 2
    assert [row.state for row in rows(inbox)] == ["reported"] * 2


def test_a_report_that_is_never_taken_is_given_up_with_an_event(inbox: Inbox) -> None:
    ask(inbox, f"1.2.3 {ULTRASOUND}")
    hours_pass(inbox, 0.1)
    takes = Takes(says=lambda _: "nobody answers")
    answers(inbox, takes).run_once()
    hours_pass(inbox, 13)
    answers(inbox, takes).run_once()
    assert state(inbox)[0] == "given_up"
    assert number(inbox, events.COMMITMENT_ANSWER_GIVEN_UP) == 1


def test_a_kill_between_the_report_and_its_note_costs_the_same_report_again(inbox: Inbox) -> None:
    class Killed(BaseException):
        pass

    def killed(_: int) -> str:
        raise Killed

    ask(inbox, f"1.2.3 {ULTRASOUND}")
    hours_pass(inbox, 0.1)
    takes = Takes(says=killed)
    with pytest.raises(Killed):
        answers(inbox, takes).run_once()
    takes.says = lambda _: ""
    assert answers(inbox, takes).run_once() == 1
    (first, _), (second, _) = takes.reports
    assert first == second
    assert answers(inbox, takes).run_once() == 0


def test_one_process_of_a_site_reports(inbox: Inbox) -> None:
    ask(inbox, f"1.2.3 {ULTRASOUND}")
    hours_pass(inbox, 0.1)
    peer = inbox.settings.peer("modality")
    here, there = Takes(says=lambda _: "nobody answers"), Takes()
    CommitmentAnswers(inbox.database, inbox.settings, peer, "here", here).run_once()
    hours_pass(inbox, 0)
    CommitmentAnswers(inbox.database, inbox.settings, peer, "there", there).run_once()
    assert (len(here.reports), len(there.reports)) == (1, 0)


def test_the_same_transaction_is_taken_once_and_not_too_many_wait(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requested, "MOST_OPEN", 2)
    for transaction in ("2.25.1", "2.25.1", "2.25.2", "2.25.3"):
        ask(inbox, f"1.2.3 {ULTRASOUND}", transaction=transaction)
    assert [row.transaction_uid for row in rows(inbox)] == ["2.25.1", "2.25.2"]
    refused = [event.fields["reason"] for event in inbox.events() if event.number == 1071]
    assert refused == [
        "its Transaction UID was used before",
        "too many requests of this peer wait for a report",
    ]


def test_what_a_peer_asked_that_may_ask_no_more_is_given_up(inbox: Inbox) -> None:
    ask(inbox, f"1.2.3 {ULTRASOUND}")
    give_up_others(inbox.database, inbox.settings)
    assert state(inbox)[0] == "waiting"
    give_up_others(inbox.database, inbox.settings.model_copy(update={"peers": ()}))
    assert state(inbox)[0] == "given_up"


def test_the_time_of_a_request_is_when_it_came(inbox: Inbox) -> None:
    before = utc_now()
    ask(inbox, f"1.2.3 {ULTRASOUND}")
    (row,) = rows(inbox)
    assert isinstance(row.asked_at, datetime)
    assert before - timedelta(seconds=1) < row.asked_at <= utc_now()
