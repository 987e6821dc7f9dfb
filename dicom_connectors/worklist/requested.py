"""Work items (UPS) that the node requests of others: their data set, and what their performer made of them.

The values are those of IHE AIW-I for a task requester; the text of a work item names its patient, so no error
quotes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset

from dicom_connectors.worklist.workitem import (
    STATION_SCHEME,
    ProcedureStepState,
    code_item,
    dataset_of,
    dicom_time,
    state_of,
)
from dicom_node.base.dicom.header import quiet_pydicom

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

PATIENT: Final = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
"""Attributes that a work item takes from its images."""
_EMPTY: Final = (
    "TransactionUID", "ScheduledProcessingParametersSequence", "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence", "CommentsOnTheScheduledProcedureStep",
    "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence", "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)  # fmt: skip
"""Attributes of type 2 that the node creates without a value (PS3.4 Table CC.2.5-3, N-CREATE)."""
MOST_RESULTS: Final = 10_000
"""References to results that are read of one work item."""


@dataclass(frozen=True, slots=True)
class Input:
    """Images of one series: pairs of SOP Class UID and SOP Instance UID."""

    series_instance_uid: str
    objects: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class WorkOutcome:
    """How far the performer of a work item is.

    ``state``: "" if the manager no longer has the item. ``results``: SOP Instance UIDs of the results that a
    COMPLETED item names. ``names_all``: whether it names each object; if not, it names whole series.
    """

    state: ProcedureStepState | str
    results: frozenset[str] = frozenset()
    names_all: bool = True

    def failure(self) -> str:
        """Return why no answer is to be expected; "" if one is."""
        if not self.state:
            return "the worklist manager no longer has the work item"
        if self.state == ProcedureStepState.CANCELED:
            return "the work item was cancelled"
        is_empty = self.state == ProcedureStepState.COMPLETED and self.names_all and not self.results
        return "the work item is completed, and names no result" if is_empty else ""


def scheduled(
    study_instance_uid: str,
    inputs: Sequence[Input],
    patient: Dataset,
    work: "Code",
    station: str,
    now: datetime,
) -> Dataset:
    """Return a new work item (PS3.4 Table CC.2.5-3, N-CREATE) for images that its performer has.

    ``patient``: has the attributes ``PATIENT`` and their Specific Character Set. ``station``: AE title of the
    performer, "" if it has none. ``now``: with time zone.
    """
    item = Dataset()
    for keyword in _EMPTY:
        setattr(item, keyword, [] if keyword.endswith("Sequence") else "")
    if "SpecificCharacterSet" in patient:
        item.SpecificCharacterSet = patient.SpecificCharacterSet
    for keyword in PATIENT:
        setattr(item, keyword, patient.get(keyword, ""))
    item.ProcedureStepState = ProcedureStepState.SCHEDULED.value
    item.InputReadinessState = "READY"
    item.ScheduledProcedureStepPriority = "MEDIUM"
    item.ProcedureStepLabel = item.WorklistLabel = work.meaning
    item.ScheduledProcedureStepStartDateTime = dicom_time(now)
    item.ScheduledWorkitemCodeSequence = [code_item(work)]
    item.ScheduledStationNameCodeSequence = [_station(station)] if station else []
    item.StudyInstanceUID = study_instance_uid
    item.InputInformationSequence = [_input(study_instance_uid, one, station) for one in inputs]
    return item


def read_outcome(item: Dataset) -> WorkOutcome:
    """Return how far the performer of a work item is, by the manager's data set."""
    state = state_of(item)
    if state != ProcedureStepState.COMPLETED:
        return WorkOutcome(state or ProcedureStepState.IN_PROGRESS)
    with quiet_pydicom():
        outputs = [
            output
            for performed in item.get("UnifiedProcedureStepPerformedProcedureSequence") or ()
            for output in performed.get("OutputInformationSequence") or ()
        ]
        named = [output.get("ReferencedSOPSequence") or () for output in outputs]
        uids = [str(one.get("ReferencedSOPInstanceUID") or "") for output in named for one in output]
    names_all = all(named) and all(uids) and len(uids) <= MOST_RESULTS
    return WorkOutcome(state, frozenset(uids) if names_all else frozenset(), names_all)


def _station(title: str) -> Dataset:
    """Return an AE title as an item of a code sequence."""
    from pydicom.sr.coding import Code

    return code_item(Code(title, STATION_SCHEME, title))


def _input(study_instance_uid: str, given: Input, station: str) -> Dataset:
    """Return an item of Input Information Sequence (PS3.3 Table 10-3b): images that the performer has."""
    item = dataset_of(
        TypeOfInstances="DICOM",
        StudyInstanceUID=study_instance_uid,
        SeriesInstanceUID=given.series_instance_uid,
        ReferencedSOPSequence=[
            dataset_of(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)
            for sop_class, uid in given.objects
        ],
    )
    if station:
        item.DICOMRetrievalSequence = [dataset_of(RetrieveAETitle=station)]
    return item
