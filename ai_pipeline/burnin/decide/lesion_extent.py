"""Where a lesion lies, as far as the picture itself says: within what its calipers measure."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ai_pipeline.burnin.annotation import Annotation, Mask

FEWEST = 2
"""Calipers that measure something."""


def measured_area(calipers: Sequence[Annotation], shape: tuple[int, ...]) -> Mask:
    """The area that the calipers span: a circle on two of them, the hull of more; none of fewer.

    Two diameters of one lesion span most of it. Calipers of several lesions span what lies between as well:
    the area says where to be careful, not what is ill.
    """
    area = np.zeros(shape[:2], np.uint8)
    if len(calipers) < FEWEST:
        return area.astype(np.bool_)
    centres = np.array([_centre(mark) for mark in calipers], np.float32)
    if len(centres) == FEWEST:
        middle, radius = centres.mean(axis=0), float(np.linalg.norm(centres[0] - centres[1])) / 2
        cv2.circle(area, (round(float(middle[0])), round(float(middle[1]))), max(1, round(radius)), 1, -1)
    else:
        cv2.fillConvexPoly(area, np.rint(cv2.convexHull(centres)).astype(np.int32), 1)
    return area.astype(np.bool_)


def _centre(mark: Annotation) -> tuple[float, float]:
    left, top, right, bottom = mark.box
    return (left + right) / 2, (top + bottom) / 2
