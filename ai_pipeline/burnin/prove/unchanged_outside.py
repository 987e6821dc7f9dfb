"""The proof that cleaning changed nothing but the masked pixels: one hash of source and result."""

from __future__ import annotations

import hashlib

import numpy as np

from ai_pipeline.burnin.annotation import Mask
from ai_pipeline.contract import PixelArray
from ai_pipeline.errors import CleaningFailed


class OutsideDigest:
    """SHA-256 of the samples outside the mask, frame by frame, little-endian, those inside set to zero.

    Of component samples as :mod:`ai_pipeline.images.decode` gives them, colour as RGB, palettes looked up.
    Anyone who has the source and the segmentation can compute it again.
    """

    def __init__(self) -> None:
        self._source, self._result = hashlib.sha256(), hashlib.sha256()

    def add(self, source: PixelArray, result: PixelArray, mask: Mask) -> None:
        """Hash the next frame: ``[rows, columns]`` or ``[rows, columns, 3]``, ``mask`` True inside."""
        for digest, samples in ((self._source, source), (self._result, result)):
            blank = np.array(samples, copy=True)
            blank[mask] = 0
            digest.update(np.ascontiguousarray(blank, blank.dtype.newbyteorder("<")).data)

    def hexdigest(self) -> str:
        """The hash. Raises :class:`CleaningFailed` when those of source and result differ."""
        if self._source.digest() != self._result.digest():
            raise CleaningFailed("pixels outside the mask have changed")
        return self._result.hexdigest()
