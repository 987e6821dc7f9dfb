"""Unified Procedure Steps (PS3.3 C.30, PS3.4 CC): requested work, and the attributes its performer writes.

The text of a work item names its patient, so no error quotes it. The amount of data that is read is limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.identity import Patient, patient_id_of

if TYPE_CHECKING:
    from pydicom.sr.coding import Code  # loads all codes of PS3.16: only where work items are handled

PUSH: Final = UID("1.2.840.10008.5.1.4.34.6.1")
"""The SOP Class of every work item, whichever service it is reached by (PS3.4 CC.3.1)."""
PULL: Final = UID("1.2.840.10008.5.1.4.34.6.3")
CHANGE_STATE: Final = 1
"""Action Type ID (PS3.4 Table CC.2.1-1)."""
MOST_INPUTS: Final = 1000
"""Items of an Input Information Sequence that are read."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # some write components with leading zeros
_CODE = re.compile(r"[!-\]_-~]{1,16}")  # SH, without the ^ that separates
_MOST_CODES = 10
_LONGEST_ID = 64  # LO, PS3.5 6.2
STATION_SCHEME: Final = "L"
"""Coding Scheme Designator of AE titles as codes: local codes (PS3.16 8.2)."""
_FAULTY = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)


class ProcedureStepState(StrEnum):
    """Procedure Step State (0074,1000), PS3.4 CC.1.1."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class CancelReason(StrEnum):
    """Why the node cancels a work item."""

    NOT_AT_HAND = "input not at hand"
    NOT_APPLICABLE = "no analysis applies"
    FAILED = "analysis or delivery failed"
    STOPPED = "stopped by a person"
    ON_REQUEST = "cancelled on request"
    EXPIRED = "not done in time"

    @property
    def code(self) -> Code:
        """The code of PS3.16 CID 9300 for Procedure Step Discontinuation Reason Code Sequence (0074,100E)."""
        from pydicom.sr.codedict import codes

        reasons = codes.cid9300
        found: Code = {
            CancelReason.NOT_AT_HAND: reasons.ObjectSetIncomplete,
            CancelReason.NOT_APPLICABLE: reasons.ObjectTypesNotSupported,
            CancelReason.FAILED: reasons.EquipmentFailure,
            CancelReason.STOPPED: reasons.DiscontinuedForUnspecifiedReason,
            CancelReason.ON_REQUEST: reasons.DiscontinuedForUnspecifiedReason,
            CancelReason.EXPIRED: reasons.WorkitemExpired,
        }[self]
        return found


@dataclass(frozen=True, slots=True)
class Workitem:
    """One work item (UPS), with the attributes that a performer of analyses needs.

    ``study_instance_uid``: "" if the input has no study, or several. ``sources``: AE titles and URLs where
    the input can be retrieved. ``codes``: what work is requested. ``stations``: AE titles for which the item
    is scheduled; empty: any station.
    """

    uid: str
    state: str
    is_ready: bool
    is_urgent: bool
    codes: tuple[Code, ...]
    stations: frozenset[str]
    study_instance_uid: str
    sources: frozenset[str]
    patient_id: str
    issuer_of_patient_id: str
    patient: Patient

    def is_for(self, wanted: Iterable[str], station: str) -> bool:
        """Return whether the item is scheduled, ready, open to this station, and has one of the ``wanted``
        codes (VALUE^SCHEME, "*" for any).
        """
        if self.state != ProcedureStepState.SCHEDULED or not self.is_ready:
            return False
        if self.stations and station not in self.stations:
            return False
        mine = {f"{code.value}^{code.scheme_designator}" for code in self.codes}
        return any(code == "*" or code in mine for code in wanted)

    @property
    def work(self) -> list[str]:
        """The codes of the requested work as texts VALUE^SCHEME^MEANING, as the database stores them."""
        return [f"{code.value}^{code.scheme_designator}^{code.meaning}" for code in self.codes]


@dataclass(frozen=True, slots=True)
class Output:
    """The results of a work item in one series.

    ``ae_titles``, ``urls``: where they can be retrieved, at peers that confirmed them.
    """

    series_instance_uid: str
    objects: Sequence[tuple[str, str]]
    """SOP Class UID and SOP Instance UID."""
    ae_titles: Sequence[str] = ()
    urls: Sequence[str] = ()


def read_workitem(dataset: Dataset, uid: str = "") -> Workitem | None:
    """Return the work item in a manager's data set; None if it has no valid UID or cannot be read.

    ``uid``: the UID of the requested item, whatever UID the answer contains; "": take the answer's UID.
    """
    with quiet_pydicom():
        try:
            return _read(dataset, uid or _text(dataset.get("SOPInstanceUID")))
        except _FAULTY:
            return None


def uid_of(dataset: Dataset) -> str:
    """Return the UID of a work item's data set; "" if it has no valid one."""
    with quiet_pydicom():
        try:
            uid = _text(dataset.get("SOPInstanceUID"))
        except _FAULTY:
            return ""
    return uid if _is_uid(uid) else ""


def state_of(dataset: Dataset) -> str:
    """Return the Procedure Step State in a work item's data set; "" if it cannot be read."""
    with quiet_pydicom():
        try:
            return _text(dataset.get("ProcedureStepState")).upper()
        except _FAULTY:
            return ""


def change_of_state(transaction_uid: str, state: ProcedureStepState) -> Dataset:
    """Return the Action Information of Change UPS State (PS3.4 Table CC.2.1-1)."""
    changed = Dataset()
    changed.TransactionUID, changed.ProcedureStepState = transaction_uid, state.value
    return changed


def progress(percent: int, description: str) -> Dataset:
    """Return the attributes that report a work item's progress (PS3.3 C.30.1).

    ``description``: at most 1024 characters.
    """
    item = Dataset()
    item.ProcedureStepProgress, item.ProcedureStepProgressDescription = str(percent), description
    return dataset_of(ProcedureStepProgressInformationSequence=[item])


def completed(
    study_instance_uid: str,
    outputs: Sequence[Output],
    work: Sequence[Code],
    station: str,
    began: datetime,
    ended: datetime,
) -> Dataset:
    """Return the attributes that a work item needs for the state COMPLETED (PS3.4 Table CC.2.5-3).

    ``work``: codes of the work done; if empty, Image Processing (PS3.16 CID 9231). ``station``: AE title;
    ``began``, ``ended``: with time zone.
    """
    done = progress(100, "results delivered")
    performed = _performed_procedure(work, station, began, ended)
    performed.OutputInformationSequence = [_output(study_instance_uid, one) for one in outputs]
    done.UnifiedProcedureStepPerformedProcedureSequence = [performed]
    return done


def cancelled(
    reason: CancelReason, percent: int, work: Sequence[Code], station: str, began: datetime, ended: datetime
) -> Dataset:
    """Return the attributes that a work item needs for the state CANCELED (PS3.4 Table CC.2.5-3).

    ``work``: codes of the work done; ``station``: AE title; ``began``, ``ended``: with time zone.
    """
    done = progress(percent, reason.value)
    item = done.ProcedureStepProgressInformationSequence[0]
    item.ProcedureStepCancellationDateTime = dicom_time(ended)
    item.ReasonForCancellation = reason.value
    item.ProcedureStepDiscontinuationReasonCodeSequence = [code_item(reason.code)]
    performed = _performed_procedure(work, station, began, ended)
    performed.OutputInformationSequence = []
    done.UnifiedProcedureStepPerformedProcedureSequence = [performed]
    return done


def parse_work(texts: Iterable[str]) -> list[Code]:
    """Return the codes in texts VALUE^SCHEME^MEANING, as ``Workitem.work`` has them."""
    from pydicom.sr.coding import Code

    return [Code(*text.split("^", 2)) for text in texts]


def _read(dataset: Dataset, uid: str) -> Workitem | None:
    """Return the work item in a data set, under this UID; None if the UID is not valid.

    Raises ValueError if it has too many inputs.
    """
    if not _is_uid(uid):
        return None
    inputs = _items(dataset, "InputInformationSequence")
    studies = {_text(item.get("StudyInstanceUID")) for item in inputs}
    study = studies.pop() if len(studies) == 1 else ""
    name, birth, sex = (_text(dataset.get(f"Patient{key}")) for key in ("Name", "BirthDate", "Sex"))
    return Workitem(
        uid=uid,
        state=state_of(dataset),
        is_ready=_text(dataset.get("InputReadinessState")) in ("READY", ""),  # "" where a manager keeps none
        is_urgent=_text(dataset.get("ScheduledProcedureStepPriority")) == "HIGH",
        codes=tuple(_coded(dataset, "ScheduledWorkitemCodeSequence")),
        stations=frozenset(
            _text(item.get("CodeValue")) for item in _items(dataset, "ScheduledStationNameCodeSequence")
        ),
        study_instance_uid=study if _is_uid(study) else "",
        sources=frozenset(source for item in inputs for source in _sources(item)),
        patient_id=patient_id_of(dataset.get("PatientID"))[:_LONGEST_ID],
        issuer_of_patient_id=_text(dataset.get("IssuerOfPatientID"))[:_LONGEST_ID],
        patient=Patient.from_values("", "", name, birth, sex),
    )


def _sources(item: Dataset) -> Iterator[str]:
    """Yield AE titles and URLs where one input of a work item can be retrieved (PS3.3 Table 10-3b)."""
    for sequence, keyword in (
        ("DICOMRetrievalSequence", "RetrieveAETitle"),
        ("WADORSRetrievalSequence", "RetrieveURL"),
    ):
        for way in _items(item, sequence)[:MOST_INPUTS]:
            values = way.get(keyword) or ()
            yield from ([_text(values)] if isinstance(values, str) else map(_text, values))


def _coded(dataset: Dataset, keyword: str) -> Iterator[Code]:
    """Yield the valid codes in a code sequence."""
    from pydicom.sr.coding import Code

    for item in _items(dataset, keyword)[:_MOST_CODES]:
        value, scheme = _text(item.get("CodeValue")), _text(item.get("CodingSchemeDesignator"))
        if _CODE.fullmatch(value) and _CODE.fullmatch(scheme):
            yield Code(value, scheme, _text(item.get("CodeMeaning"))[:_LONGEST_ID] or value)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence. Raises ValueError if they are more than ``MOST_INPUTS``."""
    found = list(dataset.get(keyword) or ())
    if len(found) > MOST_INPUTS:
        raise ValueError("more items than are read")
    return found


def _text(value: Any) -> str:
    """Return a value as text without padding; "" for None."""
    return "" if value is None else str(value).replace("\0", "").strip()


def _is_uid(text: str) -> bool:
    """Return whether the text is a valid UID; leading zeros in its components are allowed."""
    return len(text) <= 64 and bool(_UID.fullmatch(text))


def _performed_procedure(work: Sequence[Code], station: str, began: datetime, ended: datetime) -> Dataset:
    """Return the item of UPS Performed Procedure Sequence (PS3.3 C.30.3), without its outputs.

    ``work``: codes of the work done; ``station``: AE title.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    item = Dataset()
    item.PerformedStationNameCodeSequence = [code_item(Code(station, STATION_SCHEME, station))]
    item.PerformedProcedureStepStartDateTime = dicom_time(began)
    item.PerformedProcedureStepEndDateTime = dicom_time(ended)
    item.PerformedWorkitemCodeSequence = [code_item(one) for one in work or (codes.DCM.ImageProcessing,)]
    return item


def _output(study_instance_uid: str, output: Output) -> Dataset:
    """Return an item of Output Information Sequence: the results of one series, and where to retrieve them
    (PS3.3 Table 10-3b).
    """
    item = Dataset()
    item.TypeOfInstances = "DICOM"
    item.StudyInstanceUID, item.SeriesInstanceUID = study_instance_uid, output.series_instance_uid
    item.ReferencedSOPSequence = [
        dataset_of(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid)
        for sop_class, uid in output.objects
    ]
    if output.ae_titles:
        item.DICOMRetrievalSequence = [dataset_of(RetrieveAETitle=list(output.ae_titles))]
    if output.urls:
        item.WADORSRetrievalSequence = [dataset_of(RetrieveURL=url) for url in output.urls]
    return item


def dataset_of(**values: Any) -> Dataset:
    """Return a data set with these attributes."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def code_item(code: Code) -> Dataset:
    """Return a code as an item of a code sequence."""
    return dataset_of(
        CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning
    )


def dicom_time(at: datetime) -> str:
    """Return a time as DICOM DT with its offset from UTC (PS3.5 6.2)."""
    return f"{at:%Y%m%d%H%M%S%z}"
