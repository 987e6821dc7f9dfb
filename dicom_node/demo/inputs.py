"""The inputs of the demonstration: ultrasound from pydicom's test files, a chest X-ray, or own files."""

import csv
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from PIL import Image
from pydicom import dcmread, examples
from pydicom.data.download import get_cached_filehash, get_url
from pydicom.errors import InvalidDicomError

from dicom_node.demo.radiograph import chest_phantom, chest_radiograph
from dicom_node.errors import FaultyInput

# Real ultrasound that comes with pydicom (MIT): a palette colour still, a still in RGB and in JPEG 2000 of
# one patient, and a JPEG cine of 30 frames.
_ULTRASOUND = ("palette_color", "rgb_color", "jpeg2k", "ybr_color")
# Computed radiography, 1955 × 1841, JPEG 2000 (DICOM WG 4; pydicom-data, MIT). No model was trained on it.
_FILM = "RG1_J2KI.dcm"
_FILM_SECONDS, _FILM_SECONDS_IN_ALL = 10, 60  # without data; a server may trickle
_FILM_BYTES = 2 * 2**20

_EXPOSED = "20260102101500"  # of the X-rays made here: frozen, so that a second run sends the same object
_WANTED = "Cardiomegaly"  # a finding that a reader of the demonstration can see


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
        with urlopen(url or get_url(_FILM), timeout=_FILM_SECONDS) as answer:
            content, end = b"", time.monotonic() + _FILM_SECONDS_IN_ALL
            while time.monotonic() < end and (part := answer.read1(_FILM_BYTES - len(content))):
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
    dataset = chest_radiograph(
        pixels,
        view=row["view"],
        sex=row["sex"],
        age_years=int(row["age"]),
        description=description,
        exposed=_EXPOSED,
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "chest.dcm"
    dataset.save_as(file, enforce_file_format=True)
    return _studies([file], origin)[0]


def _labelled_picture(folder: Path) -> tuple[Path, dict[str, str]] | None:
    """A frontal chest of an adult that no model was trained on, with a box drawn by a radiologist."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return None
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            adult = row["age"].isdigit() and int(row["age"]) >= 18
            labelled = _WANTED in row["labels"].split("|") and int(row["n_boxes"] or 0) > 0
            path = folder / row["file"]
            if row["split"] == "test" and row["view"] == "PA" and adult and labelled and path.is_file():
                return path, row
    return None
