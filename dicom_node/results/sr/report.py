"""The report: Comprehensive 3D SR, TID 1500 (PS3.16), by IHE AIR.

Content of the report: measurement groups (TID 1410, TID 1501) and qualitative evaluations (TID 1500).
A length between two points is no region, so it is a TID 1501 group whose NUM (TID 300) is inferred from open
polylines (TID 320). The finding of a measurement is the measured anatomical structure, at its site. If the
value was read from text in the image, finding and method say so.

Earlier reports' content on earlier images, quoted in a report that compares with them.
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
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    CompositeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    CoordinatesForMeasurement,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TimePointContext,
    TrackingIdentifier,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import Comprehensive3DSRStorage

from ai_pipeline.contract import Decision, Finding, PipelineResult
from ai_pipeline.images.render import assesses
from ai_pipeline.summary import UNSURE
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common import concepts
from dicom_node.results.common.concepts import fetus_of_all, subject_context
from dicom_node.results.common.context import Cause, ResultContext
from dicom_node.results.common.envelope import (
    algorithm,
    complete,
    device_observer,
    disclaimer,
    header_arguments,
    side_of,
)
from dicom_node.results.common.identity import series_uid, tracking_uid
from dicom_node.results.common.previous import (
    PreviousImage,
    StatedFinding,
    StatedNumber,
    quoted,
)
from dicom_node.results.common.source import Source, stand_in_of
from dicom_node.results.common.tracked import (
    LocatedFinding,
    TrackedMeasurement,
    check_frame,
    conclusion,
    located_findings,
    of_source,
    outline,
    ranked,
    reliabilities,
    remarks,
    reported,
    tracked_measurements,
)
from dicom_node.results.sr.examination import (
    all_frames,
    image_library,
    procedure_sites,
    procedures_performed,
    procedures_reported,
    regions_of,
)


def build_report(
    context: ResultContext, sources: Sequence[Source], result: PipelineResult, uid: str
) -> Dataset:
    """The report on all images of the job: the conclusion, then present findings and others, by image.

    Findings with a region are TID 1410 groups. The others are TID 1501 groups only if there is no region at
    all: OHIF 3.13 stops loading a report at a group without coordinates and draws no box. Beside regions they
    are in the container "Qualitative Evaluations" of TID 1500, which OHIF skips. Measurements come last, to
    be checked, with the boxes of burned-in annotation if a destination wants them (TID 1500 is extensible, so
    a conclusion may come before its containers).
    """
    located = [
        (one, source) for source in sources for one in located_findings(context, source, result.findings)
    ]
    order = {id(finding): place for place, finding in enumerate(ranked(result.findings))}
    located.sort(key=lambda pair: order[id(pair[0].finding)])
    regions = [finding_group(context, one, source) for one, source in located if one.region is not None]
    elsewhere = [(one, source) for one, source in located if one.region is None]
    summaries = [_summary(context, source, sources, result) for source in sources]
    # These have coordinates in their numbers: OHIF loads them.
    regions += [
        measurement_group(context, source, one)
        for source in sources
        for one in tracked_measurements(context, source, result.measurements)
    ]
    earlier = quoted(result, context.previous)
    text, fetus = conclusion(sources, result), fetus_of_all(result.measurements)
    if regions:
        evaluations = evaluations_container(context, elsewhere, summaries)
        return _document(context, sources, uid, text, regions, evaluations, fetus, earlier)
    groups = [finding_group(context, one, source) for one, source in elsewhere]
    groups += [summary_group(context, summary) for summary in summaries]
    return _document(context, sources, uid, text, groups, previous=earlier)


def build_failure_report(
    context: ResultContext, sources: Sequence[Source], reason: str, cause: Cause, uid: str
) -> Dataset:
    """The short report that the AI did not run, with the reason, so that nobody waits for a result."""
    because = (concepts.NOT_RUN_BECAUSE, concepts.CAUSES[cause])
    answers = [(concepts.AI_RESULT, concepts.NOT_RUN), because]
    summaries = [Summary(source, "AI did not run", answers) for source in sources]
    groups = [summary_group(context, summary) for summary in summaries]
    return _document(context, sources, uid, f"AI did not run: {reason}", groups)


def _document(
    context: ResultContext,
    sources: Sequence[Source],
    uid: str,
    text: str,
    groups: Sequence[Group],
    evaluations: ContainerContentItem | None = None,
    fetus: str = "",
    previous: Sequence[PreviousImage] = (),
) -> Dataset:
    # TID 1001 with a device observer (TID 1004): no person has looked at this.
    observed = ObservationContext(observer_device_context=device_observer(context))
    if fetus:
        observed.extend(subject_context(fetus))
    report = MeasurementReport(
        observation_context=observed,
        procedure_reported=procedures_reported(sources),
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=groups,
    )
    *about, measurements = report[0].ContentSequence
    for item in about:
        if item.name == codes.DCM.ProcedureReported and (
            sites := procedure_sites(context, sources, item.value)
        ):
            item.ContentSequence = ContentSequence(sites)
    texts = [_text(concepts.CONCLUSION, text), _text(concepts.COMMENT, disclaimer(context))]
    behind = [
        image_library(context, sources),
        measurements,
        *([evaluations] if evaluations is not None else []),
        *map(previous_container, previous),
        # What the weights and cards of the models can be checked by.
        *(
            _text(concepts.COMMENT, f"{model.id} {model.version}: {what} sha256 {digest}")
            for model in context.models
            for what, digest in (("weights", model.sha256), ("card", model.card_sha256))
        ),
    ]
    report[0].ContentSequence = ContentSequence([*about, *texts, *behind])
    document = Comprehensive3DSR(
        evidence=[*(source.stand_in for source in sources), *evidence(previous, sources[0])],
        content=report,
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=_requests(sources[0]) or None,
        performed_procedure_codes=procedures_performed(sources),
        # The report that this one replaces: of the same class and study (PS3.3 C.17.2).
        previous_versions=[
            stand_in_of(
                Comprehensive3DSRStorage,
                context.supersedes,
                sources[0].study_uid,
                context.supersedes_series or series_uid(context, ResultKind.SR, sources[0]),
            )
        ]
        if context.supersedes
        else None,
        **header_arguments(context, ResultKind.SR, sources[0], uid, 1),
    )
    return complete(document, context, ResultKind.SR, sources)


def _text(name: DicomCode, value: str) -> TextContentItem:
    return TextContentItem(name=name, value=value, relationship_type=RelationshipTypeValues.CONTAINS)


def _summary(
    context: ResultContext, source: Source, sources: Sequence[Source], result: PipelineResult
) -> Summary:
    """What was not found in an image and how far to trust the rest."""
    findings = of_source(source, result.findings)
    measured = [one for one in result.measurements if one.source_uid == source.uid]
    # Whether the model cannot exclude any finding on this image.
    unsure = any(note.name == UNSURE and note.source_uid == source.uid for note in result.quality)
    if not assesses(findings):
        answer = concepts.MEASURED if assesses((), measured) else concepts.NOT_ASSESSED
    elif assesses(finding for finding in findings if finding.decision is not Decision.ABSENT):
        answer = concepts.FINDINGS
    else:
        answer = concepts.NONE_SUSPECTED if unsure else concepts.NONE_FOUND
    absent = [one for one in ranked(reported(context, findings)) if one.decision is Decision.ABSENT]
    for finding in absent:
        check_frame(finding, source)
    # How often a film has what is not suspected was measured on usual ones.
    rated = [one for one in findings if not (unsure and one.decision is Decision.ABSENT)]
    lines = (*reliabilities(rated), *remarks(source, sources, result.quality))
    # CID 240 for findings that are not present; never "absent" if the model is unsure.
    absence = concepts.DECISIONS[Decision.INDETERMINATE if unsure else Decision.ABSENT]
    return Summary(source, "AI summary", [(concepts.AI_RESULT, answer)], lines, absent, absence)


def _requests(source: Source) -> list[Dataset]:
    """Items of Referenced Request Sequence (0040,A370), from the image's own requests or accession number."""
    requests = source.header.get("RequestAttributesSequence") or []
    accession = source.header.get("AccessionNumber")
    if not requests and not accession:
        return []
    with quiet_pydicom():  # an accession number may be longer than DICOM allows
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
    item.RequestedProcedureCodeSequence = deepcopy(attributes.get(keyword) or [])
    return item


# A measurement group: TID 1410 or TID 1501.
Group: TypeAlias = ContentSequence

_CONTAINS: Final = RelationshipTypeValues.CONTAINS
_INFERRED_FROM: Final = RelationshipTypeValues.INFERRED_FROM


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The summary of one image as a whole: a name, answers in place of findings, and remarks.

    ``answers``: the outcome of the analysis as coded evaluations, name and value. ``absent``: the reported
    findings that were looked for and not found, the likeliest first; ``absence``: how far they are absent.
    """

    source: Source
    name: str
    answers: Sequence[tuple[DicomCode, DicomCode]]
    remarks: tuple[str, ...] = ()
    absent: Sequence[Finding] = ()
    absence: DicomCode = concepts.ABSENT


def finding_group(context: ResultContext, located: LocatedFinding, source: Source) -> Group:
    """TID 1410: one finding in one region; TID 1501: one finding in the image as a whole.

    Each has its own tracking UID; its presence is a code of CID 240.
    """
    finding, region = located.finding, located.region
    presence = QualitativeEvaluation(concepts.PRESENCE, concepts.presence(finding))
    if cut_off := _cut_offs(finding):
        presence[0].ContentSequence = ContentSequence(cut_off)
    about: dict[str, Any] = {
        "tracking_identifier": _tracking(located),
        "finding_type": concepts.coded(finding.code),
        "finding_sites": _sites(context, finding, source),
        "algorithm_id": algorithm(finding.model, finding),
        "measurements": [Measurement(**number) for number in _numbers(finding)],
        "qualitative_evaluations": [presence],
    }
    frames = _frame_numbers(finding, source)
    if region is None:
        image = SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)
        return MeasurementsAndQualitativeEvaluations(source_images=[image], **about)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=outline(region, source),
            source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
        ),
        geometric_purpose=codes.SCT.BoundedBy if region.type == "box" else None,
        **about,
    )


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
        for name, value in summary.answers:
            answer = CodeContentItem(name=name, value=value, relationship_type=_CONTAINS)
            image = _image_item(summary.source, all_frames(summary.source))
            answer.ContentSequence = ContentSequence([image])
            items.append(answer)
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
    of_finding = RelationshipTypeValues.HAS_PROPERTIES
    numbers = [NumContentItem(relationship_type=of_finding, **number) for number in _numbers(finding)]
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
    site = (
        concepts.coded(finding.site) if finding.site is not None else next(regions_of(context, source), None)
    )
    if site is None:
        return []
    side = finding.side or side_of(source)
    return [FindingSite(anatomic_location=site, laterality=concepts.SIDES.get(side))]


def _frame_numbers(finding: Finding, source: Source) -> list[int] | None:
    return [finding.frame or 1] if source.frames > 1 else None


def measurement_group(context: ResultContext, source: Source, tracked: TrackedMeasurement) -> Group:
    """TID 1501: a group for one measurement of this image.

    Values have their unit (UCUM), points are SCOORD: column and row in pixels of the image.
    """
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


_CONTEXT: Final = RelationshipTypeValues.HAS_OBS_CONTEXT


def previous_container(previous: PreviousImage) -> ContainerContentItem:
    """The container that quotes the earlier report on one earlier image."""
    mode, document = DicomCode("121001", "DCM", "Quotation Mode"), DicomCode("121003", "DCM", "Document")
    quoted_source, report = DicomCode("121002", "DCM", "Quoted Source"), previous.report
    items = [
        CodeContentItem(mode, document, _CONTEXT),
        CompositeContentItem(quoted_source, report.sop_class_uid, report.uid, _CONTEXT),
        *TimePointContext(time_point=previous.on.isoformat()),
    ]
    for number in previous.numbers:
        name, unit = _coded(number.code, number.meaning), _coded(number.unit)
        item = NumContentItem(name, number.value, unit, relationship_type=_CONTAINS)
        items.append(_said_of(number, item, previous))
    for finding in previous.findings:
        name = _coded(finding.code, finding.meaning)
        item = CodeContentItem(name, concepts.DECISIONS[finding.decision], _CONTAINS)
        items.append(_said_of(finding, item, previous))
    title = DicomCode("121068", "DCM", "Previous Findings")
    container = ContainerContentItem(name=title, relationship_type=_CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container


def evidence(previous: Sequence[PreviousImage], source: Source) -> list[Dataset]:
    """The quoted reports and earlier images in highdicom's form of evidence; ``source``: of the same
    patient.
    """
    references = {
        one.uid: stand_in_of(one.sop_class_uid, one.uid, one.study_uid, one.series_uid)
        for image in previous
        for one in (image.image, image.report)
    }
    for one in references.values():
        one.PatientID = source.stand_in.PatientID
    return list(references.values())


def _said_of(one: StatedFinding | StatedNumber, item: ContentItem, previous: PreviousImage) -> ContentItem:
    """With the tracking UID that it has in the quoted report, the model that said it, and the image."""
    tracking = (
        [UIDRefContentItem(codes.DCM.TrackingUniqueIdentifier, one.tracking_uid, _CONTEXT)]
        if one.tracking_uid
        else []
    )
    algorithm_name = DicomCode("111001", "DCM", "Algorithm Name")
    model = [TextContentItem(algorithm_name, one.model, RelationshipTypeValues.HAS_CONCEPT_MOD)]
    image = ImageContentItem(
        codes.DCM.SourceOfMeasurement,
        previous.image.sop_class_uid,
        previous.image.uid,
        relationship_type=_INFERRED_FROM,
    )
    item.ContentSequence = ContentSequence([*tracking, *(model if one.model else []), image])
    return item


def _coded(code: tuple[str, str], meaning: str = "") -> CodedConcept:
    value, scheme = code
    return CodedConcept(value, scheme, meaning or value)
