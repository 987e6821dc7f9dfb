"""One chest X-ray in every form that CR and DX come in: syntaxes, depths, tables, overlays, names."""

import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
)

from tests.modality import add_overlay, assign, chest, data_set, name_in_japanese

Change = Callable[[Dataset], None]


def write(kind: str, film: np.ndarray, folder: Path) -> Path:
    """The film, uint8 of even sides, in this form as a file."""
    ds = chest(f"chest-{kind}", film.astype(np.uint16) << 4)
    path = folder / f"{kind}.dcm"
    CHESTS[kind](ds)
    ds.save_as(path, enforce_file_format=True)
    if kind.startswith("jpeg-lossless"):  # pydicom has no encoder
        subprocess.run(["dcmcjpeg", "+e1", str(path), str(path)], check=True, timeout=60)
    return path


def _stored(ds: Dataset, pixels: np.ndarray, bits: int) -> None:
    ds.PixelData = pixels.tobytes()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = pixels.itemsize * 8, bits, bits - 1
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"


def _inverted(ds: Dataset) -> None:
    _stored(ds, (4095 - ds.pixel_array).astype(np.uint16), 12)
    ds.PhotometricInterpretation, ds.PresentationLUTShape = "MONOCHROME1", "INVERSE"


def _signed(ds: Dataset) -> None:
    _stored(ds, ds.pixel_array.astype(np.int16) - 2048, 12)
    ds.PixelRepresentation, ds.RescaleIntercept = 1, 2048


def _depth(ds: Dataset, bits: int) -> None:
    pixels = ds.pixel_array.astype(np.int64) * (2**bits - 1) // 4095
    _stored(ds, pixels.astype(np.uint8 if bits == 8 else np.uint16), bits)
    ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits


def _voi_lut(ds: Dataset) -> None:
    """A table in place of the window (PS3.3 C.11.2)."""
    del ds.WindowCenter, ds.WindowWidth
    table = (np.sqrt(np.linspace(0, 1, 4096)) * 65535).astype("<u2")
    item = data_set(LUTDescriptor=[4096, 0, 16], LUTData=table.tobytes())
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    ds.VOILUTSequence = [item]


def _modality_lut(ds: Dataset) -> None:
    """A table in place of slope and intercept, as CR has it (PS3.3 C.11.1)."""
    _computed(ds)
    ds.WindowCenter, ds.WindowWidth = 32768, 65536
    del ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType
    table = (np.arange(4096, dtype="<u2") * 16 + 15).tobytes()
    item = data_set(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US", LUTData=table)
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    ds.ModalityLUTSequence = [item]


def _shutter(ds: Dataset) -> None:
    assign(
        ds,
        ShutterShape="RECTANGULAR",
        ShutterLeftVerticalEdge=10,
        ShutterRightVerticalEdge=ds.Columns - 10,
        ShutterUpperHorizontalEdge=10,
        ShutterLowerHorizontalEdge=ds.Rows - 10,
        ShutterPresentationValue=0,
    )


def _computed(ds: Dataset) -> None:
    """Computed radiography: another class, Laterality of the series, no detector."""
    ds.Modality = "CR"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    for keyword in set(ds.dir()) & {
        *("PresentationIntentType", "ImageLaterality", "DetectorType", "PositionerType"),
        *("AcquisitionContextSequence", "AnatomicRegionSequence", "PresentationLUTShape"),
        *("PixelIntensityRelationship", "PixelIntensityRelationshipSign"),
    }:
        delattr(ds, keyword)
    ds.Laterality = ""


def _oblong(ds: Dataset) -> None:
    """Pixels a quarter higher than wide, by their ratio alone."""
    _computed(ds)
    del ds.ImagerPixelSpacing
    _stored(ds, np.delete(ds.pixel_array, np.s_[::5], axis=0), 12)
    ds.Rows, ds.PixelAspectRatio = ds.Rows - len(range(0, ds.Rows, 5)), [5, 4]


def _together(*changes: Change) -> Change:
    """What can stand in one film is analysed once."""

    def change(ds: Dataset) -> None:
        for one in changes:
            one(ds)

    return change


CHESTS: Mapping[str, Change] = {
    "jpeg-lossless-8-bit": partial(_depth, bits=8),
    "inverted-signed": _together(_inverted, _signed),
    "voi-lut-shutter-overlay-japanese": _together(_voi_lut, _shutter, add_overlay, name_in_japanese),
    "cr-modality-lut-oblong": _together(_modality_lut, _oblong),
}
