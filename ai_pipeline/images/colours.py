"""Whether three samples a pixel are RGB or YCbCr: by the header, by the code stream, and by the picture.

A claim is True for YCbCr, False for RGB. Code streams are believed before Photometric Interpretation, which
many makers do not change when they compress. Where claims contradict each other, the pixels decide; and where
most of the picture is grey only under the reading that was not claimed, a claim is wrong.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
import numpy.typing as npt
from pydicom.pixels import convert_color_space

from ai_pipeline.contract import PixelArray
from ai_pipeline.errors import CodestreamFault

RGB, YBR = frozenset({False}), frozenset({True})
UNKNOWN = RGB | YBR
NEUTRAL = 10
"""A pixel is grey where red, green and blue, or both chrominances and their middle, differ by no more."""
MUCH_GREY, SHADES = 0.2, 16
"""The same share, and shades of grey in it, to decide against a claim: a teal desktop is grey as YCbCr, and
has one shade.
"""
_JFIF, _ADOBE = 0xE0, 0xEE
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
_FRAMES = {0xC0, 0xC1, 0xC2, *_LOSSLESS}


def of_header(photometric: str) -> frozenset[bool]:
    """The colour spaces that a Photometric Interpretation allows: a set with False for RGB, True for YCbCr,
    or both. YBR_ICT and YBR_RCT are undone by the decoder of JPEG 2000; under another transfer syntax they
    mean nothing. Raises CodestreamFault for colours that are not decoded.
    """
    if photometric in {"HSV", "ARGB", "CMYK"}:
        raise CodestreamFault(f"Photometric Interpretation (0028,0004) {photometric} is not decoded here")
    if photometric.startswith(("YBR_FULL", "YBR_PARTIAL")):
        return YBR
    return RGB if photometric == "RGB" else UNKNOWN


def of_jpeg(segments: Iterable[tuple[int, bytes]], photometric: str) -> frozenset[bool]:
    """The colour spaces that the segments before the first scan of a JPEG or JPEG-LS allow (marker and
    content of each).

    These are Adobe's marker, JFIF's, component identifiers R, G, B, and chrominance in fewer samples than
    luminance. Without any, a JPEG with loss is taken for YCbCr (as libjpeg does), against the header; one
    without loss, which has no colour transform, for what the header says.
    """
    says: set[bool] = set()
    lossless = False
    for marker, content in segments:
        if marker == _ADOBE and content.startswith(b"Adobe") and len(content) > 11:
            says.add(content[11] != 0)
        elif marker in _FRAMES:
            lossless = marker in _LOSSLESS
            identifiers, sizes = content[6::3], [(one >> 4) * (one & 15) for one in content[7::3]]
            if identifiers.upper() == b"RGB":
                says.add(False)
            if sizes and sizes[0] > min(sizes):
                says.add(True)
    if any(marker == _JFIF and content.startswith(b"JFIF") for marker, content in segments) and not lossless:
        says.add(True)
    if says:
        return frozenset(says)
    return of_header(photometric) if lossless else YBR | of_header(photometric)


def as_rgb(samples: PixelArray, says: frozenset[bool], photometric: str) -> PixelArray:
    """Convert ``samples`` ``[rows, columns, 3]`` to RGB; grey samples are returned as they are. ``says``: the
    colour spaces that the code stream allows (as in :func:`of_jpeg`); ``photometric``: what the header says.
    Where code stream and header differ, grey pixels may show which is right. Raises CodestreamFault where
    ``says`` contradicts itself and the pixels do not decide, and where the pixels contradict both.
    """
    if samples.ndim < 3 or (samples.dtype != np.uint8 and says == RGB):
        return samples
    if samples.dtype != np.uint8:
        raise CodestreamFault(f"the colours are YCbCr in samples of type {samples.dtype}, not of 8 bits")
    shown, surely = _shown(samples)
    if len(says) > 1 and not shown:
        raise CodestreamFault(
            "Photometric Interpretation and code stream contradict each other, RGB or YCbCr; "
            "the pixels decide nothing"
        )
    if shown in {says, of_header(photometric)} or len(says) > 1:
        says = shown
    elif surely:
        raise CodestreamFault(
            "the pixels contradict Photometric Interpretation and code stream, RGB or YCbCr"
        )
    return samples if says == RGB else cast(PixelArray, convert_color_space(samples, "YBR_FULL", "RGB"))


def whole_range(samples: PixelArray) -> PixelArray:
    """Stretch YBR_PARTIAL_422 samples, with luminance 16 to 235 and chrominance 16 to 240 (PS3.3-2016
    C.7.6.3.1.2), to the full range of YBR_FULL.
    """
    full = (samples.astype(np.float64) - (16, 128, 128)) * 255 / (219, 224, 224) + (0, 128, 128)
    return np.clip(np.rint(full), 0, 255).astype(np.uint8)


def _shown(samples: PixelArray) -> tuple[frozenset[bool], bool]:
    """The colour space under which more pixels are grey, as background and letters are (empty if undecided);
    and whether this is clear enough to contradict the header.
    """
    # Rows and columns of the picture that are looked at, at least.
    step = max(1, min(samples.shape[:2]) // 256)
    # Plane by plane: along the last axis NumPy takes ten times as long.
    first, second, third = (
        np.asarray(plane, np.uint8, order="C") for plane in np.moveaxis(samples[::step, ::step], 2, 0)
    )
    lowest, highest = (way(way(first, second), third) for way in (np.minimum, np.maximum))
    as_rgb = highest - lowest <= NEUTRAL
    as_ybr = _is_neutral(second) & _is_neutral(third)
    claims = sorted(((as_rgb & ~as_ybr, RGB), (as_ybr & ~as_rgb, YBR)), key=lambda claim: claim[0].sum())
    (less, _), (more, reading) = claims
    grey = int(more.sum())
    # Grey pixels decide from this share of the picture on, and where one reading has so many times more.
    if grey < 0.02 * more.size or grey < 5.0 * int(less.sum()):
        return frozenset(), False
    shades = np.count_nonzero(np.bincount(first[more]))
    return reading, bool(grey >= MUCH_GREY * more.size and shades >= SHADES)


def _is_neutral(chrominance: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The mask of the samples that have no colour if they are Cb or Cr."""
    middle, reach = 128, NEUTRAL // 2
    return np.asarray((chrominance >= middle - reach) & (chrominance <= middle + reach), np.bool_)
