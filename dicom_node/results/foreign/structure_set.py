"""RT structure sets of a program (PS3.3 C.8.8.5, C.8.8.6, C.8.8.8): regions with their contours."""

from collections.abc import Iterator, Sequence
from typing import Final

from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import whole
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.coordinates import numbers_of
from dicom_node.results.foreign.planes import Plane, Stack, Vector, plane_of
from dicom_node.results.foreign.references import header_of
from dicom_node.results.foreign.verdict import Remark, refused, repaired

_FEWEST: Final = {
    "POINT": 1,
    "OPEN_PLANAR": 2,
    "OPEN_NONPLANAR": 2,
    "CLOSED_PLANAR": 3,
    "CLOSEDPLANAR_XOR": 3,
}
_PLANAR: Final = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "OPEN_PLANAR"})
_OFF_PLANE: Final = 0.01
"""How far a contour may lie off its slice, as a share of the spacing of pixels."""


def check_regions(candidate: Candidate) -> Iterator[Remark]:
    """Yield regions that the three sequences do not name alike, and flags that only a person may set."""
    dataset = candidate.dataset
    numbers = [whole(one.get("ROINumber")) for one in sequence(dataset, "StructureSetROISequence")]
    if not numbers or len(set(numbers)) < len(numbers) or None in numbers:
        yield refused("it has no regions, or two of one ROI Number")
    for keyword in ("ROIContourSequence", "RTROIObservationsSequence"):
        named = {whole(one.get("ReferencedROINumber")) for one in sequence(dataset, keyword)}
        if named != set(numbers):
            yield refused(f"{keyword} is not about the regions of the structure set")
    if text_of(dataset, "ApprovalStatus") not in ("", "UNAPPROVED"):
        yield refused("it says that a person approved it")
    elif not text_of(dataset, "ApprovalStatus"):
        dataset.ApprovalStatus = "UNAPPROVED"
        yield repaired("Approval Status was set to UNAPPROVED")
    if not text_of(dataset, "StructureSetLabel"):
        dataset.StructureSetLabel = candidate.given.context.pipeline[:16]
        yield repaired("the structure set was labelled with the program's name")
    for observation in sequence(dataset, "RTROIObservationsSequence"):
        if "RTROIInterpretedType" not in observation:
            observation.RTROIInterpretedType = None
            yield repaired("RT ROI Interpreted Type, which may be empty, was added")
        observation.ROIInterpreter = None


def check_frames_of_reference(candidate: Candidate) -> Iterator[Remark]:
    """Yield if regions are in another frame of reference than the images (PS3.3 C.8.8.5)."""
    dataset, known = candidate.dataset, candidate.given.frames_of_reference
    named = sequence(dataset, "ReferencedFrameOfReferenceSequence")
    of_regions = sequence(dataset, "StructureSetROISequence")
    stated = {text_of(one, "FrameOfReferenceUID") for one in named} | {
        text_of(one, "ReferencedFrameOfReferenceUID") for one in of_regions
    }
    if not named:
        yield refused("Referenced Frame of Reference Sequence is missing")
    elif stated - known:
        yield refused("it is in another frame of reference than its images")
    elif len(stated) == 1 and "FrameOfReferenceUID" not in dataset:
        dataset.FrameOfReferenceUID = stated.pop()
        dataset.PositionReferenceIndicator = None
        yield repaired("the frame of reference of the images was named")


def check_contours(candidate: Candidate) -> Iterator[Remark]:
    """Yield contours without the points that they say, off their slice, or outside of the images."""
    stack = candidate.given.stack
    faults: dict[str, None] = {}
    for region in sequence(candidate.dataset, "ROIContourSequence"):
        for contour in sequence(region, "ContourSequence"):
            faults |= dict.fromkeys(_contour_faults(candidate, contour, stack))
    yield from map(refused, faults)


def _contour_faults(candidate: Candidate, contour: Dataset, stack: Stack) -> Iterator[str]:
    """Yield the faults of one contour."""
    kind = text_of(contour, "ContourGeometricType")
    numbers = numbers_of(contour, "ContourData")
    count = whole(contour.get("NumberOfContourPoints"), least=1)
    if kind not in _FEWEST:
        yield "a contour is of an unknown geometric type"
        return
    if numbers is None or count is None or len(numbers) != 3 * count or count < _FEWEST[kind]:
        yield "a contour has not the points that it says, or too few for its type"
        return
    points = numbers.reshape(-1, 3)
    if not stack.planes:
        yield "it has contours in the patient, but its images do not say where they lie"
    elif not stack.near(points):
        yield "a contour lies outside of the images"
    elif kind in _PLANAR:
        planes = _slices(candidate, contour) or stack.at(points[0], _off_plane(stack.planes))
        if not any(_is_on(points, plane) for plane in planes):
            yield "a contour does not lie on a slice of the images"


def _slices(candidate: Candidate, contour: Dataset) -> list[Plane]:
    """The slices that a contour names (Contour Image Sequence)."""
    uids = [text_of(one, "ReferencedSOPInstanceUID") for one in sequence(contour, "ContourImageSequence")]
    return [plane for uid in uids if (plane := _plane(candidate, uid)) is not None]


def _plane(candidate: Candidate, uid: str) -> Plane | None:
    """Where the first frame of an input or an object of the answer lies; None if nothing says it."""
    if (given := candidate.given.instance(uid)) is not None:
        return next(iter(given.planes), None)
    header = header_of(candidate, uid)
    return plane_of(header) if header is not None else None


def _is_on(points: Vector, plane: Plane) -> bool:
    """Whether all points lie on a slice, within a hundredth of a pixel."""
    return bool((plane.distances(points) <= _off_plane([plane])).all())


def _off_plane(planes: Sequence[Plane]) -> float:
    """How far a contour may lie off one of ``planes`` (mm)."""
    return _OFF_PLANE * max(max(plane.spacing) for plane in planes)
