"""The report: Comprehensive 3D SR, TID 1500 (PS3.16), by IHE AIR."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from highdicom.sr import (
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    MeasurementReport,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from ai_pipeline.contract import Decision, ModelRef, PipelineResult
from ai_pipeline.images.render import assesses
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common import concepts
from dicom_node.results.common.context import Cause, ResultContext
from dicom_node.results.common.envelope import complete, disclaimer, header_arguments
from dicom_node.results.common.equipment import observation_context
from dicom_node.results.common.fetus import fetus_of_all
from dicom_node.results.common.identity import series_uid
from dicom_node.results.common.previous import PreviousImage, quoted
from dicom_node.results.common.source import Source
from dicom_node.results.common.tracked import located_findings, of_source, ranked, reported
from dicom_node.results.sr.conclusion import conclusion, is_unsure, reliabilities, remarks
from dicom_node.results.sr.content import (
    Group,
    Summary,
    evaluations_container,
    image_finding_group,
    measurement_groups,
    region_group,
    summary_group,
)
from dicom_node.results.sr.examination import (
    image_library,
    procedure_sites,
    procedures_performed,
    procedures_reported,
)
from dicom_node.results.sr.previous import evidence, previous_container


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
    regions = [region_group(context, one, source) for one, source in located if one.region is not None]
    elsewhere = [(one, source) for one, source in located if one.region is None]
    summaries = [_summary(context, source, sources, result) for source in sources]
    # These have coordinates in their numbers: OHIF loads them.
    regions += [
        group for source in sources for group in measurement_groups(context, source, result.measurements)
    ]
    earlier = quoted(result, context.previous)
    text, fetus = conclusion(sources, result), fetus_of_all(result.measurements)
    if regions:
        evaluations = evaluations_container(context, elsewhere, summaries)
        return _document(context, sources, uid, text, regions, evaluations, fetus, earlier)
    groups = [image_finding_group(context, one, source) for one, source in elsewhere]
    groups += [summary_group(context, summary) for summary in summaries]
    return _document(context, sources, uid, text, groups, previous=earlier)


def build_failure_report(
    context: ResultContext, sources: Sequence[Source], reason: str, cause: Cause, uid: str
) -> Dataset:
    """The short report that the AI did not run, with the reason, so that nobody waits for a result."""
    summaries = [Summary(source, "AI did not run", concepts.NOT_RUN, cause=cause) for source in sources]
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
    report = MeasurementReport(
        observation_context=observation_context(context, fetus),
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
        *(_text(concepts.COMMENT, text) for model in context.models for text in _hashes(model)),
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
        previous_versions=[_predecessor(context, sources[0])] if context.supersedes else None,
        **header_arguments(context, ResultKind.SR, sources[0], uid, 1),
    )
    return complete(document, context, ResultKind.SR, sources)


def _hashes(model: ModelRef) -> tuple[str, str]:
    """What the model's weights and card can be checked by."""
    name = f"{model.id} {model.version}"
    return f"{name}: weights sha256 {model.sha256}", f"{name}: card sha256 {model.card_sha256}"


def _text(name: Code, value: str) -> TextContentItem:
    return TextContentItem(name=name, value=value, relationship_type=RelationshipTypeValues.CONTAINS)


def _summary(
    context: ResultContext, source: Source, sources: Sequence[Source], result: PipelineResult
) -> Summary:
    """What was not found in an image and how far to trust the rest."""
    findings = of_source(source, result.findings)
    measured = [one for one in result.measurements if one.source_uid == source.uid]
    unsure = is_unsure(source, result)
    if not assesses(findings):
        answer = concepts.MEASURED if assesses((), measured) else concepts.NOT_ASSESSED
    elif assesses(finding for finding in findings if finding.decision is not Decision.ABSENT):
        answer = concepts.FINDINGS
    else:
        answer = concepts.NONE_SUSPECTED if unsure else concepts.NONE_FOUND
    shown = tuple(reported(context, findings))
    # How often a film has what is not suspected was measured on usual ones.
    rated = [one for one in findings if not (unsure and one.decision is Decision.ABSENT)]
    lines = (*reliabilities(rated), *remarks(source, sources, result.quality))
    return Summary(source, "AI summary", answer, lines, shown, unsure=unsure)


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
