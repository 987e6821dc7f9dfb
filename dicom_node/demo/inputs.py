"""The inputs of the demonstration: ultrasound from pydicom's test files, a chest X-ray, or own files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread, examples
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node.demo import public_film
from dicom_node.demo.radiograph import chest_phantom, chest_radiograph
from dicom_node.errors import FaultyInput

# Real ultrasound that comes with pydicom (MIT): a palette colour still, a still in RGB and in JPEG 2000 of
# one patient, and a JPEG cine of 30 frames.
_ULTRASOUND = (("palette_color",), ("rgb_color", "jpeg2k"), ("ybr_color",))

_EXPOSED = "20260102101500"  # of the X-rays made here: frozen, so that a second run sends the same object
_WANTED = "Cardiomegaly"  # a finding that a reader of the demonstration can see


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """One study that a modality sends: files with one Study Instance UID and one patient."""

    study_instance_uid: str
    modality: str
    calling_ae: str
    files: tuple[Path, ...]
    origin: str


def shipped(folder: Path, data: Path | None, *, offline: bool = True) -> list[DemoStudy]:
    """Ultrasound files of pydicom, and a chest X-ray in ``folder``.

    The chest X-ray is from ``data``/cxr_nih if that exists, else a downloaded public film, else (``offline``,
    or a failed download) a drawing.
    """
    studies = []
    for names in _ULTRASOUND:
        files = [Path(examples.get_path(name)) for name in names]
        studies += _studies(files, "pydicom's test files")
    return [*studies, _chest(folder, data, offline)]


def own(folder: Path) -> list[DemoStudy]:
    """The DICOM files below ``folder``, by study. Raises FaultyInput if there is none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = _studies(files, str(folder))
    if not found:
        raise FaultyInput(f"{folder} holds no DICOM file (Part 10) with a Study Instance UID")
    return found


def _studies(files: Iterable[Path], origin: str) -> list[DemoStudy]:
    grouped: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in files:
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "Modality"])
        except (InvalidDicomError, OSError):
            continue
        if uid := str(header.get("StudyInstanceUID") or ""):
            grouped.setdefault(uid, []).append((path, header))
    return [_study(uid, members, origin) for uid, members in grouped.items()]


def _study(uid: str, members: Sequence[tuple[Path, Dataset]], origin: str) -> DemoStudy:
    modality = str(members[0][1].get("Modality") or "OT")
    calling = "XRAY1" if modality in ("CR", "DX") else "US1"
    return DemoStudy(uid, modality, calling, tuple(path for path, _ in members), origin)


def _chest(folder: Path, data: Path | None, offline: bool) -> DemoStudy:
    picture = _public_picture(data / "cxr_nih") if data is not None else None
    if picture is None and not offline:
        film = public_film.public_film(folder / public_film.NAME)
        if film is not None:
            return _studies([film], f"a film of pydicom's public test data, {film.name}")[0]
    if picture is None:
        origin = (
            "SYNTHETIC chest phantom, drawn by this program, which the AI is to refuse (no film was at hand: "
            "give --data DIR or --input DIR)"
        )
        dataset = chest_radiograph(
            chest_phantom(),
            view="PA",
            sex="F",
            age_years=50,
            description="SYNTHETIC PHANTOM",
            exposed=_EXPOSED,
        )
    else:
        path, row = picture
        origin = f"NIH ChestX-ray14 {path.name} (labelled {row['labels'].replace('|', ', ')})"
        dataset = chest_radiograph(
            np.asarray(Image.open(path).convert("L")),
            view=row["view"],
            sex=row["sex"],
            age_years=int(row["age"]),
            description="Public image, invented patient",
            exposed=_EXPOSED,
        )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "chest.dcm"
    dataset.save_as(file, enforce_file_format=True)
    return DemoStudy(str(dataset.StudyInstanceUID), "DX", "XRAY1", (file,), origin)


def _public_picture(folder: Path) -> tuple[Path, dict[str, str]] | None:
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
