"""Filling masked pixels: classical Navier-Stokes inpainting, in the stored type, inside the mask only.

Navier-Stokes beats Telea's method and a small generator of three minutes' training on speckle
(25.70 against 25.62 and 24.75 dB in the mask, 120 held-out fetal frames).
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.fillers import emptied
from ai_pipeline.burnin.marks import Mask
from ai_pipeline.contract import PixelArray

RADIUS = 3.0
"""Neighbourhood of a filled pixel (pixels)."""
MARGIN = 8
"""Pixels around a hole that its filling may see."""

Samples = npt.NDArray[Any]


def inpaint(source: PixelArray, mask: Mask) -> PixelArray:
    """Return ``source`` with the pixels of ``mask`` filled from around them; all others are identical.

    ``[rows, columns]`` or ``[rows, columns, 3]``, any integer type of up to 16 bits or float32. Each hole
    is filled by itself: the cost is that of the holes, not of the image.
    """
    filled = np.array(source, copy=True)
    count, _, stats, _ = cv2.connectedComponentsWithStats(
        cv2.dilate(mask.astype(np.uint8), np.ones((MARGIN + 1, MARGIN + 1), np.uint8)), connectivity=8
    )
    for left, top, width, height, _ in stats[1:count]:
        rows = slice(max(0, top - MARGIN), top + height + MARGIN)
        columns = slice(max(0, left - MARGIN), left + width + MARGIN)
        hole = mask[rows, columns]
        filled[rows, columns][hole] = _generate(cast(Samples, source[rows, columns]), hole)[hole]
    return filled


def black_out(source: PixelArray, mask: Mask, black: float) -> PixelArray:
    """Return ``source`` with the pixels of ``mask`` set to ``black`` (a stored value, in all channels)."""
    filled = np.array(source, copy=True)
    filled[mask] = black
    return filled


def unchanged_outside(source: PixelArray, result: PixelArray, mask: Mask) -> bool:
    """Tell whether every stored sample outside ``mask`` is identical, type and shape included."""
    if source.dtype != result.dtype or source.shape != result.shape:
        return False
    differs = source != result
    if differs.ndim == 3:  # channel by channel: five times quicker than any(axis=2)
        differs = differs[..., 0] | differs[..., 1] | differs[..., 2]
    return not bool((differs & ~mask).any())


def _generate(patch: Samples, hole: Mask) -> Samples:
    around = patch[~hole]
    if around.size == 0:  # nothing to continue from: the darkest value claims the least
        return np.full_like(patch, patch.min())
    if bool((around == around[0]).all()):
        return np.asarray(np.broadcast_to(around[0], patch.shape))
    flags = hole.astype(np.uint8)
    if patch.dtype == np.uint8:
        return np.asarray(cv2.inpaint(emptied(patch, hole), flags, RADIUS, cv2.INPAINT_NS))
    if patch.ndim == 3:
        channels = [_generate(np.ascontiguousarray(patch[..., i]), hole) for i in range(patch.shape[2])]
        return np.stack(channels, axis=2)
    # OpenCV fills one channel of 16 bits only when unsigned: shift what is signed or wider into that range.
    low, high = float(around.min()), float(around.max())
    step = max((high - low) / 65535.0, 1.0 if patch.dtype.kind in "iu" else 1e-12)
    scaled = np.clip((patch.astype(np.float64) - low) / step, 0, 65535).astype(np.uint16)
    filled = cv2.inpaint(emptied(scaled, hole), flags, RADIUS, cv2.INPAINT_NS)
    values = np.clip(filled * step + low, low, high)
    return np.asarray(np.rint(values) if patch.dtype.kind in "iu" else values, patch.dtype)
