"""Objects that stand beside images in a study, and changed copies."""

from copy import deepcopy
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    ExplicitVRBigEndian,
    KeyObjectSelectionDocumentStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME, derived_uid
from tests.modality import assign, chest, data_set


def changed(ds: Dataset, **values: Any) -> Dataset:
    """A copy with other values."""
    return assign(deepcopy(ds), **values)


def in_syntax(ds: Dataset, syntax: str) -> Dataset:
    """The same image in another transfer syntax."""
    copy = deepcopy(ds)
    if syntax == RLELossless:
        copy.compress(RLELossless, generate_instance_uid=False)
    else:
        copy.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        copy.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    return copy


def small_xray(name: str) -> Dataset:
    return chest(name, np.random.default_rng(7).integers(0, 4096, (40, 31), np.uint16))


def report(image: Dataset) -> Dataset:
    return _beside(image, BasicTextSRStorage, "SR")


def key_object(image: Dataset) -> Dataset:
    return _beside(image, KeyObjectSelectionDocumentStorage, "KO")


def secondary_capture(image: Dataset) -> Dataset:
    capture = _beside(image, SecondaryCaptureImageStorage, "OT")
    for keyword in (
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
    ):
        capture[keyword] = deepcopy(image[keyword])
    return capture


def own_result(image: Dataset) -> Dataset:
    """A result of this product, come back from the PACS."""
    return assign(
        secondary_capture(image),
        SOPInstanceUID=derived_uid("own", image.SOPInstanceUID),
        ContributingEquipmentSequence=[data_set(Manufacturer=MANUFACTURER, ManufacturerModelName=MODEL_NAME)],
    )


def _beside(image: Dataset, sop_class: str, modality: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = deepcopy(image.file_meta)
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    for keyword in (
        "SpecificCharacterSet",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "ReferringPhysicianName",
    ):
        ds[keyword] = deepcopy(image[keyword])
    return assign(
        ds,
        SOPClassUID=sop_class,
        Modality=modality,
        SOPInstanceUID=derived_uid("beside", modality, image.SOPInstanceUID),
        SeriesInstanceUID=derived_uid("beside series", modality, image.SeriesInstanceUID),
    )
