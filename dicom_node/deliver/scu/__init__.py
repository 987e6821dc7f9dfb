"""Clients of destinations and archives, each with one small protocol: DIMSE, DICOMweb, Orthanc REST,
connectors.

Here: what a destination promises to the outbox (send, confirm, test), and an archive to who fetches (find,
retrieve, test; PS3.4 C, PS3.18 10). Statuses are data.

Every call has a deadline, at which its connections are cut, though another thread is blocked on them. Time-
outs of single reads and writes do not suffice: a line that moves one byte now and then never reaches them,
and pynetdicom waits for its own thread without a time-out.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final, Protocol, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID

from ai_pipeline.images.dates import as_da
from dicom_node.base.config.addresses import LocalAddress, remote_address
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import installed
from dicom_node.base.dicom.dimse_n import CommitmentReport
from dicom_node.base.dicom.elements import is_uid
from dicom_node.base.dicom.identity import Patient, issuers_differ, patient_id_of
from dicom_node.base.errors import FaultyInput, SpoolError
from dicom_node.base.outcomes import Done, Failed, Outcome
from dicom_node.base.tls import tls_refusal

STUDY_KEYS: Final = (
    "StudyInstanceUID",
    "StudyDate",
    "ModalitiesInStudy",
    "StudyDescription",
    "NumberOfStudyRelatedInstances",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
)
"""What is asked of each study (PS3.4 C.6.2.1.2)."""
MOST_OBJECTS: Final = 20_000
"""Objects that one retrieval may bring."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LO = 64  # characters, PS3.5 6.2
_NOBODY = Patient()


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """A query for studies of a range of days that have a modality, or for the study with one UID.

    With ``patient_id`` only studies of that patient; the ID is matched literally, so it must have no
    wildcard.
    """

    first: date | None = None
    last: date | None = None
    modality: str = ""
    """A code in capitals; "": any."""
    study_instance_uid: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    """"": any."""

    @property
    def dates(self) -> str:
        """The range of days as a DICOM date range (PS3.4 C.2.2.2.5); "" for all days."""
        return f"{self.first:%Y%m%d}-{self.last:%Y%m%d}" if self.first and self.last else ""

    def is_answered_by(self, study: FoundStudy) -> bool:
        """Whether ``study`` matches this query; to be checked here, as an archive may not match by all
        keys.
        """
        if self.study_instance_uid:
            return study.study_instance_uid == self.study_instance_uid
        is_other = issuers_differ(self.issuer_of_patient_id, study.issuer_of_patient_id)
        if self.patient_id and (is_other or study.patient_id != self.patient_id):
            return False
        day, dates = study.study_date, self.dates
        in_time = not day or not dates or dates[:8] <= day <= dates[9:]
        return in_time and (not self.modality or not study.modalities or self.modality in study.modalities)


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """One study in an archive's answer to a query. Values that the archive left out are "" or None.

    ``patient``: hashes of what it says of the patient. ``instances``: Number of Study Related Instances.
    """

    study_instance_uid: str
    study_date: str = ""
    modalities: tuple[str, ...] = ()
    description: str = ""
    instances: int | None = None
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient: Patient = _NOBODY

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> FoundStudy | None:
        """Make a study from the decoded values of STUDY_KEYS; None without a valid Study Instance UID."""
        uid = texts.get("StudyInstanceUID", "").strip("\0 ")
        if not _UID.fullmatch(uid) or len(uid) > 64:
            return None
        number = texts.get("NumberOfStudyRelatedInstances", "").strip()
        return cls(
            study_instance_uid=uid,
            study_date=as_da(texts.get("StudyDate", "")) or "",
            modalities=tuple(filter(None, texts.get("ModalitiesInStudy", "").split("\\"))),
            description=texts.get("StudyDescription", "")[:64],
            instances=int(number) if number.isdecimal() and len(number) < 10 else None,
            patient_id=patient_id_of(texts.get("PatientID"))[:_LO],
            issuer_of_patient_id=texts.get("IssuerOfPatientID", "").replace("\0", "").strip()[:_LO],
            patient=Patient.of(texts),
        )


@dataclass(frozen=True, slots=True)
class FoundStudies:
    """The studies that answer a query. ``strays``: the number of answers that name no study, or one that does
    not match.
    """

    studies: tuple[FoundStudy, ...]
    strays: int = 0

    @classmethod
    def fitting(cls, query: StudyQuery, answers: Iterable[Mapping[str, str]]) -> FoundStudies:
        """The studies of those ``answers`` (texts by keyword) that match the query, each study once."""
        studies = [FoundStudy.from_texts(texts) for texts in answers]
        fitting = [one for one in studies if one is not None and query.is_answered_by(one)]
        found = {one.study_instance_uid: one for one in fitting}
        return cls(tuple(found.values()), len(studies) - len(fitting))


class RetrieveStatus(StrEnum):
    """The outcome of retrieving one study from an archive, which decides the next step."""

    RETRIEVED = "retrieved"
    INCOMPLETE = "incomplete"  # some objects did not come: tried again, then accepted as it is
    ABSENT = "absent"  # the archive has no such study
    RETRY = "retry"  # waiting may cure it
    UNREACHABLE = "unreachable"  # the archive does not answer: tried for ever
    REFUSED = "refused"  # waiting does not cure it


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The outcome of retrieving one study. ``objects``: number of received objects. ``text``: why some are
    missing.
    """

    status: RetrieveStatus
    objects: int = 0
    text: str = ""


# PS3.4 C.4.2.1.5 and C.4.3.1.4. The first range that holds a code counts.
RETRIEVE_STATUSES: Final = (
    (0x0000, 0x0000, RetrieveStatus.RETRIEVED, ""),
    (0xB000, 0xB000, RetrieveStatus.INCOMPLETE, "some objects did not come"),
    (
        0xA801,
        0xA801,
        RetrieveStatus.REFUSED,
        "the peer does not know our AE title as a destination: add it there",
    ),
    (0xA900, 0xA9FF, RetrieveStatus.REFUSED, "the request does not match its SOP class"),
    (0xA700, 0xA7FF, RetrieveStatus.RETRY, "out of resources"),
    (0xFE00, 0xFE00, RetrieveStatus.RETRY, "cancelled by the peer"),
    (0x0122, 0x0124, RetrieveStatus.REFUSED, "not supported, or not authorized"),
    (0x0000, 0xFFFF, RetrieveStatus.RETRY, "failure"),
)


def retrieve_status(code: int) -> tuple[RetrieveStatus, str]:
    """The outcome for the final DIMSE status of a C-MOVE or C-GET, and why objects are missing ("" for
    success).
    """
    status, text = next(
        (status, text) for first, last, status, text in RETRIEVE_STATUSES if first <= code <= last
    )
    return status, f"status {code:04X}: {text}" if text else ""


class ObjectSink(Protocol):
    """Protocol of what stores the objects that a retrieval receives on our own connection.

    Its methods raise FaultyInput for an object that is not accepted, SpoolError if nothing more can be
    stored.
    """

    @property
    def sop_classes(self) -> Collection[str]:
        """The UIDs of the SOP classes that the sink accepts."""

    @property
    def largest_bytes(self) -> int:
        """The size of the largest object that the sink accepts, in bytes."""

    def take_object(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Iterable[bytes]
    ) -> None:
        """Store one encoded data set (``data``, in pieces). Raises FaultyInput, SpoolError."""

    def take_file(self, pieces: Iterable[bytes]) -> None:
        """Store one Part 10 file (PS3.10 7), given in pieces. Raises FaultyInput, SpoolError."""


class RetrievalCounts:
    """The counts of one retrieval: objects that were stored (``taken``), and objects ``refused``.

    ``stopped``: why no further object is accepted; "" while objects are accepted.
    """

    def __init__(self) -> None:
        """Begin to count at zero."""
        self.taken = self.refused = 0
        self.stopped = ""

    def take(self, store: Callable[..., None], *content: Any) -> bool:
        """Store one received object by calling ``store(*content)``, and count it; returns False if it is
        refused.

        Raises SpoolError if nothing more can be stored, or a retrieval brings more than MOST_OBJECTS objects.
        """
        try:
            if self.taken + self.refused >= MOST_OBJECTS:
                raise SpoolError(f"more than {MOST_OBJECTS} objects")
            store(*content)
        except FaultyInput:
            self.refused += 1
            return False
        except SpoolError as error:
            self.stopped = str(error)
            raise
        self.taken += 1
        return True


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object that a peer has: valid UIDs of its series and of itself."""

    series_instance_uid: str
    sop_instance_uid: str

    @classmethod
    def from_texts(cls, series: str, instance: str) -> FoundObject | None:
        """Return the object that an answer names; None if it names none with valid UIDs."""
        return cls(series, instance) if is_uid(series) and is_uid(instance) else None


class Archive(Protocol):
    """Protocol of the client of one peer that can be queried. For one thread; no connection stays open
    between calls.

    Every call has a time limit.
    """

    def find(self, query: StudyQuery) -> FoundStudies:
        """Query for studies. Raises Unavailable if no readable answer comes."""

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """The values of Body Part Examined (0018,0015) in the study's series. Raises Unavailable."""

    def objects(self, study_instance_uid: str) -> frozenset[FoundObject]:
        """List the objects of a study. Raises Unavailable."""

    def retrieve_objects(
        self, study_instance_uid: str, objects: Collection[FoundObject], sink: ObjectSink
    ) -> Retrieved:
        """Retrieve objects of a study, as :meth:`retrieve` does."""

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """Get all objects of a study and store them in ``sink``. Failures of the peer are outcomes, not
        errors.
        """

    def test(self) -> list[Check]:
        """Test what queries and retrieval need, without retrieving anything; one result for each test."""

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One object to send: a complete Part 10 file on disk, a result or a received object (``is_original``).

    ``path`` is absolute. ``sha256``: the hash of the whole file, "" for a received object. ``bytes``: its
    size. ``study``: the number of its study on this node, 0 if it is not needed. ``rule``: the rule whose job
    built it, "" for none. ``former``: the results that this peer has or may have and that this object
    withdraws (a rejection note) or replaces (a report). ``delivery``, ``attempts``: number and tries of its
    row in the outbox. ``pseudonym_domain``: the domain of the pseudonyms in it, "" for none.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: Path
    sha256: str
    study: int = 0
    rule: str = ""
    former: tuple[Outgoing, ...] = ()
    delivery: int = 0
    attempts: int = 0
    bytes: int = 0
    pseudonym_domain: str = ""
    is_original: bool = False


class SendStatus(StrEnum):
    """The outcome of sending one object, which decides the next step of the outbox."""

    STORED = "stored"
    WARNED = "warned"  # stored, with a warning status
    VERIFY = "verify"  # the destination says it has the object already: ask it
    RETRY = "retry"  # waiting may cure it
    HUNG = "hung"  # it stopped taking or answering, and was cut off: waiting may cure it
    UNREACHABLE = "unreachable"  # nothing was sent: the destination does not answer
    REFUSED = "refused"  # waiting does not cure it
    FAULTY = "faulty"  # not sent: it must not leave, or is damaged
    NOT_READ = "not read"  # not sent: the disk of this machine did not read it, waiting may cure it
    NARROWED = "narrowed"  # no such objects are taken there: no presentation context accepted


_UNSENT: Final = frozenset(
    {SendStatus.UNREACHABLE, SendStatus.FAULTY, SendStatus.NARROWED, SendStatus.NOT_READ}
)


@dataclass(frozen=True, slots=True)
class SendReport:
    """The peer's answer to one sent object. ``code``: the DIMSE or HTTP status, "" for none; ``text``: the
    reason; ``was_begun``: the connection ended after something was sent.
    """

    status: SendStatus
    code: str = ""
    text: str = ""
    was_begun: bool = False

    @property
    def may_have_arrived(self) -> bool:
        """Whether the peer may have the object although it did not say so: it gave no answer that can be
        read, or a server or proxy in trouble (HTTP 5xx) answered for it.
        """
        unsent = self.status in _UNSENT
        return self.was_begun or (not unsent and (not self.code or self.code.startswith("HTTP 5")))


class Presence(StrEnum):
    """The destination's answer to a query whether it has an object."""

    FOUND = "found"
    DIFFERENT = "different"  # another object bears this UID there
    NOT_FOUND = "not found"
    UNKNOWN = "unknown"  # could not be asked
    HUNG = "hung"  # the same: it stopped answering, and was cut off


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The outcome of a query for one object; ``text``: the reason if it was not found."""

    presence: Presence
    text: str = ""


DELETED = Done("it was there, and was deleted")
NO_STUDY_THERE = Failed("the destination does not show its study: look there")
CUT_OFF = SendReport(SendStatus.HUNG, "", "cut off: it stopped taking or answering, or is too slow")
NOT_TRIED = SendReport(SendStatus.UNREACHABLE, "", "not tried: two objects before it were cut off")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one test of a peer, one line of ``dicom-node peers test``."""

    name: str
    ok: bool
    text: str


class Destination(Protocol):
    """Protocol of the client of one peer that can receive objects. For one thread; no connection stays open.

    Every call has a time limit (``outbox.answer_seconds``, ``SLOWEST_KIB_PER_SECOND``).
    """

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send the objects in this order; returns one report per object, in order. Failures of the peer are
        reports, not errors.
        """

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Query whether the peer has the objects; returns one answer per object, in the same order."""

    def test(self) -> list[Check]:
        """Test everything that delivery needs, without storing anything; one result for each test."""

    def close(self) -> None:
        """End all calls under way; calls that wait for the peer return at once. Any thread may call it."""


class Remover(Destination, Protocol):
    """Protocol of a destination that also deletes objects."""

    def remove(self, item: Outgoing) -> Outcome:
        """Delete this very object, but not another one with its UID, and query whether it is gone.

        Returns DELETED, Done if it was not there, NO_STUDY_THERE, Failed if a repetition would change
        nothing, Retry if waiting may help.
        """


class CommitmentPeer(Protocol):
    """Protocol of the client that requests storage commitment from one peer (PS3.4 Annex J), or reports to
    it.

    For one thread.
    """

    def ask(
        self, transaction_uid: str, objects: Sequence[Outgoing], keep: Callable[[CommitmentReport], None]
    ) -> Outcome:
        """Request storage commitment for these objects; a report that arrives at once is passed to ``keep``.

        ``keep`` makes the report durable, or raises; only then it is answered with Success. Returns Done if a
        report will follow or has come, Failed if the destination does not offer storage commitment, Retry if
        waiting may help.
        """

    def report(self, information: Dataset, event_type: int) -> str:
        """Send a storage commitment report as SCP (PS3.4 J.3.3); returns "" if the peer accepted it, else why
        not.

        ``information``: its Event Information; ``event_type``: its Event Type ID.
        """

    def check(self) -> Check:
        """Test whether the peer accepts storage commitment reports; sends none."""

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""


def hangs(reports: Sequence[SendReport]) -> bool:
    """Whether the last two objects that were sent hung; then the rest is not tried."""
    return len(reports) > 1 and all(report.status is SendStatus.HUNG for report in reports[-2:])


def send_each(objects: Sequence[Outgoing], send: Callable[[Outgoing], SendReport]) -> list[SendReport]:
    """Send one object after the other by ``send``; returns the peer's answers. Once the peer is unreachable
    or hangs, no further object is tried.
    """
    reports: list[SendReport] = []
    for item in objects:
        if reports and reports[-1].status is SendStatus.UNREACHABLE:
            reports.append(replace(reports[-1], was_begun=False))
        else:
            reports.append(NOT_TRIED if hangs(reports) else send(item))
    return reports


def query_outcome(item: Outgoing, sop_class: str) -> Confirmation:
    """The outcome of a query for the object ``item`` that the peer answered with an object of its UID.
    ``sop_class``: the SOP class UID in the answer, "" if it names none; if it is not the class of ``item``,
    the peer has another object.
    """
    if sop_class not in ("", item.sop_class_uid):
        return Confirmation(Presence.DIFFERENT, f"the destination holds it as {UID(sop_class).name}")
    return Confirmation(Presence.FOUND)


# The first range that holds a code counts. A7xx, 0110 and 0122 … stand before the classes that contain them.
STORE_STATUSES: Final = (
    (0x0000, 0x0000, SendStatus.STORED, "stored"),
    (0xB000, 0xB000, SendStatus.WARNED, "stored, data elements coerced"),
    (0xB006, 0xB006, SendStatus.WARNED, "stored, elements discarded"),
    (0xB007, 0xB007, SendStatus.WARNED, "stored, data set does not match its SOP class"),
    (0x0001, 0x0001, SendStatus.WARNED, "stored, with a warning"),
    (0x0107, 0x0107, SendStatus.WARNED, "stored, attribute list warning"),
    (0x0116, 0x0116, SendStatus.WARNED, "stored, attribute value out of range"),
    (0xB000, 0xBFFF, SendStatus.WARNED, "stored, with a warning"),
    (0x0111, 0x0111, SendStatus.VERIFY, "duplicate SOP instance"),
    (0x0110, 0x0110, SendStatus.RETRY, "processing failure"),
    (0x0213, 0x0213, SendStatus.RETRY, "resource limitation"),
    (0xFE00, 0xFE00, SendStatus.RETRY, "cancelled by the destination"),
    (0xA700, 0xA7FF, SendStatus.RETRY, "out of resources"),
    (0x0122, 0x0122, SendStatus.REFUSED, "SOP class not supported"),
    (0x0124, 0x0124, SendStatus.REFUSED, "not authorized"),
    (0xA900, 0xA9FF, SendStatus.REFUSED, "data set does not match SOP class"),
    (0xC000, 0xCFFF, SendStatus.REFUSED, "cannot understand"),
)


def store_report(code: int | None) -> SendReport:
    """The report for the DIMSE status of a C-STORE; None: no answer came (the association was cut off).

    Error Comment (0000,0902) is left out on purpose: free text of the peer may name a patient.
    """
    if code is None:
        return SendReport(SendStatus.RETRY, "", "association lost before the answer")
    meanings = ((status, text) for first, last, status, text in STORE_STATUSES if first <= code <= last)
    status, text = next(meanings, (SendStatus.REFUSED, "failure"))
    return SendReport(status, f"{code:04X}", text)


NO_HANDSHAKE: Final = "it does not finish the TLS handshake"
MAXIMUM_ANSWER_BYTES = 16 * 2**20
"""What one association or one HTTP answer may bring: 30,000 matches of a C-FIND."""


class Connections:
    """The open network connections to one peer, which any thread can cut.

    ``silence_seconds``: how long one read or write may transfer no byte. ``local``: whether the peer may be
    this machine, link-local, or a metadata service.
    """

    def __init__(self, silence_seconds: float, *, local: bool = True) -> None:
        """Prepare without any connection; the parameters are explained at the class."""
        self.silence_seconds, self.local = silence_seconds, local
        self.refused = ""
        """Why the last call was not made."""
        self.has_sent = False
        """Whether an HTTP request, or a part of it, went out in the present scope."""
        self.tls_refusal = ""
        """Why TLS failed in the present scope, for callers whose library hides it."""
        self.shakes_hands = False
        """Whether a TLS handshake of the present scope has begun and not succeeded."""
        self.timed_out = self.closed = self._is_connected = False
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def address_of(self, host: str) -> str:
        """The address to connect to for this host. Raises OSError; LocalAddress if the address is forbidden.

        Connect to the returned address: a second look-up of the host could return another one.
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
        """Register a new connection; after :meth:`close` it is cut at once."""
        self._is_connected = True
        with self._lock:
            self._sockets.add(connection)
        if self.closed:
            self.cut()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Context manager: after ``seconds``, calls inside that wait for the peer fail with a connection
        error.
        """
        self.timed_out = self._is_connected = self.has_sent = self.shakes_hands = False
        self.tls_refusal = ""
        timer = threading.Timer(seconds, self.expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def expire(self) -> None:
        """Cut all open connections, because their deadline has passed, and set ``timed_out`` until the next
        scope begins.
        """
        self.timed_out = True
        self.cut()

    def without_answer(self, whom: str) -> str:
        """A sentence on how far the last try to reach ``whom`` (the peer in words) got, if it failed."""
        if self.tls_refusal:
            return f"{whom}: {self.tls_refusal}"
        if self.shakes_hands:
            return f"connected to {whom}, but {NO_HANDSHAKE}"
        return (
            f"connected to {whom}, but it gave no answer"
            if self._is_connected
            else f"cannot connect to {whom}"
        )

    @contextlib.contextmanager
    def noting_tls(self) -> Iterator[None]:
        """Context manager: note in ``tls_refusal`` why TLS failed inside, unless this side cut the
        connection: OpenSSL then reports that the peer closed it.
        """
        try:
            yield
        except ssl.SSLError as error:
            if not (self.timed_out or self.closed):
                self.tls_refusal = tls_refusal(error)
            raise

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


class PeerCaller:
    """Base class of clients that call one peer within deadlines. For one thread; any thread may call
    ``close``.
    """

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


def tls_context(authorities: Path | None, connections: Connections) -> ssl.SSLContext:
    """The TLS settings of a client whose connections can be cut through ``connections``, even in the
    handshake.

    ``authorities``: a file of certificate authorities; None for those of the system. Raises OSError if it
    cannot be read.
    """

    class WatchedSocket(ssl.SSLSocket):
        """A TLS socket that registers itself with the connections, and notes there why TLS failed."""

        def do_handshake(self, block: bool = False) -> None:
            """Register the socket, then do the TLS handshake."""
            connections.opened(self)  # it took the descriptor of the plain one
            connections.shakes_hands = True
            with connections.noting_tls():
                super().do_handshake(block)
            connections.shakes_hands = False

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            """Read: with TLS 1.3 a peer refuses our certificate only after the handshake."""
            with connections.noting_tls():
                return super().recv(buflen, flags)

    context = ssl.create_default_context(cafile=authorities)
    context.sslsocket_class = WatchedSocket
    return context


def client_tls(settings: Settings, connections: Connections) -> ssl.SSLContext:
    """The TLS settings of a DICOM client by PS3.15 B.12: it checks the peer's certificate and presents
    ours; ``connections`` as of :func:`tls_context`.
    """
    tls = settings.listener.tls
    context = tls_context(tls.trusted if tls else None, connections)
    if tls:
        context.load_cert_chain(tls.certificate, tls.private_key)
    return context


def open_archive(peer: PeerSettings, settings: Settings) -> Archive:
    """Make the client that queries this peer, by its ``transport`` or DIMSE. For one thread; not connected
    yet.
    """
    return cast(Archive, _client("archives", peer, "query_retrieve:DimseArchive")(peer, settings))


def open_commitment(peer: PeerSettings, settings: Settings) -> CommitmentPeer:
    """Make the client for storage commitment, for our requests and for reports to the peer. For one thread;
    not connected yet.
    """
    return cast(CommitmentPeer, _client("", peer, "commitment:StorageCommitment")(peer, settings))


def open_remover(peer: PeerSettings, settings: Settings) -> Remover:
    """Make the client that deletes objects at this peer, which has ``withdraw = "delete"``. For one
    thread.
    """
    return cast(Remover, open_destination(peer, settings))


def open_destination(peer: PeerSettings, settings: Settings) -> Destination:
    """Make the client that sends to this peer, by its ``transport``. For one thread; not connected yet."""
    return cast(Destination, _client("destinations", peer, "storage:DimseDestination")(peer, settings))


def _client(group: str, peer: PeerSettings, ours: str) -> Any:
    """The class that a connector provides for the peer's transport, or else our own for DIMSE; imported on
    first use.

    ``group``: the kind of connector, such as "destinations"; ``ours``: our module and class in it.
    """
    added = installed(group).get(peer.transport)
    return (added or EntryPoint("", f"{__name__}.{ours}", "")).load()
