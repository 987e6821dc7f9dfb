"""A drawn frontal chest: dark lungs beside a bright heart, with the organs' masks."""

import cv2
import numpy as np


def drawn_chest(side: int, *, heart: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Grey picture ``[side, side]`` and masks ``[3, side, side]`` of heart, right and left lung.

    The lungs reach from .1 to .9 of the width; ``heart``: its width as a share of the picture.
    """
    masks = np.zeros((3, side, side), np.uint8)
    ellipses = {1: (0.27, 0.45, 0.17, 0.32), 2: (0.73, 0.45, 0.17, 0.32), 0: (0.53, 0.62, heart / 2, 0.14)}
    for organ, (*centre, wide, high) in ellipses.items():
        points = [(round(x * side), round(y * side)) for x, y in (centre, (wide, high))]
        cv2.ellipse(masks[organ], points[0], points[1], 0, 0, 360, 1, -1)
    grey = np.full((side, side), 170, np.uint8)
    grey[(masks[1] | masks[2]) > 0] = 60
    grey[masks[0] > 0] = 220
    return grey, masks > 0
