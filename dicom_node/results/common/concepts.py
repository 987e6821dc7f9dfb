"""Coded concepts of our reports: from DICOM and SNOMED CT if they have one, else private."""

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept, SubjectContext, SubjectContextFetus
from pydicom.dataset import Dataset
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import Tag

from ai_pipeline import contract
from ai_pipeline.contract import Code, CodingScheme, Decision, Finding
from ai_pipeline.summary import HIGH
from dicom_node.base.dicom.header import items
from dicom_node.base.dicom.uids import MANUFACTURER, derived_uid
from dicom_node.base.kinds import ReaderVerdict
from dicom_node.results.common.source import Cause

# Private scheme: designators that begin with 99 are for local use (PS3.3 8.2).
SCHEME: Final = contract.BURNED_IN.scheme
SCHEME_UID: Final = derived_uid("dicom-ai-node", "coding scheme", SCHEME)


# SNOMED CT 705057003 |Presence (property) (qualifier value)|; as in the finding models of Open Imaging
# Data and in SNOMED's expressions for LOINC.
PRESENCE: Final = DicomCode("705057003", "SCT", "Presence")
# PS3.16 CID 240 Present-Absent has all but "Suspected". SNOMED CT's own words for the last two are |Absence
# findings| and |Undetermined|; a program that knows DICOM looks for these and not for 2667000 and 82334004.
DECISIONS: Final[Mapping[Decision, DicomCode]] = MappingProxyType(
    {
        Decision.PRESENT: codes.SCT.Suspected,
        Decision.ABSENT: codes.SCT.Absent,
        Decision.INDETERMINATE: codes.SCT.Undetermined,
    }
)

# PS3.16 CID 244 Laterality: no side but these two is ever claimed.
SIDES: Final[Mapping[str, DicomCode]] = MappingProxyType(
    {"L": DicomCode("7771000", "SCT", "Left"), "R": DicomCode("24028007", "SCT", "Right")}
)

QUALITATIVE_EVALUATIONS: Final = DicomCode("C0034375", "UMLS", "Qualitative Evaluations")  # PS3.16 TID 1500
# PS3.16 CID 7202
# PS3.16 CID 7203, which has no inpainting; this one says that pixels under a mask were set.
SOURCE: Final = DicomCode("260753009", "SCT", "Source")  # PS3.16 TID 1601
PROCEDURE_SITE: Final = DicomCode("363704007", "SCT", "Procedure site")


# PS3.16 CID 100, which has nothing for ultrasound but this
# SNOMED CT 399208008 |Plain chest X-ray (procedure)|, as in the examples of HL7 FHIR
CHEST_RADIOGRAPHY: Final = DicomCode("399208008", "SCT", "Plain chest X-ray")

# View Position (0018,5101) of CR and DX in PS3.16 CID 4010 DX View; decubitus positions are no views there.
VIEWS: Final[Mapping[str, DicomCode]] = MappingProxyType(
    {
        "PA": DicomCode("272479007", "SCT", "postero-anterior"),
        "AP": DicomCode("399348003", "SCT", "antero-posterior"),
        "LL": DicomCode("399173006", "SCT", "left lateral"),
        "RL": DicomCode("399198007", "SCT", "right lateral"),
        "LLO": DicomCode("399184004", "SCT", "left oblique"),
        "RLO": DicomCode("399236003", "SCT", "right oblique"),
    }
)
# PS3.16 CID 4031 gave three regions new codes. Validators of 2022 (PixelMed's, by which IHE judges)
# know the former ones only, so these stand in a content item, with today's as the equivalent.
FORMER_REGIONS: Final[Mapping[str, DicomCode]] = MappingProxyType(
    {
        "816094009": DicomCode("51185008", "SCT", "Chest"),
        "818981001": DicomCode("113345001", "SCT", "Abdomen"),
        "816092008": DicomCode("12921003", "SCT", "Pelvis"),
    }
)
# PS3.16 CID 4031, members that came later and have no former code
NEW_REGIONS: Final = frozenset(
    {
        "818982008", "34707002", "1217257000", "79741001", "24136001", "303270005", "1217253001", "15776009",
        "69930009", "1231522001", "706342009", "1217254007", "1217256009",
    }
)  # fmt: skip
# PS3.16 CID 9300 Procedure Discontinuation Reason and CID 9303 (insufficient quality)
CAUSES: Final[Mapping[Cause, DicomCode]] = MappingProxyType(
    {
        Cause.FORMAT: DicomCode("110521", "DCM", "Objects incorrectly formatted"),
        Cause.OBJECT_TYPE: DicomCode("110522", "DCM", "Object Types not supported"),
        Cause.INCOMPLETE: DicomCode("110523", "DCM", "Object Set incomplete"),
        Cause.RESOURCES: DicomCode("110527", "DCM", "Resource inadequate"),
        Cause.QUALITY: DicomCode("110531", "DCM", "Insufficient quality for interpretation"),
        Cause.EQUIPMENT: DicomCode("110501", "DCM", "Equipment failure"),
        Cause.UNKNOWN: DicomCode("110513", "DCM", "Discontinued for unspecified reason"),
    }
)

# Private, since neither PS3.16 nor SNOMED CT has them. A meaning that changes gets a new value.
AI_RESULT: Final = DicomCode("RESULT", SCHEME, "AI result")
FINDINGS: Final = DicomCode("FINDINGS", SCHEME, "Findings reported by AI")
NONE_FOUND: Final = DicomCode("NONEFOUND", SCHEME, "Nothing found of what AI looked for")
NONE_SUSPECTED: Final = DicomCode("NONESUSPECTED", SCHEME, "Nothing suspected by AI, nothing excluded")
NOT_ASSESSED: Final = DicomCode("NOTASSESSED", SCHEME, "Image not assessed by AI")
MEASURED: Final = DicomCode("MEASURED", SCHEME, "Measured by AI, nothing else assessed")
NOT_RUN: Final = DicomCode("NOTRUN", SCHEME, "AI did not run")
NOT_RUN_BECAUSE: Final = DicomCode("NOTRUNBECAUSE", SCHEME, "Reason why AI did not run")
BURNED_IN: Final = DicomCode(contract.BURNED_IN.value, SCHEME, contract.BURNED_IN.meaning)
BURNED_IN_MEASUREMENT: Final = DicomCode("BURNEDINLENGTH", SCHEME, "Measurement burned into the image")
CUT_OFF: Final = DicomCode("CUTOFF", SCHEME, "AI cut-off")
READ_FROM_IMAGE: Final = DicomCode("READFROMIMAGE", SCHEME, "Read from image, for review")
# As IHE's AI Result Assessment has them; its text names no codes that are in PS3.16 yet.
ASSESSMENT: Final = DicomCode("ASSESSMENT", SCHEME, "Assessment of AI finding by a person")
ASSESSED_REPORT: Final = DicomCode("ASSESSEDREPORT", SCHEME, "AI report that was assessed")
ASSESSMENTS: Final[Mapping[ReaderVerdict, DicomCode]] = MappingProxyType(
    {
        ReaderVerdict.ACCEPTED: DicomCode("ACCEPTED", SCHEME, "Accepted"),
        ReaderVerdict.MODIFIED: DicomCode("MODIFIED", SCHEME, "There, but otherwise than AI says"),
        ReaderVerdict.REJECTED: DicomCode("REJECTED", SCHEME, "Rejected"),
        ReaderVerdict.MISSING: DicomCode("MISSING", SCHEME, "There, and not reported by AI"),
    }
)
_OF_CODE: Final = (
    "CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion",
    "CodeMeaning",
)  # fmt: skip

PRIVATE: Final = (
    AI_RESULT, FINDINGS, NONE_FOUND, NONE_SUSPECTED, NOT_ASSESSED, MEASURED, NOT_RUN, NOT_RUN_BECAUSE,
    BURNED_IN, BURNED_IN_MEASUREMENT, CUT_OFF, READ_FROM_IMAGE,
    ASSESSMENT, ASSESSED_REPORT, *ASSESSMENTS.values(),
)  # fmt: skip


def coding_schemes(further: CodingScheme | None = None) -> list[CodingSchemeIdentificationItem]:
    """Coding Scheme Identification Sequence (0008,0110): the names of our and a pipeline's private
    schemes.
    """
    scheme = CodingSchemeIdentificationItem(
        SCHEME, name="DICOM AI Node private concepts", responsible_organization=MANUFACTURER
    )
    scheme.CodingSchemeUID = SCHEME_UID  # highdicom writes it only with a registry, and ours is in none
    if further is None:
        return [scheme]
    theirs = CodingSchemeIdentificationItem(
        further.designator, name=further.name, responsible_organization=further.organization
    )
    return [scheme, theirs]


def coded(code: Code) -> CodedConcept:
    """The concept of a model card in highdicom's type, which puts long values into Long Code Value."""
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def code_alone(item: Dataset) -> Dataset:
    """The code of an item, one of SNOMED RT in SNOMED CT (PS3.16 8.1).

    Modifiers and private attributes of a source have no place in a content item.
    """
    value = mapping["SRT"].get(str(item.get("CodeValue")))
    if value and item.get("CodingSchemeDesignator") in {"SRT", "SNM3", "99SDM"}:
        return CodedConcept(value, "SCT", str(item.CodeMeaning))
    return Dataset({Tag(word): item[word] for word in _OF_CODE if word in item})


def with_equivalent(code: DicomCode, equivalent: DicomCode) -> CodedConcept:
    """The concept with a synonymous code in Equivalent Code Sequence (PS3.3 8.9)."""
    concept = CodedConcept.from_code(code)
    concept.EquivalentCodeSequence = [Dataset(CodedConcept.from_code(equivalent))]
    return concept


def presence(finding: Finding) -> DicomCode:
    """The concept for a finding's decision.

    "Present" only for a label whose positive calls are right nine times in ten, else "Suspected"; "Absent";
    "Undetermined". Burned-in annotation counts as certain.
    """
    is_sure = finding.certainty == HIGH or finding.code == contract.BURNED_IN
    sure = finding.decision is Decision.PRESENT and is_sure
    return codes.SCT.Present if sure else DECISIONS[finding.decision]


def number_of(finding: Finding) -> CodedConcept:
    """The concept of a finding's number (0 to 100 %, or a score without unit), which includes its name.

    Viewers that show only a measurement's concept and value (OHIF) would otherwise show a bare number: "AI
    estimated probability of Cardiomegaly" names the finding and says whose opinion it is. If a calibrated
    model reports the finding, (111012, DCM, Certainty of Finding) is the equivalent code (PS3.3 8.9): one
    number, for readers and for programs. For an absent finding it would mean the certainty of its absence.
    """
    calibrated = finding.model.calibrated
    what = "estimated probability" if calibrated else "score"
    meaning = f"AI {what} of {finding.name}"[:64]
    # A private code of this finding and this meaning: its value is a hash of both (VR SH: 16).
    named = "\n".join((finding.code.scheme, finding.code.value, meaning))
    value = f"{'P' if calibrated else 'S'}-{hashlib.sha256(named.encode()).hexdigest()[:13]}"
    concept = DicomCode(value, SCHEME, meaning)
    if calibrated and finding.decision is not Decision.ABSENT:
        return with_equivalent(concept, codes.DCM.CertaintyOfFinding)
    return CodedConcept.from_code(concept)


def subject_context(fetus: str) -> SubjectContext:
    """Subject Class and, as Subject ID, the letter or number of the fetus.

    The template allows Fetus ID (11951-1, LN) only in place of Subject ID. The mother is the Patient, so the
    template does not ask for her name.
    """
    return SubjectContext(codes.DCM.Fetus, SubjectContextFetus(fetus))


def fetus_of_reports(objects: Iterable[Dataset]) -> str:
    """The fetus that the reports among these objects are about; "" if there is none or more than one."""
    named = {
        str(item.TextValue)
        for one in objects
        for item in items(one)
        if item.get("ValueType") == "TEXT" and name_of(item) == codes.DCM.SubjectID.value
    }
    return named.pop() if len(named) == 1 else ""


def name_of(item: Dataset) -> str:
    """The code value of a content item's concept name, "" where it has none."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue") or "") if names else ""
