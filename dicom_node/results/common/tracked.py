"""Findings in the order for a reader, and measurements, each with its tracking UID.

Report, presentation state and picture are made from the same located findings and tracked measurements.

The report's conclusion: the short result of each image, and how burned-in text was handled.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    Finding,
    Measurement,
    PipelineResult,
    Point,
    QualityNote,
    Region,
)
from ai_pipeline.summary import decided_in_words, result_lines
from dicom_node.errors import ResultRefused
from dicom_node.results.common import concepts
from dicom_node.results.common.context import BURNED_IN_HEAD, NOT_HERE, ResultContext
from dicom_node.results.common.identity import tracking_uid
from dicom_node.results.common.source import Source

_RANK: Final = {Decision.PRESENT: 0, Decision.INDETERMINATE: 1, Decision.ABSENT: 2}


@dataclass(frozen=True, slots=True, eq=False)
class LocatedFinding:
    """One finding at one place, or in the image as a whole (``region`` None)."""

    finding: Finding
    region: Region | None
    tracking_uid: str
    identifier: str
    """Tracking Identifier (112039): names the finding, unique within one report."""


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings: the patient's before burned-in annotation, then present, indeterminate, absent.

    Findings with the same decision are sorted by probability, the highest first.
    """
    return sorted(
        findings,
        key=lambda f: (
            f.code == BURNED_IN,
            _RANK[f.decision],
            -(f.probability or 0.0),
            f.label,
            f.code.value,
        ),
    )


def reported(context: ResultContext, findings: Sequence[Finding]) -> list[Finding]:
    """The findings for a reader; burned-in annotation is included only for peers that want its boxes."""
    return [finding for finding in findings if context.burned_in_boxes or finding.code != BURNED_IN]


def located_findings(
    context: ResultContext, source: Source, findings: Sequence[Finding]
) -> list[LocatedFinding]:
    """Located findings of one image: all that are reported and not absent, sorted as in ``ranked``.

    Raises ResultRefused for a frame that does not exist.
    """
    located: list[LocatedFinding] = []
    seen: Counter[tuple[str, ...]] = Counter()
    for finding in ranked(reported(context, of_source(source, findings))):
        if finding.decision is Decision.ABSENT:
            continue
        check_frame(finding, source)
        code = finding.code
        key = (code.scheme, code.value, finding.label, finding.model.id, str(finding.frame or 0))
        for place, region in enumerate(finding.regions or (None,)):
            given = finding.tracking_uid if place == 0 else ""
            uid = given or tracking_uid(context, source, *key, str(seen[key]))
            seen[key] += 1
            identifier = f"AI {finding.name} {len(located) + 1}, image {source.number}"
            located.append(LocatedFinding(finding, region, uid, identifier[:64]))
    if len({one.tracking_uid for one in located}) < len(located):
        raise ResultRefused("two findings of one image bear the same tracking UID: viewers show only one")
    return located


def tracked(located: Sequence[LocatedFinding]) -> list[Finding]:
    """Each region as a separate finding with its tracking UID, as the renderer draws it."""
    return [
        replace(one.finding, regions=(one.region,) if one.region else (), tracking_uid=one.tracking_uid)
        for one in located
    ]


def of_source(source: Source, findings: Sequence[Finding]) -> list[Finding]:
    """The findings in the image ``source``."""
    return [finding for finding in findings if finding.source_uid == source.uid]


def check_frame(finding: Finding, source: Source) -> None:
    """Raise ResultRefused if the finding names a frame that the image does not have."""
    if finding.frame is not None and not 1 <= finding.frame <= source.frames:
        raise ResultRefused(f"a finding in frame {finding.frame} of an image of {source.frames}")


def outline(region: Region, source: Source) -> npt.NDArray[np.float64]:
    """Closed polyline ``[points, 2]`` in SCOORD and PIXEL coordinates (column, row), clipped to the image.

    Both must lie within the image (PS3.3 C.18.6.1.2, C.10.5.1.2). Raises ResultRefused if no part lies
    inside.
    """
    if region.type == "box":
        left, top, right, bottom = region.bounds
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    else:
        corners = list(region.points)
    points = np.asarray([*corners, corners[0]], np.float64)
    points = np.clip(points, 0.0, [float(source.columns), float(source.rows)])
    points = points.astype(np.float32).astype(np.float64)  # Graphic Data has VR FL
    if (np.ptp(points, axis=0) < 1.0).any():
        raise ResultRefused("a region lies outside its image or has no area in it")
    return points


LINE: Final = "INTERPOLATED"
"""Graphic Type of measured lines in presentation states: of two points, it is a straight line."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedMeasurement:
    """A measurement with its tracking UID.

    ``identifier``: Tracking Identifier (112039). ``lines``: ``[points, 2]`` each, as SCOORD.
    """

    measurement: Measurement
    tracking_uid: str
    identifier: str
    lines: tuple[npt.NDArray[np.float64], ...]


def tracked_measurements(
    context: ResultContext, source: Source, measurements: Sequence[Measurement]
) -> list[TrackedMeasurement]:
    """The measurements of this image, in their order.

    Raises ResultRefused for a frame or a point outside the image.
    """
    mine = [measurement for measurement in measurements if measurement.source_uid == source.uid]
    return [_tracked(context, source, measurement, place) for place, measurement in enumerate(mine, start=1)]


def _tracked(
    context: ResultContext, source: Source, measurement: Measurement, place: int
) -> TrackedMeasurement:
    if not 1 <= (measurement.frame or 1) <= source.frames:
        raise ResultRefused(f"a measurement in frame {measurement.frame} of an image of {source.frames}")
    name = measurement.name
    if measurement.model is None:
        how = concepts.READ_FROM_IMAGE.meaning.lower()
        parts, identifier = [str(place)], f"{name} {place}, image {source.number}: {how}"
    else:
        parts = [measurement.model.id, name, str(measurement.frame or 0), *filter(None, [measurement.fetus])]
        whose = f" of fetus {measurement.fetus}" if measurement.fetus else ""
        identifier = f"AI {name}{whose}, image {source.number}"
    return TrackedMeasurement(
        measurement,
        tracking_uid(context, source, "measurement", *parts),
        identifier[:64],
        tuple(_line(source, line, closed=measurement.closed) for line in measurement.lines),
    )


def _line(source: Source, line: Sequence[Point], *, closed: bool) -> npt.NDArray[np.float64]:
    points = np.asarray(line, np.float32).astype(np.float64)  # Graphic Data has VR FL
    inside = (points >= 0.0).all() and (points <= [float(source.columns), float(source.rows)]).all()
    if not inside or (points[0] == points[-1]).all():
        raise ResultRefused("a measurement whose ends do not lie apart in its image")
    return np.concatenate([points, points[:1]]) if closed else points


# Notes on the cleaning of an image that a reader has to know: what went, what stayed, what to beware of.
_OF_CLEANING: Final = frozenset(
    {
        "burned_in",
        "kept",
        "in_doubt",
        "blacked_out",
        "over_lesion",
        "side_marker",
        "cleaning_failed",
        "overlay_planes",
    }
)


def conclusion(sources: Sequence[Source], result: PipelineResult) -> str:
    """The lines on all images of the report; images with identical lines are named together."""
    found = results_in_words(sources, result)
    cleaning = [note for note in result.quality if note.name in _OF_CLEANING]
    cleaned = _grouped(
        (source, "; ".join(note.text.rstrip(".") for note in cleaning if note.source_uid == source.uid))
        for source in sources
    )
    burned_in = [f"{BURNED_IN_HEAD}{'. '.join(cleaned)}."] if cleaned else []
    parts = [*found, *purged_images(result), *burned_in]
    return "\r\n".join(parts)


def results_in_words(sources: Sequence[Source], result: PipelineResult) -> list[str]:
    """The short result of each image, with its lines; images with identical lines are named together."""
    lines = (
        result_lines(
            of_source(source, result.findings),
            [one for one in result.measurements if one.source_uid == source.uid],
            [one for one in result.quality if one.source_uid in {None, source.uid}],
        )
        for source in sources
    )
    return _grouped(zip(sources, map("\r\n".join, lines), strict=True))


def purged_images(result: PipelineResult) -> list[str]:
    """Remarks on images of earlier jobs that have been deleted here since."""
    return [f"No longer here: {note.text}" for note in result.quality if note.name == NOT_HERE]


def remarks(source: Source, sources: Sequence[Source], notes: Iterable[QualityNote]) -> tuple[str, ...]:
    """Quality notes on an image; notes without an image belong to the first of ``sources``."""
    mine = {source.uid, None} if source is sources[0] else {source.uid}
    elsewhere = _OF_CLEANING | {NOT_HERE}
    behind = [note for note in notes if note.source_uid in mine and not note.on_faces]
    return tuple(f"{note.name}: {note.text}" for note in behind if note.name not in elsewhere)


def reliabilities(findings: Sequence[Finding]) -> tuple[str, ...]:
    """One remark on how reliable these findings are (how many in 10 such calls are right).

    Empty if no reliability was measured.
    """
    parts = [
        f"{decided_in_words(finding)}: {finding.reliability}."
        for finding in ranked(findings)
        if finding.reliability
    ]
    return (f"reliability: {' '.join(parts)}",) if parts else ()


def _grouped(sentences: Iterable[tuple[Source, str]]) -> list[str]:
    """Each sentence once, with the numbers of its images where there are several."""
    images: dict[str, list[int]] = {}
    pairs = list(sentences)
    for source, text in pairs:
        if text:
            images.setdefault(text, []).append(source.number)
    if len(pairs) == 1:
        return list(images)
    return [
        f"image{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}: {text}"
        for text, numbers in images.items()
    ]
