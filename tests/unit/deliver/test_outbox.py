"""Deliveries: how they move, what may leave, outages, and commitment that the node itself reports."""

import hashlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, strategies
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from dicom_connectors.notifications.gather import Gatherer
from dicom_connectors.notifications.settings import NotificationSettings
from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import OutboxSettings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import DEIDENTIFIED_FOLDER, DeliveryState, Outcome, ResultKind, StudyState
from dicom_node.base.store import deliveries, requested
from dicom_node.base.store.tables import (
    Delivery,
    EventRow,
    Lease,
    Notification,
    Original,
    ReceivedObject,
    RequestedCommitment,
    Result,
    Study,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver import delivery_worker
from dicom_node.deliver.commitment_answers import CommitmentAnswers
from dicom_node.deliver.moves import Moves, wait_before_query
from dicom_node.deliver.outages import outages, report_outages
from dicom_node.deliver.outbox import retry, retry_all, send_to
from dicom_node.deliver.scu import Confirmation, Presence, SendReport, SendStatus
from dicom_node.studies.indexing import JournalIngest
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import DIGITAL_XRAY, ULTRASOUND, assign, ultrasound
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.result_reading import coded
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)


PEER = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, may=("receive",))


S = DeliveryState


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path, [PEER], confirm_seconds=1800, refusals=3)
    outbox.add_study(["pacs"], [ResultKind.SR])
    return outbox


def enter(outbox: Outbox, entry: Callable[[Moves, Delivery], None], peer: PeerSettings = PEER) -> Delivery:
    """Enter one answer; the delivery afterwards."""
    with outbox.database.write() as session:
        delivery = session.get_one(Delivery, 1)
        entry(Moves(session, peer, outbox.settings.outbox, NOW), delivery)
    return delivery


def asked(presence: Presence) -> Callable[[Moves, Delivery], None]:
    return lambda moves, delivery: moves.query_answered(delivery, Confirmation(presence, "its answer"))


def test_stored_is_not_yet_delivered(outbox: Outbox) -> None:
    outbox.put(Delivery, 1, state=S.SENDING, attempts=1)
    report = SendReport(SendStatus.STORED, "0000", "stored")
    delivery = enter(outbox, lambda moves, row: moves.sent(row, report))
    assert (delivery.state, delivery.sent_at, delivery.confirmed_at) == (S.UNCONFIRMED, NOW, None)


@pytest.mark.parametrize(
    ("minutes", "answers", "states", "refusals"),
    [
        (29, [Presence.NOT_FOUND], [S.UNCONFIRMED], 0),
        (31, [Presence.NOT_FOUND], [S.PENDING], 1),
        (None, [Presence.NOT_FOUND], [S.PENDING], 0),
        (None, [Presence.UNKNOWN] * 3, [S.UNCONFIRMED, S.UNCONFIRMED, S.PENDING], 0),
        (0, [Presence.DIFFERENT], [S.DEAD], 0),
    ],
    ids=["acknowledged", "half an hour ago", "in doubt", "in doubt, nobody answers", "another under our UID"],
)
def test_what_is_sent_again_by_the_answer_of_the_peer(
    outbox: Outbox, minutes: int | None, answers: list[Presence], states: list[DeliveryState], refusals: int
) -> None:
    outbox.put(
        Delivery,
        1,
        state=S.UNCONFIRMED,
        sent_at=None if minutes is None else NOW - timedelta(minutes=minutes),
    )
    rows = [enter(outbox, asked(answer)) for answer in answers]
    assert ([row.state for row in rows], rows[-1].refusals) == (states, refusals)
    assert minutes is not None or len(rows) > 1 or rows[-1].next_at == NOW, "at once"


@pytest.mark.parametrize(("confirm", "state"), [("query", S.UNCONFIRMED), ("none", S.PENDING)])
def test_a_lost_sender_leaves_a_question_or_where_none_can_be_asked_a_second_sending(
    outbox: Outbox, confirm: str, state: DeliveryState
) -> None:
    outbox.put(Delivery, 1, state=S.SENDING, attempts=1)
    peer = PEER.model_copy(update={"confirm": confirm})
    assert enter(outbox, lambda moves, row: moves.sender_lost(row), peer).state is state


def test_waiting_cures_neither_two_refusals_nor_resets_them(outbox: Outbox) -> None:
    refused = SendReport(SendStatus.REFUSED, "C000", "cannot understand")
    away = SendReport(SendStatus.UNREACHABLE, "", "no connection")
    states = []
    for report in (refused, away, refused, away, refused):
        outbox.put(Delivery, 1, state=S.SENDING)
        states.append(enter(outbox, lambda moves, row, report=report: moves.sent(row, report)).state)
    assert states == [S.PENDING] * 4 + [S.DEAD]


def test_a_result_is_put_into_the_outbox_once(outbox: Outbox) -> None:
    with outbox.database.write() as session:
        result = session.get_one(Result, 1)
        assert deliveries.add(session, result, "pacs").id == 1
        assert deliveries.add(session, result, "other").id == 2


SECOND = PEER.model_copy(update={"name": "second"})
IN_DOMAIN_ONE = {"deidentified": True, "pseudonym_domain": "one"}


@pytest.mark.parametrize(
    ("peer", "result", "says"),
    [
        ({}, {}, ""),
        ({"results": ["sc"]}, {}, "no results that second takes"),
        ({"deidentify": True}, {}, "no results that second takes"),
        ({"deidentify": True, "pseudonym_domain": "one"}, IN_DOMAIN_ONE, ""),
        ({"deidentify": True, "pseudonym_domain": "two"}, IN_DOMAIN_ONE, "no results that second takes"),
        ({"charset": "source"}, {}, "no results that second takes"),
        ({"may": ["query"]}, {}, "gets no results"),
        ({"name": "pacs"}, {}, "in its outbox already"),
        ({}, {"purged": True}, "no results that second takes"),
        ({}, {"outdated": True}, "no results that second takes"),
    ],
    ids=[
        "fits",
        "kind",
        "de-identified",
        "domain",
        "other domain",
        "charset",
        "sends only",
        "has it",
        "purged",
        "outdated",
    ],
)
def test_a_further_peer_gets_the_newest_results_that_are_made_for_it(
    outbox: Outbox, peer: dict[str, Any], result: dict[str, Any], says: str
) -> None:
    further = SECOND.model_copy(update=peer)
    outbox.put(Result, 1, **{"outdated": False, **result})
    with pytest.raises(NotAllowedNow, match=says) if says else nullcontext():
        assert outbox.write(send_to, 1, further, [PEER, further]) == 1


def test_a_result_that_nobody_got_may_be_in_any_character_set(outbox: Outbox) -> None:
    outbox.write(Session.execute, delete(Delivery))
    further = SECOND.model_copy(update={"charset": "source"})
    assert outbox.write(send_to, 1, further, [PEER, further]) == 1


def test_results_of_a_study_in_quarantine_go_to_no_further_peer(outbox: Outbox) -> None:
    outbox.put(Study, 1, state=StudyState.QUARANTINED)
    with pytest.raises(NotAllowedNow, match="go nowhere now"):
        outbox.write(send_to, 1, SECOND, [PEER, SECOND])


@pytest.mark.parametrize("state", [S.DEAD, S.CANCELLED, S.DISCARDED])
def test_a_person_sends_again_what_was_given_up_or_left_out(outbox: Outbox, state: DeliveryState) -> None:
    outbox.put(Delivery, 1, state=state, refusals=3, attempts=7, next_at=NOW)
    outbox.write(retry, 1)
    [delivery] = outbox.rows(Delivery)
    assert (delivery.state, delivery.refusals, delivery.attempts) == (S.PENDING, 0, 7)
    assert delivery.next_at <= utc_now()


@pytest.mark.parametrize("state", [S.SENDING, S.CONFIRMED])
def test_a_person_cannot_retry_what_is_on_its_way_or_there(outbox: Outbox, state: DeliveryState) -> None:
    outbox.put(Delivery, 1, state=state)
    with pytest.raises(NotAllowedNow):
        outbox.write(retry, 1)


def test_nothing_of_a_quarantined_study_leaves_before_a_person_released_it(outbox: Outbox) -> None:
    outbox.put(Study, 1, state=StudyState.QUARANTINED)
    outbox.worker().run_once()
    [row] = outbox.rows(Delivery)
    assert (row.state, row.withdrawn) == (S.CANCELLED, True)
    assert row.reason == "not sent: the study is in quarantine"
    outbox.put(Delivery, 1, state=S.DEAD)
    assert outbox.write(retry_all) == []
    with pytest.raises(NotAllowedNow, match="quarantine"):
        outbox.write(retry, 1)


def test_a_clock_put_back_a_day_holds_no_delivery(outbox: Outbox) -> None:
    now = utc_now()
    outbox.put(Delivery, 1, next_at=now + timedelta(minutes=30))
    assert outbox.read(deliveries.due_destinations, now) == []
    assert outbox.read(deliveries.due_destinations, now - timedelta(days=1)) == ["pacs"]


@pytest.fixture
def corrected(outbox: Outbox) -> Outbox:
    """A received object that the peer has confirmed (delivery 2), and its corrected version (delivery 1)."""
    outbox.write(Session.execute, delete(Delivery))
    for number, known in ((2, {"state": S.CONFIRMED, "sent_at": NOW}), (1, {"state": S.PENDING})):
        received = ReceivedObject(
            spool_name=f"v{number}", path=f"v{number}", study_id=1, sop_instance_uid="1.2.3",
            outcome=Outcome.NEW, association="a", bytes=1, received_at=NOW,
            calling_ae="US1", called_ae="AINODE",
        )  # fmt: skip
        original = Original(
            study_id=1,
            received=received,
            sop_instance_uid="1.2.3",
            sop_class_uid="1.2",
            series_instance_uid="1.3",
        )
        outbox.add(Delivery(id=number, original=original, destination="pacs", next_at=NOW, **known))
    return outbox


def test_a_corrected_object_is_not_taken_as_delivered_by_a_peer_that_has_the_version_before(
    corrected: Outbox,
) -> None:
    known = SendReport(SendStatus.VERIFY, "0111", "duplicate SOP instance")
    orthanc = PEER.model_copy(update={"transport": "orthanc"})  # it compares what is stored
    for entry, peer, state, why in (
        (lambda moves, row: moves.sender_lost(row), PEER, S.PENDING, ""),
        (lambda moves, row: moves.sent(row, known), PEER, S.DEAD, "keeps the version of this object"),
        (lambda moves, row: moves.sent(row, known), orthanc, S.UNCONFIRMED, ""),
    ):
        corrected.put(Delivery, 1, state=S.SENDING, attempts=1)
        delivery = enter(corrected, entry, peer)
        assert delivery.state is state
        assert why in delivery.reason


def test_an_outdated_version_is_not_sent_after_the_newer_one(corrected: Outbox) -> None:
    corrected.put(Delivery, 1, state=S.CONFIRMED)
    corrected.put(Delivery, 2, state=S.PENDING)
    assert corrected.worker().run_once() == 0
    assert [row["state"] for row in corrected.rows()] == ["confirmed", "cancelled"]


def move(outbox: Outbox, folder: Path, uid: str) -> None:
    """Put the file where de-identified results lie."""
    old = outbox.file_of(uid)
    new = folder / DEIDENTIFIED_FOLDER / old.name
    new.parent.mkdir(exist_ok=True)
    shutil.move(old, new)
    sha256 = hashlib.sha256(new.read_bytes()).hexdigest()
    outbox.put(Result, 1, path=str(new.relative_to(folder)), sha256=sha256, deidentified=True)


def mark(outbox: Outbox, folder: Path, uid: str, *methods: str) -> None:
    """Let the object say that it is de-identified, and by which ``methods``, in a study of its own."""
    path = outbox.file_of(uid)
    done = [coded(method, "DCM", "Method") for method in methods or ("113100",)]
    ds = assign(dcmread(path), DeidentificationMethodCodeSequence=done, PatientIdentityRemoved="YES")
    assign(ds, StudyInstanceUID="2.25.4711").save_as(path)
    move(outbox, folder, uid)


SEALED = {"deidentify": True, "results": ("cleaned", "seg", "sr")}


@pytest.mark.parametrize(
    ("peer", "make", "refused"),
    [
        (SEALED, lambda *_: None, "names the patient"),
        (SEALED, move, ""),
        (SEALED, mark, None),
        (SEALED | {"pseudonym_domain": "own"}, mark, "pseudonyms of another domain"),
        (SEALED | {"retain": []}, lambda *where: mark(*where, "113100", "113108"), ""),
        (SEALED | {"retain": ["modified_dates"]}, lambda *where: mark(*where, "113100", "113108"), ""),
        (SEALED | {"retain": ["patient_characteristics"]},
         lambda *where: mark(*where, "113100", "113108"), None),
        ({}, mark, ""),
    ],
    ids=["an original", "an original in the folder of the deidentified", "its own study",
         "pseudonyms of a former domain", "keeps more", "keeps others", "keeps what it may", "another peer"],
)  # fmt: skip
def test_a_deidentified_object_goes_to_the_peer_that_it_was_made_for_and_nothing_else_does(
    tmp_path: Path, peer: dict[str, Any], make: Callable[[Outbox, Path, str], object], refused: str | None
) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer("archive", **peer)])
        (uid,) = outbox.add_study(["archive"], [ResultKind.SR])
        make(outbox, tmp_path, uid)
        outbox.run_until("confirmed" if refused is None else "dead")
        assert pacs.received == pacs.questions == ([uid] if refused is None else [])
        assert (refused or "") in outbox.rows(Delivery)[0].reason


SETTINGS = OutboxSettings(retry_seconds=2, retry_limit_seconds=300)


@given(strategies.integers(min_value=1, max_value=1000))
def test_questions_become_rarer(queries: int) -> None:
    now, later = (wait_before_query(number, SETTINGS) for number in (queries, queries + 1))
    assert now <= later


PEERS = [
    PeerSettings(name=name, ae_title=name.upper(), host="127.0.0.1", port=1, may=("send", "receive"))
    for name in ("pacs", "archive")
]


AWAY = SendReport(SendStatus.UNREACHABLE, "", "cannot connect to PACS")


@pytest.fixture
def away() -> Mock:
    """A destination that is away until its ``send`` answers otherwise."""
    confirm = lambda objects: [Confirmation(Presence.FOUND, "")] * len(objects)
    return Mock(send=lambda objects: [AWAY] * len(objects), confirm=confirm)


STORED = SendReport(SendStatus.STORED, "0000", "")


@pytest.fixture
def interrupted(tmp_path: Path, away: Mock) -> Outbox:
    """Three results wait for a PACS that was tried, and are in the archive."""
    interrupted = Outbox(tmp_path, PEERS, retry_seconds=60, retry_limit_seconds=60)
    interrupted.add_study(["pacs", "archive"])
    there = Mock(send=lambda objects: [STORED] * len(objects), confirm=away.confirm)
    ends = {"pacs": away, "archive": there}
    interrupted.worker(open_destination=lambda peer, _: ends[peer.name]).run_once()
    return interrupted


def pass_minutes(interrupted: Outbox, minutes: int) -> None:
    """As if all that had been so long ago."""
    interrupted.put(EventRow, at=utc_now() - timedelta(minutes=minutes))
    interrupted.put(Delivery, next_at=utc_now())


def test_what_waits_no_more_is_no_outage(interrupted: Outbox, away: Mock) -> None:
    """A person discarded all days ago; a first try of today that fails is an outage of today."""
    with interrupted.database.write() as session:
        for row in session.scalars(select(Delivery).where(Delivery.destination == "pacs")):
            deliveries.discard(session, row, "not wanted")
    pass_minutes(interrupted, 10_000)
    interrupted.add_study(["pacs"])
    interrupted.worker(open_destination=lambda *_: away).run_once()
    [found] = interrupted.read(outages)
    assert utc_now() - found.since < timedelta(minutes=1)
    assert report_outages(interrupted.database, interrupted.settings) == 0


def test_an_outage_says_since_when_what_waits_and_once_that_it_lasts_or_ends(
    interrupted: Outbox, away: Mock
) -> None:
    [found] = interrupted.read(outages)
    assert (found.destination, found.waiting, found.reason) == ("pacs", 3, AWAY.text)
    assert utc_now() - found.since < timedelta(minutes=1)
    settings = interrupted.settings
    rule = NotificationSettings(name="hook", on=("outage",), url="https://x", every_minutes=0)
    gatherer = Gatherer(interrupted.database, settings.model_copy(update={"notifications": (rule,)}))
    gatherer.run_once()
    assert report_outages(interrupted.database, settings) == 0, "it lasts for a moment only"
    pass_minutes(interrupted, 16)
    assert [report_outages(interrupted.database, settings) for _ in range(3)] == [1, 0, 0]
    gatherer.run_once()
    pass_minutes(interrupted, 1)
    away.send = lambda objects: [STORED] * len(objects)
    interrupted.run_until("confirmed", worker=interrupted.worker(open_destination=lambda *_: away))
    assert interrupted.read(outages) == []
    assert [report_outages(interrupted.database, settings) for _ in range(2)] == [0, 0]
    gatherer.run_once()
    numbers = interrupted.numbers()
    assert (numbers[events.DESTINATION_AWAY.number], numbers[events.DESTINATION_BACK.number]) == (1, 1)
    first, second = (row.text for row in interrupted.rows(Notification))
    assert AWAY.text in first
    assert events.DESTINATION_BACK.text in second


@contextmanager
def delivering(worker: delivery_worker.DeliveryWorker, *let_go: threading.Event) -> Iterator[None]:
    """While a worker runs; at the end everything is let go."""
    stop = threading.Event()
    running = threading.Thread(target=worker.run_forever, args=(stop,))
    running.start()
    try:
        yield
    finally:
        for event in (stop, *let_go):
            event.set()
        running.join()


def test_a_thread_of_a_destination_that_fails_is_told_and_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dicom_node.base.runner.FAILED_SECONDS", 0.01)
    outbox, failing = Outbox(tmp_path, [PEER]), Mock(side_effect=KeyError("DOE^JANE"))
    for _ in range(2):
        outbox.add_study(["pacs"])
    with caplog.at_level(logging.ERROR), delivering(outbox.worker(open_destination=failing)):
        wait_until(lambda: failing.call_count >= 2, 60, "the second study, in a round after the defect")
    told = [row.fields for row in outbox.rows(EventRow) if row.number == events.THREAD_FAILED.number]
    assert told[0] == {"thread": "to pacs", "reason": "KeyError"}
    assert "defect in the thread to pacs" in caplog.messages


def blocked() -> Mock:
    """A destination that answers only when it is let go."""
    let_go, retry = threading.Event(), SendReport(SendStatus.RETRY, "", "away")
    return Mock(let_go=let_go, send=lambda objects: [retry] * len(objects) if let_go.wait(60) else [])


def test_a_thread_that_was_abandoned_leaves_the_destination_to_the_new_one(tmp_path: Path) -> None:
    outbox, first, second = Outbox(tmp_path, [PEER]), blocked(), blocked()
    opened = Mock(side_effect=[first, second])
    for _ in range(3):
        outbox.add_study(["pacs"])
    worker = outbox.worker(open_destination=opened)
    with delivering(worker, first.let_go, second.let_go):
        wait_until(lambda: outbox.states()["sending"] == 3, 60, "the first study at the first destination")
        abandoned = worker._threads["pacs"]
        worker._routes["pacs"].overdue_at = 0.0
        wait_until(lambda: opened.call_count == 2, 60, "the second study at the second one")
        assert outbox.numbers()[events.DELIVERY_OVERDUE.number] == 1
        first.let_go.set()
        abandoned.join(10)
        assert not abandoned.is_alive(), "two send to one PACS at once"
        assert opened.call_count == 2, "two send to one PACS at once"
        assert outbox.numbers()[events.DELIVERY_RETRIED.number] == 0, "what it says now is not recorded"


def test_one_worker_at_a_time_sends_to_a_peer_until_it_renews_its_lease_no_more(outbox: Outbox) -> None:
    sent, there = blocked(), Mock(confirm=lambda objects: [Confirmation(Presence.FOUND)] * len(objects))
    first = outbox.worker(open_destination=lambda *_: sent, lease_seconds=2)
    sending = threading.Thread(target=first.run_once)
    sending.start()
    wait_until(lambda: outbox.states()["sending"] == 1, 60, "it is being sent")
    second = outbox.worker(open_destination=lambda *_: there)
    assert second.run_once() == 0
    [lease], first._routes["pacs"]._renew_at = outbox.rows(Lease), 0.0
    first._routes["pacs"].renew()
    assert outbox.rows(Lease)[0].until > lease.until
    wait_until(lambda: second.run_once() == 1, 60, "the first one did not renew its lease")
    sent.let_go.set()
    sending.join()
    assert outbox.states() == {"confirmed": 1}


ASKING = {"name": "modality", "ae_title": "MODALITY", "host": "127.0.0.1", "port": 104, "may": ["send"],
          "commit_after": "delivered", "commit_hours": 12}  # fmt: skip


ARCHIVE = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 4243, "may": ["receive"]}


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
            "peers": [ASKING, *CONFIG["peers"][1:], ARCHIVE],
            "rules": [CONFIG["rules"][0] | {"forward": ["archive"]}],
        }
    )


def ask(inbox: Inbox, *lines: str, transaction: str = "2.25.1") -> None:
    """As the listener journals it."""
    inbox.tell(
        events.COMMITMENT_ASKED,
        transaction=transaction,
        calling="MODALITY",
        peer="modality",
        objects=list(lines),
    )
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


def answers(inbox: Inbox, takes: Takes) -> CommitmentAnswers:
    return CommitmentAnswers(
        inbox.database,
        inbox.settings,
        inbox.settings.peer("modality"),
        "me",
        open_reporter=lambda *_: Mock(report=takes),
    )


def state(inbox: Inbox) -> tuple[str, list[str]]:
    (row,) = inbox.rows(RequestedCommitment)
    return row.state.value, [line.split(" ")[1] for line in row.failed]


def judged(inbox: Inbox) -> tuple[str, list[str]]:
    """The state once a modality that takes all has been reported to."""
    answers(inbox, Takes()).run_once()
    return state(inbox)


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
    image, takes = there("known", inbox), Takes()
    ask(inbox, of(image), f"1.2.3 {ULTRASOUND}")
    assert answers(inbox, takes).run_once() == 0, "it may not be indexed yet"
    hours_pass(inbox, 0.1)
    assert answers(inbox, takes).run_once() == 1
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
    assert answers(inbox, takes).run_once() == 0
    assert len(takes.reports) == 1, "who is away is not called for the next report too"
    assert answers(inbox, takes).run_once() == 0
    hours_pass(inbox, 1)
    assert answers(inbox, takes).run_once() == 2
    assert [row.state for row in inbox.rows(RequestedCommitment)] == ["reported"] * 2


@pytest.mark.parametrize("ended", ["released", "open", "lost with its listener"])
def test_nothing_is_committed_while_a_newer_version_may_wait_to_be_indexed(inbox: Inbox, ended: str) -> None:
    image = there("backlog", inbox)
    inbox.opened("newer")
    inbox.receive(changed(image, Laterality="R"), association="newer")
    if ended == "released":
        inbox.released("newer")
    elif ended != "open":
        inbox.listener_restarted()
    inbox.tell(
        events.COMMITMENT_ASKED,
        transaction="2.25.1",
        calling="MODALITY",
        peer="modality",
        objects=[of(image)],
    )
    JournalIngest(inbox.database, inbox.folder / "journal").run_once()
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
        answers(inbox, takes).run_once()
    assert [answers(inbox, takes).run_once() for _ in range(2)] == [1, 0]
    (first, _), (second, _) = takes.reports
    assert first == second


def test_the_same_transaction_is_taken_once_and_not_too_many_wait(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requested, "MOST_OPEN", 2)
    for transaction in ("2.25.1", "2.25.1", "2.25.2", "2.25.3"):
        ask(inbox, f"1.2.3 {ULTRASOUND}", transaction=transaction)
    assert [row.transaction_uid for row in inbox.rows(RequestedCommitment)] == ["2.25.1", "2.25.2"]
    assert [event.fields["reason"] for event in inbox.events() if event.number == 1071] == [
        "its Transaction UID was used before",
        "too many requests of this peer wait for a report",
    ]
