"""The HL7 listener: MLLP over TCP, plain or TLS, for senders that the settings name by address.

A thread for each connection; connections, bytes, messages a second and times have limits.
"""

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections import Counter
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_connectors.hl7.inbox import Inbox
from dicom_connectors.hl7.message import MessageRefused, acknowledgement, control_id_of
from dicom_connectors.hl7.mllp import END, START, FrameError, FrameReader
from dicom_connectors.hl7.settings import Hl7Settings
from dicom_node.base import events
from dicom_node.base.events import EventType
from dicom_node.base.lifecycle import MessageState
from dicom_node.base.store.database import Database
from dicom_node.base.store.transitions import record
from dicom_node.base.tls import server_context, tls_refusal

_LOOK_SECONDS: Final = 0.5  # until the listener sees that it should stop
_AGAIN_SECONDS: Final = 1.0  # until it tries again to listen
_LEAVING_SECONDS: Final = 5.0  # after which a port that is taken is recorded
_HANDSHAKE_SECONDS: Final = 10.0
_REPORT_SECONDS: Final = 60.0
_FORGET_SECONDS: Final = 3600.0
_SENDERS_NAMED: Final = 50  # in one minute's events; others are counted as one
_TOO_LONG: Final = MessageRefused("AR", "102", "the message is too long, or its frame is faulty")


class Hl7Listener:
    """Listens until it is stopped; what it refuses is counted and recorded once a minute."""

    def __init__(self, database: Database, settings: Hl7Settings, inbox: Inbox) -> None:
        """Prepare; nothing is opened yet."""
        self._database, self._settings, self._inbox = database, settings, inbox
        self._networks = [
            (name, ipaddress.ip_network(str(one))) for name, ones in settings.senders.items() for one in ones
        ]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._counts: dict[EventType, Counter[str]] = {}
        self._reasons: dict[str, str] = {}
        self._turn: dict[str, float] = {}  # when the next message of a sender is read, monotonic seconds
        self._is_recorded, self._fails_since = False, 0.0

    def run_once(self, stop: threading.Event) -> None:
        """Listen until ``stop`` is set; return earlier if the port cannot be had."""
        try:
            context, server = self._tls(), self._listen()
        except OSError as error:
            self._note_failure(error)
            stop.wait(_AGAIN_SECONDS)
            return
        self._is_recorded, self._fails_since = False, 0.0
        host, port = server.getsockname()[:2]
        self._record(events.HL7_STARTED, host=host, port=port)
        reported = forgot = time.monotonic()
        with server:
            server.settimeout(_LOOK_SECONDS)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    self._accept(server, context)
                now = time.monotonic()
                if now - reported > _REPORT_SECONDS:
                    self._report()
                    reported = now
                if now - forgot > _FORGET_SECONDS:
                    self._inbox.forget_old()
                    forgot = now
        self._report()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _end(connection)

    def _listen(self) -> socket.socket:
        """Return a listening socket. Raises OSError."""
        flags, port = socket.AI_PASSIVE, self._settings.port
        found = socket.getaddrinfo(self._settings.host or None, port, type=socket.SOCK_STREAM, flags=flags)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(address, family=family, backlog=16)

    def _note_failure(self, error: OSError) -> None:
        """Record once that the port cannot be had, unless a predecessor is only about to leave it."""
        now = time.monotonic()
        self._fails_since = self._fails_since or now
        if now - self._fails_since > _LEAVING_SECONDS and not self._is_recorded:
            reason = tls_refusal(error) or error.strerror or type(error).__name__
            self._record(events.HL7_CANNOT_LISTEN, port=self._settings.port or 0, reason=reason)
            self._is_recorded = True

    def _tls(self) -> ssl.SSLContext | None:
        """Return the context of ``[hl7.tls]``; None without. Raises OSError."""
        tls = self._settings.tls
        return server_context(tls.certificate, tls.private_key, tls.trusted) if tls else None

    def _accept(self, server: socket.socket, context: ssl.SSLContext | None) -> None:
        """Accept one connection, and serve it in a thread if it may come. Raises TimeoutError."""
        try:
            connection, (host, *_) = server.accept()
        except TimeoutError:
            raise
        except OSError:  # gone before we came, or too many open files
            time.sleep(0.01)
            return
        sender = self._sender(host)
        with self._lock:
            is_full = len(self._open) >= self._settings.connections
            if sender and not is_full:
                self._open.add(connection)
        if not sender or is_full:
            self._count(
                events.HL7_REFUSED, sender or host, "too many connections" if sender else "unknown address"
            )
            connection.close()
            return
        try:
            threading.Thread(
                target=self._serve, args=(connection, context, sender), name=f"HL7 {sender}", daemon=True
            ).start()
        except RuntimeError:  # no thread can be started
            self._close(connection)

    def _sender(self, host: str) -> str:
        """Return the name of the sender with this address; "" for a stranger."""
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return next((name for name, network in self._networks if address in network), "")

    def _serve(self, raw: socket.socket, context: ssl.SSLContext | None, sender: str) -> None:
        """Take the messages of one connection until it ends."""
        connection = raw
        try:
            raw.settimeout(_HANDSHAKE_SECONDS)
            if context is not None:
                connection = self._shake_hands(raw, context)
            self._take_messages(connection, sender)
        except FrameError as error:
            self._count(events.HL7_REFUSED, sender, str(error))
            if error.message:
                with contextlib.suppress(OSError):
                    connection.settimeout(_HANDSHAKE_SECONDS)
                    connection.sendall(
                        _framed(acknowledgement(None, control_id_of(error.message), "AR", _TOO_LONG))
                    )
        except OSError as error:
            if refusal := tls_refusal(error):
                self._count(events.HL7_REFUSED, sender, refusal)
        finally:
            self._close(connection)

    def _shake_hands(self, raw: socket.socket, context: ssl.SSLContext) -> socket.socket:
        """Return the connection with TLS; one that is slow is cut off. Raises OSError."""
        connection = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open.discard(raw)
            self._open.add(connection)
        cut = threading.Timer(_HANDSHAKE_SECONDS, _end, [connection])
        cut.start()
        try:
            connection.do_handshake()
        except OSError:
            self._close(connection)
            raise
        finally:
            cut.cancel()
        return connection

    def _take_messages(self, connection: socket.socket, sender: str) -> None:
        """Answer each message of a connection. Raises FrameError, OSError."""
        frames = FrameReader(connection, self._settings.message_kib * 1024, self._settings.idle_seconds)
        while (data := frames.next()) is not None:
            self._wait_for_turn(sender)
            answer, refusal, state = self._inbox.take(data, sender)
            if refusal:
                self._count(events.HL7_REFUSED, sender, refusal)
            elif state is MessageState.FOREIGN:
                self._count(events.HL7_FOREIGN, sender, "")
            connection.settimeout(_HANDSHAKE_SECONDS)
            connection.sendall(_framed(answer))

    def _wait_for_turn(self, sender: str) -> None:
        """Wait until this sender may have its next message read, over all of its connections."""
        with self._lock:
            now = time.monotonic()
            turn = max(self._turn.get(sender, now), now)
            self._turn[sender] = turn + 1 / self._settings.messages_a_second
        time.sleep(turn - now)

    def _close(self, connection: socket.socket) -> None:
        """Close a connection, and make room for another."""
        with self._lock:
            self._open.discard(connection)
        _end(connection)
        connection.close()

    def _count(self, event: EventType, sender: str, reason: str) -> None:
        """Count what is recorded once a minute; strangers beyond a number are counted together."""
        with self._lock:
            counter = self._counts.setdefault(event, Counter())
            known = sender if sender in counter or len(counter) < _SENDERS_NAMED else "others"
            counter[known] += 1
            self._reasons[known] = reason or self._reasons.get(known, "")

    def _report(self) -> None:
        """Record what was counted."""
        with self._lock:
            counts, reasons = self._counts, self._reasons
            self._counts, self._reasons = {}, {}
        for event, counter in counts.items():
            for sender, count in counter.items():
                reason = reasons.get(sender, "") if event is events.HL7_REFUSED else ""
                self._record(event, sender=sender, count=count, reason=reason)

    def _record(self, event: EventType, **fields: str | int) -> None:
        """Record an event; only in the log while the database is away."""
        try:
            with self._database.write() as session:
                record(session, event, None, **fields)
        except SQLAlchemyError:
            events.happened(event, **fields)


def _framed(message: bytes) -> bytes:
    """Return a message with its blocks."""
    return START + message + END


def _end(connection: socket.socket) -> None:
    """Wake whoever waits for this connection."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
