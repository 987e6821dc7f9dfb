"""Segmentations and maps of slides whose frames are tiles that no functional group describes (TILED_FULL).

Where each tile lies follows from its number (PS3.3 C.7.6.17.3): the tiles of a total pixel matrix by rows,
for each focal plane and each segment. So the whole matrix is compared with that of the slide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import decimal, whole
from dicom_node.base.dicom.header import listed
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.kinds import LABEL_MAP_SEGMENTATION, ForeignKind
from dicom_node.results.foreign.planes import Vector, groups_of
from dicom_node.results.foreign.references import header_of, references
from dicom_node.results.foreign.verdict import Remark, refused

_SAME_DIRECTION: Final = 1e-3
"""How far two direction cosines may differ."""


@dataclass(frozen=True, slots=True, eq=False)
class _Matrix:
    """The total pixel matrix of a slide. ``corner``: (X, Y) of its first pixel (mm, in the slide's
    coordinates); ``extent``: (along columns, along rows) in mm; ``pixel``: the larger side of a pixel (mm).
    """

    corner: Vector
    orientation: Vector
    extent: Vector
    pixel: float


def is_tiled_full(dataset: Dataset) -> bool:
    """Whether the places of the frames follow from their order."""
    return text_of(dataset, "DimensionOrganizationType") == "TILED_FULL"


def check_number_of_tiles(candidate: Candidate) -> Iterator[Remark]:
    """Yield if there are more or fewer frames than the matrix has tiles, for each focal plane and segment."""
    dataset = candidate.dataset
    words = ("TotalPixelMatrixRows", "Rows", "TotalPixelMatrixColumns", "Columns")
    sides = [whole(dataset.get(word), least=1) or 0 for word in words]
    if 0 in sides:
        yield refused("its frames are tiles, and it does not say of how large a matrix")
        return
    layers = whole(dataset.get("TotalPixelMatrixFocalPlanes"), least=1) or 1
    if candidate.kind is ForeignKind.SEGMENTATION and candidate.sop_class_uid != LABEL_MAP_SEGMENTATION:
        layers *= len(sequence(dataset, "SegmentSequence"))
    tiles = prod(ceil(whole_side / side) for whole_side, side in (sides[:2], sides[2:]))
    if whole(dataset.get("NumberOfFrames")) != tiles * layers:
        yield refused("Number of Frames is not that of its tiles, focal planes and segments")


def check_matrix(candidate: Candidate) -> Iterator[Remark]:
    """Yield if the total pixel matrix does not cover that of one of the slides that it refers to."""
    mine = _matrix(candidate.dataset)
    headers = [header_of(candidate, uid) for uid in {one.uid for one in references(candidate.dataset)}]
    slides = [found for one in headers if one is not None and (found := _matrix(one)) is not None]
    if mine is None:
        yield refused("it does not say where its frames lie, though they are tiles of a slide")
    elif not any(_covers(mine, slide) for slide in slides):
        yield refused("its tiles do not cover the slide that it was made from")


def _matrix(dataset: Dataset) -> _Matrix | None:
    """The total pixel matrix of an object; None if it is not tiled, or does not say where it lies."""
    groups = groups_of(dataset, 1)
    measures = next((one for group in groups for one in sequence(group, "PixelMeasuresSequence")), Dataset())
    origin = next(iter(sequence(dataset, "TotalPixelMatrixOriginSequence")), Dataset())
    axes = ("X", "Y")
    numbers = [
        *(decimal(origin.get(f"{axis}OffsetInSlideCoordinateSystem")) for axis in axes),
        *map(decimal, listed(dataset.get("ImageOrientationSlide"))),
        *(decimal(dataset.get(f"TotalPixelMatrix{side}")) for side in ("Rows", "Columns")),
        *map(decimal, listed(measures.get("PixelSpacing"))),
    ]
    stated = [number for number in numbers if number is not None]
    if len(stated) != 12 or len(numbers) != len(stated):
        return None
    corner, orientation, size, spacing = np.split(np.array(stated), [2, 8, 10])
    return _Matrix(corner, orientation, size * spacing, float(spacing.max()))


def _covers(mine: _Matrix, slide: _Matrix) -> bool:
    """Whether both matrices are the same rectangle of the slide, within the larger pixel of the two."""
    pixel = max(mine.pixel, slide.pixel)
    return bool(
        (np.abs(mine.orientation - slide.orientation) <= _SAME_DIRECTION).all()
        and (np.abs(mine.corner - slide.corner) <= pixel).all()
        and (np.abs(mine.extent - slide.extent) <= pixel).all()
    )
