"""The pixels of images, decoded frame by frame as those of received ones are: compressed ones confined."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import DicomImage, open_dicom
from dicom_node.base.dicom.header import quiet_pydicom

_GROUPS: Final = frozenset({0x0028, 0x5200, 0x7FE0})
"""Groups of attributes by which pixels are decoded and shown; functional groups and the pixels themselves."""
_NAMES: Final = frozenset({"SOPClassUID", "SOPInstanceUID", "Modality"})
_GRID: Final = 16
"""Rows and columns of the samples that are kept of a frame."""
Values = npt.NDArray[Any]


@contextmanager
def opened(dataset: Dataset) -> Iterator[DicomImage]:
    """The image of a data set, from a file without a name that exists within the context. Raises PixelError
    if it cannot be decoded here.
    """
    part = Dataset({one.tag: one for one in dataset if one.tag.group in _GROUPS or one.keyword in _NAMES})
    part.file_meta = FileMetaDataset()
    part.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with os.fdopen(os.memfd_create("image", os.MFD_CLOEXEC), "w+b") as file:
        with quiet_pydicom():
            part.save_as(file, enforce_file_format=True)
        file.flush()
        yield open_dicom(Path(f"/proc/self/fd/{file.fileno()}"))


@dataclass(frozen=True, slots=True, eq=False)
class FrameValues:
    """The values of a frame, or of some of its samples. ``stored``: before the Modality LUT, colour as RGB;
    ``meant``: after it (PS3.3 C.11.1), such as Hounsfield units; ``step``: between two of them, 0 if they are
    at no equal distances.
    """

    stored: Values
    meant: Values
    step: float

    @classmethod
    def of(cls, image: DicomImage, frame: int) -> FrameValues:
        """Decode a frame (from 0). Raises PixelError."""
        stored = image.stored(frame)
        if stored.ndim == 3:
            return cls(stored, stored, 1.0)
        try:
            display = image.grey_display(frame)
            first, second, third = (float(one) for one in display.modality(np.arange(3, dtype=np.int32)))
            meant = display.modality(stored)
        except ValueError as error:
            raise PixelError("its Modality LUT cannot be used") from error
        step = abs(second - first) if second - first == third - second else 0.0
        return cls(stored, meant, step)

    @property
    def grid(self) -> FrameValues:
        """A few samples, spread over the frame: two frames that differ mostly differ in these."""
        rows, columns = (max(1, side // _GRID) for side in self.stored.shape[:2])
        some = np.s_[rows // 2 :: rows, columns // 2 :: columns]
        return FrameValues(self.stored[some].copy(), self.meant[some].copy(), self.step)

    def repeats(self, other: FrameValues) -> bool:
        """Whether this frame says what ``other`` says: all values are the same, but for the rounding of the
        coarser one; without a Modality LUT of its own, the stored ones.
        """
        if self.stored.shape != other.stored.shape:
            return False
        if self.meant is self.stored and np.array_equal(self.stored, other.stored):
            return True
        off = np.abs(self.meant.astype(np.float64) - other.meant)
        return bool((off <= max(self.step, other.step) / 2).all())
