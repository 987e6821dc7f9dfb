"""A chest X-ray that is drawn, or made of a public picture, as an object of an invented patient.

UIDs are derived from the pixels: a second run sends the same object.
"""

import csv
import hashlib
import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from pydicom.dataset import Dataset
from pydicom.sr.codedict import Code, codes
from pydicom.uid import DigitalXRayImageStorageForPresentation

Grey = npt.NDArray[np.uint8]

# Attributes of the modules of DX that are the same in each object (PS3.3 C.8.11).
_COMMON: dict[str, object] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "ReferringPhysicianName": "",
    "StudyID": "1",
    "SeriesNumber": 1,
    "InstanceNumber": 1,
    "StudyDescription": "Chest (demonstration)",
    "Modality": "DX",
    "Manufacturer": "dicom-ai-node",
    "ManufacturerModelName": "demonstration",
    "InstitutionName": "Demonstration",
    "StationName": "XRAY1",
    "DeviceSerialNumber": "1",
    "SoftwareVersions": "1",
    "ImageType": ["ORIGINAL", "PRIMARY", ""],
    "PresentationIntentType": "FOR PRESENTATION",
    "BodyPartExamined": "CHEST",
    "PatientOrientation": ["L", "F"],
    "ImageLaterality": "U",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
    "PositionerType": "",
    "AcquisitionContextSequence": [],
    "DetectorType": "DIRECT",
    "DetectorConfiguration": "AREA",
    "PixelIntensityRelationship": "LOG",
    "PixelIntensityRelationshipSign": -1,
    "RescaleIntercept": 0,
    "RescaleSlope": 1,
    "RescaleType": "US",
    "PresentationLUTShape": "IDENTITY",
    "WindowCenter": 128,
    "WindowWidth": 256,
}


def of_public_picture(data: Path) -> Dataset:
    """A frontal chest of an adult that no model was trained on, with a box drawn by a radiologist; a phantom
    where ``data`` has none.
    """
    manifest = data / "cxr_nih" / "manifest.csv"
    text = manifest.read_text(encoding="utf-8") if manifest.is_file() else ""
    for row in csv.DictReader(text.splitlines()):
        path, adult = manifest.parent / row["file"], row["age"].isdigit() and int(row["age"]) >= 18
        labelled = "Cardiomegaly" in row["labels"].split("|") and int(row["n_boxes"] or 0) > 0
        if row["split"] == "test" and row["view"] == "PA" and adult and labelled and path.is_file():
            pixels, age = np.asarray(Image.open(path).convert("L")), int(row["age"])
            return chest_radiograph(pixels, row["view"], row["sex"], age, "Public image, invented patient")
    return chest_radiograph(chest_phantom(), "PA", "F", 50, "SYNTHETIC PHANTOM")


def chest_radiograph(
    pixels: Grey, view: str, sex: str, age_years: int, description: str, exposed: str = "20260102101500"
) -> Dataset:
    """DX For Presentation (PS3.3 A.26) of a frontal chest; ``pixels``: bright = dense, 8 bit.

    ``exposed``: date and time, YYYYMMDDHHMMSS. ``description``: the source of the picture.
    """
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    date, time = exposed[:8], exposed[8:]
    projection = _item(codes.cid4010.PosteroAnterior if view == "PA" else codes.cid4010.AnteroPosterior)
    projection.ViewModifierCodeSequence = []
    ds = Dataset()
    values = _COMMON | {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": _uid(digest, "instance"),
        "StudyInstanceUID": _uid(digest, "study"),
        "SeriesInstanceUID": _uid(digest, "series"),
        "PatientName": f"Invented^Demo {digest[:4].upper()}",
        "PatientID": f"DEMO-{digest[:8].upper()}",
        "PatientSex": sex,
        "PatientBirthDate": f"{int(date[:4]) - age_years}0101",
        "PatientAge": f"{age_years:03d}Y",
        "AccessionNumber": "DEMO" + digest[:8].upper(),
        "SeriesDescription": description,
        "ViewPosition": view,
        "AnatomicRegionSequence": [_item(codes.cid4031.Chest)],
        "ViewCodeSequence": [projection],
        "ImagerPixelSpacing": [round(350 / pixels.shape[0], 4)] * 2,  # a chest cassette of 350 mm
        **dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), date),
        **dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), time),
    }
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    ds.set_pixel_data(pixels, "MONOCHROME2", 8, generate_instance_uid=False)
    return ds


def chest_phantom() -> Grey:
    """A synthetic frontal chest radiograph, bright = dense."""
    canvas = Image.new("L", (1024, 1024), 8)
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle((90, 110, 934, 1120), 260, fill=150)  # soft tissue of the trunk
    draw.rounded_rectangle((420, -40, 604, 200), 60, fill=160)  # neck
    for lung in ((190, 190, 480, 830), (560, 190, 850, 830)):
        draw.ellipse(lung, fill=46)
    for top in range(170, 740, 70):
        for left, start, end in ((120, 185, 300), (504, 240, 355)):
            draw.arc((left, top, left + 400, top + 330), start, end, fill=90, width=20)  # ribs
    draw.rectangle((470, 60, 554, 1024), fill=205)  # spine and mediastinum
    for organ, brightness in (
        ((430, 480, 700, 850), 190),  # heart, to the patient's left
        ((150, 760, 520, 1180), 195),  # dome of the diaphragm, patient's right
        ((500, 790, 880, 1180), 185),
    ):
        draw.ellipse(organ, fill=brightness)
    picture = np.asarray(canvas.filter(ImageFilter.GaussianBlur(14)), dtype=np.float32)
    quantum_noise = np.random.default_rng(20260102).normal(0, 3.0, picture.shape)
    return np.clip(picture + quantum_noise, 0, 255).astype(np.uint8)


def _uid(digest: str, level: str) -> str:
    """From a UUID (PS3.5 B.2) of the picture, so that a second run makes nothing twice."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{digest} {level}').int}"


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
