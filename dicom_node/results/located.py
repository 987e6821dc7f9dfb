"""Findings and measurements as reported: coded, at a place of their image, with a tracking UID each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from highdicom.sr import (
    CodedConcept,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    DerivedImage,
    Finding,
    Measurement,
    ModelRef,
    Point,
    Region,
)
from ai_pipeline.summary import decided_in_words, measurement_text
from dicom_node.base.errors import ResultRefused
from dicom_node.results.anatomy import regions_of, side_of
from dicom_node.results.concepts import OURS, SIDES, coded, number_of, presence_of
from dicom_node.results.context import ResultContext
from dicom_node.results.source import Source
from dicom_node.results.uids import tracking_uid

_FEWEST_CORNERS_OF_A_POLYGON: Final = 5

Number = tuple[CodedConcept | DicomCode, float, DicomCode]
"""Concept, value and unit."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportedFinding:
    """One finding at one place of an image, or in the image as a whole (``region`` None).

    ``finding`` has no region but this one. ``presence``: the code of its decision. ``number``: its
    probability or score, ``cut_off``: the threshold; None without one. ``sites``: codes of the location and
    the side (None for no side); () if no location is known. ``outline``: the place as a closed polyline
    ``[points, 2]`` in SCOORD and PIXEL coordinates. ``identifier``: Tracking Identifier (112039), which names
    the finding, unique within one report. Absent findings have no tracking UID ("").
    """

    source: Source
    finding: Finding
    presence: DicomCode
    number: Number | None
    cut_off: Number | None
    sites: tuple[CodedConcept | DicomCode | None, ...]
    tracking_uid: str = ""
    identifier: str = ""
    region: Region | None = None
    outline: npt.NDArray[np.float64] | None = None

    @property
    def sentence(self) -> str:
        """What stands beside the place: side, name, decision and certainty."""
        return sentence(decided_in_words(self.finding))


@dataclass(frozen=True, slots=True, eq=False)
class TrackedMeasurement:
    """A measurement with its tracking UID.

    ``identifier``: Tracking Identifier (112039). ``lines``: the measured lines, each ``[points, 2]`` in
    SCOORD coordinates.
    """

    measurement: Measurement
    tracking_uid: str
    identifier: str
    lines: tuple[npt.NDArray[np.float64], ...]

    @property
    def words(self) -> str:
        """Its statement, else name, value and unit."""
        measured = self.measurement
        if measured.model is None:
            return f"{measured.name} {measured.value:g} {measured.unit.meaning}, read from the image"
        return measured.statement or measurement_text(measured)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """An organ that a model outlined, or one of its parts, as a closed polyline ``line [points, 2]`` in
    SCOORD coordinates.

    ``area``: of the part, in pixels. ``model``: None if not known. ``identifier``: Tracking Identifier
    (112039).
    """

    organ: Code
    line: npt.NDArray[np.float64]
    area: float
    model: ModelRef | None
    tracking_uid: str
    identifier: str


def sentence(words: str) -> str:
    """The words as they stand beside a shape in a viewer that shows nothing else of a report."""
    return f"AI: {words.rstrip('.')} (not for diagnostic use)"


def patient_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The findings about the patient: all except burned-in annotation, which the report mentions in a
    sentence instead.
    """
    return [finding for finding in findings if finding.code != BURNED_IN]


def findings_by_place(
    context: ResultContext, sources: Mapping[str, Source], findings: Sequence[Finding]
) -> list[ReportedFinding]:
    """The findings that are reported and not absent, in the order of ``findings``, one for each place.

    ``sources``: the images by UID. Each gets its tracking UID. Raises ResultRefused for a frame that the
    image does not have, or a tracking UID that two findings share.
    """
    located = []
    seen: Counter[tuple[str, ...]] = Counter()
    numbers: Counter[str] = Counter()
    for finding in patient_findings(findings):
        source, code = sources[finding.source_uid], finding.code
        if not 1 <= (1 if finding.frame is None else finding.frame) <= source.frames:
            raise ResultRefused(f"a finding in frame {finding.frame} of an image of {source.frames}")
        # One of several classes is suggested or none: "undetermined" of each says nothing.
        if finding.decision is Decision.ABSENT or (
            finding.exclusive and finding.decision is Decision.INDETERMINATE
        ):
            continue
        anywhere = coded_finding(context, source, finding, presence_of(finding))
        key = (code.scheme, code.value, finding.label, finding.model.id, str(finding.frame or 0))
        for place, region in enumerate(finding.regions or (None,)):
            uid = (finding.tracking_uid if place == 0 else "") or tracking_uid(
                context, source, *key, str(seen[(source.uid, *key)])
            )
            seen[(source.uid, *key)] += 1
            numbers[source.uid] += 1
            located.append(
                replace(
                    anywhere,
                    finding=replace(finding, regions=(region,) if region else (), tracking_uid=uid),
                    tracking_uid=uid,
                    identifier=f"AI {finding.name} {numbers[source.uid]}, image {source.number}"[:64],
                    region=region,
                    outline=_outline(region, source) if region else None,
                )
            )
    if len({(one.source.uid, one.tracking_uid) for one in located}) < len(located):
        raise ResultRefused("two findings of one image bear the same tracking UID: viewers show only one")
    return located


def coded_finding(
    context: ResultContext, source: Source, finding: Finding, presence: DicomCode
) -> ReportedFinding:
    """The finding with its codes and numbers, without a place; ``presence``: the code of its decision.

    Probability is a claim about how often such a finding is there: only a calibrated model gives per cent.
    The score of any other is a number of its own kind, without unit. The cut-off is the one by which presence
    was inferred; an absent finding has none. The site is the model's, else the region of image or pipeline,
    with the side on which the finding lies. That is the side of its regions, or of an image that shows one
    side: an image of both lungs (Image Laterality B) does not make a finding bilateral.
    """

    def in_its_unit(name: CodedConcept | DicomCode, value: float) -> Number:
        """The number (name, value, unit): per cent of a calibrated model, else a score without unit."""
        if finding.model.calibrated:
            return name, round(value * 100, 1), codes.UCUM.Percent
        return name, round(value, 4), codes.UCUM.Ratio

    number = cut_off = None
    if finding.probability is not None:
        number = in_its_unit(number_of(finding), finding.probability)
        if finding.threshold is not None and finding.decision is not Decision.ABSENT:
            cut_off = in_its_unit(OURS["CUTOFF"], finding.threshold)
    site = coded(finding.site) if finding.site else next(regions_of(context, source), None)
    side = SIDES.get(finding.side or side_of(source))
    return ReportedFinding(source, finding, presence, number, cut_off, (site, side) if site else ())


def _outline(region: Region, source: Source) -> npt.NDArray[np.float64]:
    """The region as a closed polyline ``[points, 2]``, clipped to the image (PS3.3 C.18.6.1.2, C.10.5.1.2).

    Raises ResultRefused if no part lies inside.
    """
    corners = list(region.points)
    if region.type == "box":
        left, top, right, bottom = region.bounds
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    else:
        # Viewers take a closed polyline of four or five points for an upright rectangle, and measure that.
        while len(corners) < _FEWEST_CORNERS_OF_A_POLYGON:
            (x, y), (next_x, next_y) = corners[-1], corners[0]
            corners.append(((x + next_x) / 2, (y + next_y) / 2))
    closed, size = [*corners, corners[0]], [float(source.columns), float(source.rows)]
    points = np.clip(np.asarray(closed, np.float64), 0.0, size)
    points = points.astype(np.float32).astype(np.float64)  # Graphic Data has VR FL
    if (np.ptp(points, axis=0) < 1.0).any():
        raise ResultRefused("a region lies outside its image or has no area in it")
    return points


def tracked_measurement(
    context: ResultContext, source: Source, measurement: Measurement, place: int
) -> TrackedMeasurement:
    """The measurement with its tracking UID and lines; ``place``: its number among those of the image, from
    1.

    Raises ResultRefused if its frame or a line is not in the image.
    """
    if not 1 <= (measurement.frame or 1) <= source.frames:
        raise ResultRefused(f"a measurement in frame {measurement.frame} of an image of {source.frames}")
    name = measurement.name
    if measurement.model is None:
        how = OURS["READFROMIMAGE"].meaning.lower()
        parts, identifier = [str(place)], f"{name} {place}, image {source.number}: {how}"
    else:
        parts = [measurement.model.id, name, str(measurement.frame or 0), *filter(None, [measurement.fetus])]
        whose = f" of fetus {measurement.fetus}" if measurement.fetus else ""
        identifier = f"AI {name}{whose}, image {source.number}"
    return TrackedMeasurement(
        measurement,
        tracking_uid(context, source, "measurement", *parts),
        identifier[:64],
        tuple(_line_points(source, line, closed=measurement.closed) for line in measurement.lines),
    )


def outlines_of(context: ResultContext, source: Source, image: DerivedImage) -> list[Outline]:
    """The outlines of the organs in ``image``, each part of an organ its own, the largest first.

    The first part has the tracking UID of the organ's segment (``results/segmentation.py``). Raises
    ResultRefused for masks of another size.
    """
    from dicom_node.results.outlines import outlines  # OpenCV: heavy, and only in the extra ai

    masks = np.asarray(image.frames, np.uint8) > 0
    if masks.shape != (len(image.organs), source.rows, source.columns):
        raise ResultRefused("outlines of organs have not the size of their image")
    found = []
    for organ, mask in zip(image.organs, masks, strict=True):
        for part, (points, area) in enumerate(outlines(mask)):
            line = np.clip(points, 0.0, [float(source.columns), float(source.rows)])
            of_part = (str(part + 1),) if part else ()
            found.append(
                Outline(
                    organ,
                    line.astype(np.float32).astype(np.float64),  # Graphic Data has VR FL
                    area,
                    next(iter(image.models), None),
                    tracking_uid(context, source, "organ", organ.scheme, organ.value, *of_part),
                    " ".join(["AI", organ.meaning, *of_part]) + f", image {source.number}",
                )
            )
    return found


def _line_points(source: Source, line: Sequence[Point], *, closed: bool) -> npt.NDArray[np.float64]:
    """A measured line as ``[points, 2]``; ``closed``: it is an outline, so the first point is repeated at its
    end.

    Raises ResultRefused if a point lies outside the image or the ends coincide.
    """
    points = np.asarray(line, np.float32).astype(np.float64)  # Graphic Data has VR FL
    inside = (points >= 0.0).all() and (points <= [float(source.columns), float(source.rows)]).all()
    if not inside or (points[0] == points[-1]).all():
        raise ResultRefused("a measurement whose ends do not lie apart in its image")
    return np.concatenate([points, points[:1]]) if closed else points
