"""A deadline for every call: connections can be cut off while another thread is blocked on them.

Time-outs of single reads and writes do not suffice: a line that moves one byte now and then never reaches
them, and pynetdicom waits for its own thread without a time-out.

Associations that we request from a peer, within deadlines; or the reason why there is none (PS3.8 7.1).

pynetdicom's requestor with corrected defects, through semi-private hooks of the pinned version.

A sending modality: C-STORE of files as they are on disk (``dicom-node send``, the demonstration).

The node itself sends through :mod:`dicom_node.deliver.scu.dimse`, which confirms and retries; here a
person looks at every status.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from dicom_node.base.config.settings import LocalAddress, PeerService, PeerSettings, Settings, remote_address
from dicom_node.base.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.base.errors import PeerUnreachable
from dicom_node.deliver.scu.interfaces import Check, SendStatus, store_report
from dicom_node.receive.messages import A_ASSOCIATE_AC, MAXIMUM_PDU_BYTES, check_answer

_AT_ONCE = 0.5  # seconds

MAXIMUM_ANSWER_BYTES = 16 * 2**20
"""What one association or one HTTP answer may bring: 30,000 matches of a C-FIND."""


class Connections:
    """The open connections of one destination.

    ``silence_seconds``: how long one read or write may transfer no byte. ``local``: whether the destination
    may be this machine, link-local, or a metadata service.
    """

    def __init__(self, silence_seconds: float, *, local: bool = True) -> None:
        self.silence_seconds, self.local = silence_seconds, local
        self.refused = ""
        """Why the last call was not made."""
        self.timed_out = self.closed = False
        self._connected_at: float | None = None
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def address_of(self, host: str) -> str:
        """The address for a connection to this host. Raises OSError, LocalAddress for a forbidden address.

        Connect to this address: a second look-up could return another one.
        """
        self.refused = ""
        if self.local:
            return host
        try:
            return remote_address(host)
        except LocalAddress as error:
            self.refused = str(error)
            raise

    def opened(self, connection: socket.socket) -> None:
        """Register a connection; after :meth:`close` it is cut at once."""
        self._connected_at = time.monotonic()
        with self._lock:
            self._sockets.add(connection)
        if self.closed:
            self.cut()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit a scope to ``seconds``: after that, calls that wait for the peer fail with a connection
        error.
        """
        self.timed_out = False
        self._connected_at = None
        timer = threading.Timer(seconds, self.expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def expire(self) -> None:
        """Cut open connections, because the deadline has passed. ``timed_out`` is set until the next scope
        begins.
        """
        self.timed_out = True
        self.cut()

    def without_answer(self, whom: str) -> str:
        """How far the call to ``whom`` in the last scope got that led to no association, in words."""
        if self._connected_at is None:
            return f"cannot connect to {whom}"
        seconds = time.monotonic() - self._connected_at
        if seconds < _AT_ONCE:
            return f"connected to {whom}, which ended the connection without an answer"
        return f"connected to {whom}, no answer for {seconds:.0f} s"

    def close(self) -> None:
        """Cut all open connections, and all that are opened later. Any thread may call it."""
        self.closed = True
        self.cut()

    def cut(self) -> None:
        """Cut all connections that are open now."""
        with self._lock:
            open_now = list(self._sockets)
        for connection in open_now:
            # Not the method of ssl.SSLSocket, which first forgets the cipher: a thread that sends at that
            # moment would send plain text. Closing the file is left to its owner: its number could be reused.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def tls_context(authorities: Path | None, connections: Connections) -> ssl.SSLContext:
    """TLS for a client whose connections can be cut, even in the handshake.

    ``authorities``: None for the system's. Raises OSError if the file of authorities cannot be read.
    """

    class WatchedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            connections.opened(self)  # it took the descriptor of the plain one
            super().do_handshake(block)

    context = ssl.create_default_context(cafile=authorities)
    context.sslsocket_class = WatchedSocket
    return context


# A path given to send_c_store is sent as it stands on disk, in pieces.
_config.STORE_SEND_CHUNKED_DATASET = True
# pynetdicom logs data sets and identifiers, which name patients.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

_LOGGER = logging.getLogger(__name__)
_CONNECT_SECONDS = 10.0
_NEGOTIATE_SECONDS = 30.0
_ASSOCIATE_SECONDS = 2 * _CONNECT_SECONDS + _NEGOTIATE_SECONDS  # TCP, TLS, A-ASSOCIATE
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux
_LATER_SECONDS = 5.0  # pynetdicom's own time-out stands behind ours, which also frees its threads
MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers 1 to 255
FIND = StudyRootQueryRetrieveInformationModelFind
LITTLE_ENDIAN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True, slots=True)
class NoAssociation:
    """Why there is no association, and whether the peer refused all presentation contexts."""

    text: str
    takes_nothing: bool = False


class DimseCaller:
    """Requests associations from one peer. For one thread; any thread may call ``close``."""

    def __init__(self, peer: PeerSettings, settings: Settings, silence_seconds: float = 0) -> None:
        """Prepare calls to ``peer``.

        ``silence_seconds``: how long the peer may transfer no byte; 0: ``outbox.answer_seconds``.
        """
        self._peer, self._settings = peer, settings
        self._connections = Connections(
            silence_seconds or settings.outbox.answer_seconds,
            local=not peer.entered or settings.console.local_peers,
        )

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""
        self._connections.close()

    @contextlib.contextmanager
    def associate(
        self,
        contexts: list[PresentationContext],
        *,
        service: PeerService = "storage",
        handlers: Sequence[tuple[Any, ...]] = (),
        roles: Sequence[Any] = (),
        largest_object: int = 0,
    ) -> Iterator[Association | NoAssociation]:
        """An association with one service of the peer, released at the end of the scope.

        ``handlers``: pynetdicom's events for requests of the peer. ``roles``: SCP/SCU role selection (PS3.7
        D.3.3.4), for objects of up to ``largest_object`` bytes that the peer sends on this association.
        """
        peer = self._peer
        host, port, called = peer.address_of(service)
        if port is None or not host:
            yield NoAssociation(f"{peer.missing_of_address()}: add it to this peer's [[peers]]")
            return
        if self._connections.closed:
            yield NoAssociation("not tried: the node stops")
            return
        ae = CallingAE(self._settings.node.ae_title, self._connections, largest_object)
        ae.connection_timeout = _CONNECT_SECONDS
        ae.acse_timeout = _NEGOTIATE_SECONDS
        ae.network_timeout = None
        try:
            tls = (client_tls(self._settings), host) if peer.tls else None
            with self._connections.within(_ASSOCIATE_SECONDS):
                association = ae.associate(
                    self._connections.address_of(host),
                    port,
                    contexts,
                    ae_title=called,
                    max_pdu=MAXIMUM_PDU_BYTES,
                    tls_args=tls,
                    ext_neg=list(roles),
                    evt_handlers=list(handlers),
                )
        except OSError as error:  # unknown host name, unreadable certificate
            yield NoAssociation(
                f"cannot call {called} at {host}:{port}: {error.strerror or 'TLS set-up failed'}"
            )
            return
        if not association.is_established:
            yield _refusal(association, self._connections, f"{called} at {host}:{port}")
            return
        self.debug("association", accepted=len(association.accepted_contexts), of=len(contexts))
        try:
            yield association
        except KeyboardInterrupt:  # of a person: a release would wait for an answer that is on its way
            self._connections.cut()
            association.abort()
            raise
        finally:
            if association.is_established:
                with self._connections.within(_ASSOCIATE_SECONDS):
                    association.release()

    def accepts(self, name: str, service: PeerService, model: Any) -> Check:
        """Check whether the peer accepts a service."""
        with self.associate(contexts(model), service=service) as association:
            if isinstance(association, NoAssociation):
                return Check(name, False, association.text)
        return Check(name, True, f"{UID(model).name} accepted")

    def debug(self, what: str, **fields: object) -> None:
        """Log a line for ``peers.debug``: numbers and UIDs, as in events."""
        shown = " ".join(f"{key}={value}" for key, value in fields.items())
        _LOGGER.debug("%s with %s: %s", what, self._peer.name, shown, extra={"peer": self._peer.name})

    @contextlib.contextmanager
    def waiting(self, association: Association, seconds: float) -> Iterator[None]:
        """Scope of one message and its answer, limited to ``seconds``."""
        association.dimse_timeout = seconds + _LATER_SECONDS
        with self._connections.within(seconds):
            yield

    def status_of(
        self,
        association: Association,
        seconds: float,
        send: Callable[..., Any],
        *request: Any,
        **options: Any,
    ) -> int | None:
        """The status of the answer to one request; None, and an abort, where the association was cut.

        pynetdicom notices a cut late, and would wait for the next answer. Raises what ``send`` raises for a
        request that cannot be encoded.
        """
        with self.waiting(association, seconds):
            try:
                answer = send(*request, **options)
                code: int | None = (answer[0] if isinstance(answer, tuple) else answer).get("Status")
            except RuntimeError:  # cut meanwhile, or by an earlier request
                code = None
            if code is None:
                association.abort()
        return code

    def matches_of(self, association: Association, question: Dataset) -> tuple[list[Dataset], int | None]:
        """The answers to a C-FIND and its last status; None, and an abort, where the association was cut."""
        matches: list[Dataset] = []
        code = None
        with self.waiting(association, self._settings.outbox.answer_seconds):
            try:
                for status, match in association.send_c_find(question, FIND):
                    code = status.get("Status")
                    if code in (0xFF00, 0xFF01):  # pending
                        matches.append(match if match is not None else Dataset())
            except RuntimeError:
                code = None
            if code is None:
                association.abort()
        return matches, code


def contexts(sop_class: Any) -> list[PresentationContext]:
    """The presentation context of a service that needs no other transfer syntaxes than these two."""
    return [build_context(sop_class, list(LITTLE_ENDIAN))]


def question_at(level: str, **keys: str) -> Dataset:
    """The identifier of a query: values are matched, empty ones are asked for (PS3.4 C.4.1.1.3)."""
    question = Dataset()
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


def _refusal(association: Association, connections: Connections, whom: str) -> NoAssociation:
    if association.is_rejected:
        reason = association.acceptor.primitive.reason_str
        return NoAssociation(f"association rejected by {whom}: {reason}")
    if association.rejected_contexts:
        names = {UID(context.abstract_syntax).name for context in association.rejected_contexts}
        return NoAssociation(f"{whom} does not accept {', '.join(sorted(names))}", takes_nothing=True)
    return NoAssociation(connections.without_answer(whom))


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
        self._connections = connections or Connections(silence_seconds=120.0)
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


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of the C-STORE of one file; ``status`` is None without an answer."""

    path: Path
    sop_instance_uid: str
    status: int | None
    text: str

    @property
    def stored(self) -> bool:
        """Whether the peer has stored the file: Success or a warning (PS3.4 B.2.3)."""
        return self.status is not None and (
            store_report(self.status).status in (SendStatus.STORED, SendStatus.WARNED)
        )


class Modality(DimseCaller):
    """Sends files to one peer."""

    def send(self, files: Sequence[Path], on_each: Callable[[Sent], None]) -> list[Sent]:
        """C-STORE files, each in its own transfer syntax, unchanged; one association per 128 presentation
        contexts.

        Raises PeerUnreachable if there is no association. A file that cannot be sent is reported, not raised.
        """
        reports: list[Sent] = []
        wanted: dict[tuple[UID, UID], list[tuple[Path, UID]]] = {}
        for path in files:
            try:
                meta = read_file_meta_info(path)
                kind = meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
                wanted.setdefault(kind, []).append((path, meta.MediaStorageSOPInstanceUID))
            except (InvalidDicomError, OSError, AttributeError):
                reports.append(Sent(path, "", None, "no DICOM file (Part 10)"))
                on_each(reports[-1])
        kinds = list(wanted)
        for start in range(0, len(kinds), MOST_CONTEXTS):
            some = kinds[start : start + MOST_CONTEXTS]
            with self.associate([build_context(*kind) for kind in some]) as association:
                if isinstance(association, NoAssociation):
                    raise PeerUnreachable(association.text)
                for kind in some:
                    for path, instance in wanted[kind]:
                        reports.append(Sent(path, str(instance), *self._send(association, path, *kind)))
                        on_each(reports[-1])
        return reports

    def _send(
        self, association: Association, path: Path, sop_class: UID, syntax: UID
    ) -> tuple[int | None, str]:
        """The status of one file, and in words."""
        seconds = self._settings.outbox.seconds_for(path.stat().st_size)
        try:
            status = self.status_of(association, seconds, association.send_c_store, path, priority=0)
        except ValueError:
            accepted = any(one.abstract_syntax == sop_class for one in association.accepted_contexts)
            return None, f"the peer does not accept {syntax.name if accepted else UID(sop_class).name}"
        if status is None:
            return None, "no answer, or the association was cut"
        return status, f"{status:04X} {store_report(status).text}"


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and all files in the folders, sorted by name."""
    found: list[Path] = []
    for path in paths:
        found += sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    return found
