"""Altered training images: moved, turned, re-windowed, blurred, with noise, mirrored."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.chest.batches import augment
from ai_training.studies.experiment import Alteration

Bytes = npt.NDArray[np.uint8]


def altered(image: Bytes, how: Alteration, random: np.random.Generator) -> Bytes:
    """One altered copy of ``image [size, size]``. Without any alteration the copy is the image."""
    made, _ = augment(image, image.shape[0], how, random)
    if how.blur:
        made = np.asarray(cv2.GaussianBlur(made, (0, 0), max(random.uniform(0, how.blur), 1e-3)), np.uint8)
    if how.noise:
        noisy = made + random.normal(0, random.uniform(0, how.noise), made.shape)
        made = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if how.flip_sides and random.random() < 0.5:
        made = made[:, ::-1]
    if how.flip_upside_down and random.random() < 0.5:
        made = made[::-1]
    return made
