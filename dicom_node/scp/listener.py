"""The listening socket: accepts connections, each of which is an ``Association`` with a thread of its own."""

import errno
import logging
import secrets
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.events import LISTENER_STARTED, LISTENER_STOPPED, happened
from dicom_node.inbox.journal import JournalWriter, journal_folder
from dicom_node.inbox.spool import Spool
from dicom_node.scp.association import Association
from dicom_node.scp.policy import AEPolicy, PolicyFile, TlsPolicy, addresses_of, policy_path
from dicom_node.scp.storage_service import StorageService

_LOGGER = logging.getLogger(__name__)

_WAITING_CONNECTIONS = 128  # that the system accepts for us
_ABORT_SECONDS = 4.0  # for all of them: a successor waits 15 s for us


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
        self._service = StorageService(self._policy_file, data_dir, spool, journal, self._listener_id)
        self._tls = _ssl_context(policy.tls)
        self._applied = self._refused = policy
        self._associations: set[Association] = set()
        self._stopping = False
        self._socket = _listen(policy)
        self._learn_addresses(policy)
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)

    def start(self) -> tuple[str, int]:
        """Start to accept connections; returns host and port. An event ends associations left by former
        listeners.
        """
        host, port = self._socket.getsockname()[:2]
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
                self._tls = _ssl_context(policy.tls)
                logging.getLogger().setLevel(policy.log_level.upper())
                self._learn_addresses(policy)
                self._applied = policy
            except OSError as error:  # certificates that change since the node checked them: tried again
                if policy is not self._refused:
                    _LOGGER.error(
                        "new certificates cannot be used, the previous ones stay in force: %s", error
                    )
                self._refused = policy
        self._service.keep_up()

    def stop(self, grace_seconds: float) -> None:
        """Accept no more connections, give associations ``grace_seconds`` to finish, abort the rest."""
        self._stopping = True
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._socket.close()
        for seconds in (grace_seconds, _ABORT_SECONDS):
            end = time.monotonic() + seconds
            while self._associations and time.monotonic() < end:
                time.sleep(0.02)
            for association in list(self._associations):
                association.abort()
        self._service.record(happened(LISTENER_STOPPED, listener=self._listener_id))

    def _accept(self) -> None:
        """Accept connections until the listener stops; nothing here waits for a peer."""
        while not self._stopping:
            try:
                connection, (address, *_) = self._socket.accept()
            except OSError:  # gone before we came, too many open files, or the listener stops
                time.sleep(0.01)
                continue
            if not self._service.arrive(address):
                connection.close()
                continue
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                association = Association(self._service, connection, address)
                threading.Thread(target=self._run, args=(association,), name=address, daemon=True).start()
            except (OSError, RuntimeError, MemoryError) as error:  # gone, or no thread can be started
                _LOGGER.error("connection closed: %s", type(error).__name__)
                self._service.give_up(address, "")
                connection.close()

    def _run(self, association: Association) -> None:
        self._associations.add(association)
        try:
            association.run()
        finally:
            self._associations.discard(association)

    def _learn_addresses(self, policy: AEPolicy) -> None:
        """Reserve places for addresses of peers; in a thread, because the name service may be slow."""
        entrance, peers = self._service.entrance, policy.peers
        threading.Thread(target=lambda: entrance.know(addresses_of(peers)), daemon=True).start()


def _listen(policy: AEPolicy) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            policy.host or None, policy.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(
            address,
            family=family,
            backlog=_WAITING_CONNECTIONS,
            reuse_port=policy.share_port,
            dualstack_ipv6=family == socket.AF_INET6,
        )
    except OSError as error:
        why = "in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(f"port {policy.port} of {policy.host}: {why} (listener.host, listener.port)") from None


def _ssl_context(tls: TlsPolicy | None) -> ssl.SSLContext | None:
    """BCP 195 (PS3.15 B.12): TLS 1.2 or newer; with CAs of our own, only clients that these certify."""
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.private_key)
    if tls.trusted is not None:
        context.load_verify_locations(tls.trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
