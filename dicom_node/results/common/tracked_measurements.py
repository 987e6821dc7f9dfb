"""Measurements of one image with their tracking UIDs, the same in report and presentation state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Measurement, Point
from dicom_node.errors import ResultRefused
from dicom_node.results.common import concepts
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.identity import tracking_uid
from dicom_node.results.common.source import Source

LINE: Final = "INTERPOLATED"
"""Graphic Type of measured lines in presentation states: of two points, it is a straight line."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedMeasurement:
    """``identifier``: Tracking Identifier (112039). ``lines``: ``[points, 2]`` each, as SCOORD has them."""

    measurement: Measurement
    tracking_uid: str
    identifier: str
    lines: tuple[npt.NDArray[np.float64], ...]


def tracked_measurements(
    context: ResultContext, source: Source, measurements: Sequence[Measurement]
) -> list[TrackedMeasurement]:
    """The measurements of this image, in their order.

    Raises ResultRefused for a frame or a point that the image has not.
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
        parts = [measurement.model.id, name, str(measurement.frame or 0)]
        identifier = f"AI {name}, image {source.number}"
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
