"""Coordinates of a program's objects: inside what they refer to, with the points that their type has.

2-D ones are (column, row) of the referenced frame (PS3.3 C.18.6.1.2, C.10.5.1.2); 3-D ones are millimetres in
a frame of reference (C.18.9.1). A point less than a pixel outside is moved to the edge; nothing else is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import decimal
from dicom_node.base.dicom.header import listed
from dicom_node.results.dataset import text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.planes import Stack, Vector
from dicom_node.results.foreign.verdict import Remark, held, noted, refused, repaired

_COUNTS: Final = {
    "POINT": (1, 1), "MULTIPOINT": (1, None), "POLYLINE": (2, None), "INTERPOLATED": (2, None),
    "CIRCLE": (2, 2), "ELLIPSE": (4, 4), "POLYGON": (4, None), "ELLIPSOID": (6, 6), "RECTANGLE": (2, 2),
}  # fmt: skip
"""Fewest and most points by Graphic Type (None: any number)."""
_SQUARE_TO: Final = 0.02  # cosine between the axes of an ellipse
LEAST_AREA: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Frame:
    """The extent of a referenced image: (columns, rows) in pixels, or (1, 1) in the units DISPLAY.

    ``pixel``: the size of a pixel in these units; ``is_tiled``: it is the total pixel matrix of a slide.
    """

    columns: float
    rows: float
    pixel: float = 1.0
    is_tiled: bool = False


def numbers_of(item: Dataset, keyword: str = "GraphicData") -> Vector | None:
    """The finite numbers of an attribute; None if one is none, or there is none."""
    values: list[Any] = [decimal(value) for value in listed(item.get(keyword))]
    return None if not values or None in values else np.asarray(values, np.float64)


def check_graphic(item: Dataset, frame: Frame, graphic_type: str, *, region: bool) -> Iterator[Remark]:
    """Yield what is wrong with a 2-D graphic on ``frame``; ``region``: it must have an area if it is closed.

    Points less than a pixel outside are moved to the edge in ``item``.
    """
    numbers = numbers_of(item)
    if numbers is None or len(numbers) % 2:
        yield refused("a coordinate is no finite number, or one of a pair is missing")
        return
    points = numbers.reshape(-1, 2)
    yield from _form_remarks(points, graphic_type)
    size = np.asarray([frame.columns, frame.rows])
    outside = np.maximum(np.maximum(-points, points - size), 0).max()
    if outside >= frame.pixel:
        yield refused("a coordinate lies outside of the referenced image")
    elif outside > 0:
        item.GraphicData = [float(number) for number in np.clip(points, 0, size).ravel()]
        yield repaired("coordinates less than a pixel outside were moved to the edge of the image")
    is_closed = len(points) > 2 and bool(np.array_equal(points[0], points[-1]))
    if region and graphic_type == "POLYLINE" and is_closed and _area(points) < LEAST_AREA:
        yield refused("a region has no area")


def check_input_size(sets: Sequence[tuple[Vector, Frame]], candidate: Candidate) -> Iterator[Remark]:
    """Yield if all coordinates of an object may be those of a picture that the model scaled (512 for 2048):
    they lie in the upper left part of the image that has the model's input size, or cover the whole image.
    """
    if not sets:
        return
    for columns, rows in candidate.given.input_sizes:
        smaller = [columns < frame.columns and rows < frame.rows for _, frame in sets]
        inside = [points[:, 0].max() <= columns and points[:, 1].max() <= rows for points, _ in sets]
        if all(smaller) and all(inside) and any(len(points) > 1 for points, _ in sets):
            yield held("all coordinates lie in a rectangle of the model's input size: they may not be scaled")
    if any(len(points) > 1 and _covers(points, frame) for points, frame in sets):
        yield noted("a region covers the whole image")


def check_points_3d(points: Vector, stack: Stack, graphic_type: str) -> Iterator[Remark]:
    """Yield points (n × 3, mm) outside of the images of ``stack``, or too few for the graphic type."""
    yield from _form_remarks(points, graphic_type)
    if not stack.planes:
        yield refused("it has coordinates in the patient, but its images do not say where they lie")
    elif not stack.near(points):
        yield refused("a point lies outside of the images that it refers to")


def _form_remarks(points: Vector, graphic_type: str) -> Iterator[Remark]:
    """Yield if a graphic has another number of points than its type, or an ellipse no right angle."""
    if graphic_type not in _COUNTS:
        yield refused("a graphic is of an unknown type")
        return
    fewest, most = _COUNTS[graphic_type]
    if len(points) < fewest or (most is not None and len(points) > most):
        yield refused("a graphic has not the number of points of its type")
    elif graphic_type == "POLYGON" and not np.allclose(points[0], points[-1]):
        yield refused("a polygon is not closed")
    elif graphic_type == "ELLIPSE":
        long, short = points[1] - points[0], points[3] - points[2]
        lengths = float(np.linalg.norm(long) * np.linalg.norm(short))
        if lengths == 0 or abs(float(long @ short)) > _SQUARE_TO * lengths:
            yield refused("the axes of an ellipse are not at right angles")
    elif graphic_type == "CIRCLE" and np.array_equal(points[0], points[1]):
        yield refused("a circle has no radius")


def _area(points: Vector) -> float:
    """The area of a closed polygon (shoelace formula)."""
    x, y = points[:-1].T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _covers(points: Vector, frame: Frame) -> bool:
    """Whether the box around the points is the whole image, within a pixel."""
    low, high = points.min(axis=0), points.max(axis=0)
    return bool((low <= 1).all() and high[0] >= frame.columns - 1 and high[1] >= frame.rows - 1)


def frame_of(target: Dataset) -> Frame | None:
    """The size of the frames of a referenced image, or of its total pixel matrix; None of what has none."""
    columns = decimal(target.get("TotalPixelMatrixColumns") or target.get("Columns"))
    rows = decimal(target.get("TotalPixelMatrixRows") or target.get("Rows"))
    is_tiled = bool(target.get("TotalPixelMatrixColumns") and target.get("TotalPixelMatrixRows"))
    return Frame(columns, rows, is_tiled=is_tiled) if columns and rows else None


def is_text(item: Dataset, keyword: str, *values: str) -> bool:
    """Whether an attribute has one of these values."""
    return text_of(item, keyword) in values
