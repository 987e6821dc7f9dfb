"""DIMSE, as SCU (PS3.7, PS3.4 B, C, J): destinations, storage commitment and archives.

Associations that we request have deadlines; they are pynetdicom's with corrected defects, through semi-
private hooks of the pinned version.

Files are sent with their bytes unchanged if the peer accepts their transfer syntax. Explicit VR Little Endian
is converted if the peer accepts only Implicit VR Little Endian; compressed objects are never transcoded. An
archive is asked by C-FIND, and sends by C-MOVE to our own listener or by C-GET (Study Root). Query and store
may be two AEs.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from dicom_node.base.config.peer import PeerService, PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom import dimse_n
from dicom_node.base.dicom.header import character_sets, decoded, quiet_pydicom, terms
from dicom_node.base.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    TRANSFER_SYNTAXES,
    SyntaxKind,
)
from dicom_node.base.errors import DecodedDifferently, FaultyObject, SpoolError, Unavailable
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.deliver.scu import (
    CUT_OFF,
    MAXIMUM_ANSWER_BYTES,
    MOST_OBJECTS,
    NOT_TRIED,
    STUDY_KEYS,
    Check,
    Confirmation,
    Connections,
    FoundStudies,
    ObjectSink,
    Outgoing,
    PeerCaller,
    Presence,
    RetrievalCounts,
    Retrieved,
    RetrieveStatus,
    SendReport,
    SendStatus,
    StudyQuery,
    hangs,
    query_outcome,
    retrieve_status,
    store_report,
)
from dicom_node.receive.messages import A_ASSOCIATE_AC, MAXIMUM_PDU_BYTES, check_answer

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
_CUT = "cut off, its answer does not end"
MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers 1 to 255
FIND = StudyRootQueryRetrieveInformationModelFind
LITTLE_ENDIAN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


_UNKNOWN_THERE = "Calling AE title not recognised"  # PS3.8 9.3.4, as pynetdicom says it


@dataclass(frozen=True, slots=True)
class NoAssociation:
    """The failure to get an association. ``text``: why; ``takes_nothing``: the peer refused all presentation
    contexts.
    """

    text: str
    takes_nothing: bool = False


class DimseCaller(PeerCaller):
    """Base class of DIMSE clients (SCU), which requests associations from one peer."""

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
        """Context manager: an association with one service of the peer, or why there is none; released at the
        end.

        ``contexts``: the presentation contexts to propose. ``handlers``: pynetdicom's event handlers for
        requests of the peer. ``roles``: SCP/SCU role selection (PS3.7 D.3.3.4), for objects of up to
        ``largest_object`` bytes that the peer sends on this association.
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
            refused = _why_no_association(association, self._connections, f"{called} at {host}:{port}")
            if _UNKNOWN_THERE in refused.text:
                refused = replace(refused, text=f"{refused.text}: {self._enter_us()}")
            yield refused
            return
        try:
            yield association
        finally:
            if association.is_established:
                with self._connections.within(_ASSOCIATE_SECONDS):
                    association.release()

    def _enter_us(self) -> str:
        """What to do at a peer that does not know this node."""
        return (
            f"enter {self._settings.node.ae_title}, the address of this machine"
            f" and port {self._settings.listener.port} there"
        )

    def _lost(self) -> str:
        """Why a request got no answer. Orthanc cuts the association of a node that it does not know."""
        return (
            _CUT
            if self._connections.timed_out
            else f"association lost before the answer; if it does not know this node, {self._enter_us()}"
        )

    def accepts(self, name: str, service: PeerService, model: Any, roles: Sequence[Any] = ()) -> Check:
        """Test whether the peer accepts a service: ``model`` is its SOP class, ``name`` that of the test."""
        with self.associate(contexts(model), service=service, roles=roles) as association:
            if isinstance(association, NoAssociation):
                return Check(name, False, association.text)
        return Check(name, True, f"{UID(model).name} accepted")

    @contextlib.contextmanager
    def waiting(self, association: Association, seconds: float) -> Iterator[None]:
        """Context manager: limit one message and its answer to ``seconds``."""
        association.dimse_timeout = seconds + _LATER_SECONDS
        with self._connections.within(seconds):
            yield

    def request(
        self,
        association: Association,
        seconds: float,
        send: Callable[..., Any],
        *request: Any,
        **options: Any,
    ) -> tuple[int | None, Dataset, list[Dataset]]:
        """Send one request by ``send`` (a method of the association) and wait for all answers, at most
        ``seconds``.

        Returns (last status, its data set, data sets of the pending answers). If the association was cut, the
        status is None and the association is aborted: pynetdicom notices that late, and would wait for the
        next answer. Raises what ``send`` raises for a request that cannot be encoded.
        """
        last, matches = Dataset(), list[Dataset]()
        with self.waiting(association, seconds):
            try:
                answers = send(*request, **options)
                if isinstance(answers, Dataset):  # of a DIMSE-C service with one answer
                    answers = [(answers, None)]
                elif isinstance(answers, tuple):  # of a DIMSE-N service
                    answers = [answers]
                for last, match in answers:
                    if match is not None or last.get("Status") in (0xFF00, 0xFF01):  # pending
                        matches.append(match or Dataset())
            except RuntimeError:  # cut meanwhile, or by an earlier request
                last = Dataset()
            code: int | None = last.get("Status")
            name = self._peer.name  # no value of a data set: it may name a patient
            _LOGGER.debug("%s to %s: status %s", send.__name__, name, code, extra={"peer": name})
            if code is None:
                association.abort()
        return code, last, matches

    def call(
        self,
        wanted: list[PresentationContext],
        send: str,
        *request: Any,
        service: PeerService = "storage",
        roles: Sequence[Any] = (),
        **options: Any,
    ) -> tuple[int | None, list[Dataset], str]:
        """Send one request on an association of its own; ``send``: the name of the association's method for
        it.

        ``wanted``: the presentation contexts. Returns (status, None without an answer; data sets of the
        answers; status or failure in words).
        """
        with self.associate(wanted, service=service, roles=roles) as association:
            if isinstance(association, NoAssociation):
                return None, [], association.text
            seconds, method = self._settings.outbox.answer_seconds, getattr(association, send)
            code, _, answers = self.request(association, seconds, method, *request, **options)
        return (None, [], self._lost()) if code is None else (code, answers, f"status {code:04X}")


def contexts(sop_class: Any) -> list[PresentationContext]:
    """A list of one presentation context for a service, with the two transfer syntaxes that every service
    accepts.
    """
    return [build_context(sop_class, list(LITTLE_ENDIAN))]


def query_identifier(level: str, **keys: str) -> Dataset:
    """The identifier of a C-FIND, C-MOVE or C-GET (PS3.4 C.4.1.1.3) at this level; ``keys``: values by
    keyword.
    """
    question = Dataset()
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


def _why_no_association(association: Association, connections: Connections, whom: str) -> NoAssociation:
    """Why an association was not established: rejected, no accepted context, or no answer.

    ``whom``: the peer in words.
    """
    if association.is_rejected:
        return NoAssociation(f"association rejected by {whom}: {association.acceptor.primitive.reason_str}")
    if association.rejected_contexts:
        names = {UID(context.abstract_syntax).name for context in association.rejected_contexts}
        return NoAssociation(f"{whom} does not accept {', '.join(sorted(names))}", takes_nothing=True)
    return NoAssociation(connections.without_answer(whom))


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
        message: tuple[int, Any] | tuple[None, None] = super().get_msg(block=True)
        if isinstance(message[1], C_STORE) and message[1].DataSet is not None:
            self._received -= len(message[1].DataSet.getbuffer())
        return message


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


def client_tls(settings: Settings) -> ssl.SSLContext:
    """The TLS settings of a DICOM client by PS3.15 B.12: it checks the peer's certificate and presents
    ours.
    """
    tls = settings.listener.tls
    trusted = str(tls.trusted) if tls and tls.trusted else None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=trusted)
    if tls:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The files among ``paths``, and all files in the folders among them, sorted by name."""
    listed = (sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path] for path in paths)
    return list(chain.from_iterable(listed))


def send_files(
    peer: PeerSettings, settings: Settings, files: Iterable[Path]
) -> Iterator[tuple[Outgoing, SendReport]]:
    """C-STORE files as they are, in batches; yields each object with the peer's answer.

    Used by ``dicom-node send`` and the demonstration, where a person looks at every status. Raises
    Unavailable if the peer is unreachable. A file that cannot be sent is reported, not raised.
    """
    objects: list[Outgoing] = []
    for path in files:
        try:
            meta = read_file_meta_info(path)
            named = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID
            objects.append(Outgoing(named[0], named[1], "", "", path, ""))
        except (InvalidDicomError, OSError, AttributeError):
            yield (
                Outgoing("", "", "", "", path, ""),
                SendReport(SendStatus.REFUSED, "", "no DICOM file (Part 10)"),
            )
    destination = DimseDestination(peer, settings)
    for start in range(0, len(objects), MOST_CONTEXTS // len(LITTLE_ENDIAN)):
        some = objects[start : start + MOST_CONTEXTS // len(LITTLE_ENDIAN)]
        reports = destination.send(some)
        if reports[0].status is SendStatus.UNREACHABLE:
            raise Unavailable(reports[0].text)
        yield from zip(some, reports, strict=True)


SOP_CLASSES: Mapping[ResultKind, tuple[UID, ...]] = {
    ResultKind.SR: (Comprehensive3DSRStorage,),
    ResultKind.GSPS: (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage),
    ResultKind.SC: (SecondaryCaptureImageStorage,),
    ResultKind.SUMMARY: (SecondaryCaptureImageStorage,),
    ResultKind.PDF: (EncapsulatedPDFStorage,),
    ResultKind.HEATMAP: (SecondaryCaptureImageStorage,),
    ResultKind.CLEANED: (
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    ),
    ResultKind.SEG: (SegmentationStorage,),
    ResultKind.ASSESSMENT: (Comprehensive3DSRStorage,),
    ResultKind.REJECTION: (KeyObjectSelectionDocumentStorage,),
}
"""Of each kind of result: what ``test`` proposes to a PACS."""
REPORT_SECONDS = 1.0
"""How long the association of a request stays open for the report; later ones come to our listener."""
_ROLES = [build_role(dimse_n.COMMITMENT_CLASS, scp_role=True)]


class DimseDestination(DimseCaller):
    """The client of a PACS that receives objects by DIMSE."""

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send all objects; if the peer cuts the association at one object, continue with the next on a new
        one.
        """
        reports: list[SendReport] = []
        while len(reports) < len(objects):
            rest = objects[len(reports) :]
            reports += [NOT_TRIED] * len(rest) if hangs(reports) else self._send_on_one_association(rest)
        return reports

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Query by C-FIND at IMAGE level (PS3.4 C.6.2.1) which objects the peer has, with one query per
        series.
        """
        with self.associate(contexts(FIND), service="query") as association:
            if isinstance(association, NoAssociation):
                return [Confirmation(Presence.UNKNOWN, f"query: {association.text}")] * len(objects)
            found: dict[str, str] = {}
            missing: dict[str, Confirmation] = {}
            for series in dict.fromkeys(item.series_instance_uid for item in objects):
                group = [item for item in objects if item.series_instance_uid == series]
                question = query_identifier(
                    "IMAGE",
                    StudyInstanceUID=group[0].study_instance_uid,
                    SeriesInstanceUID=series,
                    SOPInstanceUID=group[0].sop_instance_uid if len(group) == 1 else "",
                    SOPClassUID="",
                )
                seconds, find = self._settings.outbox.answer_seconds, association.send_c_find
                code, _, matches = self.request(association, seconds, find, question, FIND)
                named = [match for match in matches if "SOPInstanceUID" in match]
                found |= {str(one.SOPInstanceUID): str(one.get("SOPClassUID", "") or "") for one in named}
                missing[series] = self._not_found(code)
        return [
            query_outcome(item, found[item.sop_instance_uid])
            if item.sop_instance_uid in found
            else missing[item.series_instance_uid]
            for item in objects
        ]

    def test(self) -> list[Check]:
        """Test C-ECHO, the acceptance of the SOP classes of results, and the queries for confirmation."""
        checks = [self.echo()]
        if not checks[0].ok:
            return checks
        more = {ResultKind.REJECTION: self._peer.iocm, ResultKind.ASSESSMENT: self._peer.assessments}
        kinds = (*self._peer.results, *(kind for kind, taken in more.items() if taken))
        checks += [self.accepts(str(kind), "storage", uid) for kind in kinds for uid in SOP_CLASSES[kind]]
        if self._peer.confirm == "commitment":
            checks.append(self.accepts("commitment", "commitment", dimse_n.COMMITMENT_CLASS))
        if self._peer.answers_queries:
            # For an object that nobody has: a PACS may accept the context and refuse the question.
            nobody = Outgoing("", generate_uid(), generate_uid(), generate_uid(), Path(), "")
            [answer] = self.confirm([nobody])
            is_answered = answer.presence is not Presence.UNKNOWN and answer.presence is not Presence.HUNG
            text = "Study Root C-FIND answered" if is_answered else answer.text.removeprefix("query: ")
            checks.append(Check("query", is_answered, text))
        return checks

    def echo(self) -> Check:
        """Test C-ECHO (PS3.4 A), with the time that it took."""
        began = time.monotonic()
        status, _, text = self.call([build_context(Verification)], "send_c_echo")
        took = f", {(time.monotonic() - began) * 1000:.0f} ms"
        return Check("echo", status == 0, text if status is None else text + took)

    def _send_on_one_association(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send objects on one association, until it ends; returns a report for each object that was tried."""
        with self.associate(_store_contexts(objects)) as association:
            if isinstance(association, NoAssociation):
                status = SendStatus.NARROWED if association.takes_nothing else SendStatus.UNREACHABLE
                return [SendReport(status, "", association.text)] * len(objects)
            reports: list[SendReport] = []
            for item in objects:
                reports.append(self._store(association, item))
                if not association.is_established:
                    break
        return reports

    def _store(self, association: Association, item: Outgoing) -> SendReport:
        """Send one object by C-STORE; returns the peer's answer."""
        content = _as_accepted(association, item)
        if isinstance(content, SendReport):
            return content
        seconds = self._settings.outbox.seconds_for(item.path.stat().st_size)
        try:
            # Priority 0 is medium (PS3.7 9.1.1).
            status, _, _ = self.request(association, seconds, association.send_c_store, content, priority=0)
        except ValueError:
            return SendReport(SendStatus.REFUSED, "", "cannot be converted to Implicit VR Little Endian")
        return CUT_OFF if status is None and self._connections.timed_out else store_report(status)

    def _not_found(self, code: int | None) -> Confirmation:
        """The outcome for an object that a C-FIND did not return; ``code``: its last status, None without an
        answer.
        """
        if code == 0:
            return Confirmation(Presence.NOT_FOUND, "the destination does not show it")
        why = self._lost() if code is None else f"status {code:04X}"
        return Confirmation(Presence.HUNG if why == _CUT else Presence.UNKNOWN, f"query: {why}")


def _store_contexts(objects: Iterable[Outgoing]) -> list[PresentationContext]:
    """The presentation contexts for these objects, one per SOP class and transfer syntax, so that the peer
    answers for each of them.
    """
    wanted: dict[tuple[str, str], None] = {}
    for item in objects:
        own = _transfer_syntax(item)
        for syntax in LITTLE_ENDIAN if own in LITTLE_ENDIAN else (own,):
            wanted[item.sop_class_uid, syntax] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def _as_accepted(association: Association, item: Outgoing) -> Path | Dataset | SendReport:
    """The object as the peer accepts it: its file, or a data set to convert; a report if no presentation
    context fits.
    """
    syntaxes = {
        context.transfer_syntax[0]
        for context in association.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid
    }
    if not syntaxes:
        return SendReport(SendStatus.NARROWED, "", f"{UID(item.sop_class_uid).name} is not accepted")
    own = _transfer_syntax(item)
    if own in syntaxes:
        return item.path
    if own in LITTLE_ENDIAN:
        return dcmread(item.path)
    return SendReport(
        SendStatus.NARROWED, "", f"{UID(item.sop_class_uid).name} in {own.name} is not accepted"
    )


def _transfer_syntax(item: Outgoing) -> UID:
    """The transfer syntax that an object's file has."""
    return UID(str(read_file_meta_info(item.path).TransferSyntaxUID))


class StorageCommitment(DimseCaller):
    """The client that requests storage commitment from one peer by DIMSE (PS3.4 Annex J), or reports to it.

    For one thread.
    """

    def ask(
        self,
        transaction_uid: str,
        objects: Sequence[Outgoing],
        keep: Callable[[dimse_n.CommitmentReport], None],
    ) -> Outcome:
        """Request storage commitment by N-ACTION, then wait ``REPORT_SECONDS`` for a report on the same
        association.

        ``keep``: makes a report durable, or raises. Returns Done if the peer accepted the request, Failed if
        it does not offer storage commitment, Retry if waiting may help.
        """
        handlers = [(evt.EVT_N_EVENT_REPORT, _handle_event_report, [keep])]
        with self.associate(
            contexts(dimse_n.COMMITMENT_CLASS), service="commitment", handlers=handlers
        ) as association:
            if isinstance(association, NoAssociation):
                why = f"storage commitment: {association.text}"
                return Failed(why) if association.takes_nothing else Retry(why)
            uids = [(item.sop_class_uid, item.sop_instance_uid) for item in objects]
            code, _, _ = self.request(
                association,
                self._settings.outbox.answer_seconds,
                association.send_n_action,
                dimse_n.commitment_request(transaction_uid, uids),
                dimse_n.COMMITMENT_REQUEST,
                dimse_n.COMMITMENT_CLASS,
                dimse_n.COMMITMENT_INSTANCE,
            )
            answer = _commitment_outcome(code)
            end = time.monotonic() + REPORT_SECONDS
            while isinstance(answer, Done) and time.monotonic() < end:
                if not association.is_established or self._connections.closed:
                    break
                if association.dimse.report_answered.wait(0.1):
                    break
            return answer

    def report(self, information: Dataset, event_type: int) -> str:
        """Send a storage commitment report by N-EVENT-REPORT; returns "" if the peer accepted it, else why
        not.

        ``information``: its Event Information; ``event_type``: its Event Type ID.
        """
        code, _, text = self.call(
            contexts(dimse_n.COMMITMENT_CLASS),
            "send_n_event_report",
            information,
            event_type,
            dimse_n.COMMITMENT_CLASS,
            dimse_n.COMMITMENT_INSTANCE,
            service="commitment",
            roles=_ROLES,
        )
        return "" if code == 0 else text

    def check(self) -> Check:
        """Test whether the peer accepts storage commitment reports; sends none."""
        return self.accepts("commitment report", "commitment", dimse_n.COMMITMENT_CLASS, _ROLES)


def _commitment_outcome(code: int | None) -> Outcome:
    """The outcome of a storage commitment request by the status of its N-ACTION (PS3.7 10.1.4.1.10); None: no
    answer.
    """
    if code is None:
        return Retry("storage commitment: association lost before the answer")
    if code == 0x0000 or code >> 12 == 0xB or code in (0x0001, 0x0107, 0x0116):
        return Done()
    why = f"storage commitment refused: status {code:04X}"
    return Retry(why) if code in (0x0110, 0x0210, 0x0213) else Failed(why)


def _handle_event_report(event: Any, keep: Callable[[dimse_n.CommitmentReport], None]) -> tuple[int, None]:
    """Handle an N-EVENT-REPORT: pass its storage commitment report to ``keep``.

    Returns (status for the answer by PS3.7 10.1.1.1.8, None for no Event Reply).
    """
    try:
        encoded = event.request.EventInformation
        report = dimse_n.read_commitment_report(
            encoded.getvalue() if encoded else b"", event.context.transfer_syntax
        )
    except FaultyObject:
        return 0x0115, None
    try:
        keep(report)
    except Exception:  # noqa: BLE001 - whatever went wrong, it is not kept: the peer is to report again
        return 0x0213, None
    return 0x0000, None


LARGEST_BY_GET = 512 * 2**20
"""Bytes of an object by C-GET, which is in memory once; larger ones come by C-MOVE."""
GET_SYNTAXES = [
    one.uid for one in TRANSFER_SYNTAXES if one.kind not in (SyntaxKind.LOSSLESS_KEPT, SyntaxKind.LOSSY_KEPT)
]
"""Proposed for objects by C-GET: those that are decoded here. DCMTK gives no answer to as many as we know."""
_MODELS = {
    "move": StudyRootQueryRetrieveInformationModelMove,
    "get": StudyRootQueryRetrieveInformationModelGet,
}
_CANNOT_UNDERSTAND, _OUT_OF_RESOURCES = 0xC000, 0xA700  # PS3.4 B.2.3
_FAULTY_VALUES = (
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    DecodedDifferently,
    FaultyObject,
)


class DimseArchive(DimseCaller):
    """The client of a PACS that is queried by C-FIND, and from which studies are retrieved by C-MOVE or
    C-GET.
    """

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        """Prepare calls to ``peer``, which may transfer no byte for as long as its setting
        ``retrieve_seconds`` says.
        """
        super().__init__(peer, settings, silence_seconds=peer.retrieve_seconds)

    def find(self, query: StudyQuery) -> FoundStudies:
        """Query for studies by C-FIND at STUDY level. Raises Unavailable."""
        values = {
            "StudyDate": query.dates,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
        }
        answers = self._answers("STUDY", **dict.fromkeys(STUDY_KEYS, "") | values)
        return FoundStudies.fitting(query, (texts for answer in answers if (texts := self._texts(answer))))

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """The Body Part Examined of the study's series, in capitals (C-FIND at SERIES level). Raises
        Unavailable.
        """
        uids = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": ""}
        found = set()
        for answer in self._answers("SERIES", **uids, Modality="", BodyPartExamined=""):
            with quiet_pydicom(), contextlib.suppress(*_FAULTY_VALUES):
                found.add(_text(answer.get("BodyPartExamined")).strip().upper())
        return frozenset(found - {""})

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """Retrieve a study by C-MOVE or C-GET, as the peer's setting ``retrieve`` says.

        Objects of a C-GET are stored in ``sink``; those of a C-MOVE arrive at our listener.
        """
        taking, model, get = RetrievalCounts(), _MODELS[self._peer.retrieve], dict[str, Any]()
        wanted = contexts(model)
        if self._peer.retrieve == "get":
            classes = list(sink.sop_classes)[: MOST_CONTEXTS - 1]
            wanted += [build_context(uid, GET_SYNTAXES) for uid in classes]
            get["handlers"] = [(evt.EVT_C_STORE, self._on_store, [sink, taking])]
            get["roles"] = [build_role(uid, scp_role=True) for uid in classes]
            get["largest_object"] = min(sink.largest_bytes, LARGEST_BY_GET)
        with self.associate(wanted, service="query", **get) as association:
            if isinstance(association, NoAssociation):
                return Retrieved(
                    RetrieveStatus.REFUSED if association.takes_nothing else RetrieveStatus.UNREACHABLE,
                    0,
                    association.text,
                )
            if all(one.abstract_syntax != model for one in association.accepted_contexts):
                return Retrieved(RetrieveStatus.REFUSED, 0, f"the peer does not accept {UID(model).name}")
            request = [query_identifier("STUDY", StudyInstanceUID=study_instance_uid), model]
            if not get:
                request.insert(1, self._settings.node.ae_title)
            send = association.send_c_get if get else association.send_c_move
            code, last, _ = self.request(association, self._peer.retrieve_seconds, send, *request)
        if taking.stopped:
            return Retrieved(RetrieveStatus.RETRY, taking.taken, taking.stopped)
        if code is None:
            why = "cut off: too slow" if self._connections.timed_out else "association lost before the end"
            return Retrieved(RetrieveStatus.RETRY, taking.taken, why)
        return _outcome(code, last, taking.taken if get else None)

    def test(self) -> list[Check]:
        """Test whether queries and retrieval are accepted; nothing is retrieved."""
        wanted = {"find": FIND, self._peer.retrieve: _MODELS[self._peer.retrieve]}
        return [self.accepts(name, "query", model) for name, model in wanted.items()]

    def _answers(self, level: str, **keys: str) -> list[Dataset]:
        """The data sets that a C-FIND at this level returns; ``keys``: the query's values by keyword. Raises
        Unavailable.
        """
        question = query_identifier(level, **keys)
        code, answers, text = self.call(contexts(FIND), "send_c_find", question, FIND, service="query")
        if code != 0:
            raise Unavailable(f"{self._peer.name}: query: {text}")
        return answers

    def _texts(self, answer: Dataset) -> dict[str, str]:
        """The values of an answer as texts by keyword; only the Study Instance UID, by which the study can be
        fetched, if the texts cannot be decoded.
        """
        with quiet_pydicom():
            for charset in (character_sets(answer), terms(self._peer.assume_charset)):
                try:
                    header = decoded(answer, STUDY_KEYS, charset)
                    return {keyword: _text(header.get(keyword)) for keyword in STUDY_KEYS}
                except _FAULTY_VALUES:
                    continue
            try:
                return {"StudyInstanceUID": _text(answer.get("StudyInstanceUID"))}
            except _FAULTY_VALUES:
                return {"StudyInstanceUID": ""}

    def _on_store(self, event: Any, sink: ObjectSink, taking: RetrievalCounts) -> int:
        """Handle a C-STORE of a C-GET: store the object durably, then return the status to answer (PS3.4
        B.2.3).
        """
        request = event.request
        data = request.DataSet.getvalue() if request.DataSet else b""
        named = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        try:
            taken = taking.take(sink.take_object, *named, str(event.context.transfer_syntax), [data])
        except SpoolError:
            if taking.taken + taking.refused >= MOST_OBJECTS:  # it may go on for ever
                self._connections.cut()
            return _OUT_OF_RESOURCES
        return 0x0000 if taken else _CANNOT_UNDERSTAND


def _outcome(code: int, last: Dataset, taken: int | None) -> Retrieved:
    """The outcome of a retrieval by its last answer (``last``) and that answer's status (``code``).

    ``taken``: number of objects that our sink stored; None if our listener got them.
    """
    objects = int(last.get("NumberOfCompletedSuboperations") or 0) if taken is None else taken
    failed = int(last.get("NumberOfFailedSuboperations") or 0)
    outcome, text = retrieve_status(code)
    if outcome is RetrieveStatus.RETRIEVED and failed:
        outcome = RetrieveStatus.INCOMPLETE
    if outcome is RetrieveStatus.INCOMPLETE:
        text = f"{failed} objects did not come: of classes that are not taken here, or see its log"
    # Counts are optional where all came (PS3.4 C.4.2.1.8): only a 0 that is there says "none".
    if outcome is RetrieveStatus.RETRIEVED and not objects and "NumberOfCompletedSuboperations" in last:
        return Retrieved(RetrieveStatus.ABSENT, 0, "the peer sent nothing of this study")
    return Retrieved(outcome, objects, text)


def _text(value: Any) -> str:
    """A value as text, "" for None; several values have backslashes between them."""
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue | list) else [value]
    return "\\".join("" if one is None else str(one) for one in values)
