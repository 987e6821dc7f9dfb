"""Where masks, maps and contours lie, and what their samples say (gate.md D)."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_node.base.dicom.header import items
from dicom_node.results.foreign.planes import Plane, Stack, Vector
from dicom_node.results.foreign.verdict import JudgedObject, Verdict
from tests.modality import data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import (
    FRAME_OF_REFERENCE,
    ct_slice,
    ct_study,
    derived_slice,
    judged,
    said,
    verdict_on,
)


def changed(make: Callable[[], Dataset], change: Callable[[Dataset], Any]) -> JudgedObject:
    """The verdict on an object that was changed."""
    wrote = make()
    change(wrote)
    return verdict_on(wrote)


def frames(dataset: Dataset) -> list[Dataset]:
    return list(dataset.PerFrameFunctionalGroupsSequence)


def shared(dataset: Dataset) -> Dataset:
    return dataset.SharedFunctionalGroupsSequence[0]


def move_frame(dataset: Dataset, by: float, axis: int) -> None:
    """Move the first frame along an axis of the patient (mm)."""
    place = frames(dataset)[0].PlanePositionSequence[0]
    position = [float(one) for one in place.ImagePositionPatient]
    position[axis] += by
    place.ImagePositionPatient = position


def change_to(where: Callable[[Dataset], Dataset], keyword: str, value: Any) -> Callable[[Dataset], None]:
    """Set an attribute of an item."""
    return lambda dataset: setattr(where(dataset), keyword, value)


def set_orientation(*cosines: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        shared(dataset).PlaneOrientationSequence[0].ImageOrientationPatient = list(cosines)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda one: move_frame(one, 0.01, 0), "beside its image", id="beside"),
        pytest.param(lambda one: move_frame(one, 0.5, 2), "off the plane", id="half a slice off"),
        pytest.param(set_orientation(-1, 0, 0, 0, 1, 0), "mirrored", id="mirrored"),
        pytest.param(set_orientation(1, 0, 0, 0.1, 1, 0), "right angles", id="not orthonormal"),
        pytest.param(
            lambda one: setattr(shared(one).PixelMeasuresSequence[0], "PixelSpacing", [0.7, 0.7]),
            "does not cover",
            id="spacing",
        ),
        pytest.param(
            lambda one: setattr(one, "FrameOfReferenceUID", "2.25.88"),
            "another frame of reference",
            id="frame of reference",
        ),
        pytest.param(lambda one: setattr(one, "NumberOfFrames", 3), "Number of Frames", id="frames"),
        pytest.param(
            change_to(lambda one: shared(one).SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 2),
            "segment that is not there",
            id="segment of a frame",
        ),
        pytest.param(
            lambda one: setattr(one.SegmentSequence[0], "SegmentNumber", 2), "numbered from 1", id="segment"
        ),
        pytest.param(lambda one: setattr(one, "BitsAllocated", 8), "Bits Allocated", id="bits"),
        pytest.param(lambda one: setattr(one, "LossyImageCompression", "01"), "with loss", id="lossy"),
        pytest.param(lambda one: setattr(one, "PixelData", one.PixelData[:-2]), "length", id="length"),
        pytest.param(
            lambda one: setattr(one.DimensionIndexSequence[0], "DimensionIndexPointer", 0x00091001),
            "points to an attribute that is none",
            id="dimension pointer",
        ),
        pytest.param(
            lambda one: setattr(
                frames(one)[0].FrameContentSequence[0],
                "DimensionIndexValues",
                frames(one)[1].FrameContentSequence[0].DimensionIndexValues,
            ),
            "same dimension indices",
            id="dimension twice",
        ),
        pytest.param(
            lambda one: setattr(frames(one)[0].FrameContentSequence[0], "DimensionIndexValues", [0, 1]),
            "do not begin at 1",
            id="dimension from 0",
        ),
        pytest.param(
            lambda one: [frame.pop("PlanePositionSequence") for frame in frames(one)],
            "does not say where its frames lie",
            id="no place",
        ),
    ],
)
def test_a_mask_that_is_not_in_its_place_or_not_whole_is_refused(
    change: Callable[[Dataset], Any], reason: str
) -> None:
    found = changed(makers.segmentation, change)
    assert found.verdict is Verdict.REFUSED, said(found)
    assert reason in said(found)


def test_a_mask_names_the_frame_of_reference_of_its_images() -> None:
    found = changed(makers.segmentation, lambda one: delattr(one, "FrameOfReferenceUID"))
    assert found.dataset is not None, said(found)
    assert found.dataset.FrameOfReferenceUID == FRAME_OF_REFERENCE


def test_a_mask_of_nothing_is_refused_unless_a_report_says_that_nothing_was_found() -> None:
    empty = makers.segmentation(np.zeros((4, 32, 40), np.uint8))
    assert "masks are empty" in said(verdict_on(empty))
    name = data_set(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning="Finding")
    absent = data_set(CodeValue="272519000", CodingSchemeDesignator="SCT", CodeMeaning="Absent")
    report = makers.text_report()
    report.ContentSequence = [
        data_set(
            RelationshipType="CONTAINS",
            ValueType="CODE",
            ConceptNameCodeSequence=[name],
            ConceptCodeSequence=[absent],
        )
    ]
    answer = judged(empty, report)
    assert answer.objects[0].verdict is Verdict.GOES, said(answer.objects[0])


def test_overlapping_segments_are_said_to_overlap() -> None:
    wrote = makers.segmentation()
    second = deepcopy(wrote.SegmentSequence[0])
    second.SegmentNumber = 2
    wrote.SegmentSequence = [wrote.SegmentSequence[0], second]
    del shared(wrote).SegmentIdentificationSequence
    wrote.PerFrameFunctionalGroupsSequence = [
        _of_segment(one, number) for number in (1, 2) for one in frames(wrote)
    ]
    wrote.PixelData = wrote.PixelData * 2
    wrote.NumberOfFrames = 8
    wrote.SegmentsOverlap = "NO"
    found = verdict_on(wrote)
    assert found.dataset is not None, said(found)
    assert found.dataset.SegmentsOverlap == "YES"


def _of_segment(frame: Dataset, number: int) -> Dataset:
    """A copy of a frame's groups for another segment."""
    copy = deepcopy(frame)
    copy.SegmentIdentificationSequence = [data_set(ReferencedSegmentNumber=number)]
    values = list(copy.FrameContentSequence[0].DimensionIndexValues)
    copy.FrameContentSequence[0].DimensionIndexValues = [number, *values[1:]]
    return copy


def test_values_of_a_label_map_that_are_no_segment_are_refused() -> None:
    wrote = makers.label_map()
    wrote.PixelData = b"\7" + wrote.PixelData[1:]
    assert "number of no segment" in said(verdict_on(wrote))


def test_a_mask_of_another_grid_that_covers_its_images_goes() -> None:
    wrote = makers.segmentation()
    half = np.zeros((4, 16, 20), np.uint8)
    half[1:3, 4:8, 4:8] = 1
    wrote.Rows, wrote.Columns = 16, 20
    wrote.PixelData = np.packbits(half.ravel(), bitorder="little").tobytes()
    shared(wrote).PixelMeasuresSequence[0].PixelSpacing = [1.0, 1.0]
    found = verdict_on(wrote)
    assert found.verdict is Verdict.GOES, said(found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda one: one.add_new("PixelData", "OW", b"\0\0"), "samples once", id="samples twice"),
        pytest.param(lambda one: delattr(one, "FloatPixelData"), "samples once", id="no samples"),
        pytest.param(
            lambda one: setattr(one, "FloatPixelData", one.FloatPixelData[:-4]), "length", id="length"
        ),
        pytest.param(
            lambda one: setattr(one, "FloatPixelData", np.full(4 * 32 * 40, np.nan, "<f4").tobytes()),
            "is a number",
            id="no numbers",
        ),
        pytest.param(
            lambda one: delattr(shared(one), "RealWorldValueMappingSequence"), "Real World", id="mapping"
        ),
        pytest.param(
            lambda one: delattr(shared(one).RealWorldValueMappingSequence[0], "QuantityDefinitionSequence"),
            "which quantity",
            id="quantity",
        ),
        pytest.param(
            lambda one: delattr(shared(one).RealWorldValueMappingSequence[0], "MeasurementUnitsCodeSequence"),
            "unit of UCUM",
            id="unit",
        ),
        pytest.param(lambda one: move_frame(one, 40, 0), "beside its image", id="place"),
    ],
)
def test_a_map_that_means_nothing_or_lies_elsewhere_is_refused(
    change: Callable[[Dataset], Any], reason: str
) -> None:
    found = changed(makers.parametric_map, change)
    assert found.verdict is Verdict.REFUSED, said(found)
    assert reason in said(found)


def test_a_map_with_samples_that_are_no_numbers_goes_with_a_note() -> None:
    wrote = makers.parametric_map()
    samples = np.frombuffer(wrote.FloatPixelData, "<f4").copy()
    samples[0] = np.nan
    wrote.FloatPixelData = samples.tobytes()
    found = verdict_on(wrote)
    assert found.verdict is Verdict.GOES
    assert "no padding value" in said(found)


@pytest.mark.parametrize(
    ("contour", "reason"),
    [
        pytest.param(makers.contour(2, off=0.5), "on a slice", id="between slices"),
        pytest.param(makers.contour(2, NumberOfContourPoints=5), "points that it says", id="count"),
        pytest.param(
            makers.contour(2, NumberOfContourPoints=2, ContourData=["-8", "-6", "4", "-4", "-6", "4"]),
            "too few",
            id="too few",
        ),
        pytest.param(makers.contour(2, ContourGeometricType="CIRCLE"), "geometric type", id="type"),
        pytest.param(
            makers.contour(
                2, ContourData=["500", "0", "4", "501", "0", "4", "501", "1", "4", "500", "1", "4"]
            ),
            "outside of the images",
            id="outside",
        ),
        pytest.param(makers.contour(3, off=-2.0), "on a slice", id="on another slice than it names"),
    ],
)
def test_a_contour_that_lies_elsewhere_is_refused(contour: Dataset, reason: str) -> None:
    found = verdict_on(makers.structure_set([contour]))
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda one: setattr(one, "ApprovalStatus", "APPROVED"), "approved it", id="approved"),
        pytest.param(
            lambda one: setattr(one.ROIContourSequence[0], "ReferencedROINumber", 2),
            "ROIContour",
            id="number",
        ),
        pytest.param(
            lambda one: setattr(one, "StructureSetROISequence", list(one.StructureSetROISequence) * 2),
            "two of one ROI Number",
            id="twice",
        ),
        pytest.param(
            lambda one: delattr(one, "ReferencedFrameOfReferenceSequence"),
            "Frame of Reference",
            id="no frame",
        ),
        pytest.param(
            lambda one: setattr(one.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "2.25.66"),
            "another frame of reference",
            id="frame",
        ),
    ],
)
def test_a_structure_set_that_contradicts_itself_is_refused(
    change: Callable[[Dataset], Any], reason: str
) -> None:
    found = changed(makers.structure_set, change)
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


def test_a_structure_set_gets_the_flags_that_a_program_may_set() -> None:
    wrote = makers.structure_set()
    del wrote.ApprovalStatus
    wrote.StructureSetLabel = ""
    del wrote.RTROIObservationsSequence[0].RTROIInterpretedType
    found = verdict_on(wrote).dataset
    assert found is not None
    assert (found.ApprovalStatus, found.StructureSetLabel) == ("UNAPPROVED", "lung tool")
    assert "RTROIInterpretedType" in found.RTROIObservationsSequence[0]


def test_a_derived_image_with_slanted_axes_is_refused() -> None:
    found = verdict_on(derived_slice(ImageOrientationPatient=[1, 0, 0, 0.2, 0.97, 0]))
    assert "right angles" in said(found)


def test_a_derived_image_in_a_frame_of_reference_of_its_own_goes_with_a_note() -> None:
    found = verdict_on(derived_slice(FrameOfReferenceUID="2.25.67"))
    assert found.verdict is Verdict.GOES
    assert "a frame of reference of its own" in said(found)


def test_a_mask_on_a_film_has_the_films_size() -> None:
    """Images that lie nowhere (a chest film): the mask must have their size."""
    film = ct_slice(1)
    for word in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "PixelSpacing"):
        delattr(film, word)
    wrote = makers.segmentation()
    wrote.PerFrameFunctionalGroupsSequence = frames(wrote)[1:2]
    wrote.NumberOfFrames = 1
    for item in items(wrote):
        if "ReferencedSOPInstanceUID" in item:
            item.ReferencedSOPInstanceUID = film.SOPInstanceUID
    del wrote.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    del shared(wrote).PlaneOrientationSequence
    wrote.PixelData = np.packbits(makers.mask()[1].ravel(), bitorder="little").tobytes()
    found = verdict_on(wrote, ct_study([film]))
    assert found.verdict is Verdict.GOES, said(found)
    wrote.Rows, wrote.Columns = 40, 32
    assert "another size than its images" in said(verdict_on(wrote, ct_study([film])))


def test_points_are_compared_with_all_slices_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of a structure set grows with its contours, not with contours times points times slices."""
    calls: list[int] = []

    def normal(plane: Plane) -> Vector:
        """The unit vector across the plane, counted."""
        calls.append(1)
        return np.cross(plane.across, plane.down)

    monkeypatch.setattr(Plane, "normal", property(normal))

    def asked(contours: int, slices: int) -> int:
        """How often the direction of a slice is computed for so many contours, with so many slices."""
        calls.clear()
        study = ct_study([ct_slice(number) for number in range(1, slices + 1)])
        found = verdict_on(makers.structure_set([makers.contour(2) for _ in range(contours)]), study)
        assert found.verdict is Verdict.GOES, said(found)
        return len(calls)

    assert asked(40, 4) - asked(20, 4) <= 20
    assert asked(20, 24) - asked(20, 4) <= 20


POINTS = np.random.default_rng(1).uniform([-14, -12, -6], [14, 12, 16], (500, 3))


@pytest.mark.parametrize("turn", [0.0, 0.3], ids=["parallel", "fan"])
def test_a_point_is_near_a_stack_as_it_is_near_one_of_its_planes(turn: float) -> None:
    """Beside the rectangle of some slice by at most a pixel, and between the outer slices or one beside."""
    planes = []
    for number in range(4):
        across = np.array([np.cos(turn * number), np.sin(turn * number), 0.0])
        down = np.array([-across[1], across[0], 0.0])
        planes.append(Plane(np.array([-10.0, -8.0, 2.0 * number]), across, down, (0.5, 0.5), (32, 40)))
    stack = Stack(planes)

    def is_near(point: Vector) -> bool:
        """By definition, for one point."""
        beside = []
        for plane in planes:
            column, row = ((point - plane.position) @ way / 0.5 for way in (plane.across, plane.down))
            beside.append(-1.5 <= column <= 40.5 and -1.5 <= row <= 32.5)
        return bool(-2.0 <= point[2] <= 8.0 and any(beside))

    expected = [is_near(point) for point in POINTS]
    assert [stack.near(point[None]) for point in POINTS] == expected
    assert 50 < sum(expected) < 450
    assert stack.near(POINTS[np.array(expected)])
