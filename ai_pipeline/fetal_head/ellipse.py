"""The ellipse of a head's outline: how biometry measures a fetal head (ISUOG practice guidelines, 2019)."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ai_pipeline.contract import Bools, Point
from ai_pipeline.images.coordinates import Affine

POINTS = 72
"""Points of a polygon in the place of an ellipse: its circumference is .13 % below the ellipse's."""
FEWEST = 20
"""Points of an outline inside the picture that an ellipse is fitted to."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """An ellipse. ``x``, ``y``: the middle; ``long`` and ``short``: the whole axes; all in pixels of the
    source.

    ``turn``: radians from the picture's rows to the long axis, clockwise as shown, 0 to π.
    """

    x: float
    y: float
    long: float
    short: float
    turn: float

    @property
    def circumference(self) -> float:
        """The circumference in pixels, by Ramanujan's second formula (error below one in ten thousand)."""
        a, b = self.long / 2, self.short / 2
        h = ((a - b) / (a + b)) ** 2
        return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))

    def polygon(self, count: int = POINTS) -> tuple[Point, ...]:
        """``count`` points on the ellipse, starting at one end of the long axis; not closed."""
        return tuple(self._at(2 * math.pi * step / count) for step in range(count))

    def long_axis(self) -> tuple[Point, Point]:
        """The two ends of the long axis."""
        return self._at(0.0), self._at(math.pi)

    def short_axis(self) -> tuple[Point, Point]:
        """The two ends of the short axis."""
        return self._at(math.pi / 2), self._at(3 * math.pi / 2)

    def mask(self, rows: int, columns: int) -> Bools:
        """The filled ellipse in a picture of ``rows`` × ``columns``."""
        down, across = np.mgrid[0:rows, 0:columns] + 0.5
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        along = (across - self.x) * cos + (down - self.y) * sin
        beside = (down - self.y) * cos - (across - self.x) * sin
        return np.asarray((2 * along / self.long) ** 2 + (2 * beside / self.short) ** 2 <= 1, np.bool_)

    def _at(self, angle: float) -> Point:
        along, beside = math.cos(angle) * self.long / 2, math.sin(angle) * self.short / 2
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return self.x + along * cos - beside * sin, self.y + along * sin + beside * cos


def ellipse_of(mask: Bools, from_grid: Affine) -> Ellipse | None:
    """The ellipse fitted to the outline of ``mask [rows, columns]``; None if too little of an outline is
    visible.

    ``from_grid`` maps corners of the mask's pixels to the source. Where the head leaves the mask its outline
    is not seen, so points on the mask's edge are left out (least squares: A. Fitzgibbon et al., PAMI 1999).
    """
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    points = max(outlines, key=len)[:, 0].astype(np.float64)
    rows, columns = mask.shape
    inside = (points > 0).all(1) & (points[:, 0] < columns - 1) & (points[:, 1] < rows - 1)
    if inside.sum() < FEWEST:
        return None
    # From the middles of the outermost pixels to the mask's edge, half a pixel farther from its middle.
    middle = np.array([np.mean(axis) for axis in np.nonzero(mask)[::-1]])
    away = points - middle
    outwards = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    seen = np.array(from_grid((points + 0.5 + 0.5 * outwards)[inside].tolist()), np.float32)
    (x, y), (first, second), degrees = cv2.fitEllipseDirect(seen[:, None])
    values = (x, y, first, second)
    if not all(map(math.isfinite, values)) or min(first, second) <= 0:
        return None
    turn = math.radians(degrees) + (math.pi / 2 if second > first else 0)
    return Ellipse(x, y, max(first, second), min(first, second), turn % math.pi)
