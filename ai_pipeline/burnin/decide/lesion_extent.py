"""Estimate where a lesion lies from the calipers that measure it."""

from collections.abc import Sequence

import cv2
import numpy as np

from ai_pipeline.burnin.annotation.kinds import Annotation
from ai_pipeline.burnin.annotation.pixels import Mask, centre_of

FEWEST = 2
"""Calipers of a measurement, at least."""
SMALLEST, LONGEST = 11, 1.6
"""Least side in pixels of a drawn cross, and most of its longer side to its shorter one: ticks of rulers are
found as calipers too, 5 to 9 pixels long on nine fetal planes, and whole rulers, 33 pixels and more by 9."""


def measured_area(calipers: Sequence[Annotation], shape: tuple[int, ...]) -> Mask:
    """The area that calipers span in a picture of ``shape``: a circle for two, the convex hull for more.

    Calipers of several lesions also span the tissue between them; filled pixels there may mislead, too.
    """
    area = np.zeros(shape[:2], np.uint8)
    crosses = [mark for mark in calipers if _is_cross(mark)]
    if len(crosses) < FEWEST:
        return area.astype(np.bool_)
    centres = np.array([centre_of(mark.box) for mark in crosses], np.float32)
    if len(centres) == FEWEST:
        middle, radius = centres.mean(axis=0), float(np.linalg.norm(centres[0] - centres[1])) / 2
        cv2.circle(area, (round(float(middle[0])), round(float(middle[1]))), max(1, round(radius)), 1, -1)
    else:
        cv2.fillConvexPoly(area, np.rint(cv2.convexHull(centres)).astype(np.int32), 1)
    return area.astype(np.bool_)


def _is_cross(mark: Annotation) -> bool:
    left, top, right, bottom = mark.box
    shorter, longer = sorted((right - left, bottom - top))
    return shorter >= SMALLEST and longer <= LONGEST * shorter
