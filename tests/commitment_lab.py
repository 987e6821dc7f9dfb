"""A PACS that is asked for storage commitment, and reports as a test wants (PS3.4 Annex J)."""

import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.base.dicom.commitment import SOP_INSTANCE
from tests.modality import assign, data_set
from tests.pacs_lab import Pacs
from tests.raw_requests import answered, associate_for, status_of

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
            information, event_type(information), StorageCommitmentPushModel, SOP_INSTANCE
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
    asked = (information, event_type(information), StorageCommitmentPushModel, SOP_INSTANCE)
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
        AffectedSOPInstanceUID=SOP_INSTANCE,
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
