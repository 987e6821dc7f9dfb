"""The listening socket: accepts connections and passes each to a :class:`NodeAssociation`.

The acceptor's side of an association: pynetdicom negotiates, the AE policy decides, the spool stores.
DIMSE for a storage SCP: the fragments of a data set are written to the spool as they arrive.
pynetdicom collects a message in memory; here an object of any size needs the memory of one PDU. A command
that is not supported ends the association before its data set is read. A request is answered by the thread
that has read its last byte: passing it to another thread would cost as much as the rest of the work on a
small object.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import secrets
import socket
import ssl
import sys
import threading
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import A_ABORT, UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_node.dicom import commitment
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.events import LISTENER_STARTED, LISTENER_STOPPED, happened
from dicom_node.inbox.journal import JournalWriter, journal_folder
from dicom_node.inbox.spool import Spool, WaitingObjects
from dicom_node.scp import command
from dicom_node.scp.connection import limits
from dicom_node.scp.connection.pdus import MAXIMUM_PDU_BYTES, RequestHead, p_data_tf
from dicom_node.scp.connection.reactor import LONGEST_WAIT, DeadlineSocket, Provider
from dicom_node.scp.contexts import commitment_context, presentation_contexts, refusals, step_context
from dicom_node.scp.performed_steps import PerformedSteps
from dicom_node.scp.policy import AEPolicy, PolicyFile, Proposal, TlsPolicy, addresses_of, policy_path
from dicom_node.scp.statuses import Rejection
from dicom_node.scp.storage_service import (
    AcceptedAssociation,
    NormalizedRequest,
    StorageService,
    StoreRequest,
)

_LOGGER = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_ABORT_SECONDS = 4.0  # for all of them: a successor waits 15 s for us

# pynetdicom logs association requests and identifiers in full: never in our logs.
_config.LOG_HANDLER_LEVEL = "none"


class Listener:
    """The C-STORE and C-ECHO service of one data folder.

    Reads ``policy.json`` in ``data_dir``, writes below ``spool`` and ``journal``; a further listener of the
    folder has its own files, named by its ``place`` such as "listener-2". Limits, peers, storage classes and
    certificates follow the file while the listener runs; host and port do not change.
    """

    def __init__(self, data_dir: Path, place: str = "") -> None:
        self._policy_file = PolicyFile(policy_path(data_dir, place))
        policy = self._policy_file.current()
        self._listener_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        spool = Spool(data_dir / "spool", policy.minimum_free_bytes, place)
        self._leftovers = spool.remove_leftovers()
        journal = JournalWriter(journal_folder(data_dir, place), self._listener_id)
        waiting = WaitingObjects(spool.incoming)
        self._steps = PerformedSteps(data_dir, journal)
        self._service = StorageService(
            self._policy_file, spool, waiting, journal, self._steps, self._listener_id
        )
        self._server = _make_server(policy, self._service)
        self._learn_addresses(policy)
        self._applied = self._refused = policy
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="listener", daemon=True
        )

    def start(self) -> tuple[str, int]:
        """Start to accept connections; returns host and port. An event ends associations left by former
        listeners.
        """
        host, port = self._server.server_address[:2]
        self._service.record(
            happened(
                LISTENER_STARTED,
                listener=self._listener_id,
                host=host,
                port=port,
                leftovers=self._leftovers,
            )
        )
        self._thread.start()
        return host, port

    def keep_up(self) -> None:
        """Follow the policy file, and write delayed journal events; call it about once a second.

        Raises RuntimeError if the accepting thread has ended: the process must end and be started again.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the thread that accepts connections ended")
        policy = self._policy_file.current()
        if policy is not self._applied:  # read again: also where only certificates were replaced
            try:
                _apply(policy, self._server)
                self._learn_addresses(policy)
                self._applied = policy
            except OSError as error:  # certificates that change since the node checked them: tried again
                if policy is not self._refused:
                    _LOGGER.error(
                        "new certificates cannot be used, the previous ones stay in force: %s", error
                    )
                self._refused = policy
        self._service.write_out()
        self._steps.forget_old()

    def stop(self, grace_seconds: float) -> None:
        """Accept no more connections, give associations ``grace_seconds`` to finish, abort the rest."""
        self._server.stop_accepting()
        self._thread.join()
        end = time.monotonic() + grace_seconds
        while self._server.associations() and time.monotonic() < end:
            time.sleep(0.02)
        for one in self._server.associations():
            threading.Thread(target=one.abort, daemon=True).start()
        end = time.monotonic() + _ABORT_SECONDS
        for association in self._server.associations():
            association.join(max(0.0, end - time.monotonic()))
        self._service.record(happened(LISTENER_STOPPED, listener=self._listener_id))

    def _learn_addresses(self, policy: AEPolicy) -> None:
        """Reserve places for addresses of peers; in a thread, because the name service may be slow."""
        entrance, peers = self._service.entrance, policy.peers
        threading.Thread(target=lambda: entrance.know(addresses_of(peers)), daemon=True).start()


class _Server(AssociationServer):  # type: ignore[misc]
    """Accepts connections in one thread; nothing there waits for a peer."""

    request_queue_size = 128

    def __init__(self, *args: Any, service: StorageService, share_port: bool, **options: Any) -> None:
        self.service = service
        self._share_port = share_port
        self.running: weakref.WeakSet[NodeAssociation] = weakref.WeakSet()
        super().__init__(*args, **options)

    def associations(self) -> list[NodeAssociation]:
        """The associations whose thread runs."""
        return [one for one in self.running if one.is_alive()]

    def server_bind(self) -> None:
        """Bind; with others that share the port."""
        if self._share_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; with TLS the handshake is left to the association's thread."""
        connection, address = self.socket.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver's hook
        """Close connections beyond the limits at once, before their association request is read."""
        return self.service.arrive(client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's hook
        """No thread could be started: the base class closes the connection, and its place is freed."""
        _LOGGER.error("connection closed: %s", type(sys.exception()).__name__)
        self.service.give_up(client_address[0], "")

    def stop_accepting(self) -> None:
        """Close the listening socket; associations go on."""
        # Not AssociationServer.shutdown: it expects to stand in a list that make_server does not write.
        super(AssociationServer, self).shutdown()
        self.server_close()


class _Handler(RequestHandler):  # type: ignore[misc]
    """Makes the association of one connection. The base class would copy all contexts each time: 15 ms."""

    def _create_association(self) -> NodeAssociation:
        association = NodeAssociation(self.ae, self.server.service)
        association._server = self.server
        association.name = f"AcceptorThread@{self.client_address[0]}"
        association.set_socket(DeadlineSocket(association, self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = self.server.contexts  # read only during negotiation
        association.requestor.address_info = self.remote
        self.server.running.add(association)
        return association


def _make_server(policy: AEPolicy, service: StorageService) -> _Server:
    ae = AE(ae_title=policy.ae_titles[0])
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_associations = 2**31  # ours is the policy's limit, journalled and per peer
    try:
        server: _Server = ae.make_server(
            (policy.host, policy.port),
            contexts=presentation_contexts(policy.further_storage_classes),
            server_class=_Server,
            request_handler=_Handler,
            service=service,
            share_port=policy.share_port,
        )
    except OSError as error:
        why = "in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(f"port {policy.port} of {policy.host}: {why} (listener.host, listener.port)") from None
    with contextlib.ExitStack() as on_error:
        on_error.callback(server.server_close)
        _apply(policy, server)
        on_error.pop_all()
    return server


def _apply(policy: AEPolicy, server: _Server) -> None:
    """Apply what a running listener can take from a new policy, for future associations."""
    ae = server.ae
    server.ssl_context = _ssl_context(policy.tls) if policy.tls else None  # all or nothing: it alone may fail
    logging.getLogger().setLevel(policy.log_level.upper())
    ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
    ae.acse_timeout, ae.network_timeout = policy.acse_timeout_seconds, policy.network_timeout_seconds
    server.contexts = presentation_contexts(policy.further_storage_classes)


def _ssl_context(tls: TlsPolicy) -> ssl.SSLContext:
    """BCP 195 (PS3.15 B.12): TLS 1.2 or newer; with CAs of our own, only clients that these certify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.private_key)
    if tls.trusted is not None:
        context.load_verify_locations(tls.trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


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
            if self.dul.is_alive():
                self.dul.join()  # it may still be storing an object, which counts
            self.dimse.abandon()
            if self.accepted is not None:
                self.service.leave(self.accepted, released=self.is_released, reason=self._reason)
            else:
                self.service.give_up(
                    self.requestor.address_info.address, "" if self.is_rejected else self._reason
                )

    def ends(self, reason: str) -> None:
        """Set why the association will end; only the first reason goes into the journal."""
        self._reason = self._reason or reason

    def open(self, request: _WithData) -> None:
        """Begin to receive a request. Raises MalformedCommand if its context does not allow it."""
        accepted, syntaxes = self._negotiated(request.context_id)
        if isinstance(request, StoreRequest):
            self.service.open(accepted, request, syntaxes)
        else:
            self.service.open_normalized(request, syntaxes[0])

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
        limit = self.dimse.maximum_pdu_size  # 6 bytes of it are the header of a PDV
        step = max(limit - 6, 1) if limit else len(response)
        for start in range(0, len(response), step):
            header = _COMMAND | _LAST if start + step >= len(response) else _COMMAND
            self.dul.socket.send(p_data_tf(context_id, header, response[start : start + step]))

    def _negotiated(self, context_id: int) -> tuple[AcceptedAssociation, tuple[str, str]]:
        """The association, with abstract and transfer syntax of a context. Raises MalformedCommand."""
        context = self._accepted_cx.get(context_id)
        if context is None or self.accepted is None:
            raise command.MalformedCommand("presentation context not accepted")
        return self.accepted, (str(context.abstract_syntax), str(context.transfer_syntax[0]))

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
        # Whether a peer that we ask for storage commitment proposes to be its SCP: by role selection
        # alone. Without it the peer would be the SCU, and ask us: only peers with ``commit_after`` may.
        role = self.requestor.role_selection.get(commitment.SOP_CLASS)
        reports = role is not None and bool(role.scp_role) and policy.may_report(calling)
        if reports or policy.may_ask(calling):
            self._support(commitment_context(for_requests=not reports))
        if policy.takes_steps_of(calling):
            self._support(step_context())
        contexts = [
            (str(context.abstract_syntax), [str(syntax) for syntax in context.transfer_syntax])
            for context in self.requestor.primitive.presentation_context_definition_list
        ]
        verdict = self.assoc.service.enter(
            Proposal(
                calling_ae=calling,
                called_ae=self.assoc.request_head.called,
                address=self.requestor.address_info.address,
                abstract_syntaxes=tuple(abstract for abstract, _ in contexts),
                refused=refusals(contexts, self.acceptor.supported_contexts),
                application_context=self.assoc.request_head.application_context,
                has_version_1=self.assoc.request_head.has_version_1,
                names_user=self.requestor.user_identity is not None,
            )
        )
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


_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2

_WithData = StoreRequest | NormalizedRequest
Request = _WithData | command.Command


class SpoolingProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """Processes received messages; called by the thread that reads the socket."""

    def __init__(self, association: NodeAssociation) -> None:
        super().__init__(association)
        self._command = bytearray()
        self._command_context: int | None = None
        self._request: _WithData | None = None
        self._tiny_fragments = 0

    @property
    def within_message(self) -> bool:
        """Whether a message has been received only in part."""
        return self._command_context is not None or self._request is not None

    def receive_primitive(self, primitive: Any) -> None:
        """Process the PDVs of one P-DATA; a violation of PS3.7 or PS3.8 aborts the association (Evt19)."""
        try:
            for context_id, value in primitive.presentation_data_value_list:
                self._take(context_id, value)
        except command.MalformedCommand as error:
            self.assoc.ends(str(error))
            self.dul.event_queue.put("Evt19")
        except Exception as error:  # this association ends, and the listener must live on
            _LOGGER.error("association failed: %s", type(error).__name__, exc_info=error)
            self.assoc.ends(f"failed here: {type(error).__name__}")
            self.dul.event_queue.put("Evt19")

    def abandon(self) -> None:
        """Discard an incomplete object, because the association has ended."""
        if self._request is not None:
            self._request.abandon()
            self._request = None

    def _take(self, context_id: int, value: memoryview) -> None:
        if not value:
            raise command.MalformedCommand("PDV without message control header")
        if len(value) <= limits.TINY_FRAGMENT:
            self._tiny_fragments += 1
            if self._tiny_fragments > limits.TINY_FRAGMENTS:
                raise command.MalformedCommand("too many tiny fragments")
        if value[0] & _COMMAND:
            self._take_command(context_id, value)
        else:
            request = self._request
            if request is None or context_id != request.context_id:
                raise command.MalformedCommand("data set without command")
            request.write(value[1:])
            if value[0] & _LAST:
                self._request = None
                self._serve(context_id, request)

    def _take_command(self, context_id: int, value: memoryview) -> None:
        if self._request is not None:
            raise command.MalformedCommand("command inside a data set")
        if self._command_context not in (None, context_id):
            raise command.MalformedCommand("command in two presentation contexts")
        self._command_context = context_id
        self._command += value[1:]
        if len(self._command) > limits.LARGEST_COMMAND:
            raise command.MalformedCommand("command set beyond its largest length")
        if value[0] & _LAST:
            encoded, self._command = bytes(self._command), bytearray()
            self._command_context = None
            self._begin(context_id, encoded)

    def _begin(self, context_id: int, encoded: bytes) -> None:
        elements = command.read_elements(encoded)
        field = command.command_field(elements)
        if field == command.C_STORE_RQ:
            self._open(StoreRequest(context_id, command.read_store_command(elements)))
        elif field in command.NORMALIZED:
            self._open(NormalizedRequest(context_id, command.read_normalized_command(elements)))
        elif field == command.C_ECHO_RQ:
            self._serve(context_id, command.read_echo_command(elements))
        elif field != command.C_CANCEL_RQ:  # which has no answer, and nothing here to cancel
            raise command.MalformedCommand(f"not served: {command.name_of(field)}")

    def _open(self, request: _WithData) -> None:
        self.assoc.open(request)
        if request.command.has_data_set:
            self._request = request
        else:
            self._serve(request.context_id, request)

    def _serve(self, context_id: int, request: Request) -> None:
        self._tiny_fragments = 0
        self.assoc.serve(request, context_id)
