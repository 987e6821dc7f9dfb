"""The report: Comprehensive 3D SR, TID 1500 (PS3.16), by IHE AIR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from highdicom._standard_utils import get_anatomic_region_map
from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    ContentSequence,
    FindingSite,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import Comprehensive3DSRStorage

from ai_pipeline.contract import Decision, Finding, PipelineResult, QualityNote
from dicom_node.model.kinds import ResultKind
from dicom_node.results import concepts
from dicom_node.results.context import ResultContext
from dicom_node.results.envelope import complete, disclaimer, header_arguments, sound
from dicom_node.results.equipment import algorithm, observation_context
from dicom_node.results.identity import series_uid, tracking_uid
from dicom_node.results.marks import Mark, check_frame, marks_of, of_source, outline, ranked
from dicom_node.results.source import Source

# A measurement group: TID 1410 or TID 1501.
Group: TypeAlias = ContentSequence

_EVALUATIONS: Final = {
    Decision.PRESENT: concepts.PRESENT,
    Decision.ABSENT: concepts.ABSENT,
    Decision.INDETERMINATE: concepts.INDETERMINATE,
}
_SIDES: Final = {"L": codes.SCT.Left, "R": codes.SCT.Right, "B": codes.SCT.Bilateral}


def build_report(
    context: ResultContext, sources: Sequence[Source], result: PipelineResult, uid: str
) -> Dataset:
    """The report on all images of the job: what was found first, then what was not, image by image."""
    marked = [(mark, source) for source in sources for mark in marks_of(context, source, result.findings)]
    order = {id(finding): place for place, finding in enumerate(ranked(result.findings))}
    marked.sort(key=lambda pair: order[id(pair[0].finding)])
    groups: list[Group] = [_finding_group(mark, source) for mark, source in marked]
    for place, source in enumerate(sources):
        notes = [note for note in result.quality if _concerns(note, source, first=place == 0)]
        groups.append(_summary_group(context, source, of_source(source, result.findings), notes))
    return _document(context, sources, groups, uid)


def build_failure_report(context: ResultContext, sources: Sequence[Source], reason: str, uid: str) -> Dataset:
    """The short report that the AI did not run, with the reason (truth 9)."""
    evaluation = QualitativeEvaluation(name=concepts.AI_RESULT, value=concepts.NOT_RUN)
    groups = [
        _image_group(
            context, source, "AI did not run", evaluations=[evaluation], texts=[f"AI did not run: {reason}"]
        )
        for source in sources
    ]
    return _document(context, sources, groups, uid)


def _document(
    context: ResultContext, sources: Sequence[Source], groups: Sequence[Group], uid: str
) -> Dataset:
    images = [source.stand_in for source in sources]
    report = MeasurementReport(
        observation_context=observation_context(context),
        procedure_reported=concepts.IMAGING_PROCEDURE,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=groups,
        referenced_images=images,
    )
    document = Comprehensive3DSR(
        evidence=images,
        content=report,
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=_requests(sources[0]) or None,
        previous_versions=[_predecessor(context, sources[0])] if context.supersedes else None,
        **header_arguments(context, ResultKind.SR, sources[0], uid, 1),
    )
    return complete(document, context, ResultKind.SR, sources)


def _finding_group(mark: Mark, source: Source) -> Group:
    """TID 1410 for a finding with a region, TID 1501 for one of the whole image."""
    finding = mark.finding
    common = {
        "tracking_identifier": TrackingIdentifier(uid=mark.tracking_uid, identifier=mark.identifier),
        "finding_type": concepts.coded(finding.code),
        "finding_sites": _sites(finding, source),
        "algorithm_id": algorithm(finding.model, [finding]),
        "measurements": _measurements(finding),
        "qualitative_evaluations": [_evaluation(finding)],
    }
    frames = _frame_numbers(finding, source)
    if mark.region is None:
        images = [SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)]
        return MeasurementsAndQualitativeEvaluations(source_images=images, **common)
    region = ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=outline(mark.region, source),
        source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
    )
    purpose = codes.SCT.BoundedBy if mark.region.type == "box" else None
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region, geometric_purpose=purpose, **common
    )


def _summary_group(
    context: ResultContext, source: Source, findings: Sequence[Finding], notes: Sequence[QualityNote]
) -> Group:
    """TID 1501 on the whole image: what is absent, or that nothing is reported; with the disclaimer."""
    absent = [finding for finding in ranked(findings) if finding.decision is Decision.ABSENT]
    for finding in absent:
        check_frame(finding, source)
    evaluations = [_evaluation(finding) for finding in absent]
    if len(absent) == len(findings):
        evaluations.append(QualitativeEvaluation(name=concepts.AI_RESULT, value=concepts.NO_FINDING))
    if not evaluations:
        evaluations.append(QualitativeEvaluation(name=concepts.AI_RESULT, value=concepts.FINDINGS))
    measurements = [
        Measurement(algorithm_id=algorithm(finding.model, [finding]), **number)
        for finding in absent
        for number in _numbers(finding)[:1]
    ]
    texts = [f"{note.name}: {note.text}" for note in notes]
    return _image_group(
        context, source, "AI summary", evaluations=evaluations, texts=texts, measurements=measurements
    )


def _image_group(
    context: ResultContext,
    source: Source,
    name: str,
    *,
    evaluations: Sequence[QualitativeEvaluation],
    texts: Sequence[str],
    measurements: Sequence[Measurement] = (),
) -> Group:
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(context, source, name), identifier=f"{name}, image {source.number}"
        ),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in)],
        algorithm_id=algorithm(context.models[0]) if context.models else None,
        measurements=measurements or None,
        qualitative_evaluations=evaluations,
    )
    for text in (disclaimer(context), *texts):
        group[0].ContentSequence.append(
            TextContentItem(
                name=concepts.COMMENT, value=text, relationship_type=RelationshipTypeValues.CONTAINS
            )
        )
    return group


def _evaluation(finding: Finding) -> QualitativeEvaluation:
    return QualitativeEvaluation(name=concepts.coded(finding.code), value=_EVALUATIONS[finding.decision])


def _measurements(finding: Finding) -> list[Measurement]:
    return [Measurement(**number) for number in _numbers(finding)]


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
    if "NumberOfFrames" not in source.stand_in or source.frames == 1:
        return None
    return [finding.frame or 1]


def _concerns(note: QualityNote, source: Source, *, first: bool) -> bool:
    return note.source_uid == source.uid or (note.source_uid is None and first)


def _predecessor(context: ResultContext, source: Source) -> Dataset:
    """The report that this one replaces: of the same class and study (PS3.3 C.17.2)."""
    earlier = Dataset()
    earlier.SOPClassUID = Comprehensive3DSRStorage
    earlier.SOPInstanceUID = context.supersedes
    earlier.StudyInstanceUID = source.study_uid
    earlier.SeriesInstanceUID = context.supersedes_series or series_uid(context, ResultKind.SR, source)
    return earlier


def _requests(source: Source) -> list[Dataset]:
    """Items of Referenced Request Sequence (0040,A370), from the image's own requests or accession number."""
    requests = source.header.get("RequestAttributesSequence") or []
    accession = source.header.get("AccessionNumber")
    if not requests and not accession:
        return []
    return [_request(source, item) for item in requests or [Dataset()]]


def _request(source: Source, attributes: Dataset) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = source.study_uid
    item.ReferencedStudySequence = []
    item.AccessionNumber = attributes.get("AccessionNumber") or source.header.get("AccessionNumber")
    item.PlacerOrderNumberImagingServiceRequest = ""
    item.FillerOrderNumberImagingServiceRequest = ""
    item.RequestedProcedureID = attributes.get("RequestedProcedureID")
    item.RequestedProcedureDescription = attributes.get("RequestedProcedureDescription")
    keyword = "RequestedProcedureCodeSequence"
    item.RequestedProcedureCodeSequence = sound(keyword, attributes.get(keyword) or [])
    return item
