"""The measurement groups of a report (TID 1500): located findings, measurements and outlines, a group each.

A finding at a place is a group with an Image Region (TID 1410); a measurement or an outline is a number that
is inferred from its coordinates (TID 300, TID 320) in a group of TID 1501. Each has a sentence as Comment and
as Short Label. OHIF 3.13 writes the comments beside the shape only where a number has the coordinates: with
OHIF as viewer of a peer, a finding with a number is such a group, too.

Measurements that one model took together (the widths of heart and thorax, the axes of a head) are the numbers
of one group, with one label at all their lines. The finding of a measurement is the measured anatomical
structure, at its site. If the value was read from text in the image, finding and method say so.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from highdicom.sr import (
    CodedConcept,
    ContentSequence,
    CoordinatesForMeasurement,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from dicom_node.results.concepts import (
    OURS,
    OUTLINED_AREA,
    PRESENCE,
    SHORT_LABEL,
    coded,
    subject_context,
)
from dicom_node.results.content_items import (
    INFERRED_FROM,
    finding_sites,
    frame_numbers,
    number_items,
    text_item,
    with_items,
)
from dicom_node.results.equipment import algorithm
from dicom_node.results.located import Outline, ReportedFinding, TrackedMeasurement, sentence
from dicom_node.results.report import ImageReport, Report
from dicom_node.results.source import Source
from dicom_node.results.uids import tracking_uid

# A measurement group: TID 1410 or TID 1501.
Group: TypeAlias = ContentSequence
_Line: TypeAlias = npt.NDArray[np.float64]

_PIXELS: Final = DicomCode("{pixels}", "UCUM", "pixels")
_CORNERSTONE: Final = "Cornerstone3DTools@^0.1.0"
"""How a Tracking Identifier begins by which OHIF knows that it can make a shape a measurement of its own; the
name of its tool follows."""


def measurement_groups(report: Report) -> list[Group]:
    """All groups of the report: findings by rank, since viewers open the image of the first group, then
    measurements and outlines, image by image. Each has coordinates.
    """
    groups = [_finding_group(report, finding) for finding in report.located if finding.region is not None]
    for image in report.images:
        for number, measured in enumerate(_measured_together(report, image)):
            words = image.lines_to_show if number == 0 else [sentence(_in_words(measured))]
            groups.append(_with_words(_measurements_group(report, image.source, measured), words))
    for image in report.images:
        groups += [_outline_group(report, image, outline) for outline in image.outlines]
    return groups


def _finding_group(report: Report, finding: ReportedFinding) -> Group:
    """The group of one finding at a place; its presence is a code of CID 240."""
    source = finding.source
    presence = QualitativeEvaluation(PRESENCE, finding.presence)
    if finding.cut_off:
        with_items(presence[0], number_items(finding.cut_off, INFERRED_FROM))
    tool = "RectangleROI" if finding.region and finding.region.type == "box" else "PlanarFreehandROI"
    about = {
        "tracking_identifier": _tracking(report, finding.tracking_uid, finding.identifier, tool),
        "finding_type": coded(finding.finding.code),
        "finding_sites": finding_sites(finding),
        "algorithm_id": algorithm(finding.finding.model, finding.finding),
        "qualitative_evaluations": [presence],
    }
    frames = frame_numbers(source, finding.finding.frame)
    if finding.number is None or report.context.form.viewer != "ohif":
        group = PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=ImageRegion(
                graphic_type="POLYLINE",
                graphic_data=finding.outline,
                source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
            ),
            geometric_purpose=codes.SCT.BoundedBy if tool == "RectangleROI" else None,
            measurements=[Measurement(*finding.number)] if finding.number else [],
            **about,
        )
    else:
        lines = [finding.outline] if finding.outline is not None else []
        group = MeasurementsAndQualitativeEvaluations(
            source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
            measurements=[_number(*finding.number, source, frames, lines)],
            **about,
        )
    [image] = [image for image in report.images if image.source is source]
    speaks_for_image = image.speaking_finding is finding
    return _with_words(group, [finding.sentence, *(image.lines_to_show if speaks_for_image else ())])


def _measured_together(report: Report, image: ImageReport) -> list[list[TrackedMeasurement]]:
    """The measurements of an image that share a group: those of one model, frame and fetus.

    A number that was read in the picture stands alone. So does, for OHIF as viewer, each line: it makes
    nothing but the first line of a group a measurement of its own.
    """
    together: dict[object, list[TrackedMeasurement]] = {}
    for tracked in image.measured:
        measurement = tracked.measurement
        key: tuple[object, ...] = (measurement.model, measurement.frame, measurement.fetus)
        if measurement.model is None:
            key = (tracked.tracking_uid,)
        elif report.context.form.viewer == "ohif":
            key = (*key, tracked.lines[0].tobytes())
        together.setdefault(key, []).append(tracked)
    return list(together.values())


def _measurements_group(report: Report, source: Source, measured: Sequence[TrackedMeasurement]) -> Group:
    """TID 1501: a group for measurements that belong together, each with its own tracking UID, unit (UCUM)
    and lines.
    """
    first = measured[0].measurement
    frames, model = frame_numbers(source, first.frame), first.model or next(iter(report.context.models), None)
    sites = {tracked.measurement.site for tracked in measured}
    tool = "Length" if len(measured[0].lines[0]) == 2 else "PlanarFreehandROI"
    if len(measured) == 1:
        uid, identifier = measured[0].tracking_uid, measured[0].identifier
    else:
        uid = tracking_uid(report.context, source, "measurements", *(one.tracking_uid for one in measured))
        identifier = f"AI measurements {measured[0].identifier.removeprefix('AI ')}"
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(report, uid, identifier, tool),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
        finding_type=codes.SCT.AnatomicalStructure if first.model else OURS["BURNEDINLENGTH"],
        finding_sites=[FindingSite(coded(first.site))] if len(sites) == 1 and first.site else None,
        algorithm_id=algorithm(model) if model else None,
        measurements=[_measured_number(source, frames, tracked, measured) for tracked in measured],
    )
    if first.fetus:
        tracking, about = group[0].ContentSequence[:2], group[0].ContentSequence[2:]
        group[0].ContentSequence = ContentSequence([*tracking, *subject_context(first.fetus), *about])
    return group


def _measured_number(
    source: Source,
    frames: list[int] | None,
    tracked: TrackedMeasurement,
    measured: Sequence[TrackedMeasurement],
) -> Measurement:
    """The NUM (TID 300) of one measurement; what the group of all that were ``measured`` says for it is left
    out.
    """
    measurement, alone = tracked.measurement, len(measured) == 1
    shares_site = len({other.measurement.site for other in measured}) == 1
    method = coded(measurement.method) if measurement.method else None
    return _number(
        coded(measurement.quantity),
        measurement.value,
        coded(measurement.unit),
        source,
        frames,
        tracked.lines,
        method=method if measurement.model else OURS["READFROMIMAGE"],
        tracking_identifier=None if alone else TrackingIdentifier(tracked.tracking_uid, tracked.identifier),
        finding_sites=None
        if shares_site or measurement.site is None
        else [FindingSite(coded(measurement.site))],
    )


def biometry_number(source: Source, tracked: TrackedMeasurement) -> Measurement:
    """The NUM (TID 300) of a measurement in a group of TID 5008: with its site and tracking UID."""
    measurement = tracked.measurement
    return _number(
        coded(measurement.quantity),
        measurement.value,
        coded(measurement.unit),
        source,
        frame_numbers(source, measurement.frame),
        tracked.lines,
        method=coded(measurement.method) if measurement.method else None,
        tracking_identifier=TrackingIdentifier(tracked.tracking_uid, tracked.identifier),
        finding_sites=[FindingSite(coded(measurement.site))] if measurement.site else None,
        algorithm_id=algorithm(measurement.model) if measurement.model else None,
    )


def _outline_group(report: Report, image: ImageReport, outline: Outline) -> Group:
    """TID 1501: a group for one outlined organ, with the area inside the outline in pixels."""
    source, model = image.source, outline.model or next(iter(report.context.models), None)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(report, outline.tracking_uid, outline.identifier, "PlanarFreehandROI"),
        source_images=[
            SourceImageForMeasurementGroup.from_source_image(source.stand_in, frame_numbers(source, None))
        ],
        finding_type=codes.SCT.AnatomicalStructure,
        finding_sites=[FindingSite(coded(outline.organ))],
        algorithm_id=algorithm(model) if model else None,
        measurements=[
            _number(
                OUTLINED_AREA,
                outline.area,
                _PIXELS,
                source,
                frame_numbers(source, None),
                [outline.line],
            )
        ],
    )
    words = [sentence(f"outline of {outline.organ.meaning.lower()}")]
    if not image.measured and image.speaking_finding is None and outline is image.outlines[0]:
        words += image.lines_to_show
    return _with_words(group, words)


def _number(
    name: CodedConcept | DicomCode,
    value: float,
    unit: CodedConcept | DicomCode,
    source: Source,
    frames: list[int] | None,
    lines: Sequence[_Line],
    **about: object,
) -> Measurement:
    """A NUM (TID 300) inferred from ``lines``, each ``[points, 2]`` in pixels of the image (SCOORD).

    ``about``: further arguments of highdicom's constructor. The coordinates come first: OHIF 3.13 looks for
    them nowhere else.
    """
    number = Measurement(
        name=name,
        value=value,
        unit=unit,
        referenced_coordinates=[
            CoordinatesForMeasurement(
                graphic_type=GraphicTypeValues.POLYLINE,
                graphic_data=line,
                source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
            )
            for line in lines
        ],
        **about,
    )
    content = sorted(number[0].ContentSequence, key=lambda item: item.ValueType != "SCOORD")
    with_items(number[0], content)
    return number


def _tracking(report: Report, uid: str, identifier: str, tool: str) -> TrackingIdentifier:
    """The Tracking Identifier and UID of a group (TID 4108); for OHIF as viewer the identifier begins with
    the name of the tool that draws such a shape.
    """
    if report.context.form.viewer == "ohif":
        identifier = f"{_CORNERSTONE}:{tool}:{identifier}"
    return TrackingIdentifier(uid, identifier)


def _with_words(group: Group, words: Sequence[str]) -> Group:
    """The group with the first of ``words`` as Short Label and each of them as Comment."""
    label = text_item(SHORT_LABEL, words[0], RelationshipTypeValues.HAS_CONCEPT_MOD)
    group[0].ContentSequence.extend([label, *(text_item(codes.DCM.Comment, text) for text in words)])
    return group


def _in_words(measured: Sequence[TrackedMeasurement]) -> str:
    """The measurements of a group in words."""
    return ", ".join(tracked.words for tracked in measured)
