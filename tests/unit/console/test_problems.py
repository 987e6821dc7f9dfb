"""What the overview says went wrong: each thing once, and marked where it is over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_console.views.problems import SOLVED_SHOWN, problems
from dicom_node import events
from dicom_node.events import EventType
from dicom_node.model.lifecycle import StudyState
from dicom_node.model.roles import UserRole
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.services import deliveries, jobs
from dicom_node.services.audit import Person
from dicom_node.store.tables import Association, EventRow, Study
from dicom_node.store.transitions import record, utc_now
from dicom_node.store.views import View
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import work

WORKER = {"machine": "m", "place": "p", "process": "worker-1"}
PACS = {"destination": "pacs"}


def happened(inbox: Inbox, kind: EventType, minutes_ago: float, **fields: Any) -> None:
    at = utc_now() - timedelta(minutes=minutes_ago)
    with inbox.database.write() as session:
        session.add(EventRow(at=at, number=kind.number, fields=fields))


def found(inbox: Inbox, *, disk_is_low: bool = False) -> list[View]:
    with inbox.database.read() as session:
        return problems(session, inbox.settings, disk_is_low=disk_is_low)


@pytest.mark.parametrize(
    ("bad", "good", "fields"),
    [
        (events.PROCESS_LOST, events.PROCESS_BACK, WORKER),
        (events.DESTINATION_AWAY, events.DESTINATION_BACK, PACS),
        (events.INDEXING_FAILED, events.INDEXING_BACK, {}),
        (events.AUDIT_NOT_SENT, events.AUDIT_SENT_AGAIN, {}),
        (events.TRACES_NOT_SENT, events.TRACES_SENT_AGAIN, {}),
        (events.CONFIGURATION_REFUSED, events.CONFIGURATION_RELOADED, {}),
        (events.CONSOLE_CANNOT_START, events.CONSOLE_STARTED, {}),
    ],
)
def test_an_alarm_is_over_once_its_end_was_told(
    inbox: Inbox, bad: EventType, good: EventType, fields: Mapping[str, Any]
) -> None:
    happened(inbox, good, 9, **fields)
    happened(inbox, bad, 5, **fields, silent_seconds=40)
    assert [row["over"] for row in found(inbox)] == [None], "the end of the one before"
    happened(inbox, good, 3, **{key: f"another {value}" for key, value in fields.items()})
    if fields:
        assert [row["over"] for row in found(inbox)] == [None], "the end of another one"
    happened(inbox, good, 1, **fields)
    assert found(inbox)[0]["over"]


def test_what_is_told_again_and_again_is_one_line_and_acts_of_people_are_none(inbox: Inbox) -> None:
    for minute in range(30):
        happened(inbox, events.CHILD_DIED, minute, process="worker-1", exit_status=minute)
        happened(inbox, events.DELIVERY_RETRIED, minute, by="anna")
        happened(inbox, events.JOB_CANCELLED, minute, job=minute)
    happened(inbox, events.ASSOCIATION_REJECTED, 60, calling="US9")
    assert [(row["number"], row["times"]) for row in found(inbox)] == [(6004, 30), (1004, 1)]
    assert found(inbox)[0]["fields"]["exit_status"] == 0, "the last one"


def test_a_rejected_caller_is_told_in_words_until_it_got_through(console: ConsoleLab, inbox: Inbox) -> None:
    numbers = {"result": 1, "source": 1, "reason": 3, "listener": "l-1"}
    who = {"calling": "US9", "called": "AINODE", "address": "192.0.2.9", "meaning": "not recognized"}
    happened(inbox, events.ASSOCIATION_REJECTED, 5, **numbers, **who)
    [row] = found(inbox)
    assert (row["fields"], row["caller"], row["over"]) == (who, "US9", None)
    browser = console.browser(UserRole.VIEWER)
    browser.get("/")
    assert '<a href="/peers/why?caller=US9">Why?</a>' in browser.text
    opened = {"calling_ae": "US9", "called_ae": "AINODE", "address": "192.0.2.9"}
    for name, minutes in (("before", 9), ("after", 1)):
        at = utc_now() - timedelta(minutes=minutes)
        with inbox.database.write() as session:
            session.add(Association(id=name, listener="l-1", opened_at=at, **opened))
        assert bool(found(inbox)[0]["over"]) == (name == "after")


def test_a_full_disk_is_over_when_it_has_room_again(inbox: Inbox) -> None:
    happened(inbox, events.DISK_LOW, 5)
    assert found(inbox, disk_is_low=True)[0]["over"] is None
    assert found(inbox)[0]["over"] == ""


def test_a_quarantined_study_is_a_problem_until_it_is_released(inbox: Inbox) -> None:
    sent = ultrasound("one")
    inbox.receive(sent)
    inbox.settle()
    number = inbox.study(str(sent.StudyInstanceUID)).id
    with inbox.database.write() as session:
        record(session, events.STUDY_QUARANTINED, number)
        session.get_one(Study, number).state = StudyState.QUARANTINED
    assert found(inbox)[0]["over"] is None
    with inbox.database.write() as session:
        session.get_one(Study, number).state = StudyState.RECEIVING
    assert found(inbox)[0]["over"] == ""


def test_a_silent_peer_is_heard_of_again(inbox: Inbox) -> None:
    happened(inbox, events.PEER_SILENT, 5, peer="modality", hours=1)
    assert found(inbox)[0]["over"] is None
    inbox.receive(ultrasound("one"), calling="MODALITY")
    inbox.settle()
    assert found(inbox)[0]["over"]


def test_the_overview_marks_it(console: ConsoleLab, inbox: Inbox) -> None:
    happened(inbox, events.PROCESS_LOST, 5, **WORKER)
    browser = console.browser(UserRole.VIEWER)
    browser.get("/")
    assert ">solved" not in browser.text and 'class="over"' not in browser.text
    happened(inbox, events.PROCESS_BACK, 1, **WORKER)
    browser.get("/")
    assert '<li class="over">' in browser.text
    assert ">solved " in browser.text
    assert events.PROCESS_BACK.text in browser.text
    browser.get("/static/style.css")
    [grey] = [
        line for line in browser.text.splitlines() if line.startswith(".events .over > span:last-child")
    ]
    assert "color: var(--quiet)" in grey, "grey: whoever looks for what is wrong now passes it over"


def test_a_delivery_that_was_given_up_is_solved_once_it_was_delivered(node: Inbox) -> None:
    with run_pacs(Pacs(free_port(), answer=lambda _uid, _times: 0xA900)) as pacs:
        deliver_to(node, pacs)
        [row] = found(node)
        assert (row["number"], row["over"]) == (events.DELIVERY_DEAD.number, None)
        pacs.answer = lambda _uid, _times: 0
        deliveries.retry(node.settings, destination="pacs", by=Person("eva"))
        deliver_to(node, pacs)
    [row] = found(node)
    assert (row["by"], row["how"]) == ("eva", events.DELIVERY_CONFIRMED.text)
    assert row["over"] > row["at"]


def test_a_held_job_is_a_problem_until_its_results_are_delivered(tmp_path: Path) -> None:
    settings = illustrated()
    settings["rules"][0]["max_study_age_days"] = 1
    inbox = Inbox(tmp_path / "var", settings)
    inbox.receive(ultrasound("one"))
    inbox.settle()
    assert [(row["number"], row["over"]) for row in found(inbox)] == [(events.JOB_HELD.number, None)]
    jobs.change_jobs(inbox.settings, [1], "retry", Person("eva"))
    work(inbox)
    assert [row["over"] for row in found(inbox)] == [None], "not delivered yet"
    with run_pacs(Pacs(free_port())) as pacs:
        deliver_to(inbox, pacs)
    [row] = found(inbox)
    assert (row["by"], row["how"], bool(row["over"])) == ("eva", events.DELIVERY_CONFIRMED.text, True)
    inbox.close()


def deliver_to(node: Inbox, pacs: Pacs) -> None:
    """Deliver until nothing is due; one refusal is enough."""
    peers = [one.model_copy(update={"port": pacs.port}) for one in node.settings.peers]
    outbox = node.settings.outbox.model_copy(update={"refusals": 1})
    node.settings = node.settings.model_copy(update={"peers": tuple(peers), "outbox": outbox})
    worker = DeliveryWorker(node.database, node.settings)
    while worker.run_once():
        pass


def test_what_was_solved_is_below_what_lasts_for_a_day_and_in_bounds(inbox: Inbox) -> None:
    for number in range(SOLVED_SHOWN + 3):
        happened(inbox, events.PROCESS_LOST, 50 + number, machine=f"m{number}", place="p", process="w")
        happened(inbox, events.PROCESS_BACK, 40 + number, machine=f"m{number}", place="p", process="w")
    happened(inbox, events.DESTINATION_AWAY, 2000, **PACS)
    happened(inbox, events.DESTINATION_BACK, 1999, **PACS)
    happened(inbox, events.DESTINATION_AWAY, 3000, destination="old")
    rows = found(inbox)
    assert [row["over"] is None for row in rows] == [True] + [False] * SOLVED_SHOWN
    assert rows[0]["fields"]["destination"] == "old"
    assert [row["fields"]["machine"] for row in rows[1:4]] == ["m0", "m1", "m2"], "the newest end first"
    assert rows[1]["how"] == events.PROCESS_BACK.text
