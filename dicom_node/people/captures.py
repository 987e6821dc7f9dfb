"""Pictures that a person uploads, made objects of DICOM: Secondary Captures (PS3.3 A.8.1) of one new study.

What a person says of them is checked here: whose they are, of which study, and what they show.
"""

import io
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from ai_pipeline.images.dates import date_of
from ai_pipeline.images.decode import PictureImage, picture_of
from ai_pipeline.images.header import NO_ATTRIBUTES
from ai_pipeline.images.limits import LIMITS
from dicom_node import __version__
from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME, derived_uid
from dicom_node.base.errors import FaultyInput

PATIENT: Final = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
"""Keywords of what a person says of a patient."""
FIELDS: Final = (*PATIENT, "AccessionNumber", "StudyDescription", "StudyDate", "Modality", "View")
"""Names of the fields by which a person describes pictures: DICOM keywords, and View for View Position."""
MODALITIES: Final = ("US", "DX", "CR", "OT")
VIEWS: Final = ("", "PA", "AP", "LL", "RL")
"""View Position (0018,5101) of a chest film: from behind, from in front, from a side."""
SEXES: Final = ("", "F", "M", "O")
_LONGEST: Final = {  # characters, PS3.5 6.2; of a name: in each of its groups
    **dict.fromkeys(("PatientID", "IssuerOfPatientID", "PatientName", "StudyDescription"), 64),
    "AccessionNumber": 16,
}
_CHOICES: Final = {"PatientSex": SEXES, "Modality": MODALITIES, "View": VIEWS}
_FIRST_DAYS: Final = {"PatientBirthDate": date(1880, 1, 1), "StudyDate": date(1895, 11, 8)}
"""Nobody alive was born before the one, and no film was made before the other."""
_GROUPS, _COMPONENTS = 3, 5  # of a name, PS3.5 6.2.1


def checked(fields: Mapping[str, str], needed: Sequence[str] = ()) -> dict[str, str]:
    """The values of these ``fields`` (DICOM keywords and View) that a person typed, in the form of their VR.

    ``needed``: fields that must not be empty. Raises FaultyInput that names all mistakes.
    """
    wrong = {name: "is missing" for name in needed if not fields.get(name)}
    values = dict(fields)
    for name, text in fields.items():
        if name in _FIRST_DAYS and text:
            day, first, today = date_of(text), _FIRST_DAYS[name], datetime.now().astimezone().date()
            if day is None or not first <= day <= today:
                wrong[name] = f"is no day from {first} to today"
            else:
                values[name] = f"{day:%Y%m%d}"
        elif name in _CHOICES and text not in _CHOICES[name]:
            wrong.setdefault(name, f"is one of {', '.join(filter(None, _CHOICES[name]))}")
        elif name in _LONGEST and (fault := _fault_of_text(name, text)):
            wrong[name] = fault
    if not wrong and (born := values.get("PatientBirthDate")) and (values.get("StudyDate") or born) < born:
        wrong["StudyDate"] = "is before the birth date"
    if wrong:
        raise FaultyInput("; ".join(f"{name} {fault}" for name, fault in wrong.items()))
    return values


def _fault_of_text(name: str, text: str) -> str:
    """Why this text cannot be the value of the attribute ``name`` (VR LO, SH or PN); "" if it can."""
    groups = text.split("=") if name == "PatientName" else [text]
    longest = _LONGEST[name]
    if max(map(len, groups)) > longest:
        return f"has more than {longest} characters"
    if not text.isprintable() or "\\" in text:
        return "has a backslash, or characters that cannot be seen"
    if len(groups) > _GROUPS or any(group.count("^") >= _COMPONENTS for group in groups):
        return 'is no name of DICOM: "Family^Given"'
    return ""


def secondary_capture(data: bytes, about: Mapping[str, str], upload: str, number: int) -> bytes:
    """The file (Part 10) of a Secondary Capture of the picture ``data`` (PNG, JPEG or TIFF).

    ``about``: values of :data:`FIELDS`, checked; ``upload``: a text that no other upload has, of which the
    UIDs of study and series follow; ``number``: of the picture in the upload, from 1. Raises PixelError for a
    file that is no picture, or is beyond the limits of images.
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
