"""Drawn ultrasound frames with the head of a fetus, and the ellipse that it is."""

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.networks.heads import Ellipse

HEAD = Ellipse(x=250.0, y=170.0, long=220.0, short=170.0, turn=0.3)


def drawn_head(
    rows: int = 345, columns: int = 512, head: Ellipse = HEAD
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Speckled tissue (grey 60) around a bright skull (220) and a dark brain (20); the head's mask."""
    mask = head.mask(rows, columns)
    picture = np.full((rows, columns), 60, np.uint8)
    picture[mask] = 20
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, 220, 5)
    picture[~mask & (picture == 220)] = 60
    speckle = np.random.default_rng(3).normal(1, 0.1, picture.shape)
    return np.clip(picture * speckle, 0, 255).astype(np.uint8), mask
