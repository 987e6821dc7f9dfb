"""The report as an object: Comprehensive 3D SR, by IHE AIR.

A report is an Imaging Measurement Report, TID 1500 (PS3.16): measurement groups, each with coordinates, and
what has no place (no box, measured line or outline) in the container "Qualitative Evaluations". For readers
with OHIF (``viewer`` of a peer) a report without any place is a Diagnostic imaging report, TID 2000: its
words, and what they were made of as codes. Viewers choose by the title: OHIF 3.13 loads an Imaging
Measurement Report as shapes, never ends if a group has no coordinates, and writes every other report as
words, one a line where its content is SEPARATE.

Earlier reports' content on earlier images, quoted in a report that compares with them. A container (121068,
DCM, "Previous Findings") of PS3.16 CID 7001 for each earlier image, after the containers of the template,
which is extensible: in "Imaging Measurements" viewers would take the earlier values for those of today's
image, and OHIF would look for the image in today's study. It begins with the quotation (TID 1000: a document,
and which) and its Time Point Context (TID 1502). Findings and measurements (TID 300) have the same tracking
UIDs as in the quoted report (TID 1501), and are inferred from the earlier image. The earlier image and the
quoted report are in Pertinent Other Evidence Sequence (PS3.3 C.17.2), because they are in another study.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Final

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    CompositeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    NumContentItem,
    ObservationContext,
    RelationshipTypeValues,
    TextContentItem,
    TimePointContext,
    TrackingIdentifier,
    UIDRefContentItem,
)
from highdicom.sr.templates import DEFAULT_LANGUAGE, ImageLibraryEntryDescriptors
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.base.dicom.uids import is_image
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.anatomy import (
    common_region,
    procedure_reported,
    procedures_performed,
    region_of,
    target_of,
    view_of,
)
from dicom_node.results.concepts import (
    DECISIONS,
    FINDINGS,
    PROCEDURE_SITE,
    QUALITATIVE_EVALUATIONS,
    REPORT_IN_WORDS,
    SOURCE,
    coded,
    each_once,
    subject_context,
)
from dicom_node.results.content_items import (
    CONTAINS,
    INFERRED_FROM,
    all_frames,
    container,
    finding_sites,
    frame_numbers,
    image_item,
    number_items,
    text_item,
    with_items,
)
from dicom_node.results.context import PreviousImage
from dicom_node.results.envelope import complete, disclaimer, header_arguments, referenced_requests
from dicom_node.results.equipment import algorithm, device_observer
from dicom_node.results.located import ReportedFinding
from dicom_node.results.measurement_groups import measurement_groups
from dicom_node.results.report import Report
from dicom_node.results.source import Source, stand_in_of
from dicom_node.results.stated_report import (
    StatedFinding,
    StatedNumber,
)
from dicom_node.results.uids import series_uid

_ACQUISITION: Final = RelationshipTypeValues.HAS_ACQ_CONTEXT
_CONTEXT: Final = RelationshipTypeValues.HAS_OBS_CONTEXT


def build_document(report: Report, uid: str) -> Dataset:
    """Build the report as an SR on all images of the job: the conclusion, then findings by rank, measurements
    and outlines, then what has no place.

    ``uid``: its SOP Instance UID.
    """
    context, sources = report.context, report.sources
    document = Comprehensive3DSR(
        evidence=[*(source.stand_in for source in sources), *_quoted_evidence(report)],
        content=_report_in_words(report) if report.is_in_words else _measurement_report(report),
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=referenced_requests(sources[0]) or None,
        performed_procedure_codes=procedures_performed(sources),
        previous_versions=[_replaced_report(report)] if context.supersedes else None,
        **header_arguments(context, ResultKind.SR, sources[0], uid, 1),
    )
    return complete(document, context, ResultKind.SR, sources)


def _measurement_report(report: Report) -> ContentItem:
    """The content tree of TID 1500, with conclusion, disclaimer and image library before the groups: it is
    extensible.

    highdicom's class for it wants a group, and what has no place is in none.
    """
    root = ContainerContentItem(codes.DCM.ImagingMeasurementReport, template_id="1500")
    groups = [item for group in measurement_groups(report) for item in group]
    return with_items(
        root,
        [
            *_about(report),
            *_conclusion(report),
            *_image_library(report),
            *([container(codes.DCM.ImagingMeasurements, groups)] if groups else []),
            container(QUALITATIVE_EVALUATIONS, _evaluations(report)),
            *map(_quotation, report.compared),
        ],
    )


def _report_in_words(report: Report) -> ContentItem:
    """The content tree of TID 2000, with the conclusion first: viewers show the items in their order.

    The finding items have codes, numbers and images below them, which viewers that write a report as words
    leave out. It has no image library: viewers write "not supported" for each image.
    """
    root = ContainerContentItem(REPORT_IN_WORDS, is_content_continuous=False, template_id="2000")
    return with_items(
        root,
        [
            *_conclusion(report),
            container(FINDINGS, _evaluations(report), separate=True),
            *map(_quotation, report.compared),
            *_about(report),
        ],
    )


def _about(report: Report) -> list[ContentItem]:
    """Language, who observed, and the procedures that are reported (TID 1204, TID 1001, TID 1207)."""
    # Procedure reported: validators take no codes but those of CID 100 here, though it is a baseline
    # (TID 1207). The codes of the source are in Performed Procedure Code Sequence.
    procedures = [
        CodeContentItem(codes.DCM.ProcedureReported, code, RelationshipTypeValues.HAS_CONCEPT_MOD)
        for code in each_once(procedure_reported(report.context, source) for source in report.sources)
    ]
    _name_procedure_sites(procedures, report)
    language = LanguageOfContentItemAndDescendants(DEFAULT_LANGUAGE)
    return [*language, *_observation_context(report), *procedures]


def _observation_context(report: Report) -> ObservationContext:
    """TID 1001 with a device observer (TID 1004), since no person has looked at this, and the fetus."""
    observed = ObservationContext(observer_device_context=device_observer(report.context))
    if report.fetus:
        observed.extend(subject_context(report.fetus))
    return observed


def _conclusion(report: Report) -> list[ContentItem]:
    """The conclusion in words, and the sentence that names the models."""
    return [
        text_item(codes.DCM.Conclusion, report.conclusion),
        text_item(codes.DCM.Comment, disclaimer(report.context)),
    ]


def _name_procedure_sites(about: Sequence[ContentItem], report: Report) -> None:
    """Set below each Procedure Reported among these items the target regions of its images: its code names
    none.
    """
    for item in about:
        if item.name != codes.DCM.ProcedureReported:
            continue
        of_procedure = [
            source for source in report.sources if procedure_reported(report.context, source) == item.value
        ]
        regions = filter(None, (target_of(report.context, source) for source in of_procedure))
        if sites := {region.value: region for region in regions}:
            modifier = RelationshipTypeValues.HAS_CONCEPT_MOD
            with_items(item, (CodeContentItem(PROCEDURE_SITE, region, modifier) for region in sites.values()))


def _replaced_report(report: Report) -> Dataset:
    """A stand-in of the report that this one replaces: of the same class and study (PS3.3 C.17.2)."""
    context, first = report.context, report.sources[0]
    series = context.supersedes_series or series_uid(context, ResultKind.SR, first)
    return stand_in_of(Comprehensive3DSRStorage, context.supersedes, first.study_uid, series)


def _quoted_evidence(report: Report) -> Iterable[Dataset]:
    """The quoted reports and earlier images, of the same patient, each once."""
    objects = [one for previous in report.compared for one in (previous.image, previous.report)]
    quoted = {one.SOPInstanceUID: deepcopy(one) for one in objects}
    for one in quoted.values():
        one.PatientID = report.sources[0].stand_in.PatientID
    return quoted.values()


def _image_library(report: Report) -> list[ContentItem]:
    """The image library (TID 1600) with one group: an entry (TID 1601) with descriptors (TID 1602, 1603) for
    each image. None where a program got no image at all.
    """
    entries = []
    for source in report.sources:
        if not is_image(source.sop_class_uid):
            continue
        descriptors = [
            item
            for item in ImageLibraryEntryDescriptors(source.stand_in)
            # CID 29 has no "Other": of a secondary capture the modality is left out.
            if item.name != codes.DCM.Modality or item.ConceptCodeSequence[0].CodeValue != "OT"
        ]
        region = target_of(report.context, source) or _measured_region(report, source) or codes.SCT.EntireBody
        descriptors.append(CodeContentItem(codes.DCM.TargetRegion, region, _ACQUISITION))
        if (view := view_of(source)) is not None:
            descriptors.append(CodeContentItem(codes.DCM.ImageView, view, _ACQUISITION))
        image = image_item(source, all_frames(source), SOURCE, CONTAINS)
        entries.append(with_items(image, descriptors))
    group = [container(codes.DCM.ImageLibraryGroup, entries)] if entries else []
    return [container(codes.DCM.ImageLibrary, group)] if group else []


def _measured_region(report: Report, source: Source) -> CodedConcept | None:
    """The target region around an organ that was found, measured or outlined in the image; None without."""
    [image] = [image for image in report.images if image.source is source]
    organs = [
        *(finding.sites[0] for finding in image.located if finding.sites),
        *(coded(measured.site) for measured in image.measurements if measured.site),
        *(coded(outline.organ) for outline in image.outlines),
    ]
    regions = (common_region(region_of(organ) or organ) for organ in organs if organ is not None)
    return next(filter(None, regions), None)


def _evaluations(report: Report) -> Iterator[ContentItem]:
    """Yield what has no place, as codes, and remarks: findings, the absent ones too, and the outcome of the
    analysis of each image.
    """
    yield from (_evaluation(finding) for finding in report.located if finding.region is None)
    for image in report.images:
        yield from map(_evaluation, image.absent)
        for name, value in image.answers:
            answered = _measured_image_item(image.source, all_frames(image.source))
            yield with_items(CodeContentItem(name, value, CONTAINS), [answered])
        yield from (text_item(codes.DCM.Comment, text) for text in image.remarks)


def _evaluation(one: ReportedFinding) -> ContentItem:
    """The CODE content item "finding = present / absent / undetermined" of one reported finding, with its
    number, site, algorithm and image below it.
    """
    item = CodeContentItem(coded(one.finding.code), one.presence, CONTAINS)
    tracking = TrackingIdentifier(one.tracking_uid, one.identifier) if one.tracking_uid else ()
    return with_items(
        item,
        [
            *tracking,
            *finding_sites(one),
            *algorithm(one.finding.model, one.finding),
            *number_items(one.number, RelationshipTypeValues.HAS_PROPERTIES),
            *number_items(one.cut_off, INFERRED_FROM),
            _measured_image_item(one.source, frame_numbers(one.source, one.finding.frame)),
        ],
    )


def _measured_image_item(source: Source, frames: list[int] | None) -> ImageContentItem:
    """The IMAGE content item that names the image from which a finding or measurement was inferred."""
    return image_item(source, frames, codes.DCM.SourceOfMeasurement, INFERRED_FROM)


def _quotation(previous: PreviousImage) -> ContentItem:
    """The container that quotes the earlier report on one earlier image."""
    mode, document = DicomCode("121001", "DCM", "Quotation Mode"), DicomCode("121003", "DCM", "Document")
    quoted_source, report = DicomCode("121002", "DCM", "Quoted Source"), previous.report
    numbers = [
        with_items(
            NumContentItem(
                _coded(one.code, one.meaning), one.value, _coded(one.unit), relationship_type=CONTAINS
            ),
            _quoted_items(one, previous),
        )
        for one in previous.numbers
    ]
    findings = [
        with_items(
            CodeContentItem(_coded(one.code, one.meaning), DECISIONS[one.decision], CONTAINS),
            _quoted_items(one, previous),
        )
        for one in previous.findings
    ]
    return container(
        DicomCode("121068", "DCM", "Previous Findings"),
        [
            CodeContentItem(mode, document, _CONTEXT),
            CompositeContentItem(quoted_source, report.SOPClassUID, report.SOPInstanceUID, _CONTEXT),
            *TimePointContext(time_point=previous.on.isoformat()),
            *numbers,
            *findings,
        ],
    )


def _quoted_items(one: StatedFinding | StatedNumber, previous: PreviousImage) -> Iterator[ContentItem]:
    """Yield the items below a quoted finding or measurement: its tracking UID, the model that made it, and
    the image.
    """
    if one.tracking_uid:
        yield UIDRefContentItem(codes.DCM.TrackingUniqueIdentifier, one.tracking_uid, _CONTEXT)
    if one.model:
        name = DicomCode("111001", "DCM", "Algorithm Name")
        yield TextContentItem(name, one.model, RelationshipTypeValues.HAS_CONCEPT_MOD)
    yield ImageContentItem(
        codes.DCM.SourceOfMeasurement,
        previous.image.SOPClassUID,
        previous.image.SOPInstanceUID,
        relationship_type=INFERRED_FROM,
    )


def _coded(code: tuple[str, str], meaning: str = "") -> CodedConcept:
    """The code (value, scheme) as highdicom's type; without a ``meaning`` the value stands for it."""
    return CodedConcept(*code, meaning or code[0])
