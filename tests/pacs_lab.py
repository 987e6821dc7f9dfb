"""Other systems on real sockets: a PACS that commits, an archive; raw requests."""

import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.dicom.dimse_n import COMMITMENT_INSTANCE
from dicom_node.base.errors import FaultyInput
from dicom_node.deliver.scu import StudyQuery, open_archive
from dicom_node.deliver.scu.calling_ae import CallingAE
from dicom_node.receive.policy import accepted_classes
from dicom_node.studies import fetch, fetch_queue
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import DIGITAL_XRAY, assign, chest, data_set
from tests.peers import a_receiver
from tests.ports import free_port


def associate_for(
    sop_class: UID, port: int, calling: str, *, as_provider: bool = False, seconds: float = 30
) -> Association:
    """For this class in Implicit VR Little Endian, established or not; ``as_provider``: its SCP asks."""
    ae = CallingAE(ae_title=calling)
    ae.dimse_timeout = seconds
    roles = [build_role(sop_class, scp_role=True)] if as_provider else []
    context = build_context(sop_class, ImplicitVRLittleEndian)
    return ae.associate("127.0.0.1", port, [context], ae_title="AINODE", ext_neg=roles)


def answered(association: Association, send: Callable[[Association], tuple[Dataset, Any]]) -> Dataset | str:
    """Its answer, without a status where none came, and release it; or why it could not be asked."""
    if not association.is_established:
        # By its contexts: under load pynetdicom may see the end of the connection before the rejection in it.
        return "no context" if association.rejected_contexts else "rejected"
    try:
        return send(association)[0]
    except (RuntimeError, ValueError):  # the association was cut under us
        return Dataset()
    finally:
        if association.is_established:
            association.release()


def status_of(
    association: Association, request: N_ACTION | N_CREATE | N_EVENT_REPORT, keyword: str, encoded: bytes
) -> int | None:
    """Send the request with these bytes in the one context that was accepted, and abort.

    ``keyword``: the attribute of the request that holds the data set. None: the association was cut.
    """
    assert association.is_established
    request.MessageID = 1
    setattr(request, keyword, BytesIO(encoded) if encoded else None)
    (context,) = association.accepted_contexts
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.abort()
    return None if answer is None else answer.Status


_config.LOG_HANDLER_LEVEL = "none"

ABORT = -1  # as a status: cut the association instead of answering


@dataclass
class Pacs:
    """What it does can be changed while it runs.

    ``answer``: from the SOP Instance UID and how often it came to a C-STORE status or :data:`ABORT`.
    ``shows``: whether C-FIND lists a stored object. Both are called on the PACS's threads.
    """

    port: int = field(default_factory=free_port)
    ae_title: str = "PACS"
    answer: Callable[[str, int], int] = lambda uid, times: 0x0000
    shows: Callable[[str, int], bool] = lambda uid, questions: True
    received: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    syntaxes: dict[str, str] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    associations: int = 0
    _series: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def peer(self, name: str = "pacs", **settings: object) -> PeerSettings:
        """The settings with which the node knows it."""
        known = a_receiver(name, self.port, ae_title=self.ae_title)
        return PeerSettings.model_validate(known | settings)

    def contexts(self) -> list[PresentationContext]:
        """What it takes besides storage, query and verification."""
        return []

    def handlers(self) -> list[tuple[evt.EventType, Callable[[evt.Event], Any]]]:
        """What it does with what comes."""
        return [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_ACCEPTED, self._on_association),
        ]

    def _on_store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append(uid)
        status = self.answer(uid, self.received.count(uid))
        if status == ABORT:
            event.assoc.abort()
            return 0xA700
        if status < 0xA000 or (status >= 0xB000 and status < 0xC000):
            ds = event.dataset
            self.stored[uid] = event.request.DataSet.getvalue()
            self.syntaxes[uid] = str(event.context.transfer_syntax)
            self._series[uid] = (str(ds.SeriesInstanceUID), str(ds.StudyInstanceUID), str(ds.SOPClassUID))
        return status

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        for uid, (series, study, sop_class) in list(self._series.items()):
            wanted = (asked.SeriesInstanceUID, asked.StudyInstanceUID, asked.SOPInstanceUID or uid)
            if wanted != (series, study, uid):
                continue
            self.questions.append(uid)
            if self.shows(uid, self.questions.count(uid)):
                of_it = {"SOPInstanceUID": uid, "SOPClassUID": sop_class, "SeriesInstanceUID": series}
                yield 0xFF00, data_set(QueryRetrieveLevel="IMAGE", StudyInstanceUID=study, **of_it)
        yield 0x0000, None

    def _on_association(self, event: evt.Event) -> None:
        self.associations += 1


@contextmanager
def run_pacs(
    pacs: Pacs,
    *,
    classes: Sequence[UID] | None = None,
    syntaxes: Sequence[UID] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    finds: bool = True,
    callers: Sequence[str] = (),
) -> Iterator[Pacs]:
    """Serve as long as the scope lasts; ``classes``: only these are taken, from ``callers`` alone."""
    ae = AE(ae_title=pacs.ae_title)
    ae.require_calling_aet = list(callers)
    ae.maximum_associations = 50
    ae.require_called_aet = True
    ae.acse_timeout = 3  # its threads wait that long for a request on a connection that was closed
    known = [context.abstract_syntax for context in AllStoragePresentationContexts]
    for sop_class in classes if classes is not None else known:
        ae.add_supported_context(sop_class, list(syntaxes))
    if finds:
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_supported_context(Verification)
    for one in pacs.contexts():
        roles = {"scu_role": one.scu_role, "scp_role": one.scp_role}
        ae.add_supported_context(one.abstract_syntax, one.transfer_syntax, **roles)
    server = ae.start_server(("127.0.0.1", pacs.port), block=False, evt_handlers=pacs.handlers())
    try:
        yield pacs
    finally:
        server.shutdown()
        for thread in threading.enumerate():
            if thread.name.startswith("AcceptorThread"):
                with suppress(RuntimeError):
                    thread.join(5)


NO_SUCH_OBJECT = 0x0112
SOP_CLASS = UID("1.2.840.10008.5.1.4.1.1.7")
"""Secondary Capture Image Storage, the class of what is reported on."""


@dataclass
class CommittingPacs(Pacs):
    """``action``: from how often it was asked to the status of an N-ACTION.

    ``at_once``: reports on the association of the request, from Transaction UID and SOP Instance UIDs.
    """

    action: Callable[[int], int] = lambda times: 0x0000
    at_once: Callable[[str, Sequence[str]], Dataset | None] = lambda transaction, uids: None
    requests: list[tuple[str, list[str]]] = field(default_factory=list)
    report_statuses: list[int | None] = field(default_factory=list)

    def contexts(self) -> list[PresentationContext]:
        return [build_context(StorageCommitmentPushModel)]

    def handlers(self) -> list[tuple[evt.EventType, Callable[[evt.Event], Any]]]:
        return [*super().handlers(), (evt.EVT_N_ACTION, self._on_action)]

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        uids = [str(item.ReferencedSOPInstanceUID) for item in asked.ReferencedSOPSequence]
        self.requests.append((str(asked.TransactionUID), uids))
        information = self.at_once(str(asked.TransactionUID), uids)
        if information is not None:
            classes = {
                item.ReferencedSOPInstanceUID: item.ReferencedSOPClassUID
                for item in asked.ReferencedSOPSequence
            }
            for item in information.get("ReferencedSOPSequence", ()):
                item.ReferencedSOPClassUID = classes[item.ReferencedSOPInstanceUID]
            threading.Timer(0.1, self._report, (event.assoc, information)).start()
        return self.action(len(self.requests)), None

    def _report(self, association: Association, information: Dataset) -> None:
        status, _ = association.send_n_event_report(
            information, event_type(information), StorageCommitmentPushModel, COMMITMENT_INSTANCE
        )
        self.report_statuses.append(status.get("Status"))


def report(transaction: str, committed: Sequence[str] = (), failed: Sequence[str] = ()) -> Dataset:
    """Event Information; ``failed``: no such object instance."""
    information = data_set(TransactionUID=transaction)
    if committed:
        information.ReferencedSOPSequence = [_item(uid) for uid in committed]
    if failed:
        information.FailedSOPSequence = [_item(uid, NO_SUCH_OBJECT) for uid in failed]
    return information


def event_type(information: Dataset) -> int:
    """1: all is kept. 2: some is not."""
    return 2 if "FailedSOPSequence" in information else 1


def send_report(
    port: int, information: Dataset, *, calling: str = "PACS", role: bool = True
) -> int | str | None:
    """Report on an association of its own, roles reversed; the status, or why there was none."""
    asked = (information, event_type(information), StorageCommitmentPushModel, COMMITMENT_INSTANCE)
    answer = answered(associate(port, calling, role), lambda one: one.send_n_event_report(*asked))
    return answer if isinstance(answer, str) else answer.get("Status")


def send_raw_report(
    port: int, encoded: bytes, calling: str = "PACS", association: Association | None = None
) -> int | None:
    """Report these bytes as Event Information in Implicit VR Little Endian; None: the association was cut."""
    request = assign(
        N_EVENT_REPORT(),
        EventTypeID=1,
        AffectedSOPClassUID=StorageCommitmentPushModel,
        AffectedSOPInstanceUID=COMMITMENT_INSTANCE,
    )
    return status_of(association or associate(port, calling), request, "EventInformation", encoded)


def empty_sequences(depth: int, group: int = 0x0008, element: int = 0x1198) -> bytes:
    """Failed SOP Sequences, or others, of undefined length within each other (PS3.5 7.5)."""
    return struct.pack("<HHIHHI", group, element, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * depth


def associate(port: int, calling: str = "PACS", role: bool = True) -> Association:
    """To report on: as the SCP, where ``role``."""
    return associate_for(StorageCommitmentPushModel, port, calling, as_provider=role)


def _item(uid: str, reason: int | None = None) -> Dataset:
    failed = {} if reason is None else {"FailureReason": reason}
    return data_set(ReferencedSOPClassUID=SOP_CLASS, ReferencedSOPInstanceUID=uid, **failed)


DAY = date(2024, 3, 2)
QUERY = StudyQuery(DAY, DAY, "DX")
PIXELS = np.zeros((16, 16), np.uint16)


@dataclass
class FakeArchive(Pacs):
    """Answers every question with ``answers``, and every C-GET with ``gives``."""

    answers: Sequence[Dataset] = ()
    gives: Sequence[Dataset] = ()
    pause: float = 0.0
    asked: list[str] = field(default_factory=list)

    def contexts(self) -> list[PresentationContext]:
        storage = build_context(DIGITAL_XRAY, ExplicitVRLittleEndian)
        storage.scu_role = storage.scp_role = True
        return [build_context(StudyRootQueryRetrieveInformationModelGet), storage]

    def handlers(self) -> list[Any]:
        return [*super().handlers(), (evt.EVT_C_GET, self._on_get)]

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield from ((0xFF00, answer) for answer in self.answers)
        yield 0x0000, None

    def _on_get(self, event: evt.Event) -> Iterator[Any]:
        self.asked.append(str(event.identifier.StudyInstanceUID))
        yield len(self.gives)
        for image in self.gives:
            time.sleep(self.pause)
            yield 0xFF00, image


def answer_for(image: Dataset, **other: str) -> Dataset:
    """What an archive says of the study of this image, but for ``other``."""
    named = ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex")
    known = {"QueryRetrieveLevel": "STUDY", "ModalitiesInStudy": "DX", "StudyDate": "20240302"}
    with disable_value_validation():
        return data_set(**known | {keyword: image.get(keyword, "") for keyword in named} | other)


def film(name: str) -> Dataset:
    return assign(chest(name, PIXELS), StudyDate="20240302")


def peer(port: int, **settings: object) -> dict[str, Any]:
    known = a_receiver("archive", port, ae_title="PACS", may=["query"], retrieve="get", fetch_per_minute=600)
    return known | settings


def inbox_beside(
    folder: Path,
    port: int,
    rule: Mapping[str, Any] = {},
    assembly: Mapping[str, float] = {},
    *,
    url_of_database: str = "",
    **settings: object,
) -> Inbox:
    """A rule for films, and this archive beside the other peers; ``settings``: of the archive."""
    others = [dict(one) for one in CONFIG["peers"]]
    others[-1]["ae_title"] = "RESULTS"
    films = {**CONFIG["rules"][0], "when": {"modality": "DX"}, "name": "films", "max_study_age_days": 7}
    config = {
        **CONFIG,
        "assembly": {**CONFIG["assembly"], **assembly},
        "peers": [*others, peer(port, **settings)],
        "rules": [{**films, **rule}],
        "outbox": {"answer_seconds": 1, "retry_seconds": 0.01, "retry_limit_seconds": 0.01},
    }
    return Inbox(folder, config, url=url_of_database)


@contextmanager
def beside(
    folder: Path,
    *rules: dict[str, Any],
    answers: Sequence[Dataset],
    gives: Sequence[Dataset] = (),
    **settings: object,
) -> Iterator[Inbox]:
    """Such an inbox, and an archive that answers and gives this as long as the scope lasts."""
    with run_pacs(FakeArchive(answers=answers, gives=gives), classes=()) as pacs:
        yield inbox_beside(folder, pacs.port, *rules, **settings)


def fetched(inbox: Inbox, name: str = "archive") -> dict[str, int]:
    """Ask, fetch until nothing is due, index and assemble."""
    asked = fetch_queue.ask(
        inbox.database, open_archive(inbox.settings.peer(name), inbox.settings), name, [QUERY]
    )
    fetcher = fetch.Fetcher(inbox.database, inbox.settings, inbox.settings.peer(name), "tests")
    for _ in range(fetch.ATTEMPTS):
        fetcher.run_once(threading.Event())
        time.sleep(0.02)
    inbox.settle()
    return asked


class Sink:
    """Remembers what is taken; ``refuses``: SOP Instance UIDs that are not."""

    sop_classes = accepted_classes()
    largest_bytes = 2**24

    def __init__(self, refuses: str = "") -> None:
        self.taken: list[str] = []
        self._refuses = refuses

    def take_object(self, sop_class: str, instance: str, syntax: str, data: Iterable[bytes]) -> None:
        if instance == self._refuses:
            raise FaultyInput("not taken")
        assert b"".join(data)
        self.taken.append(instance)

    def take_file(self, pieces: Iterable[bytes]) -> None:
        read = dcmread(BytesIO(b"".join(pieces)))
        self.take_object(read.SOPClassUID, read.SOPInstanceUID, "", [read.PixelData])
