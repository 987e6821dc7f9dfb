"""Events become notifications: none is lost, none told twice, nobody named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.background import Background
from dicom_node.errors import NotAllowedNow
from dicom_node.events import (
    DELIVERY_DEAD,
    DISK_LOW,
    JOB_FAILED,
    JOB_SUCCEEDED,
    NODE_STARTED,
    NOTIFICATION_GIVEN_UP,
    PEER_SILENT,
    EventType,
)
from dicom_node.model.kinds import NotificationState
from dicom_node.model.roles import Role
from dicom_node.notifications.gather import Gatherer, forget_removed
from dicom_node.notifications.sender import Notifier
from dicom_node.notifications.silence import report_silence
from dicom_node.services import notifications
from dicom_node.store.tables import Cursor, EventRow, Job, Notification, NotifiedEvent
from dicom_node.store.transitions import record, utc_now
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.rows import a_result
from tests.smtp_lab import MailServer, WebServer
from tests.unit.inbox.objects import changed
from tests.waiting import wait_until


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer().running() as server:
        yield server


def node(folder: Path, *rules: dict[str, Any], **other: Any) -> Inbox:
    return Inbox(folder, {**CONFIG, **other, "notifications": list(rules)})


def hook(web: WebServer, **other: Any) -> dict[str, Any]:
    return {"name": "hook", "on": ["failure", "disk"], "url": web.url, "every_minutes": 0, **other}


def happens(inbox: Inbox, event: EventType, study: int | None = None, **fields: Any) -> None:
    with inbox.database.write() as session:
        record(session, event, study, **fields)


def notifier(inbox: Inbox) -> Notifier:
    made = Notifier(inbox.database, inbox.settings, "a test")
    made.run_once()
    return made


def rows(inbox: Inbox) -> list[Notification]:
    with inbox.database.read() as session:
        found = list(session.scalars(select(Notification).order_by(Notification.id)))
        session.expunge_all()
        return found


def test_what_happens_is_told_once_and_not_what_was_before(tmp_path: Path, web: WebServer) -> None:
    inbox = node(tmp_path, hook(web))
    happens(inbox, JOB_FAILED, reason="before")
    first = notifier(inbox)
    happens(inbox, JOB_FAILED, reason="after")
    happens(inbox, DELIVERY_DEAD)  # nobody asked for that
    for again in (first, Notifier(inbox.database, inbox.settings, "a test")):
        again.run_once()
    [(_, body)] = web.calls
    assert [group["number"] for group in body["groups"]] == [JOB_FAILED.number]
    assert body["groups"][0]["events"][0]["fields"] == {"reason": "after"}
    assert "after" in body["text"]


def test_an_event_that_appears_behind_others_is_told(tmp_path: Path, web: WebServer) -> None:
    """On PostgreSQL a transaction may commit after one with a higher number."""
    inbox = node(tmp_path, hook(web))
    made = notifier(inbox)
    happens(inbox, JOB_FAILED)
    with inbox.database.write() as session:
        before = session.scalars(select(EventRow.id)).one()
        session.add(EventRow(id=before + 2, at=utc_now(), number=JOB_FAILED.number, fields={}))
    made.run_once()
    with inbox.database.write() as session:
        session.add(EventRow(id=before + 1, at=utc_now(), number=JOB_FAILED.number, fields={}))
    made.run_once()
    assert [body["total"] for _, body in web.calls] == [2, 1]


def test_the_cursor_follows_and_what_it_passed_is_forgotten(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node.notifications import gather

    monkeypatch.setattr(gather, "_BEHIND_SECONDS", 0.0)
    inbox = node(tmp_path, hook(web))
    made = notifier(inbox)
    happens(inbox, JOB_FAILED)
    made.run_once()
    made.run_once()
    with inbox.database.read() as session:
        assert list(session.scalars(select(NotifiedEvent))) == []
        assert session.get_one(Cursor, "notify hook").offset > 0
    made.run_once()
    assert len(web.calls) == 1


def test_a_flood_becomes_one_notification(tmp_path: Path, web: WebServer) -> None:
    inbox = node(tmp_path, hook(web, every_minutes=60))
    made = notifier(inbox)
    happens(inbox, JOB_FAILED)
    made.run_once()
    with inbox.database.write() as session:
        for number in range(200):
            record(session, DISK_LOW, free_mib=number)
    made.run_once()
    assert len(web.calls) == 1
    with inbox.database.write() as session:
        told = session.scalars(select(Notification)).one()
        told.created_at = told.created_at.replace(year=2020)
    made.run_once()
    _, body = web.calls[1]
    [group] = body["groups"]
    assert (group["count"], len(group["events"])) == (200, 5)
    assert "and 195 more" in body["text"]


def test_a_server_that_is_away_gets_the_same_later(tmp_path: Path, web: WebServer) -> None:
    inbox = node(tmp_path, hook(web), outbox={"retry_seconds": 0.01})
    made = notifier(inbox)
    happens(inbox, JOB_FAILED)
    web.status = 503
    made.run_once()
    assert [(row.state, row.attempts) for row in rows(inbox)] == [(NotificationState.PENDING, 1)]
    web.status = 200
    wait_until(lambda: made.run_once() == 1, 60, "tried again")
    [row] = rows(inbox)
    assert (row.state, row.attempts) == (NotificationState.SENT, 2)
    assert len({headers["Idempotency-Key"] for headers, _ in web.calls}) == 1
    assert web.calls[0][1] == web.calls[1][1]


def test_a_crash_after_handing_over_repeats_the_key(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = node(tmp_path, hook(web))
    made = notifier(inbox)
    happens(inbox, JOB_FAILED)
    monkeypatch.setattr(made, "_note", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        made.run_once()
    Notifier(inbox.database, inbox.settings, "a test").run_once()
    assert len(web.calls) == 2
    assert len({body["id"] for _, body in web.calls}) == 1


def test_a_second_machine_sends_nothing_of_it(tmp_path: Path, web: WebServer) -> None:
    inbox = node(tmp_path, hook(web))
    notifier(inbox)
    happens(inbox, JOB_FAILED)
    assert Notifier(inbox.database, inbox.settings, "another").run_once() == 0


def test_what_is_refused_for_good_is_given_up_and_can_be_sent_again(tmp_path: Path, web: WebServer) -> None:
    inbox = node(tmp_path, hook(web, on=["failure", "dead_letter"]), outbox={"retry_seconds": 0.01})
    made = notifier(inbox)
    happens(inbox, JOB_FAILED)
    web.status = 404
    wait_until(lambda: made.run_once() == 0 and rows(inbox)[-1].state == "failed", 60, "given up")
    assert len(web.calls) == 3
    [told] = [row for row in inbox.events() if row.number == NOTIFICATION_GIVEN_UP.number]
    assert told.fields["notification"] == "hook"
    assert len(rows(inbox)) == 1, "that it cannot be sent is not sent"
    web.status = 200
    number = rows(inbox)[0].id
    notifications.send_again(inbox.settings, [number])
    made.run_once()
    assert rows(inbox)[0].state is NotificationState.SENT
    with pytest.raises(NotAllowedNow):
        notifications.send_again(inbox.settings, [number])


@pytest.mark.parametrize("named", [False, True])
def test_patients_are_named_only_where_the_settings_say_so(
    tmp_path: Path, web: WebServer, named: bool
) -> None:
    template = tmp_path / "template.txt"
    template.write_text("{{ groups[0].events[0].patient_id }}")
    inbox = node(tmp_path / "var", hook(web, names_patients=named, template=str(template)))
    inbox.receive(changed(ultrasound("one"), PatientID="SECRET-1"))
    inbox.settle()
    made = notifier(inbox)
    happens(inbox, JOB_FAILED, 1)
    made.run_once()
    [(_, body)] = web.calls
    assert ("SECRET-1" in str(body)) is named
    if not named:
        assert "no attribute 'patient_id'" in body["text"], "the template's mistake is told"
        assert "job failed for good" in body["text"], "and ours is sent instead"


def test_findings_that_were_asked_for_are_told(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node.results.sr import reading

    said = {"a.dcm": [("Pneumothorax", "present"), ("Mass", "present")], "b.dcm": [("Mass", "absent")]}
    monkeypatch.setattr(
        reading,
        "findings",
        lambda report: [{"finding": name, "decision": word} for name, word in said[report.name]],
    )
    lines = ("AI: Suspected: pneumothorax and lung mass.", "Not assessed: nodule of lung.")
    monkeypatch.setattr(reading, "short_result", lambda report: lines if said[report.name] else ())
    inbox = node(tmp_path, hook(web, on=[], findings=["pneumo*"]))
    inbox.receive(ultrasound("one"))
    inbox.settle()
    made = notifier(inbox)
    with inbox.database.write() as session:
        job = session.scalars(select(Job)).one()
        number = job.id
        for name in ("a.dcm", "b.dcm", "c.dcm"):
            session.add(a_result(job, sop_instance_uid=name, path=name))
    happens(inbox, JOB_SUCCEEDED, 1, job=number)
    made.run_once()
    [(_, body)] = web.calls
    [event] = body["groups"][0]["events"]
    assert event["findings"] == ["Pneumothorax", "(the report cannot be read)"]
    assert event["result"] == [*lines, "(the report cannot be read)"]
    first = body["text"].splitlines()[1:4]
    assert [line.strip() for line in first] == event["result"], "the message begins with the short result"


def test_a_peer_that_is_silent_is_told_once_for_each_silence(tmp_path: Path) -> None:
    peers = [{**CONFIG["peers"][0], "silent_hours": 1e-9}, *CONFIG["peers"][1:]]
    inbox = node(tmp_path, peers=peers)
    assert report_silence(inbox.database, inbox.settings) == 0
    happens(inbox, NODE_STARTED)
    for _ in range(2):
        report_silence(inbox.database, inbox.settings)
    inbox.receive(ultrasound("one"))
    inbox.index()
    for _ in range(2):
        report_silence(inbox.database, inbox.settings)
    told = [row.fields["peer"] for row in inbox.events() if row.number == PEER_SILENT.number]
    assert told == ["modality", "modality"]


def test_the_node_sends_by_itself(tmp_path: Path) -> None:
    with MailServer().running() as server:
        mail = {"host": "127.0.0.1", "port": server.port, "security": "none", "sender": "n@example.org"}
        rule = {"name": "admins", "on": ["failure"], "to": ["a@example.org"]}
        inbox = node(tmp_path, rule, mail=mail)
        background = Background(
            inbox.database, inbox.settings, Role.WORKER, "worker-1", lambda *_, **__: None, 0
        )
        background.start()
        try:
            known = lambda: inbox.database
            wait_until(lambda: _cursor(known()), 60, "the first look")
            happens(inbox, JOB_FAILED)
            wait_until(lambda: server.mails, 60, "the e-mail")
        finally:
            background.stop()
    assert server.mails[0]["Subject"] == "AINODE: job failed for good"


def _cursor(database: Any, name: str = "admins") -> bool:
    with database.read() as session:
        return session.get(Cursor, f"notify {name}") is not None


def test_a_notification_that_was_taken_out_and_comes_back_begins_anew(tmp_path: Path, web: WebServer) -> None:
    inbox = node(tmp_path, hook(web))
    notifier(inbox)
    without = inbox.settings.model_copy(update={"notifications": ()})
    forget_removed(inbox.database, inbox.settings)
    assert _cursor(inbox.database, "hook")
    forget_removed(inbox.database, without)
    happens(inbox, JOB_FAILED)
    notifier(inbox).run_once()
    assert web.calls == []


def test_gathering_needs_no_server(tmp_path: Path) -> None:
    inbox = node(tmp_path, {"name": "hook", "events": [3006], "url": "https://127.0.0.1:9/x"})
    gatherer = Gatherer(inbox.database, inbox.settings)
    gatherer.run_once()
    happens(inbox, JOB_FAILED)
    assert gatherer.run_once() == 1
    assert gatherer.run_once() == 0
