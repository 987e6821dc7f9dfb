"""The report as an object: Comprehensive 3D SR, TID 1500 (PS3.16), by IHE AIR.

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

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Final, TypeAlias

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
from highdicom.sr.templates import ImageLibraryEntryDescriptors
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.anatomy import procedure_reported, procedures_performed, target_of, view_of
from dicom_node.results.concepts import (
    DECISIONS,
    OURS,
    PRESENCE,
    PROCEDURE_SITE,
    QUALITATIVE_EVALUATIONS,
    SOURCE,
    coded,
    each_once,
    subject_context,
)
from dicom_node.results.context import PreviousImage
from dicom_node.results.dataset import set_values
from dicom_node.results.envelope import complete, disclaimer, header_arguments
from dicom_node.results.equipment import algorithm, device_observer
from dicom_node.results.located import Number, ReportedFinding, TrackedMeasurement
from dicom_node.results.report import ImageReport, Report
from dicom_node.results.source import Source, stand_in_of
from dicom_node.results.stated_report import (
    StatedFinding,
    StatedNumber,
)
from dicom_node.results.uids import series_uid, tracking_uid

# A measurement group: TID 1410 or TID 1501.
Group: TypeAlias = ContentSequence

_ACQUISITION: Final = RelationshipTypeValues.HAS_ACQ_CONTEXT
_CONTAINS: Final = RelationshipTypeValues.CONTAINS
_INFERRED_FROM: Final = RelationshipTypeValues.INFERRED_FROM
_CONTEXT: Final = RelationshipTypeValues.HAS_OBS_CONTEXT


def build_document(report: Report, uid: str) -> Dataset:
    """Build the report as an SR on all images of the job: the conclusion, then present findings and others,
    by image.

    ``uid``: its SOP Instance UID. Findings with a region are TID 1410 groups. The others are TID 1501 groups
    only if there is no region at all: OHIF 3.13 stops loading a report at a group without coordinates and
    draws no box. Beside regions they are in the container "Qualitative Evaluations" of TID 1500, which OHIF
    skips. Measurements come last, to be checked, with the boxes of burned-in annotation if a destination
    wants them (TID 1500 is extensible, so a conclusion may come before its containers).
    """
    context, sources = report.context, report.sources
    document = Comprehensive3DSR(
        evidence=[*(source.stand_in for source in sources), *_quoted_evidence(report)],
        content=_content(report),
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=_requests(sources[0]) or None,
        performed_procedure_codes=procedures_performed(sources),
        previous_versions=[_replaced_report(report)] if context.supersedes else None,
        **header_arguments(context, ResultKind.SR, sources[0], uid, 1),
    )
    return complete(document, context, ResultKind.SR, sources)


def _content(report: Report) -> MeasurementReport:
    """The content tree (TID 1500), with conclusion, disclaimer and image library before the groups."""
    with_places = [_finding_group(finding) for finding in report.located if finding.region is not None]
    # These have coordinates in their numbers: OHIF loads them.
    with_places += [
        _measurement_group(report, image.source, measured)
        for image in report.images
        for measured in image.measured
    ]
    elsewhere = [finding for finding in report.located if finding.region is None]
    # TID 1001 with a device observer (TID 1004): no person has looked at this.
    observed = ObservationContext(observer_device_context=device_observer(report.context))
    if report.fetus:
        observed.extend(subject_context(report.fetus))
    # Procedure reported: validators take no codes but those of CID 100 here, though it is a baseline
    # (TID 1207). The codes of the source are in Performed Procedure Code Sequence.
    content = MeasurementReport(
        observation_context=observed,
        procedure_reported=each_once(map(procedure_reported, report.sources)),
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=with_places
        or [*map(_finding_group, elsewhere), *(_image_group(report, image) for image in report.images)],
    )
    *about, measurements = content[0].ContentSequence
    _name_procedure_sites(about, report)
    content[0].ContentSequence = ContentSequence(
        [
            *about,
            text_item(codes.DCM.Conclusion, report.conclusion),
            text_item(codes.DCM.Comment, disclaimer(report.context)),
            _image_library(report),
            measurements,
            *([_evaluations(report, elsewhere)] if with_places else []),
            *map(_quotation, report.compared),
        ]
    )
    return content


def _name_procedure_sites(about: Sequence[ContentItem], report: Report) -> None:
    """Set below each Procedure Reported among these items the target regions of its images: its code names
    none.
    """
    for item in about:
        if item.name != codes.DCM.ProcedureReported:
            continue
        of_procedure = [source for source in report.sources if procedure_reported(source) == item.value]
        regions = filter(None, (target_of(report.context, source) for source in of_procedure))
        if sites := {region.value: region for region in regions}:
            modifier = RelationshipTypeValues.HAS_CONCEPT_MOD
            _with_items(
                item, (CodeContentItem(PROCEDURE_SITE, region, modifier) for region in sites.values())
            )


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


def text_item(name: DicomCode, value: str) -> TextContentItem:
    """A TEXT content item with this concept name."""
    return TextContentItem(name, value, _CONTAINS)


def _container(name: object, items: Iterable[ContentItem]) -> ContentItem:
    """A CONTAINER content item with this concept name that contains ``items``."""
    return _with_items(ContainerContentItem(name=name, relationship_type=_CONTAINS), items)


def _with_items(item: ContentItem, items: Iterable[ContentItem]) -> ContentItem:
    """The content item with ``items`` directly below it."""
    item.ContentSequence = ContentSequence(list(items))  # which iterates three times
    return item


def _requests(source: Source) -> list[Dataset]:
    """The items of Referenced Request Sequence (0040,A370), from the image's own requests or accession
    number.
    """
    header, items = source.header, []
    with quiet_pydicom():  # an accession number may be longer than DICOM allows
        accession = header.get("AccessionNumber")
        for asked in header.get("RequestAttributesSequence") or ([Dataset()] if accession else []):
            item = Dataset()
            set_values(
                item,
                StudyInstanceUID=source.study_uid,
                ReferencedStudySequence=[],
                AccessionNumber=asked.get("AccessionNumber") or accession,
                PlacerOrderNumberImagingServiceRequest="",
                FillerOrderNumberImagingServiceRequest="",
                RequestedProcedureID=asked.get("RequestedProcedureID"),
                RequestedProcedureDescription=asked.get("RequestedProcedureDescription"),
                RequestedProcedureCodeSequence=deepcopy(asked.get("RequestedProcedureCodeSequence") or []),
            )
            items.append(item)
    return items


def _frame_numbers(source: Source, frame: int | None) -> list[int] | None:
    """The frame number to state in a reference to an image, as a list; None for a still. ``frame`` None: the
    first.
    """
    return [frame or 1] if source.frames > 1 else None


def _image_item(source: Source, frames: list[int] | None, name: object, related: object) -> ImageContentItem:
    """An IMAGE content item that refers to ``source``; ``frames``: numbers from 1, None for a still.

    ``name``: its concept name; ``related``: its relationship to the parent item.
    """
    return ImageContentItem(
        name=name,
        referenced_sop_class_uid=source.stand_in.SOPClassUID,
        referenced_sop_instance_uid=source.uid,
        referenced_frame_numbers=frames,
        relationship_type=related,
    )


def _all_frames(source: Source) -> list[int] | None:
    """The numbers (from 1) of all frames of a cine, because PixelMed expects them in references; None for a
    still.
    """
    return list(range(1, source.frames + 1)) if source.frames > 1 else None


def _image_library(report: Report) -> ContentItem:
    """The image library (TID 1600) with one group: an entry (TID 1601) with descriptors (TID 1602, 1603) for
    each image.
    """
    entries = []
    for source in report.sources:
        descriptors = [
            item
            for item in ImageLibraryEntryDescriptors(source.stand_in)
            # CID 29 has no "Other": of a secondary capture the modality is left out.
            if item.name != codes.DCM.Modality or item.ConceptCodeSequence[0].CodeValue != "OT"
        ]
        region = target_of(report.context, source) or codes.SCT.EntireBody
        descriptors.append(CodeContentItem(codes.DCM.TargetRegion, region, _ACQUISITION))
        if (view := view_of(source)) is not None:
            descriptors.append(CodeContentItem(codes.DCM.ImageView, view, _ACQUISITION))
        image = _image_item(source, _all_frames(source), SOURCE, _CONTAINS)
        entries.append(_with_items(image, descriptors))
    return _container(codes.DCM.ImageLibrary, [_container(codes.DCM.ImageLibraryGroup, entries)])


def _finding_group(one: ReportedFinding) -> Group:
    """The measurement group of one finding: TID 1410 if it has a region, TID 1501 if it is of the whole
    image.

    Each has its own tracking UID; its presence is a code of CID 240.
    """
    finding, source = one.finding, one.source
    presence = QualitativeEvaluation(PRESENCE, one.presence)
    if one.cut_off:
        _with_items(presence[0], _number_items(one.cut_off, _INFERRED_FROM))
    about = {
        "tracking_identifier": TrackingIdentifier(one.tracking_uid, one.identifier),
        "finding_type": coded(finding.code),
        "finding_sites": _finding_sites(one),
        "algorithm_id": algorithm(finding.model, finding),
        "measurements": [Measurement(*one.number)] if one.number else [],
        "qualitative_evaluations": [presence],
    }
    frames = _frame_numbers(source, finding.frame)
    if one.region is None:
        image = SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)
        return MeasurementsAndQualitativeEvaluations(source_images=[image], **about)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=one.outline,
            source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
        ),
        geometric_purpose=codes.SCT.BoundedBy if one.region.type == "box" else None,
        **about,
    )


def _image_group(report: Report, image: ImageReport) -> Group:
    """The measurement group (TID 1501) of a whole image: absent findings, the outcome of the analysis, and
    remarks.
    """
    source, models = image.source, report.context.models
    measurements = [
        Measurement(*one.number, algorithm_id=algorithm(one.finding.model, one.finding))
        for one in image.absent
        if one.number
    ]
    absences = [(coded(one.finding.code), one.presence) for one in image.absent]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(report.context, source, image.name),
            identifier=f"{image.name}, image {source.number}",
        ),
        source_images=[
            SourceImageForMeasurementGroup.from_source_image(source.stand_in, _all_frames(source))
        ],
        algorithm_id=algorithm(models[0]) if models else None,
        measurements=measurements or None,
        qualitative_evaluations=[QualitativeEvaluation(*pair) for pair in [*absences, *image.answers]],
    )
    group[0].ContentSequence.extend(text_item(codes.DCM.Comment, text) for text in image.remarks)
    return group


def _evaluations(report: Report, elsewhere: Sequence[ReportedFinding]) -> ContentItem:
    """The container "Qualitative Evaluations" (TID 1500), which replaces the TID 1501 groups where regions
    exist.

    ``elsewhere``: the findings without a region.
    """
    items = [_evaluation(one) for one in elsewhere]
    for image in report.images:
        items += [_evaluation(one) for one in image.absent]
        for name, value in image.answers:
            answer = CodeContentItem(name, value, _CONTAINS)
            answered = _measured_image_item(image.source, _all_frames(image.source))
            items.append(_with_items(answer, [answered]))
        items += [text_item(codes.DCM.Comment, text) for text in image.remarks]
    return _container(QUALITATIVE_EVALUATIONS, items)


def _evaluation(one: ReportedFinding) -> ContentItem:
    """The CODE content item "finding = present / absent / undetermined" of one reported finding, with its
    number, site, algorithm and image below it.
    """
    item = CodeContentItem(coded(one.finding.code), one.presence, _CONTAINS)
    tracking = TrackingIdentifier(one.tracking_uid, one.identifier) if one.tracking_uid else ()
    return _with_items(
        item,
        [
            *tracking,
            *_finding_sites(one),
            *algorithm(one.finding.model, one.finding),
            *_number_items(one.number, RelationshipTypeValues.HAS_PROPERTIES),
            *_number_items(one.cut_off, _INFERRED_FROM),
            _measured_image_item(one.source, _frame_numbers(one.source, one.finding.frame)),
        ],
    )


def _measured_image_item(source: Source, frames: list[int] | None) -> ImageContentItem:
    """The IMAGE content item that names the image from which a finding or measurement was inferred."""
    return _image_item(source, frames, codes.DCM.SourceOfMeasurement, _INFERRED_FROM)


def _number_items(number: Number | None, related: object) -> list[ContentItem]:
    """The NUM content item with a finding's number or cut-off; an empty list without one. ``related``: its
    relationship to the parent item.
    """
    return [NumContentItem(*number, relationship_type=related)] if number else []


def _finding_sites(one: ReportedFinding) -> list[FindingSite]:
    """The content item with location and side of a finding; an empty list if no location is known."""
    return [FindingSite(*one.sites)] if one.sites else []


def _measurement_group(report: Report, source: Source, tracked: TrackedMeasurement) -> Group:
    """TID 1501: a group for one measurement of this image.

    Values have their unit (UCUM), points are SCOORD: column and row in pixels of the image.
    """
    measurement = tracked.measurement
    frames = _frame_numbers(source, measurement.frame)
    read, method = measurement.model is None, coded(measurement.method) if measurement.method else None
    model = measurement.model or next(iter(report.context.models), None)
    number = Measurement(
        name=coded(measurement.quantity),
        value=measurement.value,
        unit=coded(measurement.unit),
        method=OURS["READFROMIMAGE"] if read else method,
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
        tracking_identifier=TrackingIdentifier(tracked.tracking_uid, tracked.identifier),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
        finding_type=OURS["BURNEDINLENGTH"] if read else codes.SCT.AnatomicalStructure,
        finding_sites=[FindingSite(coded(measurement.site))] if measurement.site else None,
        algorithm_id=algorithm(model) if model else None,
        measurements=[number],
    )
    if measurement.fetus:
        tracking, about = group[0].ContentSequence[:2], group[0].ContentSequence[2:]
        group[0].ContentSequence = ContentSequence([*tracking, *subject_context(measurement.fetus), *about])
    return group


def _quotation(previous: PreviousImage) -> ContentItem:
    """The container that quotes the earlier report on one earlier image."""
    mode, document = DicomCode("121001", "DCM", "Quotation Mode"), DicomCode("121003", "DCM", "Document")
    quoted_source, report = DicomCode("121002", "DCM", "Quoted Source"), previous.report
    numbers = [
        _with_items(
            NumContentItem(
                _coded(one.code, one.meaning), one.value, _coded(one.unit), relationship_type=_CONTAINS
            ),
            _quoted_items(one, previous),
        )
        for one in previous.numbers
    ]
    findings = [
        _with_items(
            CodeContentItem(_coded(one.code, one.meaning), DECISIONS[one.decision], _CONTAINS),
            _quoted_items(one, previous),
        )
        for one in previous.findings
    ]
    return _container(
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
        relationship_type=_INFERRED_FROM,
    )


def _coded(code: tuple[str, str], meaning: str = "") -> CodedConcept:
    """The code (value, scheme) as highdicom's type; without a ``meaning`` the value stands for it."""
    return CodedConcept(*code, meaning or code[0])
