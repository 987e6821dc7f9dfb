"""Chest X-rays for the demonstration as DICOM objects: from a public picture, or a drawn phantom.

The patient is invented, and the name says so. UIDs are derived from the pixels: a second run sends the same
object.
"""

from __future__ import annotations

import hashlib
import uuid

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import Code, codes
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

Grey = npt.NDArray[np.uint8]

_SIDE = 1024  # pixels of the phantom
_FIELD_MM = 350.0  # of a chest cassette


def chest_radiograph(
    pixels: Grey, *, view: str, sex: str, age_years: int, description: str, exposed: str
) -> Dataset:
    """DX For Presentation (PS3.3 A.26) of a frontal chest; ``pixels``: bright = dense, 8 bit.

    ``exposed``: date and time, YYYYMMDDHHMMSS. ``description``: the source of the picture.
    """
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPInstanceUID = _uid(digest, "instance")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID = _uid(digest, "study")
    ds.SeriesInstanceUID = _uid(digest, "series")
    _patient(ds, digest, sex, age_years, exposed)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = exposed[:8]
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = exposed[8:]
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", 1, 1
    ds.AccessionNumber = "DEMO" + digest[:8].upper()
    ds.ReferringPhysicianName = ""
    ds.StudyDescription, ds.SeriesDescription = "Chest (demonstration)", description
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "DX", "dicom-ai-node", "demonstration"
    ds.InstitutionName, ds.StationName = "Demonstration", "XRAY1"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    _image(ds, pixels, view)
    return ds


def chest_phantom() -> Grey:
    """A synthetic frontal chest radiograph, bright = dense."""
    rng = np.random.default_rng(20260102)
    canvas = Image.new("L", (_SIDE, _SIDE), 8)
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle((90, 110, 934, 1120), 260, fill=150)  # soft tissue of the trunk
    draw.rounded_rectangle((420, -40, 604, 200), 60, fill=160)  # neck
    for left in (True, False):
        box = (190, 190, 480, 830) if left else (560, 190, 850, 830)
        draw.ellipse(box, fill=46)  # lung field
    draw.rectangle((470, 60, 554, 1024), fill=205)  # spine and mediastinum
    draw.ellipse((430, 480, 700, 850), fill=190)  # heart, to the patient's left
    draw.ellipse((150, 760, 520, 1180), fill=195)  # dome of the diaphragm, patient's right
    draw.ellipse((500, 790, 880, 1180), fill=185)
    picture = np.asarray(canvas.filter(ImageFilter.GaussianBlur(14)), dtype=np.float32)
    picture += _ribs() + _vessels(rng)
    picture += rng.normal(0, 3.0, picture.shape)  # quantum noise
    return np.clip(picture, 0, 255).astype(np.uint8)


def _uid(digest: str, level: str) -> str:
    """From a UUID (PS3.5 B.2) of the picture, so that a second run makes nothing twice."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{digest} {level}').int}"


def _patient(ds: Dataset, digest: str, sex: str, age_years: int, exposed: str) -> None:
    ds.PatientName = f"Invented^Demo {digest[:4].upper()}"
    ds.PatientID = f"DEMO-{digest[:8].upper()}"
    ds.PatientSex = sex
    ds.PatientBirthDate = f"{int(exposed[:4]) - age_years}0101"
    ds.PatientAge = f"{age_years:03d}Y"


def _image(ds: Dataset, pixels: Grey, view: str) -> None:
    """Modules of DX: pixel data, anatomy, positioning, detector (PS3.3 C.8.11)."""
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", view, ["L", "F"]
    ds.ImageLaterality, ds.BurnedInAnnotation = "U", "NO"
    ds.LossyImageCompression = "00"
    ds.AnatomicRegionSequence = [_item(codes.cid4031.Chest)]
    towards = codes.cid4010.PosteroAnterior if view == "PA" else codes.cid4010.AnteroPosterior
    ds.ViewCodeSequence = [_item(towards)]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    ds.PositionerType, ds.AcquisitionContextSequence = "", []
    ds.DetectorType, ds.DetectorConfiguration = "DIRECT", "AREA"
    spacing = round(_FIELD_MM / pixels.shape[0], 4)
    ds.ImagerPixelSpacing = [spacing, spacing]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PresentationLUTShape = "IDENTITY"
    ds.WindowCenter, ds.WindowWidth = 128, 256
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _ribs() -> npt.NDArray[np.float32]:
    """Nine pairs of arcs over the lung fields."""
    layer = Image.new("L", (_SIDE, _SIDE), 0)
    draw = ImageDraw.Draw(layer)
    for number in range(9):
        top = 170 + 70 * number
        draw.arc((120, top, 520, top + 330), 185, 300, fill=44, width=20)
        draw.arc((504, top, 904, top + 330), 240, 355, fill=44, width=20)
    for start, end in (((180, 250), (470, 190)), ((844, 250), (554, 190))):
        draw.line((start, end), fill=60, width=26)  # clavicles
    return np.asarray(layer.filter(ImageFilter.GaussianBlur(4)), dtype=np.float32)


def _vessels(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Branching lines from both hila outwards."""
    layer = Image.new("L", (_SIDE, _SIDE), 0)
    draw = ImageDraw.Draw(layer)
    for hilum, side in (((430, 480), -1), ((594, 470), 1)):
        for _ in range(26):
            angle, length = rng.uniform(-1.2, 1.2), rng.uniform(60, 210)
            end = (hilum[0] + side * length * np.cos(angle), hilum[1] + length * np.sin(angle))
            draw.line((hilum, end), fill=int(rng.uniform(12, 34)), width=int(rng.integers(3, 9)))
    return np.asarray(layer.filter(ImageFilter.GaussianBlur(3)), dtype=np.float32)
