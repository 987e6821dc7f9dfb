"""Sends new audit records to the repository, in order; only one process per database sends."""

import socket
import threading
import time
from collections.abc import Mapping

from sqlalchemy import select, update

from dicom_connectors.audit_syslog import syslog
from dicom_connectors.audit_syslog.message import AuditSource, audit_message
from dicom_connectors.audit_syslog.own_events import LATE, new_records
from dicom_connectors.audit_syslog.settings import AuditPart
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import part
from dicom_node.base.errors import FaultyMessage
from dicom_node.base.events import AUDIT_NOT_MADE, AUDIT_NOT_SENT, AUDIT_SENT_AGAIN
from dicom_node.base.runner import wait_before_retry
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import AuditRow, Study
from dicom_node.base.store.transitions import KeptLease, record

_AT_ONCE = 100


class AuditSender:
    """Sends audit records under one configuration; the database notes which records were sent."""

    def __init__(self, database: Database, settings: Settings, owner: str) -> None:
        self._database = database
        self._settings, self._audit = settings, part(settings, AuditPart).audit
        self._lease = KeptLease(database, "audit", owner, 2 * self._audit.seconds + 30.0)
        host = socket.gethostname()[:255]
        self._source = AuditSource(settings.node.ae_title, settings.node.ae_title, host, self._audit.site)
        self._failures = 0
        self._next_at = 0.0
        # Records of which no message can be made. They stay unsent, and hold up no others; the next start of
        # the program, perhaps one that can, tries them again.
        self._faulty: set[int] = set()

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Send the waiting audit records; returns how many. After a failure it pauses, longer each time."""
        if time.monotonic() < self._next_at:
            return 0
        if not self._lease.keep():
            return 0
        self._note_own_events()
        sent = 0
        while (
            self._lease.keep() and (number := self._send_some()) and not (stop is not None and stop.is_set())
        ):
            sent += number
        return sent

    def send_last(self) -> None:
        """Send the record of the node's stop, at its end: its event may be read when it is ``LATE`` old.

        Others may wait before it, or the pause after a failure not be over.
        """
        time.sleep(LATE.total_seconds())
        self._next_at = 0.0
        while self.run_once():
            pass

    def _note_own_events(self) -> None:
        with self._database.read() as session:
            found = new_records(session, self._settings)
        if found:
            with self._database.write() as session:
                session.add_all(found)

    def _send_some(self) -> int:
        waiting = self._waiting()
        if not waiting:
            return 0
        try:
            syslog.send(self._audit, list(waiting.values()))
        except OSError as error:
            self._note_failure(error)
            return 0
        with self._database.write() as session:
            session.execute(update(AuditRow).where(AuditRow.id.in_(waiting)).values(reported=True))
            if self._failures:
                record(session, AUDIT_SENT_AGAIN)
        self._failures = 0
        return len(waiting)

    def _waiting(self) -> dict[int, bytes]:
        """The oldest records that were not sent, by their numbers, as syslog messages."""
        chosen = select(AuditRow, Study.study_instance_uid, Study.patient_id)
        joined = chosen.join(Study, AuditRow.study_id == Study.id, isouter=True)
        unsent = joined.where(AuditRow.reported.is_(False), AuditRow.id.not_in(self._faulty))
        made: dict[int, bytes] = {}
        faults: dict[int, str] = {}
        with self._database.read() as session:
            for row, uid, patient in session.execute(unsent.order_by(AuditRow.id).limit(_AT_ONCE)):
                try:
                    made[row.id] = self._framed(row, uid or "", patient or "")
                except FaultyMessage as error:
                    faults[row.id] = str(error)
        self._note_faulty(faults)
        return made

    def _framed(self, row: AuditRow, study_uid: str, patient_id: str) -> bytes:
        """Raises FaultyMessage."""
        message = audit_message(row, study_uid, patient_id, self._source)
        framed = syslog.frame(message, row.at, self._source.host)
        if self._audit.transport == "udp" and len(framed) > syslog.LARGEST_DATAGRAM:
            raise FaultyMessage('it is longer than a datagram: set audit.transport = "tls"')
        return framed

    def _note_faulty(self, faults: Mapping[int, str]) -> None:
        if not faults:
            return
        with self._database.write() as session:
            for number, fault in faults.items():
                record(session, AUDIT_NOT_MADE, record=number, reason=fault)
        self._faulty |= faults.keys()

    def _note_failure(self, error: OSError) -> None:
        self._failures += 1
        wait = wait_before_retry(self._failures, self._settings.outbox)
        self._next_at = time.monotonic() + wait.total_seconds()
        if self._failures == 1:
            with self._database.write() as session:
                record(session, AUDIT_NOT_SENT, reason=type(error).__name__)
