"""Filling masked pixels in the stored type, inside the mask only."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation import Mask
from ai_pipeline.burnin.fill.inpainters import RADIUS, Classical, Inpainter, emptied
from ai_pipeline.contract import PixelArray

JOINED = 9
"""Holes nearer to each other than this are filled together (pixels)."""
FLAT = 10
"""Surroundings that differ by no more than this are one colour: black with the noise of compression."""

PLAIN = Classical("navier-stokes")

Samples = npt.NDArray[Any]


def inpaint(source: PixelArray, mask: Mask, filler: Inpainter, foreign: Mask | None = None) -> PixelArray:
    """Return ``source`` with the pixels of ``mask`` filled from around them; all others are identical.

    ``foreign``: writing that stays. It is no tissue to be continued: a hole in black beside it is black.

    ``[rows, columns]`` or ``[rows, columns, 3]``, any integer type of up to 16 bits or float32; what is not
    uint8 is filled by Navier-Stokes. Each hole is filled by itself: the cost is that of the holes.
    """
    filled = np.array(source, copy=True)
    joined = cv2.dilate(mask.astype(np.uint8), np.ones((JOINED, JOINED), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    for label, (left, top, width, height, _) in enumerate(stats[:count]):
        if label > 0:
            rows = slice(max(0, top - filler.context), top + height + filler.context)
            columns = slice(max(0, left - filler.context), left + width + filler.context)
            hole = mask[rows, columns]
            own = hole & (labels[rows, columns] == label)
            if foreign is not None:
                hole = hole | foreign[rows, columns]
            filled[rows, columns][own] = _generate(cast(Samples, source[rows, columns]), hole, filler)[own]
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


def _generate(patch: Samples, hole: Mask, filler: Inpainter) -> Samples:
    around = patch[~hole]
    if around.size == 0:  # nothing to continue from: the darkest value claims the least
        return np.full_like(patch, patch.min())
    low, high = around.min(axis=0), around.max(axis=0)
    if bool((low == high).all()):
        return np.asarray(np.broadcast_to(low, patch.shape))
    if patch.dtype == np.uint8:
        if bool((high - low <= FLAT).all()):
            return np.asarray(
                cv2.inpaint(emptied(patch, hole), hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS)
            )
        return filler.fill(patch, hole)
    if patch.ndim == 3:
        channels = [_deep(np.ascontiguousarray(patch[..., i]), hole) for i in range(patch.shape[2])]
        return np.stack(channels, axis=2)
    return _deep(patch, hole)


def _deep(patch: Samples, hole: Mask) -> Samples:
    """OpenCV fills one channel of 16 bits only when unsigned: what is signed or wider is shifted there."""
    around = patch[~hole]
    low, high = float(around.min()), float(around.max())
    step = max((high - low) / 65535.0, 1.0 if patch.dtype.kind in "iu" else 1e-12)
    scaled = np.clip((patch.astype(np.float64) - low) / step, 0, 65535).astype(np.uint16)
    filled = cv2.inpaint(emptied(scaled, hole), hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS)
    values = np.clip(filled * step + low, low, high)
    return np.asarray(np.rint(values) if patch.dtype.kind in "iu" else values, patch.dtype)
