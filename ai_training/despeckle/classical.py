"""Filters that need no training; all but the median and the bilateral filter get the noise's
spread as input.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.despeckle.afterwards import Filter

Floats = npt.NDArray[np.float32]
FLOOR = 1 / 255
"""Added before logarithms: the smallest step of a picture."""


def median(picture: Floats) -> Floats:
    """The picture after a median filter of 5 × 5 pixels."""
    return np.asarray(cv2.medianBlur(picture, 5), np.float32)


def bilateral(picture: Floats) -> Floats:
    """The picture after a bilateral filter, 9 pixels wide; differences above the noise keep their edges."""
    return np.asarray(cv2.bilateralFilter(picture, 9, 2 * spread(picture), 3), np.float32)


def non_local_means(picture: Floats) -> Floats:
    """The picture after non-local means (A. Buades et al., CVPR 2005): 7 × 7 patches, searched in 21 × 21
    pixels.
    """
    bytes_ = np.asarray(np.clip(picture * 255, 0, 255), np.uint8)
    filtered = cv2.fastNlMeansDenoising(bytes_, None, 255 * spread(picture), 7, 21)
    return np.asarray(filtered / 255, np.float32)


def bm3d_of_logarithm(picture: Floats) -> Floats:
    """The picture after BM3D (K. Dabov et al., TIP 2007) of its logarithm, in which speckle is a sum.

    Needs the package ``bm3d``, which is free for non-commercial use only.
    """
    import bm3d

    logarithm = np.log(picture + FLOOR)
    filtered = bm3d.bm3d(logarithm, spread(logarithm))
    return np.asarray(np.clip(np.exp(filtered) - FLOOR, 0, 1), np.float32)


def spread(picture: Floats) -> float:
    """Standard deviation of white noise, from the finest diagonal wavelets (D. Donoho, 1994),
    at least .01.
    """
    diagonal = picture[:-1:2, :-1:2] - picture[1::2, :-1:2] - picture[:-1:2, 1::2] + picture[1::2, 1::2]
    shown = np.abs(diagonal[diagonal != 0])  # not the black around the image
    return max(float(np.median(shown)) / 2 / 0.6745, 0.01) if len(shown) else 0.01


def filters() -> Mapping[str, Filter]:
    """The installed filters by name. BM3D is left out if its package is not installed."""
    found: dict[str, Filter] = {
        "median": median,
        "bilateral": bilateral,
        "non-local means": non_local_means,
    }
    return {**found, "BM3D": bm3d_of_logarithm} if find_spec("bm3d") else found
