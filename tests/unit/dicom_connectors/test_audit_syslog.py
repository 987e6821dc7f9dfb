"""Audit messages (PS3.15 A.5): their content, and sending by syslog over TLS."""

import json
import socket
import ssl
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, Self
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import example, given, settings, strategies
from pydicom.sr.codedict import codes

from dicom_connectors.audit_syslog import sender as syslog
from dicom_connectors.audit_syslog.message import KINDS, AuditSource, audit_message, check_message
from dicom_connectors.audit_syslog.sender import AuditSender
from dicom_connectors.audit_syslog.settings import AuditSettings
from dicom_node.base.events import (
    ARCHIVE_ANSWERED,
    ASSOCIATION_REJECTED,
    AUDIT_NOT_MADE,
    AUDIT_NOT_SENT,
    AUDIT_SENT_AGAIN,
    DELIVERY_SENT,
    NODE_STARTED,
    NODE_STOPPING,
    STUDY_COMPLETE,
    STUDY_RERUN,
)
from dicom_node.base.lifecycle import AuditAction, Role
from dicom_node.base.logs import printable
from dicom_node.base.store.tables import AuditRow, EventRow
from dicom_node.base.store.transitions import record
from dicom_node.people import audit
from dicom_node.serve.background import Background
from tests.certificates_lab import self_signed
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed
from tests.waiting import wait_until


def b64(detail: Element) -> str:
    return b64decode(detail.get("value", "")).decode()


SOURCE = AuditSource("AINODE", "STATION", "host.example.org", "hospital")


def row(action: AuditAction, **fields: object) -> AuditRow:
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    return AuditRow(at=at, actor="anna", address="192.0.2.7", action=action, fields=fields)


@pytest.mark.parametrize("study", ["1.2.3", ""])
@pytest.mark.parametrize("action", AuditAction)
def test_each_action_is_a_message_of_the_schema(action: AuditAction, study: str) -> None:
    text = audit_message(row(action, peer="pacs", empty=[]), study, "P-1" if study else "", SOURCE)
    check_message(text)
    root = fromstring(text)
    event = root[0]
    assert event.get("EventDateTime") == "2026-01-02T03:04:05.678+00:00"
    assert event.get("EventActionCode") in set("CRUDE")
    assert event[0].get("csd-code") == KINDS[action].event.value
    ids = [found.get("ParticipantObjectID") for found in root.iter("ParticipantObjectIdentification")]
    alerted = [one for one in ids if str(one).startswith("dicom-node://") or one == "192.0.2.7"]
    assert bool(alerted) is (KINDS[action].event == codes.DCM.SecurityAlert)
    has_none = alerted or KINDS[action].event == codes.DCM.ApplicationActivity
    assert ids == (["1.2.3", "P-1"] if study else [] if has_none else [action.value]) + alerted


@pytest.mark.parametrize(
    ("action", "fields", "subject", "words"),
    [
        (
            AuditAction.USER_ADDED,
            {"user": "Ä b"},
            "dicom-node://host.example.org/users/%C3%84%20b",
            "user added: user=Ä b",
        ),
        (
            AuditAction.PEER_TESTED,
            {"peers": ["a", "b"]},
            "dicom-node://host.example.org/peers/a%2Cb",
            "peer tested: ",
        ),
        (AuditAction.CONFIG_RELOADED, {}, "dicom-node://host.example.org/configuration", "config reloaded"),
        (AuditAction.CALLER_REFUSED, {"reason": "no TLS"}, "192.0.2.7", "caller refused: reason=no TLS"),
    ],
)
def test_an_alert_names_its_subject_and_describes_it(
    action: AuditAction, fields: dict[str, object], subject: str, words: str
) -> None:
    """PS3.15 A.5.3.11: the URI of the resource or the node's address, a type code, "Alert Description"."""
    [found] = fromstring(audit_message(row(action, **fields), "", "", SOURCE)).iter(
        "ParticipantObjectIdentification"
    )
    of = "110182" if action is AuditAction.CALLER_REFUSED else "12"
    assert (found.get("ParticipantObjectID"), found.get("ParticipantObjectTypeCode")) == (subject, "2")
    assert (found.get("ParticipantObjectTypeCodeRole"), found[0].get("csd-code")) == ("13", of)
    details = {one.get("type"): b64(one) for one in found.iter("ParticipantObjectDetail")}
    assert details["Alert Description"].startswith(words)


def test_who_saw_a_study_is_told_with_its_patient() -> None:
    root = fromstring(audit_message(row(AuditAction.STUDY_SEEN), "1.2.3", "P-1", SOURCE))
    said = [
        (one.get("UserID"), one.get("NetworkAccessPointID"), one.get("UserIsRequestor"))
        for one in root.findall("ActiveParticipant")
    ]
    assert said[0] == ("anna", "192.0.2.7", "true")
    assert said[1][2] == "false"
    assert root.findall("ActiveParticipant")[1].get("AlternativeUserID") == "AETITLES=AINODE"
    [source] = root.findall("AuditSourceIdentification")
    assert (source.get("AuditSourceID"), source.get("AuditEnterpriseSiteID")) == ("STATION", "hospital")


def test_what_a_caller_wrote_cannot_change_the_message() -> None:
    bad = row(AuditAction.SIGN_IN_REFUSED, note='"/><x>\x00\u202e')
    bad.actor = 'x" UserIsRequestor="false"/><!--\x1b\n'
    root = fromstring(audit_message(bad, "", 'P<&">\x00', SOURCE))
    assert root.findall("ActiveParticipant")[0].get("UserIsRequestor") == "true"
    [detail] = root.iter("ParticipantObjectDetail")
    assert b64(detail) == '"/><x>\x00\u202e'


HEAD = b"DICOM+RFC3881 - \xef\xbb\xbf"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "both.pem").write_text("".join(file.read_text() for file in self_signed(folder, "audit")))
    return folder


class Repository:
    """An audit record repository.

    ``reset``: it goes away with something unread; ``abrupt``: it reads all, and ends without close_notify.
    """

    def __init__(self, folder: Path, *, port: int = 0, wants: Path | None = None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        if wants:
            self.context.load_verify_locations(wants)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.reset = self.silent = self.abrupt = False
        self.data = b""
        self.listening = socket.create_server(("127.0.0.1", port))
        self.port = self.listening.getsockname()[1]

    @contextmanager
    def running(self) -> Iterator[Self]:
        threading.Thread(target=self._serve, daemon=True).start()
        yield self
        self.listening.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listening.accept()
            except OSError:
                return
            with suppress(OSError), self.context.wrap_socket(plain, server_side=True) as connection:
                if self.silent:
                    connection.recv(1)
                    threading.Event().wait(3)
                if self.reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    continue
                while piece := connection.recv(65536):
                    self.data += piece
                if not self.abrupt:
                    connection.unwrap()

    def messages(self) -> list[bytes]:
        """By their octet counts (RFC 5425 4.3.1)."""
        found, left = [], self.data
        while left:
            length, _, left = left.partition(b" ")
            found.append(left[: int(length)])
            left = left[int(length) :]
        return found


def auditing_node(folder: Path, port: int, **other: Any) -> Inbox:
    given = {"syslog": f"127.0.0.1:{port}", "seconds": 1.0, **other}
    return Inbox(folder / "var", {**CONFIG, "outbox": {"retry_seconds": 0.01}, "audit": given})


@pytest.fixture
def repository(certificate: Path) -> Iterator[Repository]:
    with Repository(certificate).running() as repository:
        yield repository


@pytest.fixture
def inbox(tmp_path: Path, certificate: Path, repository: Repository) -> Inbox:
    """A node that sends its records to the repository."""
    return auditing_node(tmp_path, repository.port, authorities=certificate / "cert.pem")


def note(inbox: Inbox, action: AuditAction, study: int | None = None) -> None:
    inbox.write(audit.note, audit.Person("anna", "192.0.2.7"), action, study_id=study)


def sender_of(inbox: Inbox) -> AuditSender:
    return AuditSender(inbox.database, inbox.settings, "a test")


def actions(messages: list[bytes]) -> list[str | None]:
    roots = [fromstring(message.partition(HEAD)[2]) for message in messages]
    return [root[0].findtext("EventOutcomeDescription") for root in roots]


def test_each_record_is_sent_once_in_order_and_names_its_patient(
    repository: Repository, inbox: Inbox
) -> None:
    inbox.settle(changed(ultrasound("one"), PatientID="P-1"))
    sender = sender_of(inbox)
    note(inbox, AuditAction.SIGNED_IN)
    note(inbox, AuditAction.STUDY_SEEN, 1)
    assert sender.run_once() == 2
    note(inbox, AuditAction.SIGNED_OUT)
    assert sender_of(inbox).run_once() == 1
    assert sender.run_once() == 0
    messages = repository.messages()
    assert actions(messages) == ["signed_in", "study_seen", "signed_out"]
    assert messages[0].startswith(b"<85>1 20")
    assert b'ParticipantObjectID="P-1"' in messages[1]
    assert not any("P-1" in str(row.fields) for row in inbox.events())


def test_starts_transfers_queries_and_refused_callers_are_audited_too(
    repository: Repository, inbox: Inbox
) -> None:
    """PS3.15 A.5.3.1, A.5.3.7, A.5.3.10, A.5.3.11: what no person did."""
    inbox.write(record, NODE_STARTED)
    inbox.opened("a1")
    inbox.receive(changed(ultrasound("one"), PatientID="P-1"), association="a1")
    inbox.released("a1")
    inbox.tell(ASSOCIATION_REJECTED, calling="STRANGER", meaning="calling AE title not recognized")
    inbox.settle()
    with inbox.database.write() as session:  # at one time: they go in one message
        for uid in ("1.2.1", "1.2.2"):
            record(session, DELIVERY_SENT, 1, destination="pacs", instance=uid)
    inbox.write(record, STUDY_RERUN, 1)
    inbox.write(record, STUDY_COMPLETE, 1)  # the rules again: nothing was received
    inbox.write(record, ARCHIVE_ANSWERED, 1, peer="pacs", asked="prior", found=2, fetched=1)
    inbox.write(record, NODE_STOPPING)
    sender = sender_of(inbox)
    sent: list[int] = []
    wait_until(lambda: sent.append(sender.run_once()) or sum(sent) >= 6, 60, "sent")
    assert sender.run_once() == 0
    messages = {text["what"]: text for text in map(_read, repository.messages())}
    assert {what: text["codes"] for what, text in messages.items()} == {
        "node_started": ["110100", "110120"],
        "node_stopping": ["110100", "110121"],
        "images_received": ["110104"],
        "results_sent": ["110104"],
        "peer_asked": ["110112"],
        "caller_refused": ["110113", "110126"],
    }
    assert messages["node_started"]["objects"] == messages["node_stopping"]["objects"] == []
    received, results, asked = (messages[what] for what in ("images_received", "results_sent", "peer_asked"))
    assert received["participants"] == {"MODALITY": "110153", "dicom-node": "110152"}
    assert received["objects"][1:] == ["P-1"]
    assert results["participants"] == asked["participants"] == {"PACS": "110152", "dicom-node": "110153"}
    assert results["details"] == ["pacs", '["1.2.1", "1.2.2"]']
    assert asked["details"] == ["pacs", "prior"]
    assert "STRANGER" in messages["caller_refused"]["participants"]


def test_the_stop_is_sent_at_the_stop(repository: Repository, inbox: Inbox) -> None:
    background = Background(
        inbox.database, inbox.settings, Role.CONSOLE, "all", say=lambda *_, **__: None, database_file=0
    )
    background.start()
    inbox.write(record, NODE_STARTED)
    for _ in range(120):  # more than are read at once wait before it
        inbox.write(record, ASSOCIATION_REJECTED, calling="STRANGER")
    inbox.write(record, NODE_STOPPING)
    background.stop()
    [service] = background._services
    service.at_stop.__self__._next_at = inf  # as after a failure
    background.leave()
    sent = actions(repository.messages())
    assert (sent[0], sent[-1], len(sent)) == ("node_started", "node_stopping", 122)


def _read(message: bytes) -> dict[str, Any]:
    root = fromstring(message.partition(HEAD)[2])
    details = [one for one in root.iter("ParticipantObjectDetail") if one.get("type") != "event"]
    return {
        "what": root[0].findtext("EventOutcomeDescription"),
        "codes": [code.get("csd-code") for code in root[0] if code.get("csd-code")],
        "participants": {
            one.get("UserID"): next((role.get("csd-code") for role in one), "")
            for one in root.findall("ActiveParticipant")
        },
        "objects": [one.get("ParticipantObjectID") for one in root.iter("ParticipantObjectIdentification")],
        "details": [b64(one) for one in details],
    }


def test_what_a_repository_did_not_read_is_sent_again(repository: Repository, inbox: Inbox) -> None:
    sender = sender_of(inbox)
    for _ in range(150):
        note(inbox, AuditAction.STUDY_SEARCHED)
    repository.reset = True
    assert sender.run_once() == 0
    repository.reset = False
    wait_until(lambda: sender.run_once() == 150, 60, "sent")
    assert len(repository.messages()) == 150
    assert inbox.column(EventRow.number) == [AUDIT_NOT_SENT.number, AUDIT_SENT_AGAIN.number]


def test_a_repository_that_is_not_there_or_hangs_holds_up_nothing_else(
    tmp_path: Path, certificate: Path
) -> None:
    repository = Repository(certificate)
    repository.silent = True
    with repository.running():
        inbox = auditing_node(tmp_path, repository.port, authorities=certificate / "cert.pem", seconds=0.5)
        note(inbox, AuditAction.SIGNED_IN)
        assert sender_of(inbox).run_once() == 0
    assert sender_of(inbox).run_once() == 0


@pytest.mark.parametrize("known", [False, True])
def test_a_certificate_is_checked_on_both_sides(tmp_path: Path, certificate: Path, known: bool) -> None:
    wants = certificate / "cert.pem"
    ours = {"authorities": wants, "certificate": certificate / "both.pem"} if known else {}
    with Repository(certificate, wants=wants).running() as repository:
        for name, given, sent in (("ours", ours, int(known)), ("other", {"authorities": wants}, 0)):
            inbox = auditing_node(tmp_path / name, repository.port, **given)
            note(inbox, AuditAction.SIGNED_IN)
            assert sender_of(inbox).run_once() == sent
    assert len(repository.messages()) == int(known)


FORBIDDEN = [
    0xFFFE,
    0xFFFF,
    0x1FFFE,
    0x10FFFF,
    0xFDD0,
    0xFDEF,
    0xD800,
    0xDFFF,
    0x00,
    0x0B,
    0x1F,
    0x7F,
    0x85,
    0x9F,
]


@pytest.fixture(scope="module")
def receiver() -> Iterator[socket.socket]:
    """Of datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        yield listening


@settings(max_examples=400, deadline=None)
@given(
    text=strategies.text(
        strategies.characters(codec=None) | strategies.sampled_from([chr(code) for code in FORBIDDEN]),
        min_size=1,
    )
)
@example(text="".join(map(chr, FORBIDDEN)))
def test_whatever_stands_in_a_header_a_repository_reads_the_message(
    receiver: socket.socket, text: str
) -> None:
    """Patient ID, UID, user, address, and the details of a record, by a real datagram."""
    row = AuditRow(
        id=1,
        at=datetime.now(UTC),
        actor=text,
        address=text,
        action=AuditAction.STUDY_SEEN,
        study_id=1,
        fields={"note": text, "more": [text]},
    )
    to = AuditSettings(syslog=f"127.0.0.1:{receiver.getsockname()[1]}", transport="udp")
    syslog.send(to, [syslog.frame(audit_message(row, text, text, SOURCE), row.at, SOURCE.host)])
    root = fromstring(receiver.recv(65535).partition(HEAD)[2])
    patient = root[-1].get("ParticipantObjectID") or ""
    assert patient == printable(text)
    assert not {ord(sign) for sign in patient} & set(FORBIDDEN)
    details = [detail.get("value", "") for detail in root.iter("ParticipantObjectDetail")]
    assert b64decode(details[0]) == text.encode(errors="backslashreplace")
    assert isinstance(json.loads(b64decode(details[1])), list)


def test_a_record_without_a_valid_message_is_an_event_and_holds_up_no_others(
    tmp_path: Path, receiver: socket.socket
) -> None:
    """Over UDP one of 70 kB would be cut short, and no parser would read it."""
    inbox = auditing_node(tmp_path, receiver.getsockname()[1], transport="udp")
    inbox.write(audit.note, audit.Person("anna"), AuditAction.CONFIG_RELOADED, files="x" * 70_000)
    note(inbox, AuditAction.SIGNED_OUT)
    sender = sender_of(inbox)
    assert sender.run_once() == 1
    assert sender.run_once() == 0
    assert actions([receiver.recv(65535)]) == ["signed_out"]
    [event] = inbox.events()
    assert (event.number, event.fields["record"]) == (AUDIT_NOT_MADE.number, 1)
    assert inbox.column(AuditRow.reported) == [False, True]
