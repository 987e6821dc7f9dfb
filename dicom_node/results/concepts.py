"""Coded concepts of our reports: DICOM's and SNOMED CT's where there are any, private ones where not."""

from __future__ import annotations

import hashlib
from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.contract import Code, Decision, Finding

# Private scheme: designators that begin with 99 are for local use (PS3.3 8.2).
SCHEME: Final = "99AINODE"

CERTAINTY: Final = DicomCode("111012", "DCM", "Certainty of Finding")
PERCENT: Final = DicomCode("%", "UCUM", "Percent")
RATIO: Final = DicomCode("{ratio}", "UCUM", "ratio")

PRESENT: Final = DicomCode("52101004", "SCT", "Present")
ABSENT: Final = DicomCode("2667000", "SCT", "Absent")
INDETERMINATE: Final = DicomCode("82334004", "SCT", "Indeterminate")

QUALITATIVE_EVALUATIONS: Final = DicomCode("C0034375", "UMLS", "Qualitative Evaluations")
COMMENT: Final = DicomCode("121106", "DCM", "Comment")
SOURCE_FOR_PROCESSING: Final = DicomCode("121322", "DCM", "Source image for image processing operation")
PROCESSING_EQUIPMENT: Final = DicomCode("109102", "DCM", "Processing Equipment")
MODIFYING_EQUIPMENT: Final = DicomCode("109103", "DCM", "Modifying Equipment")
DEIDENTIFYING_EQUIPMENT: Final = DicomCode("109104", "DCM", "De-identifying Equipment")
# CID 7203 has no inpainting; this one says that pixels under a mask were set.
PIXEL_MASK: Final = DicomCode("113047", "DCM", "Pixel by pixel mask")
IMAGING_PROCEDURE: Final = DicomCode("363679005", "SCT", "Imaging procedure")

AI_RESULT: Final = DicomCode("RESULT", SCHEME, "AI result")
NO_FINDING: Final = DicomCode("NOFINDING", SCHEME, "No finding reported by AI")
FINDINGS: Final = DicomCode("FINDINGS", SCHEME, "Findings reported by AI")
NOT_RUN: Final = DicomCode("NOTRUN", SCHEME, "AI did not run")
BURNED_IN: Final = DicomCode("BURNEDIN", SCHEME, "Burned-in annotation, removed")
BURNED_IN_MEASUREMENT: Final = DicomCode("BURNEDINLENGTH", SCHEME, "Measurement burned into the image")
READ_FROM_IMAGE: Final = DicomCode("READFROMIMAGE", SCHEME, "Read from image, for review")
SPATIAL_CONCEPT: Final = DicomCode("309825002", "SCT", "Spatial and Relational Concept")


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """Coding Scheme Identification Sequence (0008,0110): what the private designator stands for."""
    return [CodingSchemeIdentificationItem(SCHEME, name="DICOM AI Node private concepts")]


def coded(code: Code) -> CodedConcept:
    """The concept of a model card as highdicom takes it; long values go to Long Code Value by themselves."""
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def value_of(finding: Finding) -> DicomCode:
    """Concept of a finding's own number, with its name in the meaning.

    Viewers that show only a measurement's concept and value (OHIF) would otherwise show a bare number:
    "AI Cardiomegaly certainty" names the finding and says whose opinion it is (truth 10).
    """
    word = "certainty" if finding.model.calibrated else "score"
    doubt = finding.decision is Decision.INDETERMINATE
    code = finding.code
    value = f"{word[0].upper()}{'I' if doubt else ''}-{code.scheme}-{code.value}"
    if len(value) > 16:  # VR SH
        value = f"{value.split('-', maxsplit=1)[0]}-{hashlib.sha256(value.encode()).hexdigest()[:13]}"
    ending = f" (indeterminate) {word}" if doubt else f" {word}"
    return DicomCode(value, SCHEME, f"AI {finding.label[: 61 - len(ending)]}{ending}")
