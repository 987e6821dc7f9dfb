"""The inputs of the demonstration: ultrasound of pydicom's test files, a public chest X-ray, or own files."""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from pydicom import dcmread, examples
from pydicom.data.download import get_cached_filehash, get_url
from pydicom.errors import InvalidDicomError

from dicom_node.base.errors import FaultyInput

# Real ultrasound that comes with pydicom (MIT): a palette colour still, a still in RGB and in JPEG 2000 of
# one patient, and a JPEG cine of 30 frames.
_ULTRASOUND = ("palette_color", "rgb_color", "jpeg2k", "ybr_color")
# Computed radiography, 1955 × 1841, JPEG 2000 (DICOM WG 4; pydicom-data, MIT). No model was trained on it.
_FILM = "RG1_J2KI.dcm"


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


def shipped(folder: Path, *, offline: bool = True) -> list[DemoStudy]:
    """Ultrasound files of pydicom; and a public chest X-ray, in ``folder``, where it can be had."""
    studies = _studies([Path(examples.get_path(name)) for name in _ULTRASOUND], "pydicom's test files")
    if not offline and (film := public_film(folder / _FILM)) is not None:
        studies += _studies([film], f"a film of pydicom's public test data, {film.name}")
    return studies


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
