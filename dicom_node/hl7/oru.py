"""ORU^R01 of a report, or of the note that withdraws reports (HL7 2.5.1 chapters 3, 4 and 7).

The same file gives the same bytes at each try, MSH-7 and MSH-10 included: a receiver can recognise a repeat.
The message uses only attributes that every result copies from its study, so that the message of a withdrawal
names the same order and patient as the message of the result.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage
from pydicom.valuerep import PersonName

from ai_pipeline.contract import BURNED_IN
from dicom_node.config.hl7_fields import parsed_field
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.hl7.segments import SegmentFields, er7
from dicom_node.results.common import concepts
from dicom_node.results.common.previous import StatedFinding, StatedNumber
from dicom_node.results.sr import reading

# Designators of PS3.16 chapter 8 that HL7 table 0396 names in another way; "99" begins a local one in both.
_SCHEMES: Final[Mapping[str, str]] = {"UMLS": "UML"}
_KNOWN_SCHEMES: Final = frozenset({"SCT", "SRT", "LN", "DCM", "RADLEX", "UCUM", "UML"})
_DICOM_STUDY: Final = Code("113014", "DCM", "DICOM Study")
_DESCRIPTION: Final = "113012"  # Key Object Description (DCM), PS3.16 TID 2010
_GROUPS: Final = ("A", "I", "P")  # HL7 table 4000: alphabetic, ideographic, phonetic
_DATE_TIME = re.compile(r"\d{8}(\d{2}(\d{2}(\d{2}(\.\d{1,4})?)?)?)?")
_OFFSET = re.compile(r"[+-]\d{4}")
_PRELIMINARY, _WITHDRAWN = "P", "W"  # HL7 table 0085; nobody has verified what an AI reports
_NO_RESULT = "X"  # HL7 table 0123: no results available


@dataclass(frozen=True, slots=True)
class MessageContext:
    """Sender and receiver of a message.

    ``fields``: ``peers.hl7_fields``. ``link``: address of the study in the console, "" for none.
    """

    sender: str
    receiver: str
    fields: Mapping[str, str] = field(default_factory=dict)
    link: str = ""


def control_id(sop_instance_uid: str) -> str:
    """MSH-10 of the object's message: 20 characters, the most that 2.5.1 allows; the same at each try.

    It is 96 bits of a hash: the probability that two of a million objects share one is below 1e-16.
    """
    return base64.b32encode(hashlib.sha256(sop_instance_uid.encode()).digest()[:12]).decode().rstrip("=")


def oru_of(path: Path, context: MessageContext) -> bytes | None:
    """The message of a result file; None for an object that is neither a report nor a rejection note."""
    with quiet_pydicom():
        document = dcmread(path)
        if document.SOPClassUID == Comprehensive3DSRStorage:
            return _message(document, context, [_reported(path, document, context)])
        if document.SOPClassUID == KeyObjectSelectionDocumentStorage:
            return _message(document, context, _withdrawn(document, context))
    return None


def _message(document: Dataset, context: MessageContext, orders: Sequence[Sequence[SegmentFields]]) -> bytes:
    return er7(_header(document, context), _patient(document, context), orders)


def _reported(path: Path, report: Dataset, context: MessageContext) -> list[SegmentFields]:
    """ORC, OBR and the OBX of a report."""
    status = _PRELIMINARY
    rows = [_text(concepts.CONCLUSION, line) for line in reading.short_result(path)]
    if statement := reading.statement(path):
        rows.append(_text(concepts.COMMENT, statement))
    findings, numbers = reading.stated(path)
    burned_in = (BURNED_IN.value, BURNED_IN.scheme)
    rows += [_finding(one) for one in findings if one.code != burned_in]
    rows += [_number(one) for one in numbers]
    if context.link:
        rows.append(_link(context.link))
    order = _order(report, context, str(report.SOPInstanceUID), status, 1)
    return [*order, *_numbered(rows, report, status)]


def _withdrawn(note: Dataset, context: MessageContext) -> list[list[SegmentFields]]:
    """For each report that the note withdraws ORC, OBR and an OBX that takes its conclusion back."""
    because = " ".join(
        str(item.TextValue)
        for item in note.ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == _DESCRIPTION
    )
    title = str(note.ConceptNameCodeSequence[0].CodeMeaning)
    orders = []
    for number, uid in enumerate(_reports_in(note), start=1):
        row = _text(concepts.CONCLUSION, f"AI result withdrawn. {title}: {because}")
        order = _order(note, context, uid, _NO_RESULT, number)
        orders.append([*order, *_numbered([row], note, _WITHDRAWN)])
    return orders


def _reports_in(note: Dataset) -> Iterator[str]:
    for study in note.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            for item in series.ReferencedSOPSequence:
                if item.ReferencedSOPClassUID == Comprehensive3DSRStorage:
                    yield str(item.ReferencedSOPInstanceUID)


def _header(document: Dataset, context: MessageContext) -> SegmentFields:
    header = SegmentFields("MSH")
    header.put(3, context.sender)
    header.put(5, context.receiver)
    header.put(7, _time(document, "InstanceCreation"))
    header.put(9, "ORU", "R01", "ORU_R01")
    header.put(10, control_id(str(document.SOPInstanceUID)))
    header.put(11, "P")
    header.put(18, "UNICODE UTF-8")
    return _with_site_fields(header, document, context, str(document.SOPInstanceUID))


def _patient(document: Dataset, context: MessageContext) -> list[SegmentFields]:
    """PID; PV1 only where the site fills a field of it."""
    patient = SegmentFields("PID")
    if identifier := _value(document, "PatientID"):
        patient.put(3, identifier, "", "", _issuer(document), "PI")  # HL7 table 0203: patient internal
    for letter, name in _names(document):
        patient.repeat(5, *name, "", "L", letter)
    birth = _value(document, "PatientBirthDate")
    patient.put(7, birth if _DATE_TIME.fullmatch(birth) else "")
    patient.put(8, _value(document, "PatientSex"))
    visit = SegmentFields("PV1")
    visit.put(2, "U")  # HL7 table 0004: unknown
    report = str(document.SOPInstanceUID)
    segments = [_with_site_fields(patient, document, context, report)]
    if any(key.startswith("PV1-") for key in context.fields):
        segments.append(_with_site_fields(visit, document, context, report))
    return segments


def _issuer(document: Dataset) -> tuple[str, ...]:
    """Assigning authority (HD): its name and, where the study has it, its universal ID."""
    qualifiers = document.get("IssuerOfPatientIDQualifiersSequence") or [Dataset()]
    universal = (_value(qualifiers[0], "UniversalEntityID"), _value(qualifiers[0], "UniversalEntityIDType"))
    return (_value(document, "IssuerOfPatientID"), *universal)


def _names(document: Dataset) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The groups of Patient's Name (PS3.5 6.2.1.1), each with its letter and in the order of XPN."""
    for letter, group in zip(_GROUPS, _value(document, "PatientName").split("=")[:3], strict=False):
        if group.strip("^ "):
            name = PersonName(group)
            yield (
                letter,
                (name.family_name, name.given_name, name.middle_name, name.name_suffix, name.name_prefix),
            )


def _order(
    document: Dataset, context: MessageContext, report: str, status: str, number: int
) -> list[SegmentFields]:
    """ORC and OBR. Placer and filler order number stand in both (4.5.1.2)."""
    request = SegmentFields("OBR")
    request.put(1, str(number))
    request.put(3, _value(document, "StudyInstanceUID"))
    request.put(4, *_procedure(document))
    request.put(7, _time(document, "Study"))
    request.put(18, _value(document, "AccessionNumber"))
    request.put(22, _time(document, "Content"))
    request.put(24, "RAD")  # HL7 table 0074
    request.put(25, status)
    request = _with_site_fields(request, document, context, report)
    common = SegmentFields("ORC")
    common.put(1, "RE")  # HL7 table 0119: observations follow
    common = _with_site_fields(common, document, context, report)
    common.copy(2, request, 2)
    common.copy(3, request, 3)
    return [common, request]


def _procedure(document: Dataset) -> tuple[str, str, str]:
    for item in document.get("ProcedureCodeSequence") or ():
        if value := _value(item, "CodeValue"):
            return value, _value(item, "CodeMeaning"), _scheme(_value(item, "CodingSchemeDesignator"))
    return "", _value(document, "StudyDescription") or "AI result", ""


def _text(concept: Code, text: str) -> SegmentFields:
    row = _row("TX", concept)
    row.put(5, text)
    return row


def _finding(stated: StatedFinding) -> SegmentFields:
    """The finding is asked for, and its decision answers: Suspected, Absent, Undetermined."""
    value, scheme = stated.code
    row = _row("CWE", Code(value, scheme, stated.meaning))
    row.put(5, *_coded(concepts.DECISIONS[stated.decision]))
    return row


def _number(stated: StatedNumber) -> SegmentFields:
    value, scheme = stated.code
    row = _row("NM", Code(value, scheme, stated.meaning))
    row.put(5, format(Decimal(repr(stated.value)), "f"))
    unit, of_scheme = stated.unit
    row.put(6, unit, unit, _scheme(of_scheme))
    return row


def _link(url: str) -> SegmentFields:
    row = _row("RP", _DICOM_STUDY)
    row.put(5, url, "", "TEXT", "HTML")  # HL7 tables 0191 and 0291
    return row


def _row(kind: str, concept: Code) -> SegmentFields:
    row = SegmentFields("OBX")
    row.put(2, kind)
    row.put(3, *_coded(concept))
    return row


def _numbered(rows: Sequence[SegmentFields], document: Dataset, status: str) -> Sequence[SegmentFields]:
    """Set ID, and a sub-ID that tells rows of one code apart; status and time of the analysis."""
    for number, row in enumerate(rows, start=1):
        row.put(1, str(number))
        row.put(4, str(number))
        row.put(11, status)
        row.put(19, _time(document, "Content"))
    return rows


def _coded(concept: Code) -> tuple[str, str, str]:
    return str(concept.value), str(concept.meaning), _scheme(str(concept.scheme_designator))


def _scheme(designator: str) -> str:
    """The coding system by HL7 table 0396; "" without a designator."""
    name = _SCHEMES.get(designator, designator)
    return name if not name or name in _KNOWN_SCHEMES or name.startswith("99") else f"99{name}"


def _with_site_fields(
    segment: SegmentFields, document: Dataset, context: MessageContext, report: str
) -> SegmentFields:
    """The segment with ``peers.hl7_fields``, whole fields before their components."""
    chosen = [(parsed_field(key), value) for key, value in context.fields.items()]
    values = _placeholders(document, report)
    for (name, number, component), value in sorted(chosen, key=lambda one: one[0][2] or 0):
        if name == segment.name:
            # In one pass, so that a value that holds braces is not read as a template.
            text = re.sub(r"{([^{}]*)}", lambda found: values[found[1]], value)
            if component is None:
                segment.put(number, text)
            else:
                segment.put_component(number, component, text)
    return segment


def _placeholders(document: Dataset, report: str) -> dict[str, str]:
    return {
        "accession": _value(document, "AccessionNumber"),
        "study": _value(document, "StudyInstanceUID"),
        "study_id": _value(document, "StudyID"),
        "report": report,
        "patient_id": _value(document, "PatientID"),
        "issuer": _value(document, "IssuerOfPatientID"),
        "description": _value(document, "StudyDescription"),
    }


def _time(document: Dataset, what: str) -> str:
    """Date, time and offset of ``StudyDate`` and ``StudyTime`` as TS (2.A.77), as far as they are valid."""
    day, time = _value(document, f"{what}Date"), _value(document, f"{what}Time")
    offset = _value(document, "TimezoneOffsetFromUTC")
    whole = f"{day}{time.partition('.')[0]}"
    if not _DATE_TIME.fullmatch(whole):
        return day if _DATE_TIME.fullmatch(day) else ""
    return whole + (offset if _OFFSET.fullmatch(offset) and len(whole) > 8 else "")


def _value(dataset: Dataset, keyword: str) -> str:
    """The value as text; of several what stood in the file, with the backslashes between them."""
    value = dataset.get(keyword)
    values = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if one is None else str(one) for one in values)
