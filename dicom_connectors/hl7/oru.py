"""ORU^R01 of a report, or of the note that withdraws reports (HL7 2.5.1 chapters 3, 4 and 7).

The same file gives the same bytes at each try, MSH-7 and MSH-10 included: a receiver can recognise a repeat.
A receiver finds a row by OBX-3 and OBX-4. A withdrawal repeats the order and every OBX of the withdrawn
report, each with the status W. A report that replaces another repeats the rows that it no longer has, each
with the status D.

Of the two libraries that write HL7 v2, hl7apy knows the segments and groups of 2.5.1 and escapes text for
UTF-8; python-hl7 has no tables of them, and writes each letter beyond ASCII as bytes in hexadecimal. So
hl7apy builds the message, and the tests read it with python-hl7.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import PersonName

from ai_pipeline.contract import BURNED_IN
from dicom_connectors.hl7.settings import parsed_field
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.results import envelope, sr
from dicom_node.results.envelope import StatedCode, StatedFinding, StatedNumber

VERSION: Final = "2.5.1"
Component = str | tuple[str, ...]
"""A text, or its subcomponents."""

_NULL = '""'  # "delete what you have" (2.5.3): no value of ours means that
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


class SegmentFields:
    """One segment: its fields by number, each with repetitions of components."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[int, list[list[str]]] = {}

    def put(self, number: int, *components: Component) -> None:
        """Fill a field; its former content is replaced."""
        self.fields[number] = [[_joined(one) for one in components]]

    def repeat(self, number: int, *components: Component) -> None:
        """Add a repetition to a field."""
        self.fields.setdefault(number, []).append([_joined(one) for one in components])

    def put_component(self, number: int, component: int, text: str) -> None:
        """Fill one component of a field, in its first repetition."""
        [first, *_] = self.fields.setdefault(number, [[]])
        first.extend([""] * (component - len(first)))
        first[component - 1] = _joined(text)

    def has(self, number: int) -> bool:
        """Whether a field has any text."""
        return any(text for components in self.fields.get(number, ()) for text in components[:1])

    def copy(self, number: int, other: "SegmentFields", source: int) -> None:
        """Fill an empty field with field ``source`` of another segment."""
        if source in other.fields:
            self.fields.setdefault(number, other.fields[source])


def er7(
    header: SegmentFields, patient: Sequence[SegmentFields], orders: Sequence[Sequence[SegmentFields]]
) -> bytes:
    """The message ORU^R01 with these segments, as bytes; each order has ORC, OBR and its OBX segments."""
    from hl7apy.core import Message

    message = Message("ORU_R01", version=VERSION)
    del message.msh.msh_7  # the present time: it would differ at each try
    _fill(message.msh, header)
    result = message.add_group("ORU_R01_PATIENT_RESULT")
    person: Any = result.add_group("ORU_R01_PATIENT") if patient else None
    for segment in patient:
        visit = segment.name == "PV1"
        group = person.add_group("ORU_R01_VISIT") if visit else person
        _fill(group.add_segment(segment.name), segment)
    for order in orders:
        group = result.add_group("ORU_R01_ORDER_OBSERVATION")
        for segment in order:
            observed = segment.name == "OBX"  # NTE stands beside the OBR
            holder = group.add_group("ORU_R01_OBSERVATION") if observed else group
            _fill(holder.add_segment(segment.name), segment)
    return f"{message.to_er7()}\r".encode()


def escaped(text: str) -> str:
    """The text with delimiters escaped by the library, on one line.

    The library leaves text that looks like an escape sequence unchanged, so the escape character is escaped
    first (2.7.1).
    """
    plain = _CONTROLS.sub(" ", text).strip()
    return "" if plain == _NULL else str(_string()(plain.replace("\\", "\\E\\")).to_er7())


@cache
def _string() -> Any:
    from hl7apy.v2_5_1 import ST

    return ST


def _joined(component: Component) -> str:
    return escaped(component) if isinstance(component, str) else "&".join(map(escaped, component)).rstrip("&")


def _fill(target: Any, segment: SegmentFields) -> None:
    for number, repetitions in sorted(segment.fields.items()):
        for components in repetitions:
            if text := "^".join(components).rstrip("^"):
                target.add_field(f"{segment.name}_{number}".lower()).value = text


# Designators of PS3.16 chapter 8 that HL7 table 0396 names in another way; "99" begins a local one in both.
_SCHEMES: Final[Mapping[str, str]] = {"UMLS": "UML"}
_KNOWN_SCHEMES: Final = frozenset({"SCT", "SRT", "LN", "DCM", "RADLEX", "UCUM", "UML"})
_DICOM_STUDY: Final = Code("113014", "DCM", "DICOM Study")
_DESCRIPTION: Final = "113012"  # Key Object Description (DCM), PS3.16 TID 2010
_FINDING_SITE: Final = Code("363698007", "SCT", "Finding Site")  # PS3.16 TID 1410
_LATERALITY: Final = Code("272741003", "SCT", "Laterality")
_STUDY_INSTANCE_UID: Final = Code("110180", "DCM", "Study Instance UID")
_GROUPS: Final = ("A", "I", "P")  # HL7 table 4000: alphabetic, ideographic, phonetic
_DATE_TIME = re.compile(r"\d{8}(\d{2}(\d{2}(\d{2}(\.\d{1,4})?)?)?)?")
_OFFSET = re.compile(r"[+-]\d{4}")
_PRELIMINARY, _WITHDRAWN, _DELETED = "P", "W", "D"  # HL7 table 0085; nobody has verified what an AI reports
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


@dataclass(frozen=True, slots=True)
class SentReport:
    """The file of a report, and the rule that had it made ("": none, of a test study)."""

    path: Path
    rule: str = ""


def control_id(sop_instance_uid: str) -> str:
    """MSH-10 of the object's message: 20 characters, the most that 2.5.1 allows; the same at each try."""
    return _hashed(sop_instance_uid)


def oru_of(report: SentReport, context: MessageContext, replaced: Sequence[SentReport] = ()) -> bytes:
    """The message of a report to a receiver that got these reports of the rule before."""
    with quiet_pydicom():
        document = dcmread(report.path)
        order = _order(report, document, context, _PRELIMINARY, document)
        rows = {_place(row): row for row in _observations(document, context, _PRELIMINARY)}
        for former in replaced:
            for row in _observations(dcmread(former.path), context, _DELETED):
                row.put(1, str(len(rows) + 1))
                rows.setdefault(_place(row), row)
        return er7(_header(document, context), _patient(document, context), [[*order, *rows.values()]])


def withdrawal_of(note: Path, reports: Sequence[SentReport], context: MessageContext) -> bytes:
    """The message of a rejection note to a receiver that got these reports of those that it withdraws."""
    with quiet_pydicom():
        document = dcmread(note)
        orders = []
        for number, report in enumerate(reports, start=1):
            withdrawn = dcmread(report.path)
            order = _order(report, withdrawn, context, _NO_RESULT, document, number)
            rows = _observations(withdrawn, context, _WITHDRAWN)
            orders.append([*order, _reason(document), *rows])
        return er7(_header(document, context), _patient(document, context), orders)


def _observations(report: Dataset, context: MessageContext, status: str) -> Iterator[SegmentFields]:
    """The OBX of a report. Rows that belong together have one sub-ID (OBX-4): the code of the first row and
    its place among those with this code, so that a newer report answers the same rows.
    """
    said = sr.stated(report)
    stated = [[_row("TX", [codes.DCM.Conclusion], line)] for line in said.short_result]
    if said.statement:
        stated.append([_row("TX", [codes.DCM.Comment], said.statement)])
    burned_in = (BURNED_IN.value, BURNED_IN.scheme)
    stated += [_finding(one) for one in said.findings if one.code != burned_in]
    stated += [_number(one) for one in said.numbers]
    stated.append([_row("ST", [_STUDY_INSTANCE_UID], _value(report, "StudyInstanceUID"))])
    if context.link:
        stated.append([_row("RP", [_DICOM_STUDY], context.link, "", "TEXT", "HTML")])  # tables 0191 and 0291
    seen = Counter[str]()
    rows = []
    for together in stated:
        code = together[0].fields[3][0][0]
        seen[code] += 1
        rows += [(f"{code if len(code) < 17 else _hashed(code)}.{seen[code]}"[-20:], row) for row in together]
    for set_id, (sub_id, row) in enumerate(rows, start=1):
        row.put(1, str(set_id))
        row.put(4, sub_id)
        row.put(11, status)
        row.put(19, _time(report, "Content"))
        yield row


def _place(row: SegmentFields) -> tuple[str, str]:
    """What a receiver finds the row by: the code of OBX-3, and OBX-4."""
    return row.fields[3][0][0], row.fields[4][0][0]


def _reason(note: Dataset) -> SegmentFields:
    """NTE below the OBR: why the report was withdrawn."""
    because = " ".join(
        str(item.TextValue)
        for item in note.ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == _DESCRIPTION
    )
    row = SegmentFields("NTE")
    row.put(1, "1")
    row.put(2, "L")  # HL7 table 0105: the filler
    row.put(3, f"AI result withdrawn. {note.ConceptNameCodeSequence[0].CodeMeaning}: {because}")
    return row


def _header(document: Dataset, context: MessageContext) -> SegmentFields:
    header = SegmentFields("MSH")
    header.put(3, context.sender)
    header.put(5, context.receiver)
    header.put(7, _time(document, "InstanceCreation"))
    header.put(9, "ORU", "R01", "ORU_R01")
    header.put(10, control_id(str(document.SOPInstanceUID)))
    header.put(11, "P")
    header.put(18, "UNICODE UTF-8")
    return _with_site_fields(header, document, context)


def _patient(document: Dataset, context: MessageContext) -> list[SegmentFields]:
    """PID; PV1 only where the site fills a field of it.

    Nothing without an identifier, which PID-3 requires: by the name alone a receiver could file the result
    with a namesake. The order (OBR-18) still says whose it is.
    """
    patient = SegmentFields("PID")
    if identifier := _value(document, "PatientID"):
        # Assigning authority (HD): its name and, where the study has it, its universal ID.
        [qualifiers, *_] = document.get("IssuerOfPatientIDQualifiersSequence") or [Dataset()]
        universal = (_value(qualifiers, f"UniversalEntityID{what}") for what in ("", "Type"))
        issuer = (_value(document, "IssuerOfPatientID"), *universal)
        patient.put(3, identifier, "", "", issuer, "PI")  # HL7 table 0203: patient internal
    for letter, name in _names(document):
        patient.repeat(5, *name, "", "L", letter)
    if 5 not in patient.fields:
        patient.put(5, "", "", "", "", "", "", "U")  # PID-5 is required; HL7 table 0200: unspecified
    birth = _value(document, "PatientBirthDate")
    patient.put(7, birth if _DATE_TIME.fullmatch(birth) else "")
    patient.put(8, _value(document, "PatientSex"))
    visit = SegmentFields("PV1")
    visit.put(2, "U")  # HL7 table 0004: unknown
    _with_site_fields(patient, document, context)
    if not patient.has(3):
        return []
    if any(key.startswith("PV1-") for key in context.fields):
        return [patient, _with_site_fields(visit, document, context)]
    return [patient]


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
    report: SentReport,
    document: Dataset,
    context: MessageContext,
    status: str,
    changed_by: Dataset,
    number: int = 1,
) -> list[SegmentFields]:
    """ORC and OBR. Placer and filler order number stand in both (4.5.1.2).

    The filler order number is one for each study and rule: a newer report of the rule replaces the older one,
    and never that of another rule. ``changed_by``: the document whose time is that of the status (OBR-22).
    """
    request = SegmentFields("OBR")
    request.put(1, str(number))
    request.put(3, _hashed(f"{document.StudyInstanceUID}\n{report.rule}"))
    request.put(4, *_procedure(document))
    request.put(7, _time(document, "Study"))
    request.put(18, _value(document, "AccessionNumber"))
    request.put(22, _time(changed_by, "Content"))
    request.put(24, "RAD")  # HL7 table 0074
    request.put(25, status)
    request = _with_site_fields(request, document, context, report.rule)
    common = SegmentFields("ORC")
    common.put(1, "RE")  # HL7 table 0119: observations follow
    common = _with_site_fields(common, document, context, report.rule)
    common.copy(2, request, 2)
    common.copy(3, request, 3)
    return [common, request]


def _procedure(document: Dataset) -> tuple[str, str, str]:
    for item in document.get("ProcedureCodeSequence") or ():
        if value := _value(item, "CodeValue"):
            return value, _value(item, "CodeMeaning"), _scheme(_value(item, "CodingSchemeDesignator"))
    return "", _value(document, "StudyDescription") or "AI result", ""


def _finding(stated: StatedFinding) -> list[SegmentFields]:
    """The finding is asked for, and its decision answers: Suspected, Absent, Undetermined."""
    value, scheme = stated.code
    decision = _coded(envelope.DECISIONS[stated.decision])
    return [_row("CWE", [Code(value, scheme, stated.meaning)], *decision), *_side(stated.sites)]


def _number(stated: StatedNumber) -> list[SegmentFields]:
    row = _row("NM", _quantity(stated), format(Decimal(repr(stated.value)), "f"))
    unit, of_scheme = stated.unit
    row.put(6, unit, unit, _scheme(of_scheme))
    fetus = [_row("ST", [codes.DCM.SubjectID], f"fetus {stated.fetus}")] if stated.fetus else []
    return [row, *_side(stated.sites), *fetus]


def _quantity(stated: StatedNumber) -> list[Code]:
    """What was measured: a code of its own for the quantity at its site, then that of the quantity.

    A receiver tells numbers apart by OBX-3.1: "width" would be one row for heart and thorax. A code of LOINC,
    and one of ours, names its site already.
    """
    value, scheme = stated.code
    quantity = Code(value, scheme, stated.meaning)
    if not stated.sites or scheme in ("LN", envelope.SCHEME):
        return [quantity]
    words = ", ".join(meaning for _, _, meaning in stated.sites)
    named = "\n".join([value, scheme, *(part for site in stated.sites for part in site[:2])])
    return [Code(f"M-{_hashed(named)[:13]}", envelope.SCHEME, f"{stated.meaning} of {words}"), quantity]


def _side(sites: Sequence[StatedCode]) -> list[SegmentFields]:
    """Rows with the site and its side; none without a side."""
    if len(sites) < 2:
        return []
    [(site, of_site, site_meaning), (side, of_side, side_meaning), *_] = sites
    return [
        _row("CWE", [_FINDING_SITE], *_coded(Code(site, of_site, site_meaning))),
        _row("CWE", [_LATERALITY], *_coded(Code(side, of_side, side_meaning))),
    ]


def _row(kind: str, concepts_of: Sequence[Code], *value: str) -> SegmentFields:
    """An OBX of this value type; its concepts are its code and an alternate one."""
    row = SegmentFields("OBX")
    row.put(2, kind)
    row.put(3, *(part for code in concepts_of for part in _coded(code)))
    row.put(5, *value)
    return row


def _coded(concept: Code) -> tuple[str, str, str]:
    return str(concept.value), str(concept.meaning), _scheme(str(concept.scheme_designator))


def _scheme(designator: str) -> str:
    """The coding system by HL7 table 0396; "" without a designator."""
    name = _SCHEMES.get(designator, designator)
    return name if not name or name in _KNOWN_SCHEMES or name.startswith("99") else f"99{name}"


def _with_site_fields(
    segment: SegmentFields, document: Dataset, context: MessageContext, rule: str = ""
) -> SegmentFields:
    """The segment with ``peers.hl7_fields``, whole fields before their components."""
    chosen = [(parsed_field(key), value) for key, value in context.fields.items()]
    attributes = {
        "accession": "AccessionNumber",
        "study": "StudyInstanceUID",
        "study_id": "StudyID",
        "report": "SOPInstanceUID",
        "patient_id": "PatientID",
        "issuer": "IssuerOfPatientID",
        "description": "StudyDescription",
    }
    values = {"rule": rule} | {name: _value(document, keyword) for name, keyword in attributes.items()}
    for (name, number, component), value in sorted(chosen, key=lambda one: one[0][2] or 0):
        if name == segment.name:
            # In one pass, so that a value that holds braces is not read as a template.
            text = re.sub(r"{([^{}]*)}", lambda found: values[found[1]], value)
            if component is None:
                segment.put(number, text)
            else:
                segment.put_component(number, component, text)
    return segment


def _hashed(text: str) -> str:
    """20 characters that stand for ``text``, of 96 bits: two of a million share one with less than 1e-16."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:12]).decode().rstrip("=")


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
