"""Prove that cleaning changed only the masked pixels: a comparison, and a hash of source and result."""

from __future__ import annotations

import hashlib

import numpy as np

from ai_pipeline.burnin.annotation.pixels import Mask
from ai_pipeline.contract import PixelArray
from ai_pipeline.errors import CleaningFailed


def unchanged_outside(source: PixelArray, result: PixelArray, mask: Mask) -> bool:
    """Whether ``source`` and ``result`` have the same type, shape and samples outside ``mask``."""
    if source.dtype != result.dtype or source.shape != result.shape:
        return False
    differs = source != result
    if differs.ndim == 3:  # channel by channel: five times quicker than any(axis=2)
        differs = differs[..., 0] | differs[..., 1] | differs[..., 2]
    return not bool((differs & ~mask).any())


class OutsideDigest:
    """SHA-256 of the samples outside the mask, frame by frame, little-endian, with those inside set to zero.

    The samples come from :mod:`ai_pipeline.images.decode`, colour as RGB, palettes looked up.
    Anyone who has the source and the segmentation can compute the hash again.
    """

    def __init__(self) -> None:
        self._source, self._result = hashlib.sha256(), hashlib.sha256()

    def add(self, source: PixelArray, result: PixelArray, mask: Mask) -> None:
        """Hash the next frame of source and result: ``[rows, columns]`` or ``[rows, columns, 3]`` each."""
        for digest, samples in ((self._source, source), (self._result, result)):
            blank = np.array(samples, copy=True)
            blank[mask] = 0
            digest.update(np.ascontiguousarray(blank, blank.dtype.newbyteorder("<")).data)

    def hexdigest(self) -> str:
        """The hash. Raises :class:`CleaningFailed` when the hashes of source and result differ."""
        if self._source.digest() != self._result.digest():
            raise CleaningFailed("pixels outside the mask have changed")
        return self._result.hexdigest()
