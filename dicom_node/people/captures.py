"""Pictures that a person uploads, as objects of DICOM: Secondary Captures (PS3.3 A.8.1) of one new study."""

import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from ai_pipeline.images.decode import PictureImage, picture_of
from ai_pipeline.images.header import NO_ATTRIBUTES
from ai_pipeline.images.limits import LIMITS
from dicom_node import __version__
from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME, derived_uid
from dicom_node.people.described import FIELDS


def secondary_capture(data: bytes, about: Mapping[str, str], upload: str, number: int) -> bytes:
    """The file (Part 10) of a Secondary Capture of the picture ``data`` (PNG, JPEG or TIFF).

    ``about``: values of ``described.FIELDS``, checked; ``upload``: a text that no other upload has, of which
    the UIDs of study and series follow; ``number``: of the picture in the upload, from 1. Raises PixelError
    for a file that is no picture, or is beyond the limits of images.
    """
    # Decoded by a process that can do nothing else.
    picture = picture_of(data, about["Modality"], LIMITS, NO_ATTRIBUTES)
    now = datetime.now().astimezone()
    values: dict[str, Any] = {
        **{keyword: about.get(keyword, "") for keyword in FIELDS if keyword != "View"},
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY"],
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": derived_uid("upload", upload, "instance", str(number)),
        "StudyInstanceUID": derived_uid("upload", upload, "study"),
        "SeriesInstanceUID": derived_uid("upload", upload, "series"),
        "SeriesNumber": 1,
        "SeriesDescription": "Uploaded pictures",
        "InstanceNumber": number,
        "StudyDate": about.get("StudyDate") or f"{now:%Y%m%d}",
        "StudyTime": "",
        "StudyID": "",
        "ReferringPhysicianName": "",
        "ConversionType": "WSD",
        "SecondaryCaptureDeviceManufacturer": MANUFACTURER,
        "SecondaryCaptureDeviceManufacturerModelName": MODEL_NAME,
        "SecondaryCaptureDeviceSoftwareVersions": __version__,
        "DateOfSecondaryCapture": f"{now:%Y%m%d}",
        "TimeOfSecondaryCapture": f"{now:%H%M%S}",
        "DerivationDescription": "Decoded from a picture (PNG, JPEG or TIFF) that a person uploaded",
        "PatientOrientation": [],
        **_pixels(picture),
    }
    if about.get("View"):
        values["ViewPosition"] = about["View"]
    if picture.header.lossy:
        values |= {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": f"{max(picture.samples.nbytes / len(data), 1):.2f}",
            "LossyImageCompressionMethod": "ISO_10918_1",  # JPEG, also within TIFF
        }
    capture = Dataset()
    for keyword, value in values.items():
        setattr(capture, keyword, value)
    capture.file_meta = FileMetaDataset()
    capture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    encoded = io.BytesIO()
    dcmwrite(encoded, capture, enforce_file_format=True)
    return encoded.getvalue()


def _pixels(picture: PictureImage) -> dict[str, Any]:
    """The values of the Image Pixel module (PS3.3 C.7.6.3)."""
    samples = np.ascontiguousarray(picture.samples)
    allocated = 8 * samples.itemsize
    # Programs write 10 or 12 bits into 16: so many are stored as the brightest value needs.
    stored = allocated if allocated == 8 else max(int(samples.max()).bit_length(), 9)
    pixels = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    values: dict[str, Any] = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": samples.shape[0],
        "Columns": samples.shape[1],
        "BitsAllocated": allocated,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": 0,
        "PixelData": pixels + b"\0" * (len(pixels) % 2),
    }
    if samples.ndim == 3:
        values |= {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    return values
