"""An association of ours: pynetdicom negotiates, our policy decides, our spool stores.

Here with pynetdicom's own loops; ``reactor`` puts loops in their place that wait instead of polling.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from typing import Any

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.scp import command
from dicom_node.scp.dimse import SpoolingProvider
from dicom_node.scp.policy import Proposal
from dicom_node.scp.reception import Reception, StoreRequest, Visit
from dicom_node.scp.statuses import Rejection, Status

_LOGGER = logging.getLogger(__name__)

_LAST_COMMAND = 0x03  # message control header of a whole command, PS3.8 E.2
_PDV_HEADER = 6


class NodeAssociation(Association):  # type: ignore[misc]
    """The acceptor's side; started by the server, it ends with its thread."""

    is_established: bool
    is_released: bool

    def __init__(self, ae: Any, mode: str, reception: Reception) -> None:
        super().__init__(ae, mode)
        self.reception = reception
        self.visit: Visit | None = None
        self.acse = _Admission(self)
        self.dimse = SpoolingProvider(self)
        self.dul.daemon = True  # a stuck peer must not keep the process from ending

    def run_reactor(self) -> None:
        """The association's thread: from the TLS handshake to the last event in the journal."""
        try:
            if self._shake_hands():
                super().run_reactor()
        except Exception as error:  # the thread ends here, and the listener must live on
            _LOGGER.error("association failed: %s", type(error).__name__, exc_info=error)
            self._cut()
        finally:
            self.dimse.abandon()
            if self.visit is not None:
                self.reception.leave(self.visit, released=self.is_released)

    def open_object(self, request: StoreRequest) -> None:
        """A C-STORE command came. Raises MalformedCommand when its presentation context was not accepted."""
        context = self._accepted_cx.get(request.context_id)
        if context is None or self.visit is None:
            raise command.MalformedCommand("presentation context not accepted")
        syntaxes = (str(context.abstract_syntax), str(context.transfer_syntax[0]))
        self.reception.open(self.visit, request, syntaxes)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Answer one complete request."""
        if isinstance(msg, StoreRequest) and self.visit is not None:
            self._answer(msg, self.reception.finish(self.visit, msg))
            return
        if not isinstance(msg, C_ECHO):
            _LOGGER.warning("%s was not negotiated: association aborted", type(msg).__name__)
            self.abort()
            return
        super()._serve_request(msg, context_id)
        if self.visit is not None and self.is_established:
            self.reception.echoed(self.visit)

    def _answer(self, request: StoreRequest, status: Status) -> None:
        encoded = command.encode_store_response(request.command, status, request.comment)
        limit = self.dimse.maximum_pdu_size
        step = max(limit - _PDV_HEADER, 1) if limit else len(encoded)
        for start in range(0, len(encoded), step):
            last = start + step >= len(encoded)
            primitive = P_DATA()
            header = bytes([_LAST_COMMAND if last else _LAST_COMMAND & 1])
            primitive.presentation_data_value_list.append(
                (request.context_id, header + encoded[start : start + step])
            )
            self.dul.send_pdu(primitive)

    def _shake_hands(self) -> bool:
        """TLS here and not in the server's thread, which one silent peer would block."""
        sock = self.dul.socket.socket
        if not isinstance(sock, ssl.SSLSocket):
            return True
        try:
            sock.do_handshake()
        except OSError as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            self.reception.tls_failed(self.requestor.address_info.address, str(reason))
            self._cut()
            return False
        return True

    def _cut(self) -> None:
        """Close without another word."""
        self.dul.kill_dul()
        with contextlib.suppress(OSError, AttributeError):
            self.dul.socket.socket.close()


class _Admission(ACSE):  # type: ignore[misc]
    """Association negotiation with the AE policy in front."""

    def _negotiate_as_acceptor(self) -> None:
        verdict = self.assoc.reception.enter(self._proposal())
        if isinstance(verdict, Rejection):
            self.send_reject(verdict.result, verdict.source, verdict.reason)
            self.assoc.is_rejected = True
            evt.trigger(self.assoc, evt.EVT_REJECTED, {})
            self.assoc.kill()
            return
        self.assoc.visit = verdict
        super()._negotiate_as_acceptor()

    def _proposal(self) -> Proposal:
        request = self.requestor.primitive
        contexts = request.presentation_context_definition_list
        return Proposal(
            calling_ae=request.calling_ae_title.strip(),
            called_ae=request.called_ae_title.strip(),
            address=self.requestor.address_info.address,
            abstract_syntaxes=tuple(str(context.abstract_syntax) for context in contexts),
        )
