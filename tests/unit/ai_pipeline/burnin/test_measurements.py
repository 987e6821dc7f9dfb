"""Measurements that are written in a picture count only where unit and calipers agree."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ai_pipeline.burnin.decide.measurements import TOLERANCE_PIXELS, measurements_of, parse_length
from ai_pipeline.contract import ImageHeader, Meaning, Reading
from ai_pipeline.images.header import calibrated_regions, read_header

MM = 0.2
"""Millimetres a pixel in these images: a caliper centre is known to about that."""


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("D 3.45 cm", (3.45, "cm")),
        ("1D2.31cm", (2.31, "cm")),
        ("D1: 2.31 cm", (2.31, "cm")),
        ("+ Dist 2.31 cm", (2.31, "cm")),
        ("1 L 23.1mm", (23.1, "mm")),
        ("BPD 64,5 mm", (64.5, "mm")),
        ("2.31cm", (2.31, "cm")),
        ("HC 245.3mm", None),
        ("Vol 12.3 ml", None),
        ("PSV 43.2 cm/s", None),
        ("Area 3.2 cm2", None),
        ("2.31 x 1.45 cm", None),
        ("2.31", None),
        ("D 0.00 cm", None),
        ("RI 0.65", None),
        ("KIM 2.31 cm", None),
    ],
)
def test_only_a_length_with_its_unit_is_a_measurement(text: str, parsed: tuple[float, str] | None) -> None:
    found = parse_length(text)
    assert (found and (found.value, found.unit)) == parsed


def test_a_length_that_its_calipers_confirm_is_told_with_their_places() -> None:
    found = measurements_of([said("D 2.00 cm"), caliper(100, 100), caliper(160, 180)], header())
    assert len(found) == 1
    (measurement,) = found
    assert (measurement.value, measurement.unit.value, measurement.quantity.value) == (2.0, "cm", "410668003")
    assert measurement.lines == (((100.0, 100.0), (160.0, 180.0)),)
    assert (measurement.source_uid, measurement.model) == ("1.2.3", None)


@settings(max_examples=200, deadline=None)
@given(
    angle=st.floats(0, 2 * math.pi),
    length=st.floats(12.0, 50.0),
    off=st.floats(-1.0, 1.0),
    unit=st.sampled_from(["mm", "cm"]),
)
def test_the_law_of_the_tolerance(angle: float, length: float, off: float, unit: str) -> None:
    """Centres within a pixel are confirmed whichever way they lie; a tenth off is not."""
    shown = length if unit == "mm" else length / 10
    reach = (length + off * MM) / MM
    ends = [caliper(400, 300), caliper(400 + reach * math.cos(angle), 300 + reach * math.sin(angle))]
    text = f"D {shown:.1f} mm" if unit == "mm" else f"D {shown:.2f} cm"
    assert len(measurements_of([said(text), *ends], header())) == 1
    wrong = f"D {shown * 1.1:.1f} mm" if unit == "mm" else f"D {shown * 1.1:.2f} cm"
    assert measurements_of([said(wrong), *ends], header()) == ()


def test_a_length_that_fits_two_pairs_is_not_told() -> None:
    two_pairs = [caliper(100, 100), caliper(200, 100), caliper(100, 500), caliper(200, 501)]
    assert measurements_of([said("D 2.00 cm"), *two_pairs], header()) == ()


def test_two_lengths_of_one_pair_are_not_told() -> None:
    ends = [caliper(100, 100), caliper(200, 100)]
    assert measurements_of([said("D1 2.00 cm"), said("D2 2.01 cm"), *ends], header()) == ()


def test_two_diameters_are_told_apart() -> None:
    ends = [caliper(100, 300), caliper(400, 300), caliper(250, 180), caliper(250, 380)]
    found = measurements_of([said("1 D 6.00 cm"), said("2 D 4.00 cm"), *ends], header())
    assert [(one.value, one.lines[0][0]) for one in found] == [(6.0, (100.0, 300.0)), (4.0, (250.0, 180.0))]
    assert found == measurements_of([said("1D6.00cm 2D4.00cm"), *ends], header())


@pytest.mark.parametrize("given_header", ["none", "seconds", "apart"])
def test_without_calibration_between_the_calipers_there_is_no_measurement(given_header: str) -> None:
    headers = {
        "none": replace(header(), ultrasound_regions=()),
        "seconds": read_header(image([region((0, 0, 799, 599), units=4)])),
        "apart": read_header(image([region((0, 0, 150, 599)), region((151, 0, 799, 599))])),
    }
    readings = [said("D 2.00 cm"), caliper(100, 100), caliper(200, 100)]
    assert measurements_of(readings, headers[given_header]) == ()


def test_a_doubtful_reading_measures_nothing() -> None:
    ends = [caliper(100, 100), caliper(200, 100)]
    assert measurements_of([replace(said("D 2.00 cm"), confidence=0.8), *ends], header()) == ()
    assert measurements_of([said("D 2 cm"), *ends], header()) == ()  # rounded to a centimetre


def test_regions_are_calibrated_by_their_deltas() -> None:
    regions = [region((0, 0, 399, 599), delta=(0.02, -0.03)), region((400, 0, 799, 599), units=4)]
    (found,) = calibrated_regions(read_header(image(regions)))
    assert found.box == (0, 0, 400, 600)
    assert (found.column_spacing, found.row_spacing) == pytest.approx((0.2, 0.3))


def test_pixel_spacing_counts_where_there_are_no_regions() -> None:
    plain = image([])
    plain.PixelSpacing = [0.2, 0.2]
    readings = [said("D 2.00 cm"), caliper(100, 100), caliper(200, 100)]
    assert len(measurements_of(readings, read_header(plain))) == 1
    with_regions = image([region((0, 0, 799, 599), units=4)])
    with_regions.PixelSpacing = [0.2, 0.2]
    assert measurements_of(readings, read_header(with_regions)) == ()


def test_a_cine_tells_a_measurement_once_and_pairs_no_calipers_of_different_frames() -> None:
    first = [said("D 2.00 cm"), caliper(100, 100), caliper(200, 100)]
    frames = [replace(reading, frame=frame) for frame in (1, 76) for reading in first]
    assert [one.frame for one in measurements_of(frames, header())] == [1]
    torn = [replace(first[0], frame=1), replace(first[1], frame=1), replace(first[2], frame=2)]
    assert measurements_of(torn, header()) == ()


def test_the_tolerance_is_of_pixels_for_small_lengths() -> None:
    ends = [caliper(100, 100), caliper(115 + TOLERANCE_PIXELS * 0.9, 100)]
    assert len(measurements_of([said("D 3.00 mm"), *ends], header())) == 1


def said(text: str) -> Reading:
    return Reading("1.2.3", None, "text", Meaning.MEASUREMENT, (10, 10, 90, 22), 0.97, False, text)


def caliper(x: float, y: float) -> Reading:
    return Reading("1.2.3", None, "caliper", Meaning.MEASUREMENT, (x - 5, y - 5, x + 5, y + 5), 0.9, False)


def header() -> ImageHeader:
    return read_header(image([region((0, 0, 799, 599))]))


def region(
    box: tuple[int, int, int, int], *, units: int = 3, delta: tuple[float, float] = (0.02, 0.02)
) -> Dataset:
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = box[:2]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box[2:]
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta
    return item


def image(regions: list[Dataset]) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality, dataset.PhotometricInterpretation = "US", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored = 600, 800, 8, 8
    if regions:
        dataset.SequenceOfUltrasoundRegions = regions
    return dataset
