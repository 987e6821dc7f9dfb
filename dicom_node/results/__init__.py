"""Result objects of findings: SR, presentation state, SC, cleaned image and segmentation, with stable
UIDs.
"""

from dicom_node.dicom.own_objects import Installation, is_own_result
from dicom_node.results.build import (
    ResultFile,
    build,
    build_failure,
    put_in_place,
    row_values,
    written,
)
from dicom_node.results.by_persons import FindingAssessment, build_assessment, build_rejection
from dicom_node.results.common.context import (
    NOT_HERE,
    NOT_READ,
    BuiltObject,
    Cause,
    EarlierObject,
    PreviousImage,
    ResultContext,
    SourceObject,
    StatedNumber,
)
from dicom_node.results.common.source import repairs_of
from dicom_node.results.deidentified import Deidentified, Pseudonyms, build_deidentified
from dicom_node.results.sr.reading import stated

__all__ = [
    "NOT_HERE",
    "NOT_READ",
    "BuiltObject",
    "Cause",
    "Deidentified",
    "EarlierObject",
    "FindingAssessment",
    "Installation",
    "PreviousImage",
    "Pseudonyms",
    "ResultContext",
    "ResultFile",
    "SourceObject",
    "StatedNumber",
    "build",
    "build_assessment",
    "build_deidentified",
    "build_failure",
    "build_rejection",
    "is_own_result",
    "put_in_place",
    "repairs_of",
    "row_values",
    "stated",
    "written",
]
