"""Outside the image area no pixel is made up: removed text takes exactly the colour of the background."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import (
    Mask,
    Picture,
    brightest,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.contract import PixelArray

JOINED, AROUND = 9, 12
"""Distances up to which holes take one colour, and from which it is taken (pixels)."""
NEAR = 10 / 255
"""Difference up to which two colours are one: the noise of compression (share of the picture's range)."""
RINGING = 16
"""How far JPEG takes the background beside letters from its colour (grey levels)."""
PLAIN = 0.5
"""Share of what is around a hole in one colour, from which that is the background there; else it is black."""

Colour = npt.NDArray[Any]


def with_background(source: PixelArray, mask: Mask, known: Mask, black: float) -> PixelArray:
    """``source`` with the pixels of ``mask`` in the colour of the background around them (panel or black).

    ``known``: background without annotation. ``black``: the stored value for a hole where neither its
    surroundings nor the whole background have one colour.
    """
    result = np.array(source, copy=True)
    if not mask.any():
        return result
    tolerance = NEAR * (float(source.max()) - float(source.min()))
    everywhere = _plain_colour(source[known], tolerance)
    labels, stats = components(dilated(mask, JOINED))
    for label, (left, top, right, bottom) in enumerate(component_boxes(stats), start=1):
        own = index_of((left, top, right, bottom))
        around = index_of((left - AROUND, top - AROUND, right + AROUND, bottom + AROUND))
        colour = _plain_colour(source[around][known[around]], tolerance)
        if colour is None or (
            everywhere is not None
            and np.abs(colour.astype(np.float64) - everywhere.astype(np.float64)).max() <= tolerance
        ):
            colour = everywhere
        hole = mask[own] & (labels[own] == label)
        result[own][hole] = black if colour is None else colour
    return result


def is_plain(picture: Picture, known: Mask) -> Mask:
    """Where a picture, uint8, has the colour of its ``known`` background, up to JPEG's ringing there."""
    colour = _plain_colour(picture[known], RINGING)
    if colour is None:
        return np.zeros_like(known)
    background = np.broadcast_to(np.asarray(colour, np.uint8), picture.shape)
    return np.asarray(brightest(cv2.absdiff(picture, np.ascontiguousarray(background))) <= RINGING, np.bool_)


def _plain_colour(pixels: PixelArray, tolerance: float) -> Colour | None:
    """The commonest value in each channel, if most of the pixels have about these; None without."""
    if not len(pixels):
        return None
    colour = np.asarray([_commonest(channel) for channel in pixels.reshape(len(pixels), -1).T])
    differs = np.abs(pixels.reshape(len(pixels), -1).astype(np.float64) - colour).max(axis=1)
    if float((differs <= tolerance).mean()) < PLAIN:
        return None
    return np.asarray(colour if pixels.ndim > 1 else colour[0], pixels.dtype)


def _commonest(values: npt.NDArray[Any]) -> Any:
    if values.dtype == np.uint8:
        return np.bincount(values, minlength=256).argmax()
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]
