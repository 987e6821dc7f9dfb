"""Small changes of a network's input, under which a reliable answer has to stay the same (test-time
augmentation).

The same film comes from another device darker, and from another archive at another size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ai_pipeline.contract import Floats
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.card import Input


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the picture: scaled by ``size`` about the middle, grey levels to the power ``gamma``, moved
    by ``shift`` across and down (shares of the side), ``reduced`` to a share of the side and enlarged again.
    """

    size: float = 1.0
    gamma: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    reduced: float = 1.0

    @property
    def offsets(self) -> tuple[float, float]:
        """How far the upper left corner moves across and down, in shares of the side."""
        across, down = ((1 - self.size) / 2 + part for part in self.shift)
        return across, down


def changed(values: Floats, change: Change, wanted: Input) -> tuple[Floats, Affine]:
    """``values [channels, s, s]`` after ``change``, and the map from the unchanged to the changed
    coordinates.

    ``wanted``: the input of the network, by which values are normalised.
    """
    if change == Change():
        return values, Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    mean, scale = (np.float32(pair[0]) for pair in (wanted.mean, wanted.scale))
    share = np.clip((values[0] * scale + mean) / 255, 0, 1) ** np.float32(change.gamma)
    side = share.shape[0]
    if change.reduced < 1:
        less = round(side * change.reduced)
        small = cv2.resize(share, (less, less), interpolation=cv2.INTER_AREA)
        share = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    offsets = [side * offset for offset in change.offsets]
    centred = [offset + 0.5 * change.size - 0.5 for offset in offsets]  # OpenCV counts from pixel centres
    matrix = np.array([[change.size, 0, centred[0]], [0, change.size, centred[1]]])
    moved = cv2.warpAffine(share, matrix, (side, side), flags=cv2.INTER_LINEAR)
    seen = np.broadcast_to((moved * 255 - mean) / scale, values.shape)
    way = Affine(change.size, 0.0, offsets[0], 0.0, change.size, offsets[1])
    return np.ascontiguousarray(seen, np.float32), way
