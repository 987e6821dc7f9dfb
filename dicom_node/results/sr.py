"""The report: Comprehensive 3D SR, TID 1500 (PS3.16), by IHE AIR."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from highdicom.sr import Comprehensive3DSR, ContainerContentItem, MeasurementReport
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from ai_pipeline.contract import Decision, PipelineResult
from dicom_node.model.kinds import ResultKind
from dicom_node.results import concepts
from dicom_node.results.burned_measurements import measurement_groups
from dicom_node.results.context import ResultContext
from dicom_node.results.envelope import complete, header_arguments
from dicom_node.results.equipment import observation_context
from dicom_node.results.identity import series_uid
from dicom_node.results.marks import marks_of, of_source, ranked
from dicom_node.results.source import Source
from dicom_node.results.sr_content import (
    Group,
    Summary,
    evaluations_container,
    image_finding_group,
    region_group,
    summary_group,
)


def build_report(
    context: ResultContext, sources: Sequence[Source], result: PipelineResult, uid: str
) -> Dataset:
    """The report on all images of the job: what was found first, then what was not, image by image.

    Findings with a region are TID 1410 groups. The others are TID 1501 groups only where there is no region
    at all: OHIF 3.13 stops loading a report at a group without coordinates and draws no box. Beside regions
    they stand in the container "Qualitative Evaluations" of TID 1500, which it passes over. Measurements that
    were read from the images come last, for review.
    """
    marked = [(mark, source) for source in sources for mark in marks_of(context, source, result.findings)]
    order = {id(finding): place for place, finding in enumerate(ranked(result.findings))}
    marked.sort(key=lambda pair: order[id(pair[0].finding)])
    located = [region_group(mark, source) for mark, source in marked if mark.region is not None]
    elsewhere = [(mark, source) for mark, source in marked if mark.region is None]
    summaries = [_summary(source, sources, result) for source in sources]
    # These have coordinates in their numbers: OHIF loads them.
    located += [
        group for source in sources for group in measurement_groups(context, source, result.measurements)
    ]
    if located:
        return _document(context, sources, uid, located, evaluations_container(context, elsewhere, summaries))
    groups = [image_finding_group(mark, source) for mark, source in elsewhere]
    groups += [summary_group(context, summary) for summary in summaries]
    return _document(context, sources, uid, groups)


def build_failure_report(context: ResultContext, sources: Sequence[Source], reason: str, uid: str) -> Dataset:
    """The short report that the AI did not run, with the reason (truth 9)."""
    said = f"AI did not run: {reason}"
    summaries = [Summary(source, "AI did not run", concepts.NOT_RUN, (said,)) for source in sources]
    return _document(context, sources, uid, [summary_group(context, summary) for summary in summaries])


def _document(
    context: ResultContext,
    sources: Sequence[Source],
    uid: str,
    groups: Sequence[Group],
    evaluations: ContainerContentItem | None = None,
) -> Dataset:
    images = [source.stand_in for source in sources]
    report = MeasurementReport(
        observation_context=observation_context(context),
        procedure_reported=concepts.IMAGING_PROCEDURE,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=groups,
        referenced_images=images,
    )
    if evaluations is not None:
        report[0].ContentSequence.append(evaluations)
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


def _summary(source: Source, sources: Sequence[Source], result: PipelineResult) -> Summary:
    """What was not found in an image and how far to trust the rest; notes on no image go with the first."""
    findings = tuple(of_source(source, result.findings))
    found = any(finding.decision is not Decision.ABSENT for finding in findings)
    mine = {source.uid, None} if source is sources[0] else {source.uid}
    notes = tuple(f"{note.name}: {note.text}" for note in result.quality if note.source_uid in mine)
    answer = concepts.FINDINGS if found else concepts.NO_FINDING
    return Summary(source, "AI summary", answer, notes, findings)


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
    item.RequestedProcedureCodeSequence = deepcopy(attributes.get(keyword) or [])
    return item
