"""Measurements as groups of the report: taken by a model, or written in the picture and read from it.

A length between two points is no region: a TID 1501 group whose NUM (TID 300) is inferred from open polylines
(TID 320). The finding says who measured; of what was read from the image the method says so too.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    CoordinatesForMeasurement,
    FindingSite,
    GraphicTypeValues,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)

from ai_pipeline import contract
from dicom_node.results.common import concepts
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.equipment import algorithm
from dicom_node.results.common.source import Source
from dicom_node.results.common.tracked_measurements import TrackedMeasurement, tracked_measurements
from dicom_node.results.sr.content import Group


def measurement_groups(
    context: ResultContext, source: Source, measurements: Sequence[contract.Measurement]
) -> list[Group]:
    """TID 1501: one group for each measurement of this image, in their order.

    Values have their unit (UCUM), points are SCOORD: column and row in pixels of the image. Raises
    ResultRefused for a frame or a point that the image has not.
    """
    return [_group(context, source, one) for one in tracked_measurements(context, source, measurements)]


def _group(context: ResultContext, source: Source, tracked: TrackedMeasurement) -> Group:
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
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracked.tracking_uid, identifier=tracked.identifier),
        source_images=[SourceImageForMeasurementGroup.from_source_image(source.stand_in, frames)],
        finding_type=concepts.BURNED_IN_MEASUREMENT if read else concepts.AI_MEASUREMENT,
        finding_sites=[FindingSite(concepts.coded(measurement.site))] if measurement.site else None,
        algorithm_id=algorithm(model) if model else None,
        measurements=[number],
    )
