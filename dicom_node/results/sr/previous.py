"""Earlier reports' content on earlier images, quoted in a report that compares with them.

A container (121068, DCM, "Previous Findings") of PS3.16 CID 7001 for each earlier image, after the containers
of TID 1500, which is extensible: in "Imaging Measurements" viewers would take the earlier values for those of
today's image, and OHIF would look for the image in today's study. It begins with the quotation (TID 1000: a
document, and which) and its Time Point Context (TID 1502). Findings and measurements (TID 300) have the same
tracking UIDs as in the quoted report (TID 1501), and are inferred from the earlier image. The earlier image
and the quoted report are in Pertinent Other Evidence Sequence (PS3.3 C.17.2), because they are in another
study.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    CompositeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    TimePointContext,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from dicom_node.results.common import concepts
from dicom_node.results.common.previous import EarlierObject, PreviousImage, StatedFinding, StatedNumber
from dicom_node.results.common.source import Source

PREVIOUS_FINDINGS: Final = DicomCode("121068", "DCM", "Previous Findings")
_QUOTATION_MODE: Final = DicomCode("121001", "DCM", "Quotation Mode")
_DOCUMENT: Final = DicomCode("121003", "DCM", "Document")
_QUOTED_SOURCE: Final = DicomCode("121002", "DCM", "Quoted Source")
_ALGORITHM: Final = DicomCode("111001", "DCM", "Algorithm Name")
_CONTEXT: Final = RelationshipTypeValues.HAS_OBS_CONTEXT
_CONTAINS: Final = RelationshipTypeValues.CONTAINS


def previous_container(previous: PreviousImage) -> ContainerContentItem:
    """The container that quotes the earlier report on one earlier image."""
    quotation = [
        CodeContentItem(_QUOTATION_MODE, _DOCUMENT, _CONTEXT),
        CompositeContentItem(_QUOTED_SOURCE, previous.report.sop_class_uid, previous.report.uid, _CONTEXT),
        *TimePointContext(time_point=previous.on.isoformat()),
    ]
    numbers = [
        _about(
            one,
            NumContentItem(
                _coded(one.code, one.meaning), one.value, _coded(one.unit), relationship_type=_CONTAINS
            ),
        )
        for one in previous.numbers
    ]
    findings = [
        _about(
            one,
            CodeContentItem(_coded(one.code, one.meaning), concepts.DECISIONS[one.decision], _CONTAINS),
        )
        for one in previous.findings
    ]
    container = ContainerContentItem(name=PREVIOUS_FINDINGS, relationship_type=_CONTAINS)
    items = [*quotation, *(_of_image(item, previous) for item in (*numbers, *findings))]
    container.ContentSequence = ContentSequence(items)
    return container


def evidence(previous: Sequence[PreviousImage], source: Source) -> list[Dataset]:
    """The quoted reports and earlier images in highdicom's form of evidence; ``source``: of the same
    patient.
    """
    references = {one.uid: one for image in previous for one in (image.image, image.report)}
    return [_stand_in(one, source) for one in references.values()]


def _about(one: StatedFinding | StatedNumber, item: ContentItem) -> ContentItem:
    """With the tracking UID that it has in the quoted report, and the model that said it."""
    tracking = (
        [UIDRefContentItem(codes.DCM.TrackingUniqueIdentifier, one.tracking_uid, _CONTEXT)]
        if one.tracking_uid
        else []
    )
    model = [TextContentItem(_ALGORITHM, one.model, RelationshipTypeValues.HAS_CONCEPT_MOD)]
    item.ContentSequence = ContentSequence([*tracking, *(model if one.model else [])])
    return item


def _of_image(item: ContentItem, previous: PreviousImage) -> ContentItem:
    image = previous.image
    item.ContentSequence.append(
        ImageContentItem(
            codes.DCM.SourceOfMeasurement,
            image.sop_class_uid,
            image.uid,
            relationship_type=RelationshipTypeValues.INFERRED_FROM,
        )
    )
    return item


def _coded(code: tuple[str, str], meaning: str = "") -> CodedConcept:
    value, scheme = code
    return CodedConcept(value, scheme, meaning or value)


def _stand_in(reference: EarlierObject, source: Source) -> Dataset:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = reference.sop_class_uid, reference.uid
    one.StudyInstanceUID, one.SeriesInstanceUID = reference.study_uid, reference.series_uid
    one.PatientID = source.stand_in.PatientID
    return one
