"""Synthetic source images, as a modality would send them, and findings as a pipeline would give them."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ai_pipeline.contract import (
    Code,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    ModelRef,
    Origin,
    PixelArray,
    Region,
)
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.dicom.uids import Installation, derived_uid
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.context import ResultContext
from dicom_node.results.source import SourceObject
from tests.modality import data_set, set_pixels

STORAGE = "1.2.840.10008.5.1.4.1.1."
CR, DX, US, US_MULTI_FRAME, US_RETIRED = (STORAGE + end for end in ("1", "1.1", "6.1", "3.1", "6"))
INSTALLATION = Installation.from_drawn("0123456789abcdef" * 2)
ANALYSED_AT = datetime(2025, 1, 2, 10, 16, 30, tzinfo=UTC)
CARDIOMEGALY = Code("8186001", "SCT", "Cardiomegaly")
NODULE = Code("786838002", "SCT", "Nodule of lung")
EFFUSION = Code("60046008", "SCT", "Pleural effusion")
MASS = Code("309529002", "SCT", "Lung mass")
LUNG = Code("39607008", "SCT", "Lung structure")
CALIBRATED = ModelRef("chest-lite0", "1", "a" * 64, "b" * 64, calibrated=True)
UNCALIBRATED = ModelRef("breast-lite0", "2", "c" * 64, "d" * 64)


_OF_ULTRASOUND = {
    "BodyPartExamined": "BREAST", "Laterality": "L", "BurnedInAnnotation": "YES",
    "LossyImageCompression": "00",
}  # fmt: skip
_OF_FILMS = {
    "BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientOrientation": ["L", "F"],
    "ImagerPixelSpacing": [0.2, 0.2], "WindowCenter": 2048, "WindowWidth": 4096, "RescaleIntercept": 0,
    "RescaleSlope": 1, "RescaleType": "US", "PresentationIntentType": "FOR PRESENTATION",
}  # fmt: skip


def film(folder: Path, **attributes: Any) -> SourceObject:
    return source(write_image(folder / "cr.dcm", CR, grey_image(), **attributes))


def still(folder: Path, name: str = "us", **attributes: Any) -> SourceObject:
    return source(write_image(folder / f"{name}.dcm", US, speckle(), **attributes))


def write_image(path: Path, sop_class_uid: str, pixels: PixelArray, **attributes: Any) -> Path:
    """Write a Part 10 file with the given samples (``[frames,] rows, columns[, 3]``); attributes override."""
    modality = {CR: "CR", DX: "DX"}.get(sop_class_uid, "US")
    name = path.stem
    dataset = data_set(
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=sop_class_uid,
        SOPInstanceUID=derived_uid("test", name),
        StudyInstanceUID=derived_uid("test study", name),
        SeriesInstanceUID=derived_uid("test series", name),
        TimezoneOffsetFromUTC="+0100",
        Modality=modality,
        Manufacturer="Scanner Maker",
        ManufacturerModelName="Scanner 1",
        InstitutionName="Hospital",
        PatientName=f"Test^{modality}",
        PatientID=f"PID-{modality}",
        IssuerOfPatientID="HOSPITAL",
        PatientBirthDate="19700101",
        PatientSex="F",
        AccessionNumber=f"ACC{modality}",
        StudyID="1",
        ReferringPhysicianName="Referrer^Ann",
        StudyDescription=f"{modality} study",
        SeriesNumber=1,
        InstanceNumber=1,
        ImageType=["ORIGINAL", "PRIMARY"],
        **dict.fromkeys(("StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate"), "20250102"),
        **dict.fromkeys(("StudyTime", "SeriesTime", "ContentTime", "AcquisitionTime"), "101500"),
        **(_OF_ULTRASOUND if modality == "US" else _OF_FILMS),
    )
    if modality == "US":
        dataset.SequenceOfUltrasoundRegions = [_region(pixels)]
    _set_pixels(dataset, pixels)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def grey_image(rows: int = 256, columns: int = 224) -> PixelArray:
    """A 12-bit phantom: waves and a bright spot."""
    y, x = np.mgrid[0:rows, 0:columns]
    waves = 1800 + 900 * np.sin(x / 33.0) + 500 * np.cos(y / 43.0)
    spot = 700 * np.exp(-(((x - columns * 0.4) / 15.0) ** 2 + ((y - rows * 0.4) / 15.0) ** 2))
    return np.asarray((waves + spot).clip(0, 4095).astype(np.uint16))


def speckle(rows: int = 120, columns: int = 160, frames: int = 0, colour: bool = True) -> PixelArray:
    """Ultrasound-like speckle, RGB unless told otherwise; ``frames`` 0 gives a still."""
    shape = (max(frames, 1), rows, columns)
    grey = np.random.default_rng(0).gamma(2.0, 28, shape).clip(0, 255).astype(np.uint8)
    image = np.repeat(grey[..., None], 3, axis=-1) if colour else grey
    return image if frames else image[0]


def source(path: Path, **given: Any) -> SourceObject:
    """The file as ``results.build`` takes it."""
    usual = {
        "image": open_dicom(path),
        "path": path,
        "pixels_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "identity_sha256": "identity",
    }
    return SourceObject(**usual | given)


def without_text(
    one: SourceObject, where: Any, *, verified: bool = True
) -> tuple[DerivedImage, DerivedImage]:
    """The image, black at ``where`` (an index of frames, rows, columns), and the mask of what was filled."""
    uid, header = one.image.uid, one.image.header
    frames = np.stack([one.image.stored(index) for index in range(header.frames)])
    mask = np.zeros(frames.shape[:3], np.uint8)
    mask[where] = 255
    frames[mask > 0] = 0
    photometric: Any = "RGB" if frames.ndim == 4 else header.photometric
    return (
        DerivedImage(ImageKind.CLEANED, uid, frames, photometric, "burned-in text", verified=verified),
        DerivedImage(ImageKind.MASK, uid, mask, "MONOCHROME2", "pixels that were filled"),
    )


def context(
    *models: ModelRef, kinds: Sequence[ResultKind] = tuple(ResultKind), **given: Any
) -> ResultContext:
    """Circumstances of a job."""
    usual: dict[str, Any] = {
        "pipeline": "chest_xray",
        "pipeline_version": "1.0",
        "models": models or (CALIBRATED,),
        "analysed_at": ANALYSED_AT,
        "kinds": frozenset(kinds),
        "installation": INSTALLATION,
        "station_name": "AINODE",
    }
    return ResultContext(**{**usual, **given})


def finding(
    code: Code,
    probability: float | None,
    source_uid: str,
    *boxes: tuple[float, float, float, float],
    **given: Any,
) -> Finding:
    """A finding with boxes ``(left, top, right, bottom)``."""
    usual: dict[str, Any] = {
        "label": code.meaning,
        "code": code,
        "probability": probability,
        "threshold": 0.41,
        "decision": Decision.PRESENT,
        "source_uid": source_uid,
        "model": CALIBRATED,
        "regions": tuple(Region("box", (box[:2], box[2:]), Origin.ACTIVATION) for box in boxes),
    }
    return Finding(**{**usual, **given})


def _region(pixels: PixelArray) -> Dataset:
    rows, columns = pixels.shape[-3:-1] if pixels.shape[-1] == 3 else pixels.shape[-2:]
    return data_set(
        RegionSpatialFormat=1,
        RegionDataType=1,
        RegionFlags=0,
        RegionLocationMinX0=0,
        RegionLocationMinY0=20,
        RegionLocationMaxX1=columns - 1,
        RegionLocationMaxY1=rows - 1,
        PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3,
        PhysicalDeltaX=0.01,
        PhysicalDeltaY=0.01,
    )


def _set_pixels(dataset: Dataset, pixels: PixelArray) -> None:
    colour, wide = pixels.shape[-1] == 3, pixels.dtype.itemsize > 1
    if pixels.ndim == (4 if colour else 3):
        dataset.NumberOfFrames, dataset.FrameTime, dataset.FrameIncrementPointer = len(pixels), 40, 0x00181063
    set_pixels(dataset, pixels, "RGB" if colour else "MONOCHROME2", 12 if wide else 8)
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
