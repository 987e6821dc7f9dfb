"""Where the pixels of a frame lie in the patient (PS3.3 C.7.6.2.1.1), in images of one frame and of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import decimal, whole
from dicom_node.base.dicom.header import listed
from dicom_node.results.dataset import sequence

Vector = npt.NDArray[np.float64]
NEAR_MM: Final = 1e-3
"""Positions that differ by less are the same (mm)."""
ORTHONORMAL: Final = 1e-4
"""How far the cosine between row and column, and their lengths, may be from 0 and 1."""
_MOST_PRODUCTS: Final = 2**20
"""Points times rectangles that are compared at once (8 MiB for each direction)."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One frame in the patient. ``position``: of the centre of its first pixel (mm); ``across`` and ``down``:
    unit vectors along its rows and columns; ``spacing``: (between rows, between columns) in mm; ``size``:
    (rows, columns).
    """

    position: Vector
    across: Vector
    down: Vector
    spacing: tuple[float, float]
    size: tuple[int, int]

    @property
    def place(self) -> tuple[float, ...]:
        """The position, rounded to what counts as the same."""
        return tuple(float(number) for number in np.round(self.position, 3) + 0.0)

    @property
    def normal(self) -> Vector:
        """The unit vector across the plane."""
        return np.cross(self.across, self.down)

    @property
    def is_orthonormal(self) -> bool:
        """Whether the direction cosines are of length 1 and at right angles."""
        numbers = (self.across @ self.down, self.across @ self.across - 1, self.down @ self.down - 1)
        return all(abs(number) <= ORTHONORMAL for number in numbers)

    def distance(self, point: Vector) -> float:
        """How far a point lies off the plane (mm)."""
        return float(abs((point - self.position) @ self.normal))

    def distances(self, points: Vector) -> Vector:
        """How far each of n × 3 points lies off the plane (mm)."""
        return np.abs((points - self.position) @ self.normal)


class Stack:
    """The frames of some images in the patient, which are asked about many points at once.

    A structure set has a hundred thousand points: nothing is computed again for each of them.
    """

    def __init__(self, planes: Sequence[Plane]) -> None:
        """``planes``: where the frames lie, in any order."""
        self.planes = tuple(planes)

    @cached_property
    def _positions(self) -> Vector:
        """The first pixel of each plane (planes × 3)."""
        return np.array([plane.position for plane in self.planes]).reshape(-1, 3)

    @cached_property
    def _normals(self) -> Vector:
        """The unit vector across each plane (planes × 3)."""
        return np.array([plane.normal for plane in self.planes]).reshape(-1, 3)

    @cached_property
    def _between(self) -> tuple[float, float]:
        """The lowest and the highest place of a slice across the first one, with one slice beside (mm)."""
        places = np.unique(np.round(self._positions @ self._normals[0], 4))
        beside = float(np.median(np.diff(places))) if len(places) > 1 else 1.0
        return float(places[0]) - beside, float(places[-1]) + beside

    @cached_property
    def _windows(self) -> tuple[Vector, Vector, Vector]:
        """The rectangles in which frames lie, each once: slices of a series share one. The directions of rows
        and columns in pixels (2 × windows × 3), and the lowest and highest (column, row) along them, with one
        pixel beside (2 × windows).
        """
        found: dict[tuple[float, ...], tuple[Vector, Vector, Vector]] = {}
        for plane in self.planes:
            rows, columns = plane.size
            ways = np.array([plane.across / plane.spacing[1], plane.down / plane.spacing[0]])
            lowest = ways @ plane.position - 1.5
            highest = lowest + np.array([columns + 2, rows + 2])
            key = np.round(np.concatenate([ways.ravel(), lowest, highest]), 3) + 0.0
            found.setdefault(tuple(key.tolist()), (ways, lowest, highest))
        ways, lowest, highest = (np.array(one) for one in zip(*found.values(), strict=True))
        return ways.transpose(1, 0, 2), lowest.T, highest.T

    def near(self, points: Vector) -> bool:
        """Whether all of n × 3 points lie among the frames, or at most one slice and one pixel beside."""
        lowest, highest = self._between
        along = points @ self._normals[0]
        if ((along < lowest) | (along > highest)).any():
            return False
        ways, least, most = self._windows
        size = max(1, _MOST_PRODUCTS // least.shape[1])
        for first in range(0, len(points), size):
            columns_rows = points[first : first + size] @ ways.transpose(0, 2, 1)
            inside = (least[:, None] <= columns_rows) & (columns_rows <= most[:, None])
            if not np.all(np.any(np.all(inside, axis=0), axis=1)):
                return False
        return True

    def at(self, point: Vector, within: float = NEAR_MM) -> list[Plane]:
        """The planes that a point lies on, or at most ``within`` mm off."""
        if not self.planes:
            return []
        off = np.abs(((point - self._positions) * self._normals).sum(axis=1))
        return [self.planes[index] for index in np.flatnonzero(off <= within)]


def groups_of(dataset: Dataset, frame: int) -> tuple[Dataset, ...]:
    """Where the macros of a frame (1-based) stand: its functional groups, the shared ones, and the root."""
    per_frame = sequence(dataset, "PerFrameFunctionalGroupsSequence")
    own = [per_frame[frame - 1]] if 0 < frame <= len(per_frame) else []
    return (*own, *sequence(dataset, "SharedFunctionalGroupsSequence"), dataset)


def macro(dataset: Dataset, frame: int, name: str) -> Dataset | None:
    """The item of the functional group ``name`` (its sequence) of a frame; None without one."""
    return next((items[0] for group in groups_of(dataset, frame) if (items := sequence(group, name))), None)


def plane_of(dataset: Dataset, frame: int = 1) -> Plane | None:
    """The plane of a frame (1-based); None if the image does not say where it lies."""
    measures = macro(dataset, frame, "PixelMeasuresSequence") or dataset
    spacing = _numbers(measures, "PixelSpacing", 2)
    orientation = _numbers(
        macro(dataset, frame, "PlaneOrientationSequence") or dataset, "ImageOrientationPatient", 6
    )
    position = _numbers(macro(dataset, frame, "PlanePositionSequence") or dataset, "ImagePositionPatient", 3)
    if spacing is None or orientation is None or position is None or min(spacing) <= 0:
        return None
    size = (whole(dataset.get("Rows")) or 0, whole(dataset.get("Columns")) or 0)
    return Plane(position, orientation[:3], orientation[3:], (float(spacing[0]), float(spacing[1])), size)


def _numbers(dataset: Dataset, keyword: str, count: int) -> Vector | None:
    """So many finite numbers of an attribute; None for anything else."""
    values: list[Any] = [decimal(value) for value in listed(dataset.get(keyword))]
    if len(values) != count or None in values:
        return None
    return np.asarray(values, np.float64)
