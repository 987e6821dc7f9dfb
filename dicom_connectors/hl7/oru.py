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
from dicom_node.base.dicom.identity import patient_id_of
from dicom_node.results import concepts, stated_report
from dicom_node.results.stated_report import StatedCode, StatedFinding, StatedNumber

VERSION: Final = "2.5.1"
Component = str | tuple[str, ...]
"""A text, or its subcomponents."""

_NULL = '""'  # "delete what you have" (2.5.3): no value of ours means that
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


class SegmentFields:
    """One HL7 segment: its name, and its fields by number, each a list of repetitions, which are lists of
    components.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[int, list[list[str]]] = {}

    def put(self, number: int, *components: Component) -> None:
        """Set the field ``number`` to one repetition with these components."""
        self.fields[number] = [[_joined(one) for one in components]]

    def repeat(self, number: int, *components: Component) -> None:
        """Add to the field ``number`` a further repetition with these components."""
        self.fields.setdefault(number, []).append([_joined(one) for one in components])

    def put_component(self, number: int, component: int, text: str) -> None:
        """Set one component of the field ``number``, in its first repetition; components count from 1."""
        [first, *_] = self.fields.setdefault(number, [[]])
        first.extend([""] * (component - len(first)))
        first[component - 1] = _joined(text)

    def has(self, number: int) -> bool:
        """Return whether the first component of the field ``number`` has any text."""
        return any(text for components in self.fields.get(number, ()) for text in components[:1])

    def copy(self, number: int, other: "SegmentFields", source: int) -> None:
        """Set the field ``number`` to the field ``source`` of another segment, unless it is set already."""
        if source in other.fields:
            self.fields.setdefault(number, other.fields[source])


def er7(
    header: SegmentFields, patient: Sequence[SegmentFields], orders: Sequence[Sequence[SegmentFields]]
) -> bytes:
    """Return an ORU^R01 message in HL7's text encoding (ER7), as UTF-8.

    ``header``: MSH; ``patient``: PID and PV1, or nothing; ``orders``: for each order ORC and OBR, then its
    NTE and OBX.
    """
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
    """Return ``text`` on one line with HL7's delimiters escaped.

    The library does not escape what looks like an escape sequence, so the escape character is escaped first
    (2.7.1).
    """
    plain = _CONTROLS.sub(" ", text).rstrip()  # a space before an ID is a part of it
    return "" if plain.strip() in ("", _NULL) else str(_string()(plain.replace("\\", "\\E\\")).to_er7())


@cache
def _string() -> Any:
    """Return the string type (ST) of hl7apy, which is imported at the first call."""
    from hl7apy.v2_5_1 import ST

    return ST


def _joined(component: Component) -> str:
    """Return a component as escaped text, its subcomponents joined by "&"."""
    return escaped(component) if isinstance(component, str) else "&".join(map(escaped, component)).rstrip("&")


def _fill(target: Any, segment: SegmentFields) -> None:
    """Copy the fields of ``segment`` to ``target``, hl7apy's segment."""
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
    """What a message says besides its report: sending and receiving application, ``peers.hl7_fields`` (value
    templates by field), and the study's address in the console ("" for none).
    """

    sender: str
    receiver: str
    fields: Mapping[str, str] = field(default_factory=dict)
    link: str = ""


@dataclass(frozen=True, slots=True)
class SentReport:
    """The SR file of a report, and the name of the rule that ordered it ("": no rule, a test study)."""

    path: Path
    rule: str = ""


def control_id(sop_instance_uid: str) -> str:
    """Return the Message Control ID (MSH-10) of an object's message: 20 characters, the most that HL7 2.5.1
    allows, and the same at each try.
    """
    return _short_hash(sop_instance_uid)


def oru_of(report: SentReport, context: MessageContext, replaced: Sequence[SentReport] = ()) -> bytes:
    """Return the ORU^R01 message of a report.

    ``replaced``: earlier reports of the same rule that the receiver got; rows that only they have are marked
    as deleted.
    """
    with quiet_pydicom():
        document = dcmread(report.path)
        order = _order(report, document, context, _PRELIMINARY, document)
        rows = {_row_key(row): row for row in _observations(document, context, _PRELIMINARY)}
        for former in replaced:
            for row in _observations(dcmread(former.path), context, _DELETED):
                row.put(1, str(len(rows) + 1))
                rows.setdefault(_row_key(row), row)
        return er7(_header(document, context), _patient(document, context), [[*order, *rows.values()]])


def withdrawal_of(note: Path, reports: Sequence[SentReport], context: MessageContext) -> bytes:
    """Return the ORU^R01 message that withdraws reports.

    ``note``: file of the rejection note (Key Object Selection); ``reports``: the reports that it withdraws,
    as far as this receiver got them.
    """
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
    """Yield the OBX segments of a report, with the result status ``status``.

    Rows that belong together have one sub-ID (OBX-4), made of the first row's code and its place among rows
    with this code; so a newer report has the same sub-IDs.
    """
    said = stated_report.read_report(report)
    stated = [[_obx("TX", [codes.DCM.Conclusion], line)] for line in said.short_result]
    if said.statement:
        stated.append([_obx("TX", [codes.DCM.Comment], said.statement)])
    burned_in = (BURNED_IN.value, BURNED_IN.scheme)
    stated += [_finding(one) for one in said.findings if one.code != burned_in]
    stated += [_number(one) for one in said.numbers]
    stated.append([_obx("ST", [_STUDY_INSTANCE_UID], _value(report, "StudyInstanceUID"))])
    if context.link:
        stated.append([_obx("RP", [_DICOM_STUDY], context.link, "", "TEXT", "HTML")])  # tables 0191 and 0291
    seen = Counter[str]()
    rows = []
    for together in stated:
        code = together[0].fields[3][0][0]
        seen[code] += 1
        rows += [
            (f"{code if len(code) < 17 else _short_hash(code)}.{seen[code]}"[-20:], row) for row in together
        ]
    for set_id, (sub_id, row) in enumerate(rows, start=1):
        row.put(1, str(set_id))
        row.put(4, sub_id)
        row.put(11, status)
        row.put(19, _time(report, "Content"))
        yield row


def _row_key(row: SegmentFields) -> tuple[str, str]:
    """Return what identifies a row for a receiver: (code in OBX-3, sub-ID in OBX-4)."""
    return row.fields[3][0][0], row.fields[4][0][0]


def _reason(note: Dataset) -> SegmentFields:
    """Return an NTE segment that says why the report was withdrawn. ``note``: the rejection note."""
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
    """Return the message header (MSH) of a message about ``document``."""
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
    """Return the segments PID and, if the site fills fields of it, PV1.

    They are [] without a Patient ID, which PID-3 requires: by the name alone a receiver could file the result
    with a namesake. OBR-18 still has the accession number.
    """
    patient = SegmentFields("PID")
    if identifier := patient_id_of(document.get("PatientID")):
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
    """Yield (group's letter in HL7 table 4000, name parts in the order of XPN) for each group of Patient's
    Name (PS3.5 6.2.1.1) that is not empty.
    """
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
    """Return the segments ORC and OBR of a report.

    The filler order number (OBR-3) is derived from study and rule, so a newer report of a rule replaces its
    older one only. ``status``: result status (OBR-25); ``changed_by``: the document whose time is that of the
    status (OBR-22); ``number``: set ID (OBR-1).
    """
    request = SegmentFields("OBR")
    request.put(1, str(number))
    request.put(3, _short_hash(f"{document.StudyInstanceUID}\n{report.rule}"))
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
    """Return (code, words, coding system) of the study's procedure: its own code, else the code of the
    examination in the report, in the words of the study.

    Without a coded procedure, code and system are "".
    """
    words = _value(document, "StudyDescription")
    of_study = [(item, "") for item in document.get("ProcedureCodeSequence") or ()]
    of_report = [(item, words) for item in document.get("PerformedProcedureCodeSequence") or ()]
    for item, text in (*of_study, *of_report):
        if value := _value(item, "CodeValue"):
            meaning = text or _value(item, "CodeMeaning")
            return value, meaning, _scheme(_value(item, "CodingSchemeDesignator"))
    return "", words or "AI result", ""


def _finding(stated: StatedFinding) -> list[SegmentFields]:
    """Return the OBX segments of a finding: its name is in OBX-3, its decision (Suspected, Absent,
    Undetermined) in OBX-5; then its site and side.
    """
    value, scheme = stated.code
    decision = _code_components(concepts.DECISIONS[stated.decision])
    return [_obx("CWE", [Code(value, scheme, stated.meaning)], *decision), *_side(stated.sites)]


def _number(stated: StatedNumber) -> list[SegmentFields]:
    """Return the OBX segments of a measurement: its value, then site and side, then the fetus."""
    row = _obx("NM", _quantity(stated), format(Decimal(repr(stated.value)), "f"))
    unit, of_scheme = stated.unit
    row.put(6, unit, unit, _scheme(of_scheme))
    fetus = [_obx("ST", [codes.DCM.SubjectID], f"fetus {stated.fetus}")] if stated.fetus else []
    return [row, *_side(stated.sites), *fetus]


def _quantity(stated: StatedNumber) -> list[Code]:
    """Return the codes of what was measured: one for the quantity at its site, then the quantity's own.

    The first tells apart, for instance, the width of the heart and that of the thorax. If the quantity's code
    is of LOINC or this node's scheme, it names the site already and is the only one.
    """
    value, scheme = stated.code
    quantity = Code(value, scheme, stated.meaning)
    if not stated.sites or scheme in ("LN", concepts.SCHEME):
        return [quantity]
    words = ", ".join(meaning for _, _, meaning in stated.sites)
    named = "\n".join([value, scheme, *(part for site in stated.sites for part in site[:2])])
    return [Code(f"M-{_short_hash(named)[:13]}", concepts.SCHEME, f"{stated.meaning} of {words}"), quantity]


def _side(sites: Sequence[StatedCode]) -> list[SegmentFields]:
    """Return OBX segments for the anatomical site and its side; [] without a side.

    ``sites``: the site, then its side if it has one.
    """
    if len(sites) < 2:
        return []
    [(site, of_site, site_meaning), (side, of_side, side_meaning), *_] = sites
    return [
        _obx("CWE", [_FINDING_SITE], *_code_components(Code(site, of_site, site_meaning))),
        _obx("CWE", [_LATERALITY], *_code_components(Code(side, of_side, side_meaning))),
    ]


def _obx(kind: str, concepts_of: Sequence[Code], *value: str) -> SegmentFields:
    """Return an OBX segment.

    ``kind``: value type (OBX-2), such as "NM"; ``concepts_of``: its code and, optionally, an alternate code
    (OBX-3); ``value``: the components of OBX-5.
    """
    row = SegmentFields("OBX")
    row.put(2, kind)
    row.put(3, *(part for code in concepts_of for part in _code_components(code)))
    row.put(5, *value)
    return row


def _code_components(concept: Code) -> tuple[str, str, str]:
    """Return (code, meaning, coding system of HL7 table 0396) of a concept."""
    return str(concept.value), str(concept.meaning), _scheme(str(concept.scheme_designator))


def _scheme(designator: str) -> str:
    """Return the name in HL7 table 0396 of a DICOM coding scheme designator; "" for ""."""
    name = _SCHEMES.get(designator, designator)
    return name if not name or name in _KNOWN_SCHEMES or name.startswith("99") else f"99{name}"


def _with_site_fields(
    segment: SegmentFields, document: Dataset, context: MessageContext, rule: str = ""
) -> SegmentFields:
    """Set those fields of ``segment`` that ``peers.hl7_fields`` name, and return it.

    ``document``: the report whose attributes replace placeholders in braces; ``rule``: the value of {rule}.
    """
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


def _short_hash(text: str) -> str:
    """Return 20 characters derived from ``text`` (96 bits of its SHA-256); equal texts give equal
    characters.
    """
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:12]).decode().rstrip("=")


def _time(document: Dataset, what: str) -> str:
    """Return the document's ``what``Date and ``what``Time (``what``: such as "Study") as an HL7 time stamp
    (TS, 2.A.77), with the offset from UTC if known.

    It is only the date if the time is not valid, "" if neither is.
    """
    day, time = _value(document, f"{what}Date"), _value(document, f"{what}Time")
    offset = _value(document, "TimezoneOffsetFromUTC")
    whole = f"{day}{time.partition('.')[0]}"
    if not _DATE_TIME.fullmatch(whole):
        return day if _DATE_TIME.fullmatch(day) else ""
    return whole + (offset if _OFFSET.fullmatch(offset) and len(whole) > 8 else "")


def _value(dataset: Dataset, keyword: str) -> str:
    """Return an attribute's value as text, "" without one; several values are joined by backslashes."""
    value = dataset.get(keyword)
    values = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if one is None else str(one) for one in values)
