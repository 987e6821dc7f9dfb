"""Outlines of masks as polylines, in the coordinates of :class:`ai_pipeline.contract.Region`."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

MOST_PARTS: Final = 10
"""Parts of one mask that are outlined, the largest ones."""
SMALLEST_PART: Final = 0.01
"""Area of a part that is outlined, as a share of the largest part's."""
_TOLERANCE: Final = 0.5  # pixels between the border of a mask and its outline, at most
_FEWEST_CORNERS: Final = 5  # viewers take a closed line of fewer for an upright rectangle


def outlines(mask: npt.NDArray[np.bool_]) -> list[tuple[npt.NDArray[np.float64], float]]:
    """The outline of each part of ``mask [rows, columns]`` as a closed line ``[points, 2]`` of (column, row)
    in pixels, with the area inside it in pixels; the largest part first. Holes and single pixels have none.
    """
    # Twice as large, so that the line runs along the outer edge of the pixels, not through their middles.
    twice = np.kron(mask.astype(np.uint8), np.ones((2, 2), np.uint8))
    found, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = sorted(
        (contour for contour in found if len(contour) >= _FEWEST_CORNERS), key=cv2.contourArea, reverse=True
    )
    if not contours:
        return []
    smallest = SMALLEST_PART * cv2.contourArea(contours[0])
    lines = [_line(contour) for contour in contours[:MOST_PARTS] if cv2.contourArea(contour) >= smallest]
    return [(line, _area(line)) for line in lines]


def _line(contour: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The closed line along a contour of the mask that was drawn twice as large."""
    simple = cv2.approxPolyDP(contour, 2 * _TOLERANCE, closed=True)
    points = (simple[:, 0].astype(np.float64) + 0.5) / 2
    while len(points) < _FEWEST_CORNERS:
        points = np.concatenate([points, [(points[-1] + points[0]) / 2]])
    return np.concatenate([points, points[:1]])


def _area(line: npt.NDArray[np.float64]) -> float:
    """The area inside a closed line, in square pixels (shoelace formula)."""
    x, y = line.T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)
