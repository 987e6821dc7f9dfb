"""Decode a JPEG 2000 at one of the lower resolutions that it holds (ITU-T T.800 B.5).

A quarter of the pixels takes about a quarter of the time. Networks that reduce a film anyway, thumbnails and
pages get it so; whatever copies pixels decodes the frame in full. Other transfer syntaxes are halved by the
same filter, so that a film gives the same findings however it was compressed without loss.
"""

import math
import struct
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import ImageHeader, PixelArray
from ai_pipeline.errors import CodestreamFault
from ai_pipeline.images import codestreams
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.images.decoder import DECODER, DEEPEST

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})


def halvings(header: ImageHeader, shorter_side: int) -> int:
    """How often a grey image of up to 16 bits can be halved so that its shorter side still has
    ``shorter_side`` pixels.
    """
    if header.photometric not in GREY or header.bits_stored > 16:
        return 0
    return min(DEEPEST, int(math.log2(max(1.0, min(header.rows, header.columns) / shorter_side))))


def decoded(frame: bytes, header: ImageHeader, times: int) -> PixelArray | None:
    """The samples of a JPEG 2000 at a lower resolution, halved ``times``: uint16 ``[rows, columns]``.

    None where the frame must be decoded in full: it is not of unsigned grey samples, it has no such
    resolution, or the decoding process is not confined here (docs/decisions.md). Raises NoDecoder.
    """
    if DECODER.lacks():
        return None
    try:
        data = codestreams.bare(frame)
        if codestreams.decomposition_levels(data, header) < times:
            return None
        rows, columns = (-(-side // 2**times) for side in (header.rows, header.columns))
        samples = DECODER.decode(f"halved{times}", data, rows * columns * 2)
    except (CodestreamFault, struct.error):  # to decode it in full tells what is wrong
        return None
    return np.frombuffer(samples, np.uint16).reshape(rows, columns).copy()


def halved(samples: PixelArray, bits: int, times: int) -> PixelArray:
    """Unsigned grey samples of so many ``bits`` halved ``times``, exactly as :func:`decoded` gives those of
    a lossless file: the low band of the reversible 5-3 filter (T.800 F.4.8).
    """
    band = cast(npt.NDArray[np.integer[Any]], samples)
    for _ in range(times):
        band = _low_band(_low_band(band).T).T
    return np.asarray(np.clip(band, 0, 2**bits - 1), np.uint16)


def _low_band(values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """The low band of each column: every other row, smoothed by its neighbours."""
    low = values[::2].astype(np.int32)
    if len(values) < 2:
        return low
    detail = values[1::2].astype(np.int32)
    inner = len(low) - 1  # pairs of even rows; beyond the last row is its mirror image
    detail[:inner] -= (low[:-1] + low[1:]) >> 1
    detail[inner:] -= low[-1]
    low[0] += (2 * detail[0] + 2) >> 2
    between = len(detail) - 1
    low[1 : 1 + between] += (detail[:-1] + detail[1:] + 2) >> 2
    low[1 + between :] += (2 * detail[-1] + 2) >> 2
    return low


def to_full_size(rows: int, header: ImageHeader) -> Affine:
    """The map from a picture of so many ``rows``, halved or not, to the image.

    Its samples lie on every second, fourth … sample of the image, the first on the first (T.800 annex F).
    """
    times = round(math.log2(header.rows / rows))
    return Affine(2.0**times, 0.0, (1 - 2.0**times) / 2, 0.0, 2.0**times, (1 - 2.0**times) / 2)
