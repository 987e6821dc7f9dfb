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
from tests.modality import assign, data_set
from tests.pacs_lab import answered, associate_for, status_of

IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
WITH_STEPS: dict[str, Any] = {
    **CONFIG,
    "assembly": {**CONFIG["assembly"], "mpps_minutes": 20},
    "peers": [{**peer, "mpps": peer["name"] == "modality"} for peer in CONFIG["peers"]],
}
"""The configuration of an inbox whose peer ``modality`` reports steps."""


def scheduled(study: str) -> Dataset:
    """An item of the Scheduled Step Attributes Sequence."""
    return data_set(
        StudyInstanceUID=study,
        AccessionNumber="A1",
        ScheduledProcedureStepID="SPS1",
        ReferencedStudySequence=[],
        RequestedProcedureID="RP1",
        RequestedProcedureDescription="",
        ScheduledProcedureStepDescription="",
        ScheduledProtocolCodeSequence=[],
    )


def begun(*studies: str, modality: str = "US") -> Dataset:
    """The Attribute List of an N-CREATE (PS3.4 Table F.7.2-1)."""
    empty = (
        *("PatientBirthDate", "PatientSex", "PerformedStationName", "PerformedLocation", "StudyID"),
        *("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime"),
        *("PerformedProcedureStepDescription", "PerformedProcedureTypeDescription"),
    )
    return data_set(
        ScheduledStepAttributesSequence=[scheduled(study) for study in studies],
        PatientName="Mustermann^Max",
        PatientID="4711",
        ReferencedPatientSequence=[],
        PerformedProcedureStepID="PPS1",
        PerformedStationAETitle="US1",
        PerformedProcedureStepStartDate="20261130",
        PerformedProcedureStepStartTime="101500",
        PerformedProcedureStepStatus=IN_PROGRESS,
        Modality=modality,
        ProcedureCodeSequence=[],
        PerformedProtocolCodeSequence=[],
        PerformedSeriesSequence=[],
        **dict.fromkeys(empty, ""),
    )


def ended(objects: Iterable[Dataset] = (), status: str = COMPLETED) -> Dataset:
    """The Modification List of the last N-SET, which names these objects."""
    return data_set(
        PerformedProcedureStepStatus=status,
        PerformedProcedureStepEndDate="20261130",
        PerformedProcedureStepEndTime="103000",
        PerformedSeriesSequence=[series([(ds.SOPClassUID, ds.SOPInstanceUID) for ds in objects])],
    )


def series(objects: Sequence[tuple[str, str]]) -> Dataset:
    """An item of the Performed Series Sequence; ``objects``: SOP Class and Instance UIDs."""
    references = [data_set(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid) for kind, uid in objects]
    return data_set(
        SeriesInstanceUID="1.2.3.4",
        ProtocolName="Ovaries",
        ReferencedImageSequence=references,
        ReferencedNonImageCompositeSOPInstanceSequence=[],
        **dict.fromkeys(
            ("SeriesDescription", "PerformingPhysicianName", "OperatorsName", "RetrieveAETitle"), ""
        ),
    )


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
    request = assign(
        N_CREATE(), AffectedSOPClassUID=ModalityPerformedProcedureStep, AffectedSOPInstanceUID=uid
    )
    return status_of(associate(port, calling), request, "AttributeList", encoded)


def _ask(port: int, calling: str, send: Callable[[Association], tuple[Dataset, Any]]) -> Dataset | None:
    answer = answered(associate(port, calling), send)
    return None if isinstance(answer, str) else answer
