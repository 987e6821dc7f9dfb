"""Speckle and edges in fixed regions: smoothness of tissue, contrast of the head, sharpness of the skull."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.despeckle.speckle import amplitude

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
SIDE = 24
"""Pixels of a square in which speckle is measured."""
MOST = 8
"""Squares a frame, the evenest of the frame as it came: the same for every filter."""


@dataclass(frozen=True, slots=True)
class Texture:
    """How much speckle and how much edge a filtered picture has.

    ``enl``: equivalent number of looks, mean² over variance of the echoes' power (full speckle: 1). ``cnr``:
    contrast between the inside and the outside of the head, divided by their spread. ``edges``: correlation
    of the gradients along the skull with the unfiltered gradients, up to 1; a blur raises ENL and lowers
    ``edges``.
    """

    enl: float
    cnr: float
    edges: float


def texture(before: Floats, after: Floats, head: Bools) -> Texture:
    """The texture of a picture (0 to 1) ``after`` a filter; ``before`` is the same picture unfiltered."""
    power = np.square(amplitude(after), dtype=np.float64)
    places = _even_squares(before)
    looks = [float(power[place].mean() ** 2 / max(power[place].var(), 1e-12)) for place in places]
    near = cv2.dilate(head.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
    inner = cv2.erode(head.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    outer = near & ~(cv2.dilate(head.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0) & (before > 0.02)
    contrast = abs(after[inner].mean() - after[outer].mean())
    ring = cv2.morphologyEx(head.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((15, 15), np.uint8)) > 0
    return Texture(
        enl=float(np.median(looks)),
        cnr=float(contrast / np.sqrt(after[inner].var() + after[outer].var() + 1e-9)),
        edges=float(np.corrcoef(_gradient(before)[ring], _gradient(after)[ring])[0, 1]),
    )


def _even_squares(picture: Floats) -> list[tuple[slice, slice]]:
    """Squares of tissue whose halves differ least from each other, in the picture as it came."""
    found = []
    for top in range(0, picture.shape[0] - SIDE + 1, SIDE):
        for left in range(0, picture.shape[1] - SIDE + 1, SIDE):
            place = slice(top, top + SIDE), slice(left, left + SIDE)
            part = picture[place]
            if 0.1 < part.mean() < 0.8 and (part < 0.02).mean() < 0.02:
                quarters = cv2.resize(part, (2, 2), interpolation=cv2.INTER_AREA)
                found.append((float(np.ptp(quarters)), place))
    if not found:
        return [(slice(None), slice(None))]
    return [place for _, place in sorted(found, key=lambda pair: pair[0])[:MOST]]


def _gradient(picture: Floats) -> Floats:
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return np.asarray(np.hypot(across, down), np.float32)
