"""Where a lesion lies, as far as its calipers show."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ai_pipeline.burnin.annotation.kinds import Annotation
from ai_pipeline.burnin.annotation.pixels import Mask, centre_of

FEWEST = 2
"""Calipers of a measurement, at least."""


def measured_area(calipers: Sequence[Annotation], shape: tuple[int, ...]) -> Mask:
    """The area that calipers span in a picture of ``shape``: a circle on two, the hull of more.

    Two diameters of one lesion span most of it. Calipers of several lesions also span what lies between
    them: the area says where filled pixels may mislead, not where a lesion is.
    """
    area = np.zeros(shape[:2], np.uint8)
    if len(calipers) < FEWEST:
        return area.astype(np.bool_)
    centres = np.array([centre_of(mark.box) for mark in calipers], np.float32)
    if len(centres) == FEWEST:
        middle, radius = centres.mean(axis=0), float(np.linalg.norm(centres[0] - centres[1])) / 2
        cv2.circle(area, (round(float(middle[0])), round(float(middle[1]))), max(1, round(radius)), 1, -1)
    else:
        cv2.fillConvexPoly(area, np.rint(cv2.convexHull(centres)).astype(np.int32), 1)
    return area.astype(np.bool_)
