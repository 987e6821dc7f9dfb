"""A PNG or JPEG with what a person says of it → a Secondary Capture Image (PS3.3 A.8.1).

Never an ultrasound or DX image: nothing is known of how it was made.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from ai_pipeline.contract import PixelArray
from ai_pipeline.images.decode import picture_of
from ai_pipeline.images.header import NONE_GIVEN
from ai_pipeline.images.limits import ImageLimits
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import FaultyInput

MODALITIES = ("US", "DX", "CR", "OT")
SEXES = ("", "F", "M", "O")
PICTURE_MIB = 256
"""Largest PNG or JPEG, which is read whole."""
# VR lengths of PS3.5 6.2; LO and PN have no control characters and no backslash.
_LONGEST = {"PatientID": 64, "PatientName": 64, "StudyDescription": 64, "AccessionNumber": 16}
_TEXT = re.compile(r"[^\\\x00-\x1f\x7f]*")
_LABELS = {
    "PatientID": "Patient ID",
    "PatientName": "Name",
    "StudyDescription": "Study description",
    "AccessionNumber": "Accession number",
}


@dataclass(frozen=True, slots=True)
class Described:
    """What a person says of pictures; values by keyword. They are of one study."""

    texts: Mapping[str, str]
    modality: str
    study_date: str

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Described | None:
        """What a form says, None where it says nothing. Raises FaultyInput with all that is wrong."""
        if not any(value for key, value in fields.items() if key not in ("Modality", "PatientSex")):
            return None
        texts = {keyword: fields.get(keyword, "") for keyword in _LONGEST}
        wrong = [
            f"{_LABELS[keyword]}: at most {longest} characters, no backslash"
            for keyword, longest in _LONGEST.items()
            if len(texts[keyword]) > longest or not _TEXT.fullmatch(texts[keyword])
        ]
        if not texts["PatientID"]:
            wrong.append("Patient ID: is missing")
        if not texts["PatientName"]:
            wrong.append("Name: is missing")
        if (modality := fields.get("Modality", "")) not in MODALITIES:
            wrong.append(f"Modality: one of {', '.join(MODALITIES)}")
        if (sex := fields.get("PatientSex", "")) not in SEXES:
            wrong.append("Sex: F, M, O or nothing")
        dates = {keyword: _date(fields.get(keyword, "")) for keyword in ("PatientBirthDate", "StudyDate")}
        wrong += [f"{keyword}: no date" for keyword, date in dates.items() if date is None]
        if wrong:
            raise FaultyInput("; ".join(wrong))
        texts |= {"PatientSex": sex, "PatientBirthDate": dates["PatientBirthDate"] or ""}
        return cls(texts, modality, dates["StudyDate"] or f"{datetime.now().astimezone():%Y%m%d}")


@dataclass(frozen=True, slots=True)
class Built:
    """An encoded data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes


def build(file: BinaryIO, about: Described, upload: str, number: int, limits: ImageLimits) -> Built:
    """The picture as an object; ``upload`` and ``number`` make its UIDs.

    Raises FaultyInput, and PixelError for what is no picture or beyond the limits.
    """
    data = file.read(PICTURE_MIB * 2**20 + 1)
    if len(data) > PICTURE_MIB * 2**20:
        raise FaultyInput(f"a picture has at most {PICTURE_MIB} MiB")
    samples = _samples(data, about.modality, limits)
    instance = derived_uid("upload", upload, "instance", str(number))
    now = datetime.now().astimezone()
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, instance
    made.StudyDate, made.StudyTime = about.study_date, ""
    made.Modality, made.ConversionType = about.modality, "WSD"
    made.ReferringPhysicianName = made.StudyID = ""
    for keyword, text in about.texts.items():
        setattr(made, keyword, text)
    made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    made.StudyInstanceUID = derived_uid("upload", upload, "study")
    made.SeriesInstanceUID = derived_uid("upload", upload, "series")
    made.SeriesNumber, made.InstanceNumber = 1, number
    made.PatientOrientation = []
    _set_pixels(made, samples)
    if not data.startswith(b"\x89PNG"):
        made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_10918_1"
        made.LossyImageCompressionRatio = f"{max(samples.nbytes / len(data), 1):.2f}"
    encoded = io.BytesIO()
    dcmwrite(encoded, made, implicit_vr=False, little_endian=True)
    return Built(SecondaryCaptureImageStorage, instance, ExplicitVRLittleEndian, encoded.getvalue())


def _samples(data: bytes, modality: str, limits: ImageLimits) -> PixelArray:
    """Decoded by a process that can do nothing else."""
    return np.ascontiguousarray(picture_of(data, modality, limits, NONE_GIVEN).samples)


def _set_pixels(made: Dataset, samples: PixelArray) -> None:
    bits = 8 * samples.dtype.itemsize
    made.SamplesPerPixel = 3 if samples.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if samples.ndim == 3 else "MONOCHROME2"
    if samples.ndim == 3:
        made.PlanarConfiguration = 0
    made.Rows, made.Columns = samples.shape[:2]
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit, made.PixelRepresentation = bits - 1, 0
    pixels = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    made.PixelData = pixels + b"\0" * (len(pixels) % 2)
    made["PixelData"].VR = "OW" if bits > 8 else "OB"


def _date(text: str) -> str | None:
    """DA of a date as a browser writes it, "" of none, None of what is no date."""
    if not text:
        return ""
    try:
        return f"{datetime.strptime(text, '%Y-%m-%d').replace(tzinfo=UTC):%Y%m%d}"
    except ValueError:
        return None
