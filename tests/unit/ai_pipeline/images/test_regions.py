"""The calibrated regions of an ultrasound picture."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from ai_pipeline.images.header import calibrated_regions, read_header
from tests.unit.ai_pipeline.phantoms import data_set


def test_regions_are_calibrated_by_their_deltas() -> None:
    regions = [region((0, 0, 399, 599), delta=(0.02, -0.03)), region((400, 0, 799, 599), units=4)]
    (found,) = calibrated_regions(read_header(image(regions)))
    assert found.box == (0, 0, 400, 600)
    assert (found.column_spacing, found.row_spacing) == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize("regions", [False, True])
def test_pixel_spacing_counts_where_there_are_no_regions(regions: bool) -> None:
    given = image([region((0, 0, 799, 599), units=4)] * regions, PixelSpacing=[0.2, 0.2])
    assert bool(calibrated_regions(read_header(given))) is not regions


def region(
    box: tuple[int, int, int, int], *, units: int = 3, delta: tuple[float, float] = (0.02, 0.02)
) -> Dataset:
    corners = zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), box, strict=True)
    return data_set(
        **{f"RegionLocation{name}": place for name, place in corners},
        PhysicalUnitsXDirection=units,
        PhysicalUnitsYDirection=units,
        PhysicalDeltaX=delta[0],
        PhysicalDeltaY=delta[1],
    )


def image(regions: list[Dataset], **more: Any) -> Dataset:
    size = {"Rows": 600, "Columns": 800, "BitsAllocated": 8, "BitsStored": 8}
    known = {"Modality": "US", "PhotometricInterpretation": "MONOCHROME2", **size}
    return data_set(**known, **({"SequenceOfUltrasoundRegions": regions} if regions else {}), **more)
