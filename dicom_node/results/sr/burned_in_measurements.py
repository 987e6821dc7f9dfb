"""Measurements that were read from an image's pixels, as measurement groups of the report.

A length between two points is no region: a TID 1501 group whose NUM (TID 300) is inferred from an open
polyline of the two calipers (TID 320). The finding and the method say that it was read from the image, for
review.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from highdicom.sr import (
    CoordinatesForMeasurement,
    GraphicTypeValues,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)

from ai_pipeline.contract import BurnedMeasurement
from dicom_node.errors import ResultRefused
from dicom_node.results.common import concepts
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.equipment import algorithm
from dicom_node.results.common.identity import tracking_uid
from dicom_node.results.common.source import Source
from dicom_node.results.sr.content import Group


def measurement_groups(
    context: ResultContext, source: Source, measurements: Sequence[BurnedMeasurement]
) -> list[Group]:
    """TID 1501: one group for each measurement of this image, in their order.

    Values have the unit that they were read with (UCUM), points are SCOORD: column and row in pixels of the
    image. Raises ResultRefused for a frame or a point that the image has not.
    """
    mine = [measurement for measurement in measurements if measurement.source_uid == source.uid]
    return [_group(context, source, measurement, place) for place, measurement in enumerate(mine, start=1)]


def _group(context: ResultContext, source: Source, measurement: BurnedMeasurement, place: int) -> Group:
    frames = _frames(source, measurement)
    how = concepts.READ_FROM_IMAGE.meaning
    number = Measurement(
        name=concepts.coded(measurement.quantity),
        value=measurement.value,
        unit=concepts.coded(measurement.unit),
        method=concepts.READ_FROM_IMAGE,
        referenced_coordinates=[
            CoordinatesForMeasurement(
                graphic_type=GraphicTypeValues.POLYLINE,
                graphic_data=_line(source, measurement),
                source_image=SourceImageForRegion.from_source_image(source.stand_in, frames),
            )
        ],
    )
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(context, source, "measurement", str(place)),
            identifier=f"{measurement.quantity.meaning} {place}, image {source.number}: {how.lower()}",
        ),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
        finding_type=concepts.BURNED_IN_MEASUREMENT,
        algorithm_id=algorithm(context.models[0]) if context.models else None,
        measurements=[number],
    )


def _frames(source: Source, measurement: BurnedMeasurement) -> list[int] | None:
    frame = measurement.frame or 1
    if frame > source.frames:
        raise ResultRefused(f"a measurement in frame {frame} of an image of {source.frames}")
    return [frame] if source.frames > 1 else None


def _line(source: Source, measurement: BurnedMeasurement) -> npt.NDArray[np.float64]:
    """The two calipers as SCOORD has them (VR FL), which must lie in the image and apart."""
    points = np.asarray(measurement.ends, np.float32).astype(np.float64)
    inside = (points >= 0.0).all() and (points <= [float(source.columns), float(source.rows)]).all()
    if not inside or (points[0] == points[1]).all():
        raise ResultRefused("a measurement whose ends do not lie apart in its image")
    return points
