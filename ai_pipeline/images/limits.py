"""Limits on the size of an image, checked before decoding: a header of 800 bytes can demand gigabytes.

Every image that is decoded is checked by its DICOM header (:func:`ai_pipeline.images.decode.open_dicom`), and
frame by frame that its code streams say the same (:mod:`ai_pipeline.images.codestreams`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SAMPLES = frozenset({1, 3, 4})
"""Samples per Pixel (0028,0002) that any photometric interpretation has (PS3.3 C.7.6.3.1.1)."""
BITS = frozenset({1, 8, 12, 16, 32, 64})
"""Bits Allocated (0028,0100) that can be decoded (PS3.5 8.1.1; 12 and 64 in old and in float objects)."""

_SHORT_SIDE = 1024  # pixels; a shorter image costs nothing, whatever its shape

# What libraries say that raise no MemoryError (OpenCV, ONNX Runtime, C++, threading).
_NO_MEMORY = ("allocate memory", "insufficient memory", "bad_alloc", "bad allocation", "start new thread")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is decoded.

    The limits allow every mammogram (4096 × 5120) and stitched spine, and cines of 1,000 frames in full HD.
    No modality makes a larger or much longer image for these pipelines.
    """

    longest_side: int = 16_384
    """Rows and columns (pixels)."""
    elongation: int = 32
    """The longer side as a multiple of the shorter one, in images of more than 1,024 pixels a side."""
    megapixels: int = 40
    """Pixels of one frame (millions): pipelines need up to 300 bytes of memory for each."""
    frames: int = 4096
    decoded_mib: int = 8192
    """All frames, decoded (MiB)."""
    inflated_mib: int = 256
    """A deflated data set, inflated (MiB): it must lie in memory as a whole."""

    def fault(self, rows: int, columns: int, frames: int = 1, samples: int = 1, bits: int = 8) -> str:
        """Why an image of this size is not decoded, as one sentence; "" if it is. ``bits``: allocated per
        sample.
        """
        return next(self._faults(rows, columns, frames, samples, bits), "")

    def _faults(self, rows: int, columns: int, frames: int, samples: int, bits: int) -> Iterator[str]:
        size = f"the image has {columns} × {rows} pixels"
        if samples not in SAMPLES:
            yield f"Samples per Pixel (0028,0002) is {samples}"
        if bits not in BITS:
            yield f"Bits Allocated (0028,0100) is {bits}"
        if max(rows, columns) > self.longest_side:
            yield f"{size}: images.longest_side is {self.longest_side}"
        if max(rows, columns) > max(self.elongation * min(rows, columns), _SHORT_SIDE):
            yield f"{size}: images.elongation is {self.elongation}"
        if rows * columns > self.megapixels * 1_000_000:
            yield f"{size}: images.megapixels is {self.megapixels}"
        if frames > self.frames:
            yield f"the image has {frames} frames: images.frames is {self.frames}"
        mib = rows * columns * frames * samples * ((bits + 7) // 8) // 2**20
        if mib > self.decoded_mib:
            yield f"the image is {mib} MiB when decoded: images.decoded_mib is {self.decoded_mib}"


LIMITS = ImageLimits()
"""The limits that hold where no others are given."""


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error was caused by a lack of memory."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
