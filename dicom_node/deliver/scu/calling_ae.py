"""The application entity (AE) that requests associations: pynetdicom's with corrected defects.

The corrections go through semi-private hooks of the pinned version.
"""

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from dicom_node.base.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.deliver.scu import MAXIMUM_ANSWER_BYTES, Connections
from dicom_node.receive.messages import A_ASSOCIATE_AC, check_answer

# A path given to send_c_store is sent as it stands on disk, in pieces.
_config.STORE_SEND_CHUNKED_DATASET = True
# pynetdicom logs data sets and identifiers, which name patients.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux


class CallingAE(AE):  # type: ignore[misc]  # pynetdicom ships no types
    """An application entity (AE) of pynetdicom that requests associations and serves no requests on them.

    Its sockets do not wait for delayed acknowledgements, and are always closed; no answer is lost; threads
    that wait for the peer continue when ``connections`` are cut.
    """

    def __init__(
        self, ae_title: str = "PYNETDICOM", connections: Connections | None = None, largest_object: int = 0
    ) -> None:
        """Prepare an AE.

        ``connections``: where its sockets are registered; None for a registry of its own. ``largest_object``:
        bytes of an object that the peer may send on our association (C-GET).
        """
        super().__init__(ae_title)
        self.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._connections = connections or Connections(silence_seconds=120.0)
        self._largest_object = largest_object

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        """Make the socket of an association, and replace the parts of pynetdicom that lose answers or
        hang.
        """
        connection = _PromptSocket(assoc, address=address)
        connection.connections = self._connections
        connection.tls_args = tls_args
        assoc.dimse = _AnswersOnly(assoc, MAXIMUM_ANSWER_BYTES + self._largest_object)
        assoc.dul.daemon = True  # the interpreter would wait for it at its end
        assoc.dul._decode_pdu = partial(_decode_checked, assoc.dul._decode_pdu)
        return connection


def _decode_checked(decode: Callable[[bytearray], Any], pdu: bytearray) -> Any:
    """Decode a PDU by pynetdicom's ``decode``; unknown items of an acceptance, which would make it abort, are
    checked and removed first.
    """
    return decode(check_answer(memoryview(pdu)) if pdu[0] == A_ASSOCIATE_AC else pdu)


class _AnswersOnly(DIMSEServiceProvider):  # type: ignore[misc]  # pynetdicom ships no types
    """A message provider of pynetdicom that gives every received message to the thread that waits for an
    answer.

    In pynetdicom the reactor of an association also takes messages off the queue. It reports that it is
    paused before it checks whether it must pause, so that a thread that sends in between can lose its answer
    to the reactor. Seen under load: one C-STORE or C-FIND of 1,500 waited in vain until its time-out, or lost
    a match. A requestor has no requests to serve, so here the reactor (which reads without ``block``) gets
    nothing.

    Answers are gathered in memory, so a peer that never ends its answer is cut off at a limit of bytes.
    Objects of a C-GET that are stored already do not count.
    """

    def __init__(self, association: Association, most_bytes: int) -> None:
        """Prepare for one association; ``most_bytes``: the largest size of all its answers together."""
        super().__init__(association)
        self._received, self._most_bytes = 0, most_bytes
        self.report_answered = threading.Event()
        """Set when an N-EVENT-REPORT was answered; pynetdicom serves that in a thread of its own."""

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a message; note whether it answers an N-EVENT-REPORT."""
        super().send_msg(primitive, context_id)
        if isinstance(primitive, N_EVENT_REPORT):
            self.report_answered.set()

    def receive_primitive(self, primitive: Any) -> None:
        """Take a received message fragment, or cut the connection if answers exceed the limit of bytes."""
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
        context_id, message = super().get_msg(block=True)
        if isinstance(message, C_STORE) and message.DataSet is not None:
            self._received -= len(message.DataSet.getbuffer())
        return context_id, message


class _PromptSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom ships no types
    """A socket that sends without delay and acknowledges at once.

    DCMTK and Orthanc answer in two small writes with Nagle's algorithm on: the second waits for our
    acknowledgement of the first, which Linux delays by 40 ms. Measured with Orthanc 1.10.1 on the loopback,
    one C-STORE with its association: 115 ms before, 27 ms with TCP_QUICKACK after each read and TCP_NODELAY
    for our own writes.
    """

    connections: Connections

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect, and limit how long the peer may transfer no byte."""
        super().connect(primitive)
        if self.socket is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.settimeout(self.connections.silence_seconds)
            self.connections.opened(self.socket)

    def send(self, bytestream: bytes) -> None:
        """Send all bytes; a failure ends the association."""
        rest = memoryview(bytestream)
        try:
            while rest:
                rest = rest[self.socket.send(rest) :]
        except TimeoutError:
            self.connections.expire()
            self.event_queue.put("Evt17")
        except (OSError, AttributeError):  # cut by the peer; closed by the other thread meanwhile
            self.event_queue.put("Evt17")

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes and acknowledge them at once. Raises OSError for more than any answer may
        have.
        """
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
        """Close the socket, also that of a refused connection, which pynetdicom forgets."""
        last = self.socket
        if last is None:
            return
        with contextlib.suppress(OSError):  # not ssl.SSLSocket's, see Connections
            socket.socket.shutdown(last, socket.SHUT_RDWR)
        last.close()
