"""Frames of segmentations and parametric maps: where they lie, beside the images that they were made from.

A frame in the place of its source image must lie there within a thousandth of a millimetre: a mask that is
mirrored or one slice off is drawn on healthy tissue (PS3.3 C.7.6.16.2.3, C.7.6.16.2.4).
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import whole
from dicom_node.base.dicom.header import listed
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.planes import (
    NEAR_MM,
    Plane,
    Stack,
    groups_of,
    macro,
    plane_of,
)
from dicom_node.results.foreign.references import header_of, references
from dicom_node.results.foreign.tiles import check_matrix, check_number_of_tiles, is_tiled_full
from dicom_node.results.foreign.verdict import Remark, noted, refused, repaired

_SAME_DIRECTION: Final = 1e-3
"""How far two direction cosines may differ."""


def check_functional_groups(candidate: Candidate) -> Iterator[Remark]:
    """Yield if there are more or fewer per-frame groups than frames, or dimensions point to nothing."""
    dataset = candidate.dataset
    if is_tiled_full(dataset):
        yield from check_number_of_tiles(candidate)
        return
    frames = whole(dataset.get("NumberOfFrames"), least=1)
    groups = sequence(dataset, "PerFrameFunctionalGroupsSequence")
    if frames is None or frames != len(groups):
        yield refused("Number of Frames is not that of the per-frame functional groups")
    pointers = [one.get("DimensionIndexPointer") for one in sequence(dataset, "DimensionIndexSequence")]
    if any(pointer is None or not dictionary_has_tag(pointer) for pointer in pointers):
        yield refused("a dimension points to an attribute that is none")
    if not pointers:
        return
    indices = []
    for group in groups:
        content = sequence(group, "FrameContentSequence")
        indices.append(listed(content[0].get("DimensionIndexValues")) if content else ())
    if any(len(one) != len(pointers) or min(map(int, one), default=0) < 1 for one in indices):
        yield refused("dimension indices are missing, or do not begin at 1")
    elif len(set(indices)) < len(indices):
        yield refused("two frames have the same dimension indices")


def check_frame_of_reference(candidate: Candidate) -> Iterator[Remark]:
    """Yield if the frame of reference is not that of the images referred to; name it where it is missing."""
    dataset = candidate.dataset
    headers = [header_of(candidate, one.uid) for one in references(dataset)]
    known = {text_of(one, "FrameOfReferenceUID") for one in headers if one is not None} - {""}
    own = text_of(dataset, "FrameOfReferenceUID")
    if not own and len(known) == 1:
        dataset.FrameOfReferenceUID = next(iter(known))
        dataset.setdefault("PositionReferenceIndicator", None)
        yield repaired("the frame of reference of the images was named")
    elif known and own not in known:
        yield refused("it is in another frame of reference than its images")


def check_geometry(candidate: Candidate) -> Iterator[Remark]:
    """Yield frames that do not lie where their source images do."""
    dataset = candidate.dataset
    if is_tiled_full(dataset):
        yield from check_matrix(candidate)
        return
    stack = candidate.given.stack
    frames = whole(dataset.get("NumberOfFrames"), least=1) or 0
    seen: set[str] = set()
    for frame in range(1, frames + 1):
        for remark in _frame_remarks(candidate, frame, stack):
            if remark.text not in seen:  # once, not for each of a thousand frames
                seen.add(remark.text)
                yield remark


def check_measured_directions(candidate: Candidate) -> Iterator[Remark]:
    """Yield an Image Orientation whose cosines are not at right angles (PS3.3 C.7.6.2.1.1)."""
    plane = plane_of(candidate.dataset)
    if plane is not None and not plane.is_orthonormal:
        yield refused("the directions of rows and columns are not at right angles")


def _frame_remarks(candidate: Candidate, frame: int, stack: Stack) -> Iterator[Remark]:
    """Yield what is wrong with the place of one frame."""
    dataset = candidate.dataset
    plane, sources = plane_of(dataset, frame), _sources(candidate, frame)
    where = [one for header, number in sources if (one := plane_of(header, number)) is not None]
    if plane is None:
        if where or (stack.planes and not sources):
            yield refused("it does not say where its frames lie, though its images do")
        elif any(_size(header) != _size(dataset) for header, _ in sources):
            yield refused("its frames have another size than its images, and no place")
        return
    if not plane.is_orthonormal:
        yield refused("the directions of rows and columns are not at right angles")
        return
    if len(where) == 1:
        yield from _beside(plane, where[0])
        return
    if not stack.planes:
        if sources and any(_size(header) != _size(dataset) for header, _ in sources):
            yield refused("its frames have another size than its images, which lie nowhere")
        return
    matching = (Stack(where) if where else stack).at(plane.position)
    if matching:
        yield from _beside(plane, min(matching, key=lambda one: _apart(one, plane)))
    elif stack.near(_middle(plane)[None]):
        yield noted("its frames lie between the slices of the images")
    else:
        yield refused("its frames lie outside of the images")


def _beside(plane: Plane, source: Plane) -> Iterator[Remark]:
    """Yield how a frame differs in place from the one image that it was made from."""
    if max(_apart_in_direction(plane, source)) > _SAME_DIRECTION:
        yield refused("a frame is mirrored or turned against its image")
        return
    if source.distance(plane.position) > NEAR_MM:
        yield refused("a frame lies off the plane of its image")
        return
    is_same_grid = plane.size == source.size and np.allclose(plane.spacing, source.spacing, rtol=NEAR_MM)
    extents = [np.asarray(one.size) * np.asarray(one.spacing) for one in (plane, source)]
    largest = max(*plane.spacing, *source.spacing)
    if is_same_grid:
        if _apart(plane, source) > NEAR_MM:
            yield refused("a frame lies beside its image")
    elif (np.abs(extents[0] - extents[1]) > largest).any() or _apart(plane, source) > largest:
        yield refused("a frame of another size does not cover its image")


def _sources(candidate: Candidate, frame: int) -> list[tuple[Dataset, int]]:
    """The images (headers) and frame numbers from which a frame was derived, as it says."""
    found = []
    for group in groups_of(candidate.dataset, frame)[:-1]:
        for derivation in sequence(group, "DerivationImageSequence"):
            for source in sequence(derivation, "SourceImageSequence"):
                header = header_of(candidate, text_of(source, "ReferencedSOPInstanceUID"))
                numbers = listed(source.get("ReferencedFrameNumber")) or (1,)
                if header is not None:
                    found += [(header, whole(number) or 1) for number in numbers]
    return found


def _size(header: Dataset) -> tuple[object, object]:
    """Rows and Columns."""
    return header.get("Rows"), header.get("Columns")


def _apart(one: Plane, other: Plane) -> float:
    """How far the first pixels lie apart (mm)."""
    return float(np.linalg.norm(one.position - other.position))


def _apart_in_direction(one: Plane, other: Plane) -> tuple[float, float]:
    """The largest differences between the direction cosines of rows and of columns."""
    return float(np.abs(one.across - other.across).max()), float(np.abs(one.down - other.down).max())


def _middle(plane: Plane) -> np.ndarray:
    """The point in the middle of a frame (mm)."""
    rows, columns = plane.size
    along = plane.across * (plane.spacing[1] * (columns - 1) / 2)
    return plane.position + along + plane.down * (plane.spacing[0] * (rows - 1) / 2)


def shared_or_each(dataset: Dataset, name: str) -> Iterator[Dataset | None]:
    """Yield the functional group ``name`` of every frame, None where a frame has none."""
    for frame in range(1, len(sequence(dataset, "PerFrameFunctionalGroupsSequence")) + 1):
        yield macro(dataset, frame, name)
