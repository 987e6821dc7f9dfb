"""The inputs of the demonstration: ultrasound from pydicom's test files, a chest X-ray, or own files.

Chest X-rays that are made here are from a public picture, or a drawn phantom. The patient is invented, and
the name says so. UIDs are derived from the pixels: a second run sends the same object.
"""

import csv
import hashlib
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from pydicom import dcmread, examples
from pydicom.data.download import get_cached_filehash, get_url
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import Code, codes
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dicom_node.errors import FaultyInput

# Real ultrasound that comes with pydicom (MIT): a palette colour still, a still in RGB and in JPEG 2000 of
# one patient, and a JPEG cine of 30 frames.
_ULTRASOUND = ("palette_color", "rgb_color", "jpeg2k", "ybr_color")
# Computed radiography, 1955 × 1841, JPEG 2000 (DICOM WG 4; pydicom-data, MIT). No model was trained on it.
_FILM = "RG1_J2KI.dcm"
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


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """One study that a modality sends: files with one Study Instance UID and one patient."""

    study_instance_uid: str
    modality: str
    files: list[Path]
    origin: str

    @property
    def calling_ae(self) -> str:
        """AE title of the modality that sends it."""
        return "XRAY1" if self.modality in ("CR", "DX") else "US1"


def shipped(folder: Path, data: Path | None, *, offline: bool = True) -> list[DemoStudy]:
    """Ultrasound files of pydicom, and a chest X-ray in ``folder``.

    The chest X-ray is from ``data``/cxr_nih if that exists, else a downloaded public film, else (``offline``,
    or a failed download) a drawing.
    """
    ultrasound = [Path(examples.get_path(name)) for name in _ULTRASOUND]
    return [*_studies(ultrasound, "pydicom's test files"), _chest(folder, data, offline)]


def own(folder: Path) -> list[DemoStudy]:
    """The DICOM files below ``folder``, by study. Raises FaultyInput if there is none."""
    found = _studies(sorted(path for path in folder.rglob("*") if path.is_file()), str(folder))
    if not found:
        raise FaultyInput(f"{folder} holds no DICOM file (Part 10) with a Study Instance UID")
    return found


def public_film(target: Path, url: str = "") -> Path | None:
    """Download the public chest X-ray (0.7 MB) to ``target``, unless it exists; returns ``target``.

    The SHA-256 must be the one in pydicom. ``url`` replaces pydicom's address. Returns None without a
    network, after ten seconds without data or a minute in all, and if the content is different.
    """
    if target.is_file() and _is_the_film(target.read_bytes()):
        return target
    try:
        with urlopen(url or get_url(_FILM), timeout=10) as answer:  # seconds without data
            content, end = b"", time.monotonic() + 60  # in all: a server may trickle
            while time.monotonic() < end and (part := answer.read1(2 * 2**20 - len(content))):
                content += part
    except (OSError, HTTPException):  # the latter: something answers that speaks no HTTP
        return None
    if not _is_the_film(content):
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def _is_the_film(content: bytes) -> bool:
    return bool(hashlib.sha256(content).hexdigest() == get_cached_filehash(_FILM))


def _studies(files: Iterable[Path], origin: str) -> list[DemoStudy]:
    """Files by study; what is no DICOM file is passed over."""
    found: dict[str, DemoStudy] = {}
    for path in files:
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "Modality"])
        except (InvalidDicomError, OSError):
            continue
        if uid := str(header.get("StudyInstanceUID") or ""):
            study = DemoStudy(uid, str(header.get("Modality") or "OT"), [], origin)
            found.setdefault(uid, study).files.append(path)
    return list(found.values())


def _chest(folder: Path, data: Path | None, offline: bool) -> DemoStudy:
    labelled = _labelled_picture(data / "cxr_nih") if data is not None else None
    if labelled is not None:
        path, row = labelled
        pixels, description = np.asarray(Image.open(path).convert("L")), "Public image, invented patient"
        origin = f"NIH ChestX-ray14 {path.name} (labelled {row['labels'].replace('|', ', ')})"
    elif not offline and (film := public_film(folder / _FILM)) is not None:
        return _studies([film], f"a film of pydicom's public test data, {film.name}")[0]
    else:
        row = {"view": "PA", "sex": "F", "age": "50"}
        pixels, description = chest_phantom(), "SYNTHETIC PHANTOM"
        origin = (
            "SYNTHETIC chest phantom, drawn by this program, which the AI is to refuse (no film was at hand: "
            "give --data DIR or --input DIR)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "chest.dcm"
    chest_radiograph(
        pixels,
        view=row["view"],
        sex=row["sex"],
        age_years=int(row["age"]),
        description=description,
        exposed="20260102101500",  # frozen, so that a second run sends the same object
    ).save_as(file, enforce_file_format=True)
    return _studies([file], origin)[0]


def _labelled_picture(folder: Path) -> tuple[Path, dict[str, str]] | None:
    """A frontal chest of an adult that no model was trained on, with a box drawn by a radiologist."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return None
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            adult = row["age"].isdigit() and int(row["age"]) >= 18
            # A finding that a reader of the demonstration can see.
            labelled = "Cardiomegaly" in row["labels"].split("|") and int(row["n_boxes"] or 0) > 0
            path = folder / row["file"]
            if row["split"] == "test" and row["view"] == "PA" and adult and labelled and path.is_file():
                return path, row
    return None


def chest_radiograph(
    pixels: Grey, *, view: str, sex: str, age_years: int, description: str, exposed: str
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
