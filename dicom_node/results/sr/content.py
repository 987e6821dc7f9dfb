"""Content of the report: measurement groups (TID 1410, TID 1501) and qualitative evaluations (TID 1500).

A length between two points is no region, so it is a TID 1501 group whose NUM (TID 300) is inferred from open
polylines (TID 320). The finding of a measurement is the measured anatomical structure, at its site. If the
value was read from text in the image, finding and method say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    CoordinatesForMeasurement,
    FindingSite,
    GraphicTypeValues,
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

from ai_pipeline import contract
from ai_pipeline.contract import Decision, Finding
from dicom_node.results.common import concepts
from dicom_node.results.common.context import Cause, ResultContext
from dicom_node.results.common.envelope import side_of
from dicom_node.results.common.equipment import algorithm
from dicom_node.results.common.fetus import subject_context
from dicom_node.results.common.identity import tracking_uid
from dicom_node.results.common.source import Source
from dicom_node.results.common.tracked import (
    LocatedFinding,
    TrackedMeasurement,
    check_frame,
    outline,
    ranked,
    tracked_measurements,
)
from dicom_node.results.sr.examination import all_frames, region_of

# A measurement group: TID 1410 or TID 1501.
Group: TypeAlias = ContentSequence

_CONTAINS: Final = RelationshipTypeValues.CONTAINS
_HAS_PROPERTIES: Final = RelationshipTypeValues.HAS_PROPERTIES
_INFERRED_FROM: Final = RelationshipTypeValues.INFERRED_FROM


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The summary of one image as a whole: a name, an answer in place of findings, and remarks.

    ``findings``: the reported findings of this image. ``cause``: why the AI did not run. ``unsure``: whether
    the model cannot exclude any finding on the image.
    """

    source: Source
    name: str
    answer: DicomCode
    remarks: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    cause: Cause | None = None
    unsure: bool = False

    @property
    def absent(self) -> list[Finding]:
        """Findings that were looked for and not found, the likeliest first."""
        absent = [finding for finding in ranked(self.findings) if finding.decision is Decision.ABSENT]
        for finding in absent:
            check_frame(finding, self.source)
        return absent

    @property
    def absence(self) -> DicomCode:
        """The concept (CID 240) for findings that are not present; never "absent" if the model is unsure."""
        return concepts.DECISIONS[Decision.INDETERMINATE if self.unsure else Decision.ABSENT]

    @property
    def answers(self) -> list[tuple[DicomCode, DicomCode]]:
        """The outcome of the analysis as coded evaluations: name and value."""
        because = [(concepts.NOT_RUN_BECAUSE, concepts.CAUSES[self.cause])] if self.cause else []
        return [(concepts.AI_RESULT, self.answer), *because]


def region_group(context: ResultContext, located: LocatedFinding, source: Source) -> Group:
    """TID 1410: one finding in one region, with its own tracking UID; its presence is a code of CID 240."""
    finding, region = located.finding, located.region
    assert region is not None
    frames = _frame_numbers(finding, source)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=outline(region, source),
            source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
        ),
        geometric_purpose=codes.SCT.BoundedBy if region.type == "box" else None,
        **_about(context, located, source),
    )


def image_finding_group(context: ResultContext, located: LocatedFinding, source: Source) -> Group:
    """TID 1501: one finding in the image as a whole."""
    frames = _frame_numbers(located.finding, source)
    return MeasurementsAndQualitativeEvaluations(
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
        **_about(context, located, source),
    )


def _about(context: ResultContext, located: LocatedFinding, source: Source) -> dict[str, Any]:
    """What both kinds of groups say of a finding; presence is of CID 240."""
    finding = located.finding
    presence = QualitativeEvaluation(concepts.PRESENCE, concepts.presence(finding))
    if cut_off := _cut_offs(finding):
        presence[0].ContentSequence = ContentSequence(cut_off)
    return {
        "tracking_identifier": _tracking(located),
        "finding_type": concepts.coded(finding.code),
        "finding_sites": _sites(context, finding, source),
        "algorithm_id": algorithm(finding.model, finding),
        "measurements": [Measurement(**number) for number in _numbers(finding)],
        "qualitative_evaluations": [presence],
    }


def summary_group(context: ResultContext, summary: Summary) -> Group:
    """TID 1501 on the whole image: absent findings, the outcome of the analysis, and remarks."""
    source, absent = summary.source, summary.absent
    measurements = [
        Measurement(algorithm_id=algorithm(finding.model, finding), **number)
        for finding in absent
        for number in _numbers(finding)
    ]
    absences = [(concepts.coded(finding.code), summary.absence) for finding in absent]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(context, source, summary.name),
            identifier=f"{summary.name}, image {source.number}",
        ),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, all_frames(source))],
        algorithm_id=algorithm(context.models[0]) if context.models else None,
        measurements=measurements or None,
        qualitative_evaluations=[QualitativeEvaluation(*pair) for pair in [*absences, *summary.answers]],
    )
    group[0].ContentSequence.extend(_remarks(summary))
    return group


def evaluations_container(
    context: ResultContext, located: Sequence[tuple[LocatedFinding, Source]], summaries: Sequence[Summary]
) -> ContainerContentItem:
    """TID 1500, "Qualitative Evaluations": the content of the TID 1501 groups, without groups."""
    container = ContainerContentItem(name=concepts.QUALITATIVE_EVALUATIONS, relationship_type=_CONTAINS)
    items = [
        _evaluation_item(context, one.finding, concepts.presence(one.finding), source, _tracking(one))
        for one, source in located
    ]
    for summary in summaries:
        items += [
            _evaluation_item(context, one, summary.absence, summary.source, ()) for one in summary.absent
        ]
        items += [_answer_item(summary.source, *answer) for answer in summary.answers]
        items += _remarks(summary)
    container.ContentSequence = ContentSequence(items)
    return container


def _evaluation_item(
    context: ResultContext,
    finding: Finding,
    presence: DicomCode,
    source: Source,
    tracking: Sequence[ContentItem],
) -> ContentItem:
    """CODE "finding = present / absent / undetermined" with its number, site, algorithm and image."""
    name = concepts.coded(finding.code)
    item = CodeContentItem(name=name, value=presence, relationship_type=_CONTAINS)
    numbers = [NumContentItem(relationship_type=_HAS_PROPERTIES, **number) for number in _numbers(finding)]
    item.ContentSequence = ContentSequence(
        [
            *tracking,
            *_sites(context, finding, source),
            *algorithm(finding.model, finding),
            *numbers,
            *_cut_offs(finding),
            _image_item(source, _frame_numbers(finding, source)),
        ]
    )
    return item


def _answer_item(source: Source, name: DicomCode, value: DicomCode) -> ContentItem:
    item = CodeContentItem(name=name, value=value, relationship_type=_CONTAINS)
    item.ContentSequence = ContentSequence([_image_item(source, all_frames(source))])
    return item


def _image_item(source: Source, frames: list[int] | None) -> ContentItem:
    return ImageContentItem(
        name=codes.DCM.SourceOfMeasurement,
        referenced_sop_class_uid=source.stand_in.SOPClassUID,
        referenced_sop_instance_uid=source.uid,
        referenced_frame_numbers=frames,
        relationship_type=_INFERRED_FROM,
    )


def _remarks(summary: Summary) -> list[ContentItem]:
    return [
        TextContentItem(name=concepts.COMMENT, value=text, relationship_type=_CONTAINS)
        for text in summary.remarks
    ]


def _tracking(located: LocatedFinding) -> TrackingIdentifier:
    return TrackingIdentifier(uid=located.tracking_uid, identifier=located.identifier)


def _numbers(finding: Finding) -> list[dict[str, object]]:
    """The probability, one number or none.

    Probability is a claim about how often such a finding is there: only a calibrated model gives per cent.
    The score of any other is a number of its own kind, without unit. None where the model gives none.
    """
    if finding.probability is None:
        return []
    return [{"name": concepts.number_of(finding), **_in_its_unit(finding, finding.probability)}]


def _cut_offs(finding: Finding) -> list[ContentItem]:
    """NUM, from which presence was inferred, unless the finding is absent: no value that was measured."""
    if finding.probability is None or finding.threshold is None or finding.decision is Decision.ABSENT:
        return []
    number = _in_its_unit(finding, finding.threshold)
    return [NumContentItem(name=concepts.CUT_OFF, relationship_type=_INFERRED_FROM, **number)]


def _in_its_unit(finding: Finding, value: float) -> dict[str, object]:
    if finding.model.calibrated:
        return {"value": round(value * 100, 1), "unit": concepts.PERCENT}
    return {"value": round(value, 4), "unit": concepts.RATIO}


def _sites(context: ResultContext, finding: Finding, source: Source) -> list[FindingSite]:
    """The card's site, else the region of image or pipeline, with the side on which the finding lies.

    That is the side of its regions, or of an image that shows one side: an image of both lungs (Image
    Laterality B) does not make a finding bilateral.
    """
    site: CodedConcept | DicomCode | None = region_of(context, source)
    if finding.site is not None:
        site = concepts.coded(finding.site)
    if site is None:
        return []
    side = finding.side or side_of(source)
    return [FindingSite(anatomic_location=site, laterality=concepts.SIDES.get(side))]


def _frame_numbers(finding: Finding, source: Source) -> list[int] | None:
    return [finding.frame or 1] if source.frames > 1 else None


def measurement_groups(
    context: ResultContext, source: Source, measurements: Sequence[contract.Measurement]
) -> list[Group]:
    """TID 1501: one group for each measurement of this image, in their order.

    Values have their unit (UCUM), points are SCOORD: column and row in pixels of the image. Raises
    ResultRefused for a frame or a point outside the image.
    """
    return [
        _measurement_group(context, source, one)
        for one in tracked_measurements(context, source, measurements)
    ]


def _measurement_group(context: ResultContext, source: Source, tracked: TrackedMeasurement) -> Group:
    measurement = tracked.measurement
    frames = [measurement.frame or 1] if source.frames > 1 else None
    read = measurement.model is None
    model = measurement.model or next(iter(context.models), None)
    number = Measurement(
        name=concepts.coded(measurement.quantity),
        value=measurement.value,
        unit=concepts.coded(measurement.unit),
        method=concepts.READ_FROM_IMAGE if read else None,
        referenced_coordinates=[
            CoordinatesForMeasurement(
                graphic_type=GraphicTypeValues.POLYLINE,
                graphic_data=line,
                source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
            )
            for line in tracked.lines
        ],
    )
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracked.tracking_uid, identifier=tracked.identifier),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
        finding_type=concepts.BURNED_IN_MEASUREMENT if read else codes.SCT.AnatomicalStructure,
        finding_sites=[FindingSite(concepts.coded(measurement.site))] if measurement.site else None,
        algorithm_id=algorithm(model) if model else None,
        measurements=[number],
    )
    if measurement.fetus:
        tracking, about = group[0].ContentSequence[:2], group[0].ContentSequence[2:]
        subject = subject_context(measurement.fetus)
        group[0].ContentSequence = ContentSequence([*tracking, *subject, *about])
    return group
