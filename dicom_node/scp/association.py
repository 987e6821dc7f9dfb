"""The acceptor's side of an association: pynetdicom negotiates, the AE policy decides, the spool stores."""

from __future__ import annotations

import contextlib
import logging
import queue
import ssl
import threading
from typing import Any

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ABORT, UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext

from dicom_node.dicom import commitment
from dicom_node.scp import command
from dicom_node.scp.connection.pdus import RequestHead, p_data_tf
from dicom_node.scp.connection.reactor import LONGEST_WAIT, Provider
from dicom_node.scp.contexts import commitment_context, refusals, step_context
from dicom_node.scp.dimse import Request, SpoolingProvider
from dicom_node.scp.policy import Proposal
from dicom_node.scp.statuses import Rejection
from dicom_node.scp.storage_service import (
    AcceptedAssociation,
    NormalizedRequest,
    StorageService,
    StoreRequest,
)

_LOGGER = logging.getLogger(__name__)

_COMMAND, _LAST_COMMAND = 0x01, 0x03  # message control headers of a command's fragments, PS3.8 E.2
_PDV_HEADER = 6
_NAMES = (1, 2)  # User-Identity-Type: user name; user name and passcode (PS3.7 Table D.3-14)


class NodeAssociation(Association):  # type: ignore[misc]
    """The acceptor's side of an association; the server starts it, and it ends with its thread.

    Its thread negotiates, sleeps until a release or an abort arrives, and ends. Requests are answered by the
    thread of its DUL, where their bytes arrive.
    """

    is_established: bool
    is_released: bool
    is_rejected: bool

    def __init__(self, ae: Any, service: StorageService) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.service = service
        self.request_head = RequestHead()
        self.accepted: AcceptedAssociation | None = None
        self._reason = ""
        self._wake = threading.Event()
        self.acse = _PolicyNegotiation(self)
        self.dimse = SpoolingProvider(self)
        self.dul = Provider(self, ae.acse_timeout)
        self.dul.to_user_queue = _SignallingQueue(self._wake)
        # Their setters pass the time-outs on to the DUL, which was replaced above.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout

    def run_reactor(self) -> None:
        """Run the association's thread: from the TLS handshake to the last event in the journal."""
        try:
            if self._shake_hands():
                super().run_reactor()
        except Exception as error:  # the thread ends here, and the listener must live on
            _LOGGER.error("association failed: %s", type(error).__name__, exc_info=error)
            self.ends(f"failed here: {type(error).__name__}")
            self._cut()
        finally:
            self.dul.wait_for_its_end()  # it may still be storing an object, which counts
            self.dimse.abandon()
            if self.accepted is not None:
                self.service.leave(self.accepted, released=self.is_released, reason=self._reason)
            else:
                reason = "" if self.is_rejected else self._reason
                self.service.give_up(self.requestor.address_info.address, reason)

    def ends(self, reason: str) -> None:
        """Set why the association will end; only the first reason goes into the journal."""
        self._reason = self._reason or reason

    def open_object(self, request: StoreRequest) -> None:
        """Begin to receive a C-STORE. Raises MalformedCommand if its presentation context was not
        accepted.
        """
        accepted, syntaxes = self._negotiated(request.context_id)
        self.service.open(accepted, request, syntaxes)

    def open_normalized(self, request: NormalizedRequest) -> None:
        """Begin to receive a DIMSE-N request. Raises MalformedCommand if its context does not allow it."""
        _, (abstract_syntax, _) = self._negotiated(request.context_id)
        self.service.open_normalized(request, abstract_syntax)

    def kill(self) -> None:
        """End the thread of this association and the thread of its DUL."""
        self._kill = True
        self.is_established = False
        if self.dul.is_alive():
            self.dul.finish()

    def _run_reactor(self) -> None:
        while not self._kill:
            self._wake.wait(LONGEST_WAIT)
            self._wake.clear()
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.kill()
            elif self.acse.is_aborted():
                by_peer = isinstance(self.dul.receive_pdu(wait=False), A_ABORT)
                self.ends("aborted by the peer" if by_peer else "connection lost")
                self.is_aborted = True
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                self.ends("idle too long")
                self.abort()

    def serve(self, request: Request, context_id: int) -> None:
        """Answer a complete request. Raises MalformedCommand if its presentation context was not accepted."""
        accepted, (abstract_syntax, transfer_syntax) = self._negotiated(context_id)
        if isinstance(request, StoreRequest):
            status = self.service.finish(accepted, request)
            response = command.encode_store_response(request.command, status, request.comment)
        elif isinstance(request, NormalizedRequest):
            answer = self.service.take_normalized(accepted, request, abstract_syntax, transfer_syntax)
            response = command.encode_normalized_response(request.command, answer)
        else:
            response = command.encode_echo_response(request, self.service.echo(accepted, abstract_syntax))
        self._answer(context_id, response)

    def _negotiated(self, context_id: int) -> tuple[AcceptedAssociation, tuple[str, str]]:
        """The association, with abstract and transfer syntax of a context. Raises MalformedCommand."""
        context = self._accepted_cx.get(context_id)
        if context is None or self.accepted is None:
            raise command.MalformedCommand("presentation context not accepted")
        return self.accepted, (str(context.abstract_syntax), str(context.transfer_syntax[0]))

    def _answer(self, context_id: int, encoded: bytes) -> None:
        limit = self.dimse.maximum_pdu_size
        step = max(limit - _PDV_HEADER, 1) if limit else len(encoded)
        for start in range(0, len(encoded), step):
            header = _LAST_COMMAND if start + step >= len(encoded) else _COMMAND
            self.dul.socket.send(p_data_tf(context_id, header, encoded[start : start + step]))

    def _shake_hands(self) -> bool:
        """The TLS handshake: here and not in the server's thread, which one silent peer would block."""
        sock = self.dul.socket.socket
        if not isinstance(sock, ssl.SSLSocket):
            return True
        try:
            sock.settimeout(max(self.dul.deadline.seconds, 0.001))
            sock.do_handshake()
        except OSError as error:
            self.ends("no TLS")
            reason = getattr(error, "reason", None) or type(error).__name__
            self.service.tls_failed(self.requestor.address_info.address, str(reason))
            self._cut()
            return False
        return True

    def _cut(self) -> None:
        """Close the connection without an A-ABORT."""
        self.dul.kill_dul()
        with contextlib.suppress(OSError, AttributeError):
            self.dul.socket.socket.close()


class _SignallingQueue(queue.Queue[Any]):
    """A queue whose reader also waits for other things."""

    def __init__(self, wake: threading.Event) -> None:
        super().__init__()
        self._wake = wake

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._wake.set()


class _PolicyNegotiation(ACSE):  # type: ignore[misc]
    """Association negotiation (PS3.8 7.1) that asks the AE policy first."""

    def _negotiate_as_acceptor(self) -> None:
        policy, calling = self.assoc.service.policy.current(), self.assoc.request_head.calling
        reports = self._proposes_to_report()
        if reports or policy.may_ask(calling):
            self._support(commitment_context(for_requests=not reports))
        if policy.takes_steps_of(calling):
            self._support(step_context())
        verdict = self.assoc.service.enter(self._proposal())
        if isinstance(verdict, Rejection):
            self.assoc.is_rejected = True
            self.send_reject(verdict.result, verdict.source, verdict.reason)
            evt.trigger(self.assoc, evt.EVT_REJECTED, {})
            self.assoc.kill()
            return
        self.assoc.accepted = verdict
        super()._negotiate_as_acceptor()

    def _support(self, context: PresentationContext) -> None:
        """Offer one more context to this caller: the list itself is that of all associations."""
        self.acceptor.supported_contexts = [*self.acceptor.supported_contexts, context]

    def _check_user_identity(self) -> tuple[bool, UserIdentityNegotiation | None]:
        """The answer to a user identity that the policy let pass: none, or that it was taken.

        The positive response to a name or a name with passcode is empty (PS3.7 D.3.3.7.2); to tickets and
        tokens there is none, which says that we do not serve them.
        """
        asked = self.requestor.user_identity
        answered = self.assoc.service.policy.current().user_identity == "answer"
        if not (answered and asked.positive_response_requested and asked.user_identity_type in _NAMES):
            return True, None
        response = UserIdentityNegotiation()
        response.server_response = b""
        return True, response

    def _proposes_to_report(self) -> bool:
        """Whether a peer that we ask for storage commitment proposes to be its SCP: by role selection alone.

        Without it the peer would be the SCU, and ask us: only peers with ``commit_after`` may.
        """
        role = self.requestor.role_selection.get(commitment.SOP_CLASS)
        may = self.assoc.service.policy.current().may_report(self.assoc.request_head.calling)
        return may and role is not None and bool(role.scp_role)

    def _proposal(self) -> Proposal:
        contexts = [
            (str(context.abstract_syntax), [str(syntax) for syntax in context.transfer_syntax])
            for context in self.requestor.primitive.presentation_context_definition_list
        ]
        head = self.assoc.request_head
        return Proposal(
            calling_ae=head.calling,
            called_ae=head.called,
            address=self.requestor.address_info.address,
            abstract_syntaxes=tuple(abstract for abstract, _ in contexts),
            refused=refusals(contexts, self.acceptor.supported_contexts),
            application_context=head.application_context,
            has_version_1=head.has_version_1,
            names_user=self.requestor.user_identity is not None,
        )
