"""Notifications: which events are told, once each, by e-mail or webhook."""

import logging
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ai_pipeline.contract import Decision
from dicom_connectors.notifications import sender as notifications_sender
from dicom_connectors.notifications.gather import EVENTS, Message
from dicom_connectors.notifications.sender import Notifier, call_webhook, send_mail
from dicom_connectors.notifications.settings import MailSettings, NotificationSettings
from dicom_node.base import events
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import FetchPurpose, NotificationState
from dicom_node.base.store.tables import EventRow, Fetch, Notification
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.people import notifications
from dicom_node.people.preflight import check
from dicom_node.people.processes import report_silence
from dicom_node.results import stated_report
from dicom_node.results.stated_report import StatedFinding
from tests.certificates_lab import self_signed
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.rows import a_result
from tests.smtp_lab import MailServer, WebServer
from tests.unit.base.config.test_settings import write
from tests.unit.receive.objects import changed
from tests.waiting import wait_until


def notifying_node(folder: Path, *rules: dict[str, Any], **other: Any) -> Inbox:
    return Inbox(folder, {**CONFIG, **other, "notifications": list(rules)})


def hook(web: WebServer, **other: Any) -> dict[str, Any]:
    return {"name": "hook", "on": ["failure", "disk"], "url": web.url, "every_minutes": 0, **other}


def happens(inbox: Inbox, event: events.EventType, study: int | None = None, **fields: Any) -> None:
    inbox.write(record, event, study, **fields)


def notifier(inbox: Inbox) -> Notifier:
    made = Notifier(inbox.database, inbox.settings, "a test")
    made.run_once()
    return made


def test_what_happens_is_told_once_and_not_what_was_before(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path, hook(web))
    happens(inbox, events.JOB_FAILED, reason="before")
    first = notifier(inbox)
    happens(inbox, events.JOB_FAILED, reason="after")
    happens(inbox, events.DELIVERY_DEAD)  # nobody asked for that
    for again in (first, Notifier(inbox.database, inbox.settings, "a test")):
        again.run_once()
    [(_, body)] = web.calls
    assert [group["number"] for group in body["groups"]] == [events.JOB_FAILED.number]
    assert body["groups"][0]["events"][0]["fields"] == {"reason": "after"}
    assert "after" in body["text"]


def test_an_event_that_appears_behind_others_is_told(tmp_path: Path, web: WebServer) -> None:
    """On PostgreSQL a transaction may commit after one with a higher number."""
    inbox = notifying_node(tmp_path, hook(web))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    before = inbox.events()[0].id
    inbox.add(EventRow(id=before + 2, at=utc_now(), number=events.JOB_FAILED.number, fields={}))
    made.run_once()
    inbox.add(EventRow(id=before + 1, at=utc_now(), number=events.JOB_FAILED.number, fields={}))
    made.run_once()
    assert [body["total"] for _, body in web.calls] == [2, 1]


def test_a_flood_becomes_one_notification(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path, hook(web, every_minutes=60))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    made.run_once()
    for number in range(200):
        happens(inbox, events.DISK_LOW, free_mib=number)
    made.run_once()
    assert len(web.calls) == 1
    inbox.put(Notification, created_at=utc_now().replace(year=2020))
    made.run_once()
    _, body = web.calls[1]
    [group] = body["groups"]
    assert (group["count"], len(group["events"])) == (200, 5)
    assert "and 195 more" in body["text"]


def test_a_crash_after_handing_over_repeats_the_key(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = notifying_node(tmp_path, hook(web))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    monkeypatch.setattr(made, "_note", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        made.run_once()
    Notifier(inbox.database, inbox.settings, "a test").run_once()
    assert len(web.calls) == 2
    assert len({body["id"] for _, body in web.calls}) == 1


def test_what_is_refused_for_good_is_given_up_and_can_be_sent_again(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path, hook(web, on=["failure", "dead_letter"]), outbox={"retry_seconds": 0.01})
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    web.status = 404
    wait_until(
        lambda: made.run_once() == 0 and inbox.rows(Notification)[-1].state == "failed", 60, "given up"
    )
    assert len(web.calls) == 3
    [told] = inbox.events(events.NOTIFICATION_GIVEN_UP.number)
    assert told.fields["notification"] == "hook"
    made.run_once()
    assert len(inbox.rows(Notification)) == 1, "that it cannot be sent is not sent"
    web.status = 200
    number = inbox.rows(Notification)[0].id
    notifications.notify_again(inbox.settings, [number])
    made.run_once()
    assert inbox.rows(Notification)[0].state is NotificationState.SENT
    with pytest.raises(NotAllowedNow):
        notifications.notify_again(inbox.settings, [number])


def test_no_patient_is_named(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path / "var", hook(web))
    inbox.settle(changed(ultrasound("one"), PatientID="SECRET-1"))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED, 1)
    made.run_once()
    [(_, body)] = web.calls
    assert "job failed for good" in body["text"]
    assert "SECRET-1" not in str(body)


def test_findings_that_were_asked_for_are_told(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"a.dcm": [("Pneumothorax", "present"), ("Mass", "present")], "b.dcm": [("Mass", "absent")]}
    lines = ("AI: Suspected: pneumothorax and lung mass.", "Not assessed: nodule of lung.")

    def stated(report: Path) -> stated_report.StatedReport:
        found = [
            StatedFinding("", ("", ""), name, Decision(word), "", "") for name, word in said[report.name]
        ]
        return stated_report.StatedReport(found, (), "\n".join(lines), "")

    monkeypatch.setattr(stated_report, "read_report", stated)
    inbox = notifying_node(tmp_path, hook(web, on=[], findings=["pneumo*"]))
    inbox.settle(ultrasound("one"))
    made = notifier(inbox)
    [job] = inbox.jobs()
    inbox.add(*(a_result(job, sop_instance_uid=name, path=name) for name in ("a.dcm", "b.dcm", "c.dcm")))
    happens(inbox, events.JOB_SUCCEEDED, 1, job=job.id)
    made.run_once()
    [(_, body)] = web.calls
    [event] = body["groups"][0]["events"]
    assert event["findings"] == ["Pneumothorax", "(the report cannot be read)"]
    assert event["result"] == [*lines, "(the report cannot be read)"]
    first = body["text"].splitlines()[1:4]
    assert [line.strip() for line in first] == event["result"], "the message begins with the short result"


def told_of_a_report(inbox: Inbox, web: WebServer, *more: Any) -> list[dict[str, Any]]:
    """Events of the message on a report that cannot be read; none without a message. ``more``: rows."""
    inbox.settle(changed(ultrasound("one"), AccessionNumber="A-1"))
    made, [job] = notifier(inbox), inbox.jobs()
    inbox.add(a_result(job, sop_instance_uid="lost", path="lost.dcm"), *more)
    happens(inbox, events.JOB_SUCCEEDED, 1, job=job.id)
    made.run_once()
    return [event for _, body in web.calls for event in body["groups"][0]["events"]]


@pytest.mark.parametrize(("study", "accession"), [("accession", "A-1"), ("link", "")])
def test_a_finding_names_the_study_as_the_notification_says(
    tmp_path: Path, web: WebServer, study: str, accession: str
) -> None:
    inbox = notifying_node(tmp_path, hook(web, on=[], findings=["*"], study=study))
    assert [event["accession"] for event in told_of_a_report(inbox, web)] == [accession]


def test_findings_of_an_earlier_study_are_no_news(tmp_path: Path, web: WebServer) -> None:
    uid, now = str(ultrasound("one").StudyInstanceUID), utc_now()
    inbox = notifying_node(tmp_path, hook(web, on=[], findings=["*"]))
    prior = Fetch(peer="pacs", study_instance_uid=uid, purpose=FetchPurpose.PRIOR, asked_at=now, next_at=now)
    assert told_of_a_report(inbox, web, prior) == []


def test_a_peer_that_is_silent_is_told_once_for_each_silence(tmp_path: Path) -> None:
    inbox = notifying_node(
        tmp_path, peers=[{**CONFIG["peers"][0], "silent_hours": 1e-9}, *CONFIG["peers"][1:]]
    )
    report_silence(inbox.database, inbox.settings)
    happens(inbox, events.NODE_STARTED)
    for came in ([], [ultrasound("one")]):
        inbox.index(*came)
        for _ in range(2):
            report_silence(inbox.database, inbox.settings)
    told = [row.fields["peer"] for row in inbox.events(events.PEER_SILENT.number)]
    assert told == ["modality", "modality"]


def rule(**other: Any) -> NotificationSettings:
    return NotificationSettings.model_validate({"name": "n", "on": ["disk"], "url": "https://h/x", **other})


def test_check_finds_events_that_are_none(tmp_path: Path) -> None:
    text = f'''[node]
data_dir = "{tmp_path / "var"}"
[[notifications]]
name = "n"
events = [1, 3006]
url = "http://h/KEY"
[[notifications]]
name = "m"
on = ["disk"]
to = ["a@example.org"]
'''
    found = check([write(tmp_path / "node.toml", text)])
    assert {"notifications.n.events", "notifications.m.to"} <= {problem.key for problem in found.problems}
    said = " ".join([*map(str, found.problems), *(line.text for line in found.tried)])
    assert "unencrypted" in said
    assert "KEY" not in said


def test_errors_of_the_node_belong_to_an_occasion() -> None:
    named = {kind for kinds in EVENTS.values() for kind in kinds}
    assert {kind for kind in events.all_types() if kind.level >= logging.ERROR} - named == set()


MESSAGE = Message("Müller: a job failed", "It failed.\n.\nEnd.\n", {"total": 1})
TO = ("anna@example.org", "bert@example.org")


def mail_settings(server: MailServer, **other: Any) -> MailSettings:
    given = {"host": "127.0.0.1", "port": server.port, "security": "none", "sender": "node@example.org"}
    return MailSettings.model_validate(given | other)


def test_an_email_comes_whole_and_says_what_it_is() -> None:
    with MailServer().running() as server:
        assert send_mail(mail_settings(server), TO, MESSAGE, "k-1").taken
    [mail] = server.mails
    assert server.recipients == [list(TO)]
    assert (mail["Subject"], mail["Message-ID"]) == (MESSAGE.subject, "<k-1@example.org>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().replace("\r\n", "\n") == MESSAGE.text


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_password_goes_over_tls_to_a_server_that_is_known(tmp_path: Path, security: str) -> None:
    certificate, context = self_signed(tmp_path, "mail"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = MailServer(tls=context, starttls=security == "starttls")
    with server.running():
        login = {"security": security, "username": "node", "password": "S3CRET"}
        trusted = mail_settings(server, **login, authorities=certificate[0])
        assert send_mail(trusted, TO, MESSAGE, "k").taken
        assert server.logins == ["\0node\0S3CRET"]
        server.starttls = security == "starttls"
        answer = send_mail(mail_settings(server, **login), TO, MESSAGE, "k")
    assert (answer.taken, answer.for_good) == (False, False)
    assert "self-signed certificate" in answer.text
    assert len(server.logins) == len(server.mails) == 1


def test_without_the_tls_that_was_asked_for_nothing_is_sent() -> None:
    with MailServer().running() as server:
        answer = send_mail(mail_settings(server, security="starttls"), TO, MESSAGE, "k")
    assert (answer.taken, server.mails) == (False, [])
    assert "starttls" in answer.text


@pytest.mark.parametrize(
    ("command", "said", "for_good"),
    [
        ("DATA", "554 SECRET-WORDS", True),
        ("DATA", "451 SECRET-WORDS", False),
        ("RCPT", "550 SECRET-WORDS", True),
        ("RCPT", "450 SECRET-WORDS", False),
        ("MAIL", "530 SECRET-WORDS", True),
        ("EHLO", "not SMTP", False),
    ],
)
def test_a_refusal_is_told_without_the_words_of_the_server(command: str, said: str, for_good: bool) -> None:
    with MailServer(answers={command: said, "HELO": said}).running() as server:
        answer = send_mail(mail_settings(server), TO, MESSAGE, "k")
    assert (answer.taken, answer.for_good) == (False, for_good), answer
    assert "SECRET" not in answer.text


@pytest.mark.parametrize("bad", [{"seconds_between_bytes": 0.1}, {"talks_without_end": True}])
def test_a_server_that_trickles_or_never_ends_is_cut_off(
    bad: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications_sender, "SECONDS", 0.6)
    with MailServer(**bad).running() as server:
        began = time.monotonic()
        answer = send_mail(mail_settings(server), TO, MESSAGE, "k")
    assert not answer.taken
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "mistake",
    [
        {"sender": ""},
        {"sender": "Node <node@example.org>"},
        {"sender": "node@example.org\nBcc: x@example.org"},
        {"username": "u", "password": "SECRET"},
    ],
)
def test_settings_that_would_harm_are_mistakes(mistake: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        mail_settings(MailServer(port=25), **mistake)
    assert "SECRET" not in str(caught.value)


def test_a_webhook_gets_json_and_the_key_of_its_notification() -> None:
    with WebServer().running() as server:
        assert call_webhook(rule(url=server.url, token="T0KEN"), MESSAGE, "k-1").taken
    [(headers, body)] = server.calls
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("k-1", "Bearer T0KEN")
    assert body == {"id": "k-1", "subject": MESSAGE.subject, "text": MESSAGE.text, "total": 1}


def test_a_redirect_is_not_followed() -> None:
    with WebServer().running() as other, WebServer(status=307, location=other.url).running() as server:
        answer = call_webhook(rule(url=server.url, token="T0KEN"), MESSAGE, "k")
    assert (answer.taken, answer.for_good, other.calls) == (False, True, [])


def test_address_and_token_of_a_webhook_are_shown_nowhere() -> None:
    given = rule(url=WebServer().url, token="T0KEN")
    for shown in (repr(given), str(given), given.model_dump_json()):
        assert "KEY-IN-URL" not in shown
        assert "T0KEN" not in shown
