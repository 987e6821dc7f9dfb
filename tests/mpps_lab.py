"""A modality that reports on its performed procedure steps: pynetdicom is the client.

DCMTK has no free one: its ``mppsscu`` is sold.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_CREATE
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from tests.inbox_lab import CONFIG
from tests.raw_requests import answered, associate_for, status_of

IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
WITH_STEPS: dict[str, Any] = {
    **CONFIG,
    "assembly": {**CONFIG["assembly"], "mpps_minutes": 20},
    "peers": [{**peer, "mpps": peer["name"] == "modality"} for peer in CONFIG["peers"]],
}
"""The configuration of an inbox whose peer ``modality`` reports steps."""


def scheduled(study: str) -> Dataset:
    """An item of the Scheduled Step Attributes Sequence."""
    item = Dataset()
    item.StudyInstanceUID, item.AccessionNumber, item.ScheduledProcedureStepID = study, "A1", "SPS1"
    item.ReferencedStudySequence, item.RequestedProcedureID = [], "RP1"
    item.RequestedProcedureDescription = item.ScheduledProcedureStepDescription = ""
    item.ScheduledProtocolCodeSequence = []
    return item


def begun(*studies: str, modality: str = "US") -> Dataset:
    """The Attribute List of an N-CREATE (PS3.4 Table F.7.2-1)."""
    step = Dataset()
    step.ScheduledStepAttributesSequence = [scheduled(study) for study in studies]
    step.PatientName, step.PatientID = "Mustermann^Max", "4711"
    step.PatientBirthDate, step.PatientSex, step.ReferencedPatientSequence = "", "", []
    step.PerformedProcedureStepID, step.PerformedStationAETitle = "PPS1", "US1"
    step.PerformedStationName = step.PerformedLocation = ""
    step.PerformedProcedureStepStartDate, step.PerformedProcedureStepStartTime = "20261130", "101500"
    step.PerformedProcedureStepEndDate = step.PerformedProcedureStepEndTime = ""
    step.PerformedProcedureStepStatus, step.Modality, step.StudyID = IN_PROGRESS, modality, ""
    step.PerformedProcedureStepDescription = step.PerformedProcedureTypeDescription = ""
    step.ProcedureCodeSequence = step.PerformedProtocolCodeSequence = step.PerformedSeriesSequence = []
    return step


def ended(objects: Iterable[Dataset] = (), status: str = COMPLETED) -> Dataset:
    """The Modification List of the last N-SET, which names these objects."""
    step = Dataset()
    step.PerformedProcedureStepStatus = status
    step.PerformedProcedureStepEndDate, step.PerformedProcedureStepEndTime = "20261130", "103000"
    step.PerformedSeriesSequence = [series([(ds.SOPClassUID, ds.SOPInstanceUID) for ds in objects])]
    return step


def series(objects: Sequence[tuple[str, str]]) -> Dataset:
    """An item of the Performed Series Sequence; ``objects``: SOP Class and Instance UIDs."""
    item = Dataset()
    item.SeriesInstanceUID, item.ProtocolName, item.SeriesDescription = "1.2.3.4", "Ovaries", ""
    item.PerformingPhysicianName = item.OperatorsName = item.RetrieveAETitle = ""
    item.ReferencedImageSequence = [_reference(*uids) for uids in objects]
    item.ReferencedNonImageCompositeSOPInstanceSequence = []
    return item


def associate(port: int, calling: str = "US1") -> Association:
    """An association for performed procedure steps, established or not."""
    return associate_for(ModalityPerformedProcedureStep, port, calling)


def create(port: int, uid: str, step: Dataset, calling: str = "US1") -> Dataset | None:
    """N-CREATE on an association of its own; the whole status, empty without answer, None without context."""
    return _ask(port, calling, lambda one: one.send_n_create(step, ModalityPerformedProcedureStep, uid))


def change(port: int, uid: str, step: Dataset, calling: str = "US1") -> Dataset | None:
    """N-SET, as ``create``."""
    return _ask(port, calling, lambda one: one.send_n_set(step, ModalityPerformedProcedureStep, uid))


def status(answer: Dataset | None) -> int | None:
    """None: there was no context, or no answer."""
    return None if answer is None else answer.get("Status")


def send_raw(port: int, encoded: bytes, uid: str = "1.2.99", calling: str = "US1") -> int | None:
    """N-CREATE of these bytes in Implicit VR Little Endian; None: the association was cut."""
    request = N_CREATE()
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ModalityPerformedProcedureStep, uid
    return status_of(associate(port, calling), request, "AttributeList", encoded)


def _ask(port: int, calling: str, send: Callable[[Association], tuple[Dataset, Any]]) -> Dataset | None:
    answer = answered(associate(port, calling), send)
    return None if isinstance(answer, str) else answer


def _reference(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item
