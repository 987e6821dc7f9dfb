"""Limits on the size of an image, checked before decoding: a header of 800 bytes can demand gigabytes.

Every image that is decoded is checked by its DICOM header (:func:`ai_pipeline.images.decode.open_dicom`), and
frame by frame that its code streams say the same (:mod:`ai_pipeline.images.codestreams`).
"""

from dataclasses import dataclass

SAMPLES = frozenset({1, 3, 4})
"""Samples per Pixel (0028,0002) that any photometric interpretation has (PS3.3 C.7.6.3.1.1)."""
BITS = frozenset({1, 8, 12, 16, 32, 64})
"""Bits Allocated (0028,0100) that can be decoded (PS3.5 8.1.1; 12 and 64 in old and in float objects)."""


# What libraries say that raise no MemoryError (OpenCV, ONNX Runtime, C++, threading).
_NO_MEMORY = ("allocate memory", "insufficient memory", "bad_alloc", "bad allocation", "start new thread")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is decoded, by number of pixels, frames and MiB. The limits allow every
    mammogram (4096 × 5120) and stitched spine, and cines of 1,000 frames in full HD.
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
    picture_mib: int = 512
    """The file of a PNG, JPEG or TIFF (MiB), for the same reason."""

    def fault(self, rows: int, columns: int, frames: int = 1, samples: int = 1, bits: int = 8) -> str:
        """Why an image of this size is not decoded, as one sentence; "" if it is. ``samples``: per pixel;
        ``bits``: allocated per sample.
        """
        size, longest = f"the image has {columns} × {rows} pixels", max(rows, columns)
        mib = rows * columns * frames * samples * ((bits + 7) // 8) // 2**20
        faults = (
            (samples not in SAMPLES, f"Samples per Pixel (0028,0002) is {samples}"),
            (bits not in BITS, f"Bits Allocated (0028,0100) is {bits}"),
            (longest > self.longest_side, f"{size}: at most {self.longest_side} a side"),
            (
                # An image of no longer side than this (pixels) costs nothing, whatever its shape.
                longest > max(self.elongation * min(rows, columns), 1024),
                f"{size}: a side may be {self.elongation} times the other",
            ),
            (
                rows * columns > self.megapixels * 1_000_000,
                f"{size}: at most {self.megapixels} megapixels",
            ),
            (frames > self.frames, f"the image has {frames} frames: at most {self.frames}"),
            (
                mib > self.decoded_mib,
                f"the image is {mib} MiB when decoded: at most {self.decoded_mib}",
            ),
        )
        return next((fault for is_fault, fault in faults if is_fault), "")


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
