"""The listening socket: accepts connections and passes each to a :class:`NodeAssociation`."""

from __future__ import annotations

import contextlib
import errno
import logging
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

from pynetdicom import AE, _config
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.events import LISTENER_STARTED, LISTENER_STOPPED, happened
from dicom_node.inbox.journal import JournalWriter, journal_folder
from dicom_node.inbox.spool import Spool, WaitingObjects
from dicom_node.scp.association import NodeAssociation
from dicom_node.scp.connection.deadline import DeadlineSocket
from dicom_node.scp.contexts import presentation_contexts
from dicom_node.scp.performed_steps import PerformedSteps
from dicom_node.scp.policy import AEPolicy, PolicyFile, TlsPolicy, addresses_of, policy_path
from dicom_node.scp.storage_service import StorageService

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
        self._applied = policy
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
            _apply(policy, self._server)
            self._learn_addresses(policy)
            self._applied = policy
        self._service.write_out()
        self._steps.forget_old()

    def stop(self, grace_seconds: float) -> None:
        """Accept no more connections, give associations ``grace_seconds`` to finish, abort the rest."""
        self._server.stop_accepting()
        self._thread.join()
        end = time.monotonic() + grace_seconds
        while self._server.associations() and time.monotonic() < end:
            time.sleep(0.02)
        aborting = [threading.Thread(target=one.abort, daemon=True) for one in self._server.associations()]
        for thread in aborting:
            thread.start()
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
        self._running: weakref.WeakSet[NodeAssociation] = weakref.WeakSet()
        super().__init__(*args, **options)

    def associations(self) -> list[NodeAssociation]:
        """The associations whose thread runs."""
        return [one for one in self._running if one.is_alive()]

    def add(self, association: NodeAssociation) -> None:
        """Remember an association that is about to start."""
        self._running.add(association)

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
        self.server.add(association)
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
    logging.getLogger().setLevel(policy.log_level.upper())
    ae.maximum_pdu_size = policy.maximum_pdu_bytes
    ae.acse_timeout, ae.network_timeout = policy.acse_timeout_seconds, policy.network_timeout_seconds
    server.contexts = presentation_contexts(policy.further_storage_classes)
    server.ssl_context = _ssl_context(policy.tls) if policy.tls else None


def _ssl_context(tls: TlsPolicy) -> ssl.SSLContext:
    """BCP 195 (PS3.15 B.12): TLS 1.2 or newer; with CAs of our own, only clients that these certify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.private_key)
    if tls.trusted is not None:
        context.load_verify_locations(tls.trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
