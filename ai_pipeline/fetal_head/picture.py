"""Prepare a picture for the network for fetal heads, the same way in training and at run time."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.images.coordinates import Affine

ROWS, COLUMNS = 192, 256
"""Size of the network's input."""
MEAN, SCALE = 127.0, 128.0
"""EfficientNet-Lite's own normalisation of 0..255."""
Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def fit_to_input(grey: Grey) -> tuple[Grey, Affine]:
    """``grey [rows, columns]`` fitted into ``[ROWS, COLUMNS]`` with black around it, and the map source →
    input.
    """
    rows, columns = grey.shape
    scale = min(ROWS / rows, COLUMNS / columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    top, left = (ROWS - height) // 2, (COLUMNS - width) // 2
    picture = np.zeros((ROWS, COLUMNS), np.uint8)
    picture[top : top + height, left : left + width] = cv2.resize(grey, (width, height), interpolation=how)
    return picture, Affine(width / columns, 0.0, float(left), 0.0, height / rows, float(top))


def values(pictures: npt.NDArray[np.uint8]) -> Floats:
    """``pictures [N, ROWS, COLUMNS]`` as the network's input, float32 ``[N, 3, ROWS, COLUMNS]``."""
    scaled = (pictures.astype(np.float32) - np.float32(MEAN)) / np.float32(SCALE)
    return np.ascontiguousarray(np.broadcast_to(scaled[:, None], (len(pictures), 3, *pictures.shape[1:])))
