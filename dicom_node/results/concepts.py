"""The codes in results: from DICOM and SNOMED CT if they have one, else from our private coding scheme."""

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    CodedConcept,
    SubjectContext,
    SubjectContextFetus,
)
from pydicom.dataset import Dataset
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import Tag

from ai_pipeline import contract
from ai_pipeline.summary import HIGH
from dicom_node.base.dicom.header import (
    items,
)
from dicom_node.base.dicom.uids import (
    MANUFACTURER,
    derived_uid,
)
from dicom_node.results.dataset import text_of


class Cause(StrEnum):
    """The coded cause why the AI did not run, one for each code of PS3.16 CID 9300 and 9303 that applies."""

    FORMAT = "format"  # the objects are damaged
    OBJECT_TYPE = "object_type"  # not what the pipeline is for
    INCOMPLETE = "incomplete"  # objects are gone
    RESOURCES = "resources"  # time or memory ran out
    QUALITY = "quality"  # the pixels do not allow it
    EQUIPMENT = "equipment"  # the node itself: a model, a setting
    UNKNOWN = "unknown"


# Private scheme: designators that begin with 99 are for local use (PS3.3 8.2).
SCHEME: Final = contract.BURNED_IN.scheme
SCHEME_UID: Final = derived_uid("dicom-ai-node", "coding scheme", SCHEME)


# SNOMED CT 705057003 |Presence (property) (qualifier value)|; as in the finding models of Open Imaging
# Data and in SNOMED's expressions for LOINC.
PRESENCE: Final = DicomCode("705057003", "SCT", "Presence")
# PS3.16 CID 240 Present-Absent has all but "Suspected". SNOMED CT's own words for the last two are |Absence
# findings| and |Undetermined|; a program that knows DICOM looks for these and not for 2667000 and 82334004.
DECISIONS: Final[Mapping[contract.Decision, DicomCode]] = {
    contract.Decision.PRESENT: codes.SCT.Suspected,
    contract.Decision.ABSENT: codes.SCT.Absent,
    contract.Decision.INDETERMINATE: codes.SCT.Undetermined,
}

# PS3.16 CID 244 Laterality: no side but these two is ever claimed.
SIDES: Final[Mapping[str, DicomCode]] = {
    "L": DicomCode("7771000", "SCT", "Left"),
    "R": DicomCode("24028007", "SCT", "Right"),
}

SOURCE: Final = DicomCode("260753009", "SCT", "Source")  # PS3.16 TID 1601
PROCEDURE_SITE: Final = DicomCode("363704007", "SCT", "Procedure site")
SHORT_LABEL: Final = DicomCode("125309", "DCM", "Short Label")
FINDINGS: Final = DicomCode("121070", "DCM", "Findings")  # PS3.16 CID 7001, of TID 2000
REPORT_IN_WORDS: Final = DicomCode("18748-4", "LN", "Diagnostic imaging report")  # PS3.16 CID 7000
QUALITATIVE_EVALUATIONS: Final = DicomCode("C0034375", "UMLS", "Qualitative Evaluations")  # PS3.16 TID 1500
# PS3.16 CID 9300 Procedure Discontinuation Reason and CID 9303 (insufficient quality)
CAUSES: Final[Mapping[Cause, DicomCode]] = {
    Cause.FORMAT: DicomCode("110521", "DCM", "Objects incorrectly formatted"),
    Cause.OBJECT_TYPE: DicomCode("110522", "DCM", "Object Types not supported"),
    Cause.INCOMPLETE: DicomCode("110523", "DCM", "Object Set incomplete"),
    Cause.RESOURCES: DicomCode("110527", "DCM", "Resource inadequate"),
    Cause.QUALITY: DicomCode("110531", "DCM", "Insufficient quality for interpretation"),
    Cause.EQUIPMENT: DicomCode("110501", "DCM", "Equipment failure"),
    Cause.UNKNOWN: DicomCode("110513", "DCM", "Discontinued for unspecified reason"),
}

# Private, since neither PS3.16 nor SNOMED CT has them. A meaning that changes gets a new value.
OURS: Final[Mapping[str, DicomCode]] = {
    value: DicomCode(value, SCHEME, meaning)
    for value, meaning in (
        ("RESULT", "AI result"),
        ("FINDINGS", "Findings reported by AI"),
        ("NONEFOUND", "Nothing found of what AI looked for"),
        ("NOCALL", "No call by AI, nothing excluded"),
        ("ONLYCLEANED", "Only burned-in text looked for here"),
        ("MEASURED", "Measured by AI, nothing else assessed"),
        ("NOTRUN", "AI did not run"),
        ("NOTRUNBECAUSE", "Reason why AI did not run"),
        (contract.BURNED_IN.value, contract.BURNED_IN.meaning),
        (contract.OUTER_TO_OUTER.value, contract.OUTER_TO_OUTER.meaning),
        ("BURNEDINLENGTH", "Measurement burned into the image"),
        ("CUTOFF", "AI cut-off"),
        ("READFROMIMAGE", "Read from image, for review"),
        ("OUTLINEDAREA", "Area inside AI outline"),
        # As IHE's AI Result Assessment has them; its text names no codes that are in PS3.16 yet.
        ("ASSESSMENT", "Assessment of AI finding by a person"),
        ("ASSESSEDREPORT", "AI report that was assessed"),
        ("ACCEPTED", "Accepted"),
        ("MODIFIED", "There, but otherwise than AI says"),
        ("REJECTED", "Rejected"),
        ("MISSING", "There, and not reported by AI"),
    )
}
"""Our codes by their values; a verdict (``ReaderVerdict``) is the value in small letters."""
_OF_CODE: Final = (
    "CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion",
    "CodeMeaning",
)  # fmt: skip


def coding_schemes(further: contract.CodingScheme | None = None) -> list[CodingSchemeIdentificationItem]:
    """The items of Coding Scheme Identification Sequence (0008,0110) for our private coding scheme and a
    further one.

    ``further``: the pipeline's private scheme; None if it has none.
    """
    scheme = CodingSchemeIdentificationItem(
        SCHEME, name="DICOM AI Node private concepts", responsible_organization=MANUFACTURER
    )
    scheme.CodingSchemeUID = SCHEME_UID  # highdicom writes it only with a registry, and ours is in none
    if further is None:
        return [scheme]
    return [
        scheme,
        CodingSchemeIdentificationItem(
            further.designator, name=further.name, responsible_organization=further.organization
        ),
    ]


def coded(code: contract.Code) -> CodedConcept:
    """The code as highdicom's type, which puts long values into Long Code Value; its meaning is cut to 64
    characters.
    """
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def code_alone(item: Dataset) -> Dataset:
    """The code of a sequence item without modifiers and private attributes; codes of SNOMED RT become SNOMED
    CT (PS3.16 8.1).
    """
    value = mapping["SRT"].get(str(item.get("CodeValue")))
    if value and item.get("CodingSchemeDesignator") in {"SRT", "SNM3", "99SDM"}:
        return CodedConcept(value, "SCT", str(item.CodeMeaning))
    return Dataset({Tag(word): item[word] for word in _OF_CODE if word in item})


def with_equivalent(code: DicomCode, equivalent: DicomCode) -> CodedConcept:
    """The concept ``code`` with a synonymous code in its Equivalent Code Sequence (PS3.3 8.9)."""
    concept = CodedConcept.from_code(code)
    concept.EquivalentCodeSequence = [Dataset(CodedConcept.from_code(equivalent))]
    return concept


OUTLINED_AREA: Final = with_equivalent(OURS["OUTLINEDAREA"], DicomCode("42798000", "SCT", "Area"))
"""The concept name of the area inside an outline; no reader takes it for a measurement of the patient."""


def presence_of(finding: contract.Finding) -> DicomCode:
    """The code for a finding's decision: Present, Suspected, Absent or Undetermined.

    "Present" only for a label whose positive calls are right nine times in ten, and for burned-in annotation;
    else "Suspected".
    """
    is_sure = finding.certainty == HIGH or finding.code == contract.BURNED_IN
    return (
        codes.SCT.Present
        if is_sure and finding.decision is contract.Decision.PRESENT
        else DECISIONS[finding.decision]
    )


def number_of(finding: contract.Finding) -> CodedConcept:
    """The concept name for a finding's number (0 to 100 %, or a score without unit), which includes the
    finding's name.

    Viewers that show only a measurement's concept and value (OHIF) would otherwise show a bare number: "AI
    estimated probability of Cardiomegaly" names the finding and says whose opinion it is. If a calibrated
    model reports the finding, (111012, DCM, Certainty of Finding) is the equivalent code (PS3.3 8.9): one
    number, for readers and for programs. For an absent finding it would mean the certainty of its absence.
    """
    calibrated = finding.model.calibrated
    meaning = f"AI {'estimated probability' if calibrated else 'score'} of {finding.name}"[:64]
    # A private code of this finding and this meaning: its value is a hash of both (VR SH: 16).
    named = "\n".join((finding.code.scheme, finding.code.value, meaning))
    value = f"{'P' if calibrated else 'S'}-{hashlib.sha256(named.encode()).hexdigest()[:13]}"
    concept = DicomCode(value, SCHEME, meaning)
    if calibrated and finding.decision is not contract.Decision.ABSENT:
        return with_equivalent(concept, codes.DCM.CertaintyOfFinding)
    return CodedConcept.from_code(concept)


def subject_context(fetus: str) -> SubjectContext:
    """The SR items that say that a fetus is the subject: Subject Class and, as Subject ID, its letter or
    number.

    The template allows Fetus ID (11951-1, LN) only in place of Subject ID. The mother is the Patient, so the
    template does not ask for her name.
    """
    return SubjectContext(codes.DCM.Fetus, SubjectContextFetus(fetus))


def fetus_of_reports(objects: Iterable[Dataset]) -> str:
    """The letter or number of the fetus that the reports among these objects are about; "" if there is none
    or more than one.
    """
    named = {
        str(item.TextValue)
        for one in objects
        for item in items(one)
        if item.get("ValueType") == "TEXT" and name_of(item) == codes.DCM.SubjectID.value
    }
    return named.pop() if len(named) == 1 else ""


def name_of(item: Dataset) -> str:
    """The code value of an SR content item's concept name; "" if it has none."""
    names = item.get("ConceptNameCodeSequence")
    return text_of(names[0], "CodeValue") if names else ""


def each_once(given: Iterable[CodedConcept | DicomCode]) -> list[CodedConcept]:
    """The codes in their order, without repeats."""
    found = {(code.scheme_designator, code.value): code for code in given}
    return [CodedConcept(code.value, code.scheme_designator, code.meaning) for code in found.values()]
