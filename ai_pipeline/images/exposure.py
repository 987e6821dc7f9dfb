"""Whether the grey levels of a displayed image were lost by a too narrow window. Counted, not learned.

If a window is too narrow, parts of the chest are plain black or plain white, and nothing can be seen in them.
Only the middle of the picture counts: around the chest, black is air and white is a shutter.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

MIDDLE = 0.7  # of each side
NEAR = 3  # levels from black or white that count as such: JPEG moves plain black by so much
# Of 1,338 chests of the validation split the worst has .074 black or white and 28 levels; windows that
# drive 30 % of a chest to black or white have .24 (median), those that drive 50 % at least .28.
CLIPPED = 0.20  # share of the middle: refused


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the middle of an image is exposed. ``clipped``: share that is black or white, 0 to 1. ``levels``:
    number of grey levels between the 5th and the 95th percentile, 0 to 255.
    """

    clipped: float
    levels: float

    @staticmethod
    def from_image(image: npt.NDArray[np.uint8]) -> Exposure:
        """Measure a displayed image: uint8 grey."""
        rows, columns = image.shape
        top, left = round(rows * (1 - MIDDLE) / 2), round(columns * (1 - MIDDLE) / 2)
        middle = image[top : max(rows - top, top + 1), left : max(columns - left, left + 1)]
        # OpenCV counts bytes as they are; numpy's bincount makes eight-byte integers of them first.
        counts = cv2.calcHist([middle], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        clipped = (counts[: NEAR + 1].sum() + counts[255 - NEAR :].sum()) / middle.size
        low, high = np.searchsorted(np.cumsum(counts) / middle.size, (0.05, 0.95))
        return Exposure(float(clipped), float(high - low))

    @property
    def refusal(self) -> str | None:
        """Why an image with such grey levels cannot be analysed, as a sentence; None if it can."""
        if self.levels < 16.0:
            return (
                f"the image is almost one grey: 90 % of its middle lie within {self.levels:.0f} of 256 levels"
            )
        if self.clipped > CLIPPED:
            return f"the grey levels are clipped: {self.clipped:.0%} of the middle are plain black or white"
        return None

    @property
    def note(self) -> str | None:
        """A sentence for the reader on clipped grey levels of an analysed image; None if few are clipped."""
        if self.clipped <= 0.08:  # of the middle
            return None
        return (
            f"{self.clipped:.0%} of the image's middle are plain black or white: nothing can be found there."
        )
