"""A worklist manager (UPS, PS3.4 CC) on real sockets, by UPS-RS and by UPS Pull."""

import base64
import hashlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from werkzeug.wrappers import Request, Response

from dicom_connectors.worklist.workitem import PULL, PUSH
from tests.hostile.web import answering
from tests.modality import data_set
from tests.ports import free_port
from tests.result_reading import coded

SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"
LOSE, HANG = "lose", "hang"
"""Faults: do what was asked and cut the line before the answer; answer nothing for seconds."""


CREATED = (
    "TransactionUID", "ScheduledProcedureStepPriority", "ProcedureStepLabel", "WorklistLabel",
    "ScheduledProcessingParametersSequence", "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence", "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledProcedureStepStartDateTime", "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep", "InputReadinessState", "InputInformationSequence",
    "StudyInstanceUID", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "ReferencedRequestSequence", "ProcedureStepState",
    "ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence",
)  # fmt: skip
"""What a new item needs, some of it empty (PS3.4 Table CC.2.5-3, N-CREATE)."""


def work_item(study: str, **other: Any) -> Dataset:
    """A scheduled item with this input study."""
    known = {
        "SOPClassUID": PUSH,
        "SOPInstanceUID": generate_uid(),
        "ProcedureStepState": SCHEDULED,
        "InputReadinessState": "READY",
        "ScheduledProcedureStepPriority": "MEDIUM",
        "ScheduledWorkitemCodeSequence": [coded("110004", "DCM", "Computer Aided Detection")],
        "InputInformationSequence": [instances(study)],
        "PatientID": "",
        "PatientName": "",
    }
    return data_set(**known | other)


def instances(study: str, ae_title: str = "", url: str = "") -> Dataset:
    """An item of Input Information Sequence."""
    by_title = {"DICOMRetrievalSequence": [data_set(RetrieveAETitle=ae_title)]} if ae_title else {}
    by_url = {"WADORSRetrievalSequence": [data_set(RetrieveURL=url)]} if url else {}
    return data_set(TypeOfInstances="DICOM", StudyInstanceUID=study, **by_title, **by_url)


@dataclass
class Manager:
    """Work items and who claimed them. ``fault``: of an operation and how often it came, or "" for none.

    ``log``: operations that were carried out, as "claim", "COMPLETED", "update 40", with their status.
    """

    items: dict[str, Dataset] = field(default_factory=dict)
    locks: dict[str, str] = field(default_factory=dict)
    log: list[tuple[str, int]] = field(default_factory=list)
    fault: Callable[[str, int], str] = lambda operation, times: ""
    subscribed: list[str] = field(default_factory=list)
    frames: queue.Queue[bytes] = field(default_factory=queue.Queue)
    """Frames for whoever has the event channel open."""
    _times: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, item: Dataset) -> str:
        self.items[item.SOPInstanceUID] = item
        return str(item.SOPInstanceUID)

    def create(self, uid: str, item: Dataset) -> int:
        """Create Workitem (PS3.18 11.4): the status of HTTP."""
        with self._lock:
            if uid in self.items:
                return 409
            lacks = [keyword for keyword in CREATED if keyword not in item]
            if lacks or item.ProcedureStepState != SCHEDULED or item.TransactionUID:
                return 400
            item.SOPClassUID, item.SOPInstanceUID = PUSH, uid
            self.add(item)
            return 201

    def cancel_requested(self, uid: str) -> int:
        """Request Cancellation (PS3.18 11.8): whoever performs the item learns of it by an event."""
        self.log.append(("cancel request", 0))
        return 0 if uid in self.items else 0xC307

    def state(self, uid: str) -> str:
        return str(self.items[uid].ProcedureStepState)

    def done(self) -> list[str]:
        """Operations that changed something."""
        return [name for name, status in self.log if status == 0]

    def claimed_by_another(self, uid: str) -> None:
        self.change(uid, generate_uid(), IN_PROGRESS)

    def request_cancel(self, uid: str) -> None:
        """Request UPS Cancel (PS3.4 CC.2.2) of somebody else: an event for the performer."""
        self.tell({"00001000": {"vr": "UI", "Value": [uid]}, "00001002": {"vr": "US", "Value": [2]}})

    def tell(self, event: Any) -> None:
        body = json.dumps(event).encode()
        length = bytes([len(body)]) if len(body) < 126 else bytes([126]) + len(body).to_bytes(2, "big")
        self.frames.put(b"\x81" + length + body)

    def times(self, operation: str) -> int:
        """How often this was requested."""
        return self._times.get(operation, 0)

    def faulty(self, operation: str) -> str:
        with self._lock:
            self._times[operation] = self._times.get(operation, 0) + 1
            return self.fault(operation, self._times[operation])

    def search(self, keys: dict[str, str]) -> list[Dataset]:
        return [
            item
            for item in self.items.values()
            if all(not value or str(item.get(keyword, "")) == value for keyword, value in keys.items())
        ]

    def change(self, uid: str, transaction: str, state: str) -> int:
        """Change UPS State (PS3.4 Table CC.1.1-2)."""
        with self._lock:
            status = self._change(uid, transaction, state)
            self.log.append(("claim" if state == IN_PROGRESS else state, status))
            return status

    def _change(self, uid: str, transaction: str, state: str) -> int:  # noqa: PLR0911 - rows of the table
        if (item := self.items.get(uid)) is None:
            return 0xC307
        now = item.ProcedureStepState
        if now in (COMPLETED, CANCELED):
            return 0xB304 if now == state else 0xC300
        if state == IN_PROGRESS:
            if now == IN_PROGRESS:
                return 0xC302
            self.locks[uid], item.ProcedureStepState = transaction, IN_PROGRESS
            return 0
        if now == SCHEDULED:
            return 0xC310
        if self.locks[uid] != transaction:
            return 0xC301
        if missing_for(item, state):
            return 0xC304
        item.ProcedureStepState = state
        return 0

    def update(self, uid: str, transaction: str, changes: Dataset) -> int:
        """N-SET (PS3.4 CC.2.6)."""
        with self._lock:
            status = self._update(uid, transaction, changes)
            steps = changes.get("ProcedureStepProgressInformationSequence") or [Dataset()]
            self.log.append((f"update {float(steps[0].get('ProcedureStepProgress', 0)):.0f}", status))
            return status

    def _update(self, uid: str, transaction: str, changes: Dataset) -> int:
        if (item := self.items.get(uid)) is None:
            return 0xC307
        if item.ProcedureStepState in (COMPLETED, CANCELED):
            return 0xC300
        if item.ProcedureStepState == IN_PROGRESS and self.locks[uid] != transaction:
            return 0xC301
        for element in changes:
            if element.keyword not in ("TransactionUID", "ProcedureStepState"):
                item[element.tag] = element
        return 0


def missing_for(item: Dataset, state: str) -> list[str]:
    """What the final state needs and the item lacks (PS3.4 Table CC.2.5-3)."""
    [performed] = item.get("UnifiedProcedureStepPerformedProcedureSequence") or [Dataset()]
    [progress] = item.get("ProcedureStepProgressInformationSequence") or [Dataset()]
    lacks = (
        [] if state == COMPLETED or progress.get("ProcedureStepCancellationDateTime") else ["cancelled at"]
    )
    if state == CANCELED:
        reasons = progress.get("ProcedureStepDiscontinuationReasonCodeSequence")
        return lacks if reasons else [*lacks, "discontinuation reason"]
    needed = (
        "PerformedStationNameCodeSequence",
        "PerformedProcedureStepStartDateTime",
        "PerformedProcedureStepEndDateTime",
        "PerformedWorkitemCodeSequence",
    )
    lacks += [keyword for keyword in needed if not performed.get(keyword)]
    return lacks if "OutputInformationSequence" in performed else [*lacks, "outputs"]


HTTP_STATUSES = {
    0x0000: 200,
    0xC300: 409,
    0xC301: 400,
    0xC302: 409,
    0xC304: 409,
    0xC307: 404,
    0xC310: 409,
    0xB304: 200,
}
"""Of UPS-RS (PS3.18 11), by the status of the DIMSE service."""


def send_events(manager: Manager, key: str, line: socket.socket) -> None:
    """Answer a WebSocket's opening handshake with this ``key`` (RFC 6455), then send the manager's frames."""
    accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
    line.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    line.sendall(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while frame := manager.frames.get():
        line.sendall(frame)


@contextmanager
def ups_rs(manager: Manager) -> Iterator[str]:
    """The manager as an origin server of UPS-RS; its base URL."""

    def answer(request: Request) -> Response:
        line: socket.socket = request.environ["werkzeug.socket"]
        names = request.path.strip("/").split("/")
        if names[0] == "subscribers":
            send_events(manager, request.headers["Sec-WebSocket-Key"], line)
            return cut(line)
        if "subscribers" in names:
            manager.subscribed.append(names[1])
            return Response(status=201)
        uid = names[1] if len(names) > 1 else ""
        if request.method == "GET":
            return carry_out(line, "read" if uid else "search", lambda: found(uid, request))
        assert request.content_type == "application/dicom+json"
        given = Dataset.from_json(request.get_json(force=True)[0])
        if request.method == "POST":
            return posted(line, names, unquote(request.query_string.decode()), given)
        state = str(given.ProcedureStepState)
        change = lambda: changed(manager.change(uid, str(given.TransactionUID), state))
        return carry_out(line, "claim" if state == IN_PROGRESS else state, change)

    def posted(line: socket.socket, names: Sequence[str], named: str, given: Dataset) -> Response:
        """``named``: the UID in the query of the URL."""
        if len(names) == 1:
            return carry_out(line, "create", lambda: Response(status=manager.create(named, given)))
        if names[-1] == "cancelrequest":
            return carry_out(line, "cancel request", lambda: changed(manager.cancel_requested(names[1])))
        return carry_out(line, "update", lambda: changed(manager.update(names[1], named, given)))

    def found(uid: str, request: Request) -> Response:
        asked = {key: request.args.get(key, "") for key in ("ProcedureStepState", "SOPInstanceUID")}
        items = [manager.items[uid]] if uid in manager.items else [] if uid else manager.search(asked)
        rows = json.dumps([item.to_json_dict() for item in items])
        status = 200 if items else 404 if uid else 204
        return Response(rows if items else "", status, content_type="application/dicom+json")

    def carry_out(line: socket.socket, operation: str, what: Callable[[], Response]) -> Response:
        fault = manager.faulty(operation)
        if fault == HANG:
            time.sleep(3)
            return cut(line)
        if fault.isdecimal():
            return Response(status=int(fault))
        done = what()
        return cut(line) if fault == LOSE else done

    def changed(status: int) -> Response:
        return Response(status=HTTP_STATUSES[status])

    def cut(line: socket.socket) -> NoReturn:
        line.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    with answering(answer) as (url, _):
        try:
            yield url
        finally:
            manager.frames.put(b"")


@contextmanager
def ups_pull(manager: Manager) -> Iterator[int]:
    """The manager as an SCP of UPS Pull (pynetdicom); its port."""

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for item in manager.search({"ProcedureStepState": str(event.identifier.ProcedureStepState)}):
            yield 0xFF00, item
        yield 0x0000, None

    def on_get(event: evt.Event) -> tuple[int, Dataset | None]:
        item = manager.items.get(str(event.request.RequestedSOPInstanceUID))
        if item is None:
            return 0xC307, None
        found = Dataset()
        found.update({one.tag: one for one in item if one.keyword not in ("SOPClassUID", "SOPInstanceUID")})
        return 0x0000, found  # the UIDs are in the command set

    def on_set(event: evt.Event) -> tuple[int, Dataset | None]:
        uid, changes = str(event.request.RequestedSOPInstanceUID), event.modification_list
        fault = manager.faulty("update")
        status = manager.update(uid, str(changes.get("TransactionUID", "")), changes)
        if fault == LOSE:
            event.assoc.abort()
        return status, None

    def on_action(event: evt.Event) -> tuple[int, Dataset | None]:
        given, uid = event.action_information, str(event.request.RequestedSOPInstanceUID)
        assert (event.action_type, event.request.RequestedSOPClassUID) == (1, PUSH)
        state = str(given.ProcedureStepState)
        fault = manager.faulty("claim" if state == IN_PROGRESS else state)
        status = manager.change(uid, str(given.TransactionUID), state)
        if fault == LOSE:
            event.assoc.abort()
        return status, None

    port, ae = free_port(), AE("MANAGER")
    ae.add_supported_context(PULL)
    handlers: list[Any] = [
        (evt.EVT_C_FIND, on_find),
        (evt.EVT_N_GET, on_get),
        (evt.EVT_N_SET, on_set),
        (evt.EVT_N_ACTION, on_action),
    ]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield port
    finally:
        server.shutdown()
