"""Whether encapsulated frames are whole: a decoder of JPEG fills up what is missing and says nothing."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

WITH_END = frozenset(
    {
        JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless,
        JPEGLSNearLossless,
    }
)  # fmt: skip
"""Transfer syntaxes whose frames end with the marker EOI (ITU-T T.81 B.1.1.3, T.87 C.1.1)."""
END = b"\xff\xd9"
PADDING = 64
"""The marker lies in so many last bytes: one byte of padding is regular, some makers write more."""
_BEFORE_VALUE = 12
"""Tag, VR, two reserved bytes and length of Pixel Data (PS3.5 7.1.2)."""


def first_cut_frame(path: Path, syntax: UID, frames: int) -> int | None:
    """The first frame (from 1) that ends before its end; None when all are whole or the syntax cannot tell.

    Reads the file once, one frame in memory at a time.
    """
    if syntax not in WITH_END:
        return None
    with path.open("rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True)
        file.seek(_BEFORE_VALUE, 1)
        try:
            for number, frame in enumerate(generate_frames(file, number_of_frames=frames), start=1):
                if END not in frame[-PADDING:]:
                    return number
        except ValueError:  # no fragments: an implicit VR data set under a JPEG syntax
            return None
    return None
