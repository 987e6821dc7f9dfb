"""pynetdicom's requestor with corrected defects, through semi-private hooks of the pinned version."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from dicom_node.config.settings import Settings
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.scp.connection.pdus import A_ASSOCIATE_AC, check_answer
from dicom_node.scu.connections import MAXIMUM_ANSWER_BYTES, Connections

_SILENCE_SECONDS = 120.0
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux


class CallingAE(AE):  # type: ignore[misc]  # pynetdicom ships no types
    """An AE that requests associations and serves no requests on them.

    Its sockets do not wait for delayed acknowledgements, and are always closed; no answer is lost; threads
    that wait for the peer continue when ``connections`` are cut.
    """

    def __init__(
        self, ae_title: str = "PYNETDICOM", connections: Connections | None = None, largest_object: int = 0
    ) -> None:
        """Prepare an AE. ``largest_object``: bytes of an object that the peer may send on our association
        (C-GET).
        """
        super().__init__(ae_title)
        self.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._connections = connections or Connections(_SILENCE_SECONDS)
        self._largest_object = largest_object

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        connection = _PromptSocket(assoc, address=address)
        connection.connections = self._connections
        connection.tls_args = tls_args
        assoc.dimse = _AnswersOnly(assoc, MAXIMUM_ANSWER_BYTES + self._largest_object)
        assoc.dul.daemon = True  # the interpreter would wait for it at its end
        assoc.dul._decode_pdu = partial(_decoded, assoc.dul._decode_pdu)
        return connection


def _decoded(decode: Callable[[bytearray], Any], pdu: bytearray) -> Any:
    """pynetdicom's objects of a PDU; it aborts at items of an answer that it does not know."""
    return decode(check_answer(memoryview(pdu)) if pdu[0] == A_ASSOCIATE_AC else pdu)


class _AnswersOnly(DIMSEServiceProvider):  # type: ignore[misc]  # pynetdicom ships no types
    """Messages go to who waits for them.

    Association._run_reactor says that it is paused before it looks whether it has to: a thread that sends in
    between is not waited for, and the reactor takes the answer off the queue (the only reader without
    ``block``). Seen under load: one C-STORE or C-FIND of 1,500 waited in vain until its time-out, or lost a
    match. A requestor has no requests to serve: its reactor gets nothing.

    They are gathered in memory, so a peer that never ends its answer is hung up on. An object that was taken
    (C-GET) is in memory no more: its bytes no longer count.
    """

    def __init__(self, association: Association, most_bytes: int) -> None:
        super().__init__(association)
        self._received, self._most_bytes = 0, most_bytes
        self.report_answered = threading.Event()
        """Set when an N-EVENT-REPORT was answered; pynetdicom serves that in a thread of its own."""

    def send_msg(self, primitive: Any, context_id: int) -> None:
        super().send_msg(primitive, context_id)
        if isinstance(primitive, N_EVENT_REPORT):
            self.report_answered.set()

    def receive_primitive(self, primitive: Any) -> None:
        self._received += sum(len(value) for _, value in primitive.presentation_data_value_list)
        if self._received > self._most_bytes:
            self.assoc.dul.socket.connections.expire()
        else:
            super().receive_primitive(primitive)

    def get_msg(self, block: bool = False) -> tuple[int, Any] | tuple[None, None]:
        """Return a message only to the caller that waits for an answer.

        pynetdicom's reactor polls without waiting, to serve requests: it gets none.
        """
        if not block:
            return None, None
        message: tuple[int, Any] | tuple[None, None] = super().get_msg(block=True)
        if isinstance(message[1], C_STORE) and message[1].DataSet is not None:
            self._received -= len(message[1].DataSet.getbuffer())
        return message


class _PromptSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom ships no types
    """DCMTK and Orthanc answer in two small writes with Nagle's algorithm on: the second waits for our
    acknowledgement of the first, which Linux delays by 40 ms. Measured with Orthanc 1.10.1 on the loopback,
    one C-STORE with its association: 115 ms before, 27 ms with TCP_QUICKACK after each read and TCP_NODELAY
    for our own writes.

    A read or write that moves no byte for ``connections.silence_seconds`` ends the connection: pynetdicom's
    own have no time-out, and its abort() waits for the thread that is blocked in them.
    """

    connections: Connections

    def connect(self, primitive: T_CONNECT) -> None:
        super().connect(primitive)
        if self.socket is not None:
            self.socket.settimeout(self.connections.silence_seconds)
            self.connections.opened(self.socket)

    def send(self, bytestream: bytes) -> None:
        rest = memoryview(bytestream)
        try:
            while rest:
                rest = rest[self.socket.send(rest) :]
        except TimeoutError:
            self.connections.expire()
            self.event_queue.put("Evt17")
        except (OSError, AttributeError):  # cut by the peer; closed by the other thread meanwhile
            self.event_queue.put("Evt17")

    def _create_socket(self, address: AddressInformation) -> socket.socket:
        created: socket.socket = super()._create_socket(address)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return created

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > MAXIMUM_ANSWER_BYTES:
            raise OSError("a PDU longer than any that we asked for")
        try:
            data: bytearray = super().recv(nr_bytes)
        except TimeoutError:
            self.connections.expire()
            raise
        if self.socket is not None and _QUICKACK is not None:
            with contextlib.suppress(OSError):  # closed by the other thread meanwhile
                self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return data

    def _shutdown_socket(self) -> None:
        """pynetdicom forgets the socket of a refused connection without closing it."""
        last = self.socket
        if last is None:
            return
        with contextlib.suppress(OSError):  # not ssl.SSLSocket's, see Connections
            socket.socket.shutdown(last, socket.SHUT_RDWR)
        last.close()


def client_tls(settings: Settings) -> ssl.SSLContext:
    """TLS for a client by PS3.15 B.12: it checks the peer's certificate and presents ours."""
    tls = settings.listener.tls
    trusted = str(tls.trusted) if tls and tls.trusted else None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=trusted)
    if tls:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context
