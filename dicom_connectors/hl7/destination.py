"""HL7 destination: a report as ORU^R01 over MLLP (HL7 transport specification, release 1), plain or TLS.

Each message has its own connection: if it is lost, only that message has no acknowledgement. The answer is
read within limits, and only its codes are reported.
"""

import contextlib
import socket
import ssl
import time
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage

from dicom_connectors.hl7.oru import MessageContext, SentReport, control_id, oru_of, withdrawal_of
from dicom_connectors.hl7.settings import Hl7Peer
from dicom_node.base.connectors import typed_section
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import (
    CUT_OFF,
    Check,
    Confirmation,
    Outgoing,
    PeerCaller,
    Presence,
    SendReport,
    SendStatus,
    client_tls,
    send_each,
)

MAXIMUM_ANSWER_BYTES = 2**16
"""Of an acknowledgement; usual ones have 200."""
_MOST_OUTSIDE = 1024  # bytes before the frame
_START, _END = b"\x0b", b"\x1c\x0d"
_CONNECT_SECONDS = 10.0
_STAYS_SECONDS = 0.5  # a server that does not want us (TLS 1.3 says it after the handshake) has ended by then
_NO_REPORT = SendReport(SendStatus.NARROWED, "", "a message is made of reports only")
_FILE_GONE = SendReport(
    SendStatus.REFUSED, "", "the file of a withdrawn report is gone: withdraw the report there by hand"
)
_NO_QUESTION = Confirmation(Presence.NOT_FOUND, "HL7 has no question for a result: it is sent again")
_LOST = SendReport(SendStatus.RETRY, "", "connection lost before the acknowledgement")
_UNREADABLE = SendReport(
    SendStatus.REFUSED, "", "it answers, but not as an HL7 receiver does: correct host or port"
)
_TOO_LONG = SendReport(
    SendStatus.REFUSED, "", f"its answer is longer than {MAXIMUM_ANSWER_BYTES // 1024} KiB"
)
_OTHER_MESSAGE = SendReport(SendStatus.REFUSED, "", "it acknowledges another message than was sent (MSA-2)")
ACCEPTED: Final = frozenset({"AA", "CA"})
REFUSED: Final[Mapping[str, str]] = {
    "AE": "the receiver found an error in the message",
    "AR": "the receiver rejects the message",
    "CE": "the receiver found an error in the message",
    "CR": "the receiver rejects the message",
}
# HL7 table 0357. Codes of other tables are not shown: a receiver could put any text there.
_CONDITIONS: Final[Mapping[str, str]] = {
    "100": "segment sequence error",
    "101": "required field missing",
    "102": "data type error",
    "103": "table value not found",
    "200": "unsupported message type",
    "201": "unsupported event code",
    "202": "unsupported processing id",
    "203": "unsupported version id",
    "204": "unknown key identifier",
    "205": "duplicate key identifier",
    "206": "application record locked",
    "207": "application internal error",
}


class Hl7Destination(PeerCaller):
    """A RIS or interface engine as destination, which takes reports as HL7 messages ORU^R01 over MLLP."""

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send one message for each object in turn, and return a report for each; once the peer is
        unreachable, the rest is not tried.
        """
        return send_each(objects, self._send)

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Return "not found" for each object, because HL7 has no query for results, so that it is sent again.

        It is only called for objects sent when the peer had another transport.
        """
        return [_NO_QUESTION] * len(objects)

    def test(self) -> list[Check]:
        """Check that a connection opens and that the receiver leaves it open; no message is sent."""
        began = time.monotonic()
        with self._connections.within(self._settings.outbox.answer_seconds):
            try:
                with self._connected() as connection:
                    took = f"{(time.monotonic() - began) * 1000:.0f} ms"
                    how = connection.version() or "TLS" if isinstance(connection, ssl.SSLSocket) else "TCP"
                    connection.settimeout(_STAYS_SECONDS)
                    with contextlib.suppress(TimeoutError):
                        connection.recv(1)
                        return [Check("connection", False, "the receiver ends the connection at once")]
            except OSError as error:
                return [Check("connection", False, self._unreachable(error).text)]
        return [Check("connection", True, f"{how} in {took}; nothing was sent")]

    def _send(self, item: Outgoing) -> SendReport:
        """Send the message of a report or, for a rejection note, the message that withdraws the reports sent
        before; other objects are not sent.
        """
        reports = [
            SentReport(one.path, one.rule)
            for one in (item, *item.former)
            if one.sop_class_uid == Comprehensive3DSRStorage
        ]
        if not reports:
            return _NO_REPORT
        there = [report for report in reports if report.path.is_file()]
        if item.sop_class_uid != KeyObjectSelectionDocumentStorage:
            message = oru_of(reports[0], self._context(item), there[1:])
        elif there == reports:
            message = withdrawal_of(item.path, reports, self._context(item))
        else:
            return _FILE_GONE
        with self._connections.within(self._settings.outbox.seconds_for(len(message))):
            try:
                with self._connected() as connection:
                    return self._exchange(connection, message, control_id(item.sop_instance_uid))
            except OSError as error:
                return self._unreachable(error)

    def _exchange(self, connection: socket.socket, message: bytes, number: str) -> SendReport:
        """Send ``message``, and return the report on its acknowledgement.

        ``number``: its Message Control ID (MSH-10), which the acknowledgement must repeat.
        """
        try:
            connection.sendall(_START + message + _END)
            block = _answer(connection)
        except TimeoutError:
            return CUT_OFF
        except OSError as error:  # also where the deadline has cut the connection
            lost = replace(_LOST, text=tls_refusal(error) or _LOST.text)
            return CUT_OFF if self._connections.timed_out else lost
        if isinstance(block, bytes):
            return _acknowledged(block, number)
        return CUT_OFF if self._connections.timed_out else block

    def _context(self, item: Outgoing) -> MessageContext:
        """Return sender, receiver, site fields and console link for the message of this object."""
        url = self._settings.console.url.rstrip("/")
        return MessageContext(
            sender=self._settings.node.ae_title,
            receiver=self._peer.ae_title,
            fields=typed_section(self._peer, Hl7Peer).hl7_fields,
            link=f"{url}/studies/{item.study}" if url and item.study else "",
        )

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """Context manager that opens the connection to the peer, with TLS if the peer's settings want it.

        Raises OSError if it cannot be opened.
        """
        host, port = self._peer.host, self._peer.port
        if self._connections.closed or port is None:
            raise OSError("not tried")
        address = self._connections.address_of(host)
        with (
            socket.create_connection((address, port), _CONNECT_SECONDS) as raw,
            self._wrapped(raw, host) as connection,
        ):
            connection.settimeout(self._connections.silence_seconds)
            self._connections.opened(connection)
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            yield connection

    def _wrapped(self, raw: socket.socket, host: str) -> socket.socket:
        """Return the socket ``raw``, wrapped for TLS with ``host`` if the peer's settings want TLS; no
        handshake yet.
        """
        if not self._peer.tls:
            return raw
        context = client_tls(self._settings, self._connections)
        return context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)

    def _unreachable(self, error: OSError) -> SendReport:
        """Return the report "unreachable" for a connection that failed with ``error``, with the reason in
        words.
        """
        whom = f"{self._peer.host}:{self._peer.port}"
        if self._connections.refused:
            why = self._connections.refused
        elif self._connections.timed_out:
            why = self._connections.without_answer(whom)
        elif refusal := tls_refusal(error):
            why = f"{whom}: {refusal}"
        else:
            why = self._connections.without_answer(whom)
        return SendReport(SendStatus.UNREACHABLE, "", why)


def _acknowledged(block: bytes, number: str) -> SendReport:
    """Return what became of a message.

    ``block``: the receiver's answer; ``number``: the Message Control ID (MSH-10) of the message, which the
    answer must repeat.
    """
    answer = parsed_acknowledgement(block)
    if answer is None:
        return _UNREADABLE
    if answer.control_id not in ("", number):  # this connection has carried one message only
        return _OTHER_MESSAGE
    if answer.code in ACCEPTED:
        return SendReport(SendStatus.STORED, answer.code, "acknowledged")
    return SendReport(SendStatus.REFUSED, answer.shown, answer.text)


def _answer(connection: socket.socket) -> bytes | SendReport:
    """Return the receiver's next message without its MLLP frame, or the report why none came. What stands
    outside of the frame means nothing.

    Raises OSError.
    """
    data = b""
    while True:
        try:
            piece = connection.recv(4096)
        except TimeoutError:
            if not data or _START in data:
                raise
            return _UNREADABLE
        data += piece
        before, start, rest = data.partition(_START)
        block, end, _ = rest.partition(_END[:1])
        if len(before) > _MOST_OUTSIDE:
            return _UNREADABLE
        if len(block) > MAXIMUM_ANSWER_BYTES:
            return _TOO_LONG
        if end:
            return block
        if not piece:
            return _UNREADABLE if data and not start else _LOST


# The acknowledgement of a message (HL7 2.5.1 chapter 2.9). Its texts (MSA-3, ERR-7, ERR-8) are left out on
# purpose: they may name a patient. It is parsed by a few lines here, not by the library, whose parser builds
# the whole message and fails in many ways on input that is no HL7.


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """An HL7 acknowledgement: its code (MSA-1), the Message Control ID that it answers (MSA-2), and its first
    error condition that HL7 table 0357 has, "" without one.
    """

    code: str
    control_id: str
    condition: str = ""

    @property
    def shown(self) -> str:
        """Code and error condition for lists and events, such as "AE 101"."""
        return f"{self.code} {self.condition}".strip()

    @property
    def text(self) -> str:
        """Why the receiver refused the message, in the node's own words; "" if it accepted the message."""
        about = _CONDITIONS.get(self.condition)
        return REFUSED.get(self.code, "") + (f": {about}" if about else "")


def parsed_acknowledgement(block: bytes) -> Acknowledgement | None:
    """Parse a receiver's answer; return None if it is no HL7 acknowledgement."""
    text = block.removeprefix(BOM_UTF8).decode(
        "latin-1"
    )  # what is read here is ASCII in each character set of MSH-18
    segments = [line.strip() for line in text.replace("\n", "\r").split("\r")]
    header = next((line for line in segments if line.startswith("MSH")), "")
    if len(header) < 5:
        return None
    bar, caret = header[3], header[4]
    rows = [line.split(bar) for line in segments]
    msa = next((row for row in rows if row[0] == "MSA" and len(row) > 1), None)
    code = msa[1].strip().upper() if msa else ""
    if msa is None or code not in {*ACCEPTED, *REFUSED}:
        return None
    errors = [row for row in rows if row[0] == "ERR"]
    condition = next((code for code in _error_codes(msa, errors, caret) if code in _CONDITIONS), "")
    control_id = msa[2].split(caret)[0].strip() if len(msa) > 2 else ""
    return Acknowledgement(code, control_id, condition)


def _error_codes(msa: Sequence[str], errors: Sequence[Sequence[str]], caret: str) -> list[str]:
    """Return the codes of an acknowledgement that may be error conditions, first those of HL7 2.5.

    ``msa``, ``errors``: its MSA segment and its ERR segments, split into fields; ``caret``: the sign between
    the components of a field.
    """
    # 2.5 has the condition in ERR-3; versions before it had it in MSA-6 and in the last component of ERR-1.
    codes = [error[3].split(caret)[0] for error in errors if len(error) > 3]
    codes += [code for error in errors if len(error) > 1 for code in error[1].split(caret)[3:4]]
    if len(msa) > 6:
        codes.append(msa[6].split(caret)[0])
    return codes
