"""A picture of speckle, as ultrasound has it."""

import cv2
import numpy as np


def speckle(seed: int = 0, rows: int = 200, columns: int = 260) -> np.ndarray:
    """A grey picture with something in every pixel."""
    noise = np.random.default_rng(seed).rayleigh(60, (rows, columns)).astype(np.float32)
    grey = np.clip(cv2.GaussianBlur(noise, (0, 0), 1.2), 20, 220).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
