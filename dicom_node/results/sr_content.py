"""Content of the report: measurement groups (TID 1410, TID 1501) and qualitative evaluations (TID 1500)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from highdicom._standard_utils import get_anatomic_region_map
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    FindingSite,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.contract import Decision, Finding
from dicom_node.results import concepts
from dicom_node.results.context import ResultContext
from dicom_node.results.envelope import disclaimer
from dicom_node.results.equipment import algorithm
from dicom_node.results.identity import tracking_uid
from dicom_node.results.marks import Mark, check_frame, outline, ranked
from dicom_node.results.source import Source

# A measurement group: TID 1410 or TID 1501.
Group: TypeAlias = ContentSequence

_EVALUATIONS: Final = {
    Decision.PRESENT: concepts.PRESENT,
    Decision.ABSENT: concepts.ABSENT,
    Decision.INDETERMINATE: concepts.INDETERMINATE,
}
_SIDES: Final = {"L": codes.SCT.Left, "R": codes.SCT.Right, "B": codes.SCT.Bilateral}
_CONTAINS: Final = RelationshipTypeValues.CONTAINS


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """What is said of one image as a whole: a name, an answer in place of findings, and texts."""

    source: Source
    name: str
    answer: DicomCode
    texts: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def absent(self) -> list[Finding]:
        """Findings that were looked for and not found, the likelier first."""
        absent = [finding for finding in ranked(self.findings) if finding.decision is Decision.ABSENT]
        for finding in absent:
            check_frame(finding, self.source)
        return absent


def region_group(mark: Mark, source: Source) -> Group:
    """TID 1410: one finding in one region, with a tracking UID of its own."""
    finding, region = mark.finding, mark.region
    assert region is not None
    frames = _frame_numbers(finding, source)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(mark),
        referenced_region=ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=outline(region, source),
            source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
        ),
        geometric_purpose=codes.SCT.BoundedBy if region.type == "box" else None,
        finding_type=concepts.coded(finding.code),
        finding_sites=_sites(finding, source),
        algorithm_id=algorithm(finding.model, finding),
        measurements=[Measurement(**number) for number in _numbers(finding)],
        qualitative_evaluations=[_evaluation(finding)],
    )


def image_finding_group(mark: Mark, source: Source) -> Group:
    """TID 1501: one finding of the image as a whole."""
    finding = mark.finding
    frames = _frame_numbers(finding, source)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(mark),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
        finding_type=concepts.coded(finding.code),
        finding_sites=_sites(finding, source),
        algorithm_id=algorithm(finding.model, finding),
        measurements=[Measurement(**number) for number in _numbers(finding)],
        qualitative_evaluations=[_evaluation(finding)],
    )


def summary_group(context: ResultContext, summary: Summary) -> Group:
    """TID 1501 on the whole image: what is absent, and what the analysis came to; with the disclaimer."""
    source, absent = summary.source, summary.absent
    answer = QualitativeEvaluation(name=concepts.AI_RESULT, value=summary.answer)
    measurements = [
        Measurement(algorithm_id=algorithm(finding.model, finding), **number)
        for finding in absent
        for number in _numbers(finding)[:1]
    ]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(context, source, summary.name),
            identifier=f"{summary.name}, image {source.number}",
        ),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in)],
        algorithm_id=algorithm(context.models[0]) if context.models else None,
        measurements=measurements or None,
        qualitative_evaluations=[*map(_evaluation, absent), answer],
    )
    group[0].ContentSequence.extend(_comments(context, summary))
    return group


def evaluations_container(
    context: ResultContext, marks: Sequence[tuple[Mark, Source]], summaries: Sequence[Summary]
) -> ContainerContentItem:
    """TID 1500, "Qualitative Evaluations": the same as the TID 1501 groups say, without a group."""
    container = ContainerContentItem(name=concepts.QUALITATIVE_EVALUATIONS, relationship_type=_CONTAINS)
    items = [_evaluation_item(mark.finding, source, _tracking(mark)) for mark, source in marks]
    for summary in summaries:
        items += [_evaluation_item(finding, summary.source, ()) for finding in summary.absent]
        items.append(_answer_item(summary))
        items += _comments(context, summary)
    container.ContentSequence = ContentSequence(items)
    return container


def _evaluation_item(finding: Finding, source: Source, tracking: Sequence[ContentItem]) -> ContentItem:
    """CODE "finding = present / absent / indeterminate" with its number, site, algorithm and image."""
    item = CodeContentItem(
        name=concepts.coded(finding.code), value=_EVALUATIONS[finding.decision], relationship_type=_CONTAINS
    )
    numbers = [
        NumContentItem(relationship_type=RelationshipTypeValues.HAS_PROPERTIES, **number)
        for number in _numbers(finding)
    ]
    item.ContentSequence = ContentSequence(
        [
            *tracking,
            *_sites(finding, source),
            *algorithm(finding.model, finding),
            *numbers,
            _image_item(source, _frame_numbers(finding, source)),
        ]
    )
    return item


def _answer_item(summary: Summary) -> ContentItem:
    item = CodeContentItem(name=concepts.AI_RESULT, value=summary.answer, relationship_type=_CONTAINS)
    item.ContentSequence = ContentSequence([_image_item(summary.source, None)])
    return item


def _image_item(source: Source, frames: list[int] | None) -> ContentItem:
    return ImageContentItem(
        name=codes.DCM.SourceOfMeasurement,
        referenced_sop_class_uid=source.stand_in.SOPClassUID,
        referenced_sop_instance_uid=source.uid,
        referenced_frame_numbers=frames,
        relationship_type=RelationshipTypeValues.INFERRED_FROM,
    )


def _comments(context: ResultContext, summary: Summary) -> list[ContentItem]:
    return [
        TextContentItem(name=concepts.COMMENT, value=text, relationship_type=_CONTAINS)
        for text in (disclaimer(context), *summary.texts)
    ]


def _tracking(mark: Mark) -> TrackingIdentifier:
    return TrackingIdentifier(uid=mark.tracking_uid, identifier=mark.identifier)


def _evaluation(finding: Finding) -> QualitativeEvaluation:
    return QualitativeEvaluation(name=concepts.coded(finding.code), value=_EVALUATIONS[finding.decision])


def _numbers(finding: Finding) -> list[dict[str, object]]:
    """The probability under a name that a box label can show, and as (111012, DCM) where it may be called so.

    Certainty of Finding in % is a claim about how often such a finding is there: only a calibrated model
    makes it (truth 10). The score of any other is a number of its own kind, without unit.
    """
    if finding.probability is None:
        return []
    if not finding.model.calibrated:
        score = round(finding.probability, 4)
        return [{"name": concepts.value_of(finding), "value": score, "unit": concepts.RATIO}]
    percent = round(finding.probability * 100, 1)
    return [
        {"name": concepts.value_of(finding), "value": percent, "unit": concepts.PERCENT},
        {"name": concepts.CERTAINTY, "value": percent, "unit": concepts.PERCENT},
    ]


def _sites(finding: Finding, source: Source) -> list[FindingSite]:
    """The card's site, else what Body Part Examined says (PS3.16 Annex L), with the side of the image."""
    site: CodedConcept | DicomCode | None = None
    if finding.site is not None:
        site = concepts.coded(finding.site)
    elif source.header.get("BodyPartExamined"):
        known = get_anatomic_region_map().get(str(source.header.BodyPartExamined).upper())
        site = known[0] if known else None
    if site is None:
        return []
    letter = str(source.header.get("ImageLaterality") or source.header.get("Laterality") or "")
    return [FindingSite(anatomic_location=site, laterality=_SIDES.get(letter.upper()))]


def _frame_numbers(finding: Finding, source: Source) -> list[int] | None:
    return [finding.frame or 1] if source.frames > 1 else None
