"""One association of a listener (PS3.8 9.2), in a thread of its own: negotiation, messages and end."""

import contextlib
import logging
import socket
import struct

from dicom_node.base import events
from dicom_node.base.tls import tls_refusal
from dicom_node.receive import limits, statuses
from dicom_node.receive.messages import (
    A_ABORT,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RQ,
    ABORTED_BY_PROVIDER,
    MAXIMUM_PDU_BYTES,
    P_DATA_TF,
    RELEASED,
    DeadlineSocket,
    ProtocolViolation,
    acceptance,
    encode_response,
    fragments,
    p_data_tf,
    read_command,
    read_request,
)
from dicom_node.receive.policy import (
    Failure,
)
from dicom_node.receive.requests import AcceptedAssociation, Request
from dicom_node.receive.service import ListenerService

_LOGGER = logging.getLogger(__name__)
_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2


class Association:
    """Serves one connection: ``run`` is its thread; ``abort`` may be called by another thread."""

    def __init__(self, service: ListenerService, connection: socket.socket, address: str) -> None:
        """Prepare to serve ``connection``, which came from ``address``."""
        self._service, self._address, self._limits = service, address, service.policy.current()
        self._socket = DeadlineSocket(
            connection, self._limits.acse_timeout_seconds, self._limits.network_timeout_seconds
        )
        self._buffer = memoryview(b"")
        self._late = "no association request within the time allowed"
        """Why the association ends if the deadline passes."""
        self._reason = ""
        self._failure: Failure | None = None
        self._stopping = self._released = False
        self._accepted: AcceptedAssociation | None = None
        self._command, self._context_id = bytearray(), 0
        self._request: Request | None = None
        self._tiny_fragments = 0

    def run(self) -> None:
        """Serve the connection, from the TLS handshake to the last event in the journal."""
        try:
            if accepted := self._negotiate():
                self._take_messages(accepted)
        except ProtocolViolation as error:
            self._end(str(error))
        except TimeoutError:
            self._end(self._late, "too_late")
        except OSError:
            if self._accepted is not None:
                self._end("the listener stopped" if self._stopping else "connection lost")
        except Exception as error:  # this association ends, and the listener must live on
            _LOGGER.error("association failed: %s", type(error).__name__, exc_info=error)
            self._end(f"failed here: {type(error).__name__}")
        finally:
            if self._request is not None:
                self._request.abandon()
            self._socket.close()
            if self._accepted is not None:
                self._service.leave(self._accepted, released=self._released, reason=self._reason)
            else:
                self._service.entrance.leave(self._address, self._failure)

    def abort(self) -> None:
        """Abort the association from another thread, because the listener stops."""
        self._stopping = True
        self._socket.interrupt()

    def _end(self, reason: str, failure: Failure = "malformed") -> None:
        """Abort the association (AA-1 and AA-8 of PS3.8 9.2.3) for ``reason``. ``failure``: the kind that is
        counted if no association was accepted yet.
        """
        self._reason, self._failure = reason, failure
        with contextlib.suppress(OSError):
            self._socket.send_seconds = 0.5  # that a peer has to read it
            self._socket.send(ABORTED_BY_PROVIDER)

    def _negotiate(self) -> AcceptedAssociation | None:
        """Receive an association request (PS3.8 7.1) and answer it; return None if it is rejected."""
        try:  # the handshake of TLS: not in the thread that accepts, which one silent peer would block
            self._socket.shake_hands()
        except OSError as error:
            late = (
                "it does not finish the handshake" if isinstance(error, TimeoutError) else "connection lost"
            )
            reason = tls_refusal(error).removeprefix("no TLS: ") or late
            self._service.events.list_or_count(
                "no_tls", self._address, events.TLS_FAILED, address=self._address, reason=reason
            )
            return None
        kind, body = self._read_pdu()
        if kind != A_ASSOCIATE_RQ:
            raise ProtocolViolation("no association request")
        verdict = self._service.admit(read_request(body, self._address))
        if isinstance(verdict, statuses.Rejection):
            self._socket.send(
                # PS3.8 9.3.4
                struct.pack(">BxIxBBB", A_ASSOCIATE_RJ, 4, verdict.result, verdict.source, verdict.reason)
            )
            return None
        self._accepted = verdict
        self._socket.send(acceptance(body, verdict.results, verdict.roles, MAXIMUM_PDU_BYTES))
        return verdict

    def _take_messages(self, accepted: AcceptedAssociation) -> None:
        """Serve requests until the peer releases or aborts the association. Raises ProtocolViolation,
        OSError.
        """
        while True:
            kind, body = self._read_pdu()
            if kind == P_DATA_TF:
                for context_id, value in fragments(body):
                    self._take_fragment(accepted, context_id, value)
            elif kind == A_RELEASE_RQ:
                self._released = True
                self._socket.send(RELEASED)
                return
            elif kind == A_ABORT:
                self._reason = "aborted by the peer"
                return
            else:
                raise ProtocolViolation("a PDU that is not expected")

    def _read_pdu(self) -> tuple[int, memoryview]:
        """Read the next PDU and return its type and body; the body's buffer is overwritten by the next one.

        New memory for each would cost as much as reading it.
        """
        waits = self._accepted is not None and not self._context_id
        if waits:  # an association request has what is left since the connection
            self._late = "idle too long"
            self._socket.allow(self._limits.network_timeout_seconds)
        kind, length = struct.unpack(">BxI", self._socket.read(memoryview(bytearray(6))))
        if waits:
            self._late = "too slow: a message did not come within the time allowed"
            self._socket.allow(self._limits.network_timeout_seconds, limits.SLOWEST_BYTES_PER_SECOND)
        is_data = kind == P_DATA_TF and self._accepted is not None
        largest = limits.LARGEST_PDU if is_data else limits.LARGEST_REQUEST
        if not A_ASSOCIATE_RQ <= kind <= A_ABORT or length > largest:
            raise ProtocolViolation("no PDU, or one beyond its largest length")
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        return kind, self._socket.read(self._buffer[:length])

    def _take_fragment(self, accepted: AcceptedAssociation, context_id: int, value: memoryview) -> None:
        """Process one fragment (PDV) of a message in the presentation context ``context_id`` (PS3.7 6.3,
        PS3.8 E).
        """
        if not value:
            raise ProtocolViolation("PDV without message control header")
        if len(value) <= limits.TINY_FRAGMENT:
            self._tiny_fragments += 1
            if self._tiny_fragments > limits.TINY_FRAGMENTS:
                raise ProtocolViolation("too many tiny fragments")
        if self._context_id not in (0, context_id):
            raise ProtocolViolation("a message in two presentation contexts")
        self._context_id = context_id
        is_last, request = bool(value[0] & _LAST), self._request
        if not value[0] & _COMMAND:
            if request is None:
                raise ProtocolViolation("data set without command")
            request.write(value[1:])
        elif request is not None:
            raise ProtocolViolation("command inside a data set")
        else:
            self._command += value[1:]
            if len(self._command) > limits.LARGEST_COMMAND:
                raise ProtocolViolation("command set beyond its largest length")
            if is_last:
                encoded, self._command = bytes(self._command), bytearray()
                command = read_command(encoded)
                self._request = request = self._service.begin(accepted, command, context_id)
                is_last = not command.has_data_set
        if is_last and request is not None:
            self._answer(accepted, context_id, request)
            self._request, self._context_id, self._tiny_fragments = None, 0, 0

    def _answer(self, accepted: AcceptedAssociation, context_id: int, request: Request) -> None:
        """Handle a completely received request, and send the response in fragments."""
        response = encode_response(request.command, self._service.finish(accepted, request))
        limit = accepted.proposal.maximum_length  # 6 bytes of it are the header of a PDV
        step = max(limit - 6, 1) if limit else len(response)
        for start in range(0, len(response), step):
            header = _COMMAND | _LAST if start + step >= len(response) else _COMMAND
            self._socket.send(p_data_tf(context_id, header, response[start : start + step]))
