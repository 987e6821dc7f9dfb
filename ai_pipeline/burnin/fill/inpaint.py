"""Fill masked pixels in the stored type, inside the mask only."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Mask, components, dilated
from ai_pipeline.burnin.fill.inpainters import RADIUS, Classical, Inpainter, emptied
from ai_pipeline.contract import PixelArray

JOINED = 9
"""Distance up to which holes are filled together (pixels)."""
FLAT = 10
"""Range up to which surroundings are one colour: black with the noise of compression (grey levels)."""

PLAIN = Classical("navier-stokes")

Samples = npt.NDArray[Any]


def inpaint(source: PixelArray, mask: Mask, filler: Inpainter, not_tissue: Mask | None = None) -> PixelArray:
    """``source`` with the pixels of ``mask`` filled from around them; all others are identical.

    ``source``: ``[rows, columns]`` or ``[rows, columns, 3]``, any integer type of up to 16 bits or float32;
    other types than uint8 are filled by Navier-Stokes. ``not_tissue``: annotation that stays; nothing is
    filled from it. Each hole is filled separately, so the time depends on the holes only.
    """
    filled = np.array(source, copy=True)
    labels, stats = components(dilated(mask, JOINED))
    for label, (left, top, width, height, _) in enumerate(stats):
        if label > 0:
            rows = slice(max(0, top - filler.context), top + height + filler.context)
            columns = slice(max(0, left - filler.context), left + width + filler.context)
            hole = mask[rows, columns]
            own = hole & (labels[rows, columns] == label)
            if not_tissue is not None:
                hole = hole | not_tissue[rows, columns]
            filled[rows, columns][own] = _generate(cast(Samples, source[rows, columns]), hole, filler)[own]
    return filled


def black_out(source: PixelArray, mask: Mask, black: float) -> PixelArray:
    """``source`` with the pixels of ``mask`` set to ``black`` (a stored value, in all channels)."""
    filled = np.array(source, copy=True)
    filled[mask] = black
    return filled


def _generate(patch: Samples, hole: Mask, filler: Inpainter) -> Samples:
    around = patch[~hole]
    if around.size == 0:  # nothing to fill from: black shows no structure
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
    """Fill one channel of more than 8 bits: OpenCV takes 16 bits unsigned, to which others are scaled."""
    around = patch[~hole]
    low, high = float(around.min()), float(around.max())
    step = max((high - low) / 65535.0, 1.0 if patch.dtype.kind in "iu" else 1e-12)
    scaled = np.clip((patch.astype(np.float64) - low) / step, 0, 65535).astype(np.uint16)
    filled = cv2.inpaint(emptied(scaled, hole), hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS)
    values = np.clip(filled * step + low, low, high)
    return np.asarray(np.rint(values) if patch.dtype.kind in "iu" else values, patch.dtype)
