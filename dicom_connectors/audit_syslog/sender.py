"""Sends new audit records to the repository, in order, by syslog (RFC 5424) as PS3.15 A.6 and A.7 require it,
over TLS (RFC 5425) or UDP (RFC 5426). Only one process per database sends."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from sqlalchemy import select, update

from dicom_connectors.audit_syslog.message import LATE, AuditSource, audit_message, new_records
from dicom_connectors.audit_syslog.settings import AuditPart, AuditSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.errors import ResultRefused
from dicom_node.base.events import AUDIT_NOT_MADE, AUDIT_NOT_SENT, AUDIT_SENT_AGAIN
from dicom_node.base.runner import wait_before_retry
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import AuditRow, Study
from dicom_node.base.store.transitions import RenewableLease, record
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import Connections

_T = TypeVar("_T")
LARGEST_DATAGRAM = 65_000
"""Bytes; IPv4 takes 65,507. A longer message is not sent by UDP: cut short, no parser would read it."""
_PRIORITY = 10 * 8 + 5  # facility security/authorization, severity notice


def frame(message: bytes, at: datetime, host: str) -> bytes:
    """Return ``message`` as a syslog message of RFC 5424: header with time ``at`` and host name ``host``,
    byte order mark, text.

    It has no length prefix.
    """
    head = f"<{_PRIORITY}>1 {at:%Y-%m-%dT%H:%M:%S.%fZ} {host} dicom-node {os.getpid()} DICOM+RFC3881 - "
    return head.encode("ascii", "replace") + b"\xef\xbb\xbf" + message


def send(settings: AuditSettings, frames: Sequence[bytes]) -> None:
    """Send syslog messages to the repository of ``settings``.

    Raises OSError if sending failed; some messages may have arrived nevertheless. Over TLS they count as sent
    when the server has read up to the end of the connection.
    """
    host, _, port = settings.syslog.rpartition(":")
    place = host.strip("[]"), int(port)
    if settings.transport == "udp":
        _send_datagrams(place, frames)
        return
    connections = Connections(settings.seconds)
    with connections.within(settings.seconds):
        _send_stream(settings, place, frames, connections)
    if connections.timed_out:
        raise TimeoutError("cut off")


def _send_datagrams(place: tuple[str, int], frames: Sequence[bytes]) -> None:
    """Send each syslog message as one UDP datagram to ``place`` (host, port)."""
    family, kind, _, _, address = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sender:
        for one in frames:
            sender.sendto(one, address)


def _send_stream(
    settings: AuditSettings, place: tuple[str, int], frames: Sequence[bytes], connections: Connections
) -> None:
    """Send syslog messages over one TLS connection to ``place`` (host, port), each after its length in bytes.

    ``connections`` cuts the connection at its deadline.
    """
    context = ssl.create_default_context(cafile=settings.authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate:
        context.load_cert_chain(settings.certificate)
    with socket.create_connection(place, settings.seconds) as connection:
        connections.opened(connection)
        tls = _Tls(context, connection, place[0])
        tls.send(b"".join(b"%d %s" % (len(one), one) for one in frames))
        tls.end()


class _Tls:
    """The client's side of a TLS connection that moves the encrypted bytes itself.

    An ``SSLSocket`` that is closed cannot tell a refusal from the server's regular end; this class can.
    """

    def __init__(self, context: ssl.SSLContext, connection: socket.socket, host: str) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._finish(self._tls.do_handshake)

    def send(self, data: bytes) -> None:
        """Encrypt ``data`` and send it."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
            self._connection.sendall(self._outgoing.read())

    def end(self) -> None:
        """End the TLS connection: send close_notify, and wait for the server's close_notify (RFC 5425 4.4).

        A server that closes the connection without it, as rsyslog does, has read everything, too. Raises
        OSError if the server left data unread, or refuses the client's certificate only now, as TLS 1.3
        allows.
        """
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()  # nothing is read here: what the server says about the messages is read below
        self._connection.sendall(self._outgoing.read())
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while self._finish(lambda: self._tls.read(4096)):
                pass

    def _finish(self, step: Callable[[], _T]) -> _T:
        """Call ``step``, a TLS operation, again until enough bytes have arrived for it, and return its
        result.
        """
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._connection.sendall(self._outgoing.read())
                if data := self._connection.recv(16384):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._connection.sendall(self._outgoing.read())
                return result


_AT_ONCE = 100


class AuditSender:
    """Service that sends audit records by syslog; a column of each record in the database says whether it was
    sent.
    """

    def __init__(self, database: Database, settings: Settings, owner: str) -> None:
        self._database = database
        self._settings, self._audit = settings, typed_section(settings, AuditPart).audit
        self._lease = RenewableLease(database, "audit", owner, 2 * self._audit.seconds + 30.0)
        host = socket.gethostname()[:255]
        self._source = AuditSource(settings.node.ae_title, settings.node.ae_title, host, self._audit.site)
        self._failures = 0
        self._next_at = 0.0
        # Records of which no message can be made. They stay unsent, and hold up no others; the next start of
        # the program, perhaps one that can, tries them again.
        self._faulty: set[int] = set()

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Send all audit records that were not sent yet; return how many were sent.

        ``stop`` ends the call early when set. After a failure, calls do nothing for a while, which grows with
        each failure.
        """
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
        """Send the records that remain when the node stops, with that of the stop itself.

        An event is only read once it is ``LATE`` old, so this sleeps that long first; it ignores the pause
        after a failure.
        """
        time.sleep(LATE.total_seconds())
        self._next_at = 0.0
        while self.run_once():
            pass

    def _note_own_events(self) -> None:
        """Store audit records for the node's own new events."""
        with self._database.read() as session:
            found = new_records(session, self._settings)
        if found:
            with self._database.write() as session:
                session.add_all(found)

    def _send_some(self) -> int:
        """Send the next batch of unsent audit records; return how many were sent, 0 after a failure."""
        waiting = self._unsent_messages()
        if not waiting:
            return 0
        try:
            send(self._audit, list(waiting.values()))
        except OSError as error:
            self._note_failure(error)
            return 0
        with self._database.write() as session:
            session.execute(update(AuditRow).where(AuditRow.id.in_(waiting)).values(reported=True))
            if self._failures:
                record(session, AUDIT_SENT_AGAIN)
        self._failures = 0
        return len(waiting)

    def _unsent_messages(self) -> dict[int, bytes]:
        """Return the oldest unsent audit records as syslog messages by record number.

        Records that make no valid message are left out and reported as events.
        """
        chosen = select(AuditRow, Study.study_instance_uid, Study.patient_id)
        joined = chosen.join(Study, AuditRow.study_id == Study.id, isouter=True)
        unsent = joined.where(AuditRow.reported.is_(False), AuditRow.id.not_in(self._faulty))
        made: dict[int, bytes] = {}
        faults: dict[int, str] = {}
        with self._database.read() as session:
            for row, uid, patient in session.execute(unsent.order_by(AuditRow.id).limit(_AT_ONCE)):
                try:
                    made[row.id] = self._syslog_message(row, uid or "", patient or "")
                except ResultRefused as error:
                    faults[row.id] = str(error)
        self._note_faulty(faults)
        return made

    def _syslog_message(self, row: AuditRow, study_uid: str, patient_id: str) -> bytes:
        """Return an audit record as a syslog message.

        Raises ResultRefused if it makes no valid message, or one that is too long for UDP.
        """
        message = audit_message(row, study_uid, patient_id, self._source)
        framed = frame(message, row.at, self._source.host)
        if self._audit.transport == "udp" and len(framed) > LARGEST_DATAGRAM:
            raise ResultRefused('it is longer than a datagram: set audit.transport = "tls"')
        return framed

    def _note_faulty(self, faults: Mapping[int, str]) -> None:
        """Store an event for each record that makes no valid message, and skip these records from now on.

        ``faults``: the reason by record number.
        """
        if not faults:
            return
        with self._database.write() as session:
            for number, fault in faults.items():
                record(session, AUDIT_NOT_MADE, record=number, reason=fault)
        self._faulty |= faults.keys()

    def _note_failure(self, error: OSError) -> None:
        """Set the pause before the next try to send; store an event at the first failure of a series."""
        self._failures += 1
        wait = wait_before_retry(self._failures, self._settings.outbox)
        self._next_at = time.monotonic() + wait.total_seconds()
        if self._failures == 1:
            with self._database.write() as session:
                record(session, AUDIT_NOT_SENT, reason=tls_refusal(error) or type(error).__name__)
