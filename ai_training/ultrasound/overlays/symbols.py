"""Symbols as stencils: glyphs of calipers, arrows, cursors, dotted paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.ultrasound.overlays.canvas import Alpha, Canvas
from ai_training.ultrasound.overlays.texts import Random

Point = tuple[int, int]
Points = npt.NDArray[np.float64]
"""A path: columns and rows, ``[n, 2]``."""
PLUS = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
TIMES = ((0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))


def glyph(canvas: Canvas, shape: str, centre: Point, arm: int, thick: int, smooth: bool) -> Alpha:
    """Make the stencil of a caliper's end. ``shape``: a name in :data:`GLYPHS`; ``arm``: half its width in
    pixels.
    """
    return canvas.sketch((GLYPHS[shape], centre, arm, thick, cv2.LINE_AA if smooth else cv2.LINE_8))


def dotted_path(canvas: Canvas, points: Points, gap: float, dot: int, smooth: bool) -> Alpha:
    """Make the stencil of dots, or dashes, of ``dot`` pixels at every ``gap`` pixels along the path through
    ``points``.
    """
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    dashes = []
    for place in np.arange(0, along[-1], max(gap, 2.0)):
        ends = np.clip([place, place + max(0, dot - 1)], 0, along[-1])
        start, end = on_pixels(np.column_stack([np.interp(ends, along, axis) for axis in points.T])).tolist()
        dashes.append((cv2.line, start, end, 255, 1, cv2.LINE_AA if smooth else cv2.LINE_8))
    return canvas.sketch(*dashes)


def arrow(canvas: Canvas, random: Random, tip: Point, length: int) -> Alpha:
    """Make the stencil of an arrow that points to ``tip`` from a random direction: with a line, as a block,
    or a head alone. ``length`` in pixels.
    """
    back = direction(float(random.uniform(0, 2 * np.pi)))
    across = np.array([-back[1], back[0]])
    point, tail = np.array(tip, float), np.array(tip) + length * back
    style = int(random.integers(3))
    if style == 0:
        thick = int(random.integers(1, 3))
        return canvas.sketch(
            (cv2.arrowedLine, on_pixel(tail), on_pixel(point), 255, thick, cv2.LINE_AA, 0, 0.35)
        )
    head = 0.5 * length
    corners = [point, point + head * back + 0.4 * head * across, point + head * back - 0.4 * head * across]
    if style == 1:
        wide, neck = 0.15 * head * across, point + head * back
        corners[2:2] = [neck + wide, tail + wide, tail - wide, neck - wide]
    shape = [on_pixels(np.array(corners))]
    if random.random() < 0.6:
        return canvas.sketch((cv2.fillPoly, shape, 255, cv2.LINE_AA))
    return canvas.sketch((cv2.polylines, shape, True, 255, 1, cv2.LINE_AA))


def hand_cursor(canvas: Canvas, place: Point, size: int) -> Alpha:
    """Make the stencil of the hand-shaped cursor that sonographers leave in a picture."""
    (column, row), unit = place, max(1, size // 8)
    fingers = []
    for finger, tall in enumerate((3, 0, 1, 1)):
        left = column + finger * 3 * unit // 2
        fingers.append((cv2.rectangle, (left, row + tall * unit), (left + unit, row + 4 * unit), 255, -1))
    return canvas.sketch(
        (cv2.rectangle, (column, row + 3 * unit), (column + 5 * unit, row + 7 * unit), 255, -1),
        *fingers,
        (cv2.line, (column - unit, row + 3 * unit), (column + unit, row + 6 * unit), 255, unit + 1),
    )


def mouse_cursor(canvas: Canvas, place: Point, size: int) -> Alpha:
    """Make the stencil of a cursor in the shape of an arrow."""
    shape = np.array([(0, 0), (0, 16), (4, 12), (7, 18), (9, 17), (6, 11), (11, 11)]) * size / 18 + place
    return canvas.sketch((cv2.fillPoly, [on_pixels(shape)], 255))


def on_pixel(point: Points) -> Point:
    """A point on whole pixels."""
    return round(float(point[0])), round(float(point[1]))


def direction(angle: float) -> Points:
    """The unit vector of an angle."""
    return np.array([np.cos(angle), np.sin(angle)])


def on_pixels(points: Points) -> npt.NDArray[np.int32]:
    """The path on whole pixels, as OpenCV draws it."""
    return np.rint(points).astype(np.int32)


def _spokes(
    alpha: Alpha,
    centre: Point,
    arm: int,
    thick: int,
    line: int,
    directions: Sequence[tuple[float, float]] = PLUS,
    begin: float = 0.0,
) -> None:
    """Draw lines away from the centre; ``directions`` across and down, ``begin`` as a share of their
    length.
    """
    for way in directions:
        start, end = (on_pixel(centre + r * np.array(way)) for r in (begin * arm, arm))
        cv2.line(alpha, start, end, 255, thick, line)


def _ringed_plus(alpha: Alpha, centre: Point, arm: int, thick: int, line: int) -> None:
    """Draw a plus with a ring around its centre."""
    _spokes(alpha, centre, arm, thick, line)
    cv2.circle(alpha, centre, max(2, arm // 2), 255, thick, line)


def _diamond(alpha: Alpha, centre: Point, arm: int, thick: int, line: int) -> None:
    """Draw a diamond with a dot at its centre."""
    x, y = centre
    corners = np.array([(x - arm, y), (x, y - arm), (x + arm, y), (x, y + arm)], np.int32)
    cv2.polylines(alpha, [corners], True, 255, thick, line)
    cv2.circle(alpha, centre, 0, 255, -1)


def _square(alpha: Alpha, centre: Point, arm: int, thick: int, line: int) -> None:
    """Draw an empty square."""
    x, y = centre
    half = max(2, arm * 2 // 3)
    cv2.rectangle(alpha, (x - half, y - half), (x + half, y + half), 255, thick, line)


GLYPHS: dict[str, Callable[[Alpha, Point, int, int, int], None]] = {
    "plus": _spokes,
    "times": partial(_spokes, directions=TIMES),
    "gapped plus": partial(_spokes, begin=0.35),
    "tee": partial(_spokes, directions=PLUS[:3]),
    "up tack": partial(_spokes, directions=(*PLUS[:2], PLUS[3])),
    "star": partial(_spokes, directions=PLUS + TIMES),
    "ringed plus": _ringed_plus,
    "diamond": _diamond,
    "square": _square,
}
