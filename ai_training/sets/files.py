"""Read tables and pictures of image sets from disk. A missing file raises DataMissing."""

from __future__ import annotations

import csv
import gzip
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_training.errors import DataMissing

Pixels = npt.NDArray[np.uint8]
DICOM = (".dcm", ".dicom")
JSRT, JSRT_SIDE, JSRT_WHITE = ".img", 2048, 4095
"""Files of the JSRT database: 12 bits in big-endian words without a header, low values bright."""


def rows(table: Path, split: str | None = None, needs: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file (or .csv.gz) by the names in its first line; with ``split`` only rows of that
    split.

    Raises DataMissing, also if a column of ``needs`` is missing.
    """
    if not table.is_file():
        raise DataMissing(
            f"{table} is missing: --data must name a folder laid out as docs/reference/data-sets.md says"
        )
    opened = gzip.open if table.suffix == ".gz" else open
    try:
        with opened(table, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, found = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataMissing(f"{table} cannot be read: a table (CSV, UTF-8) was expected") from error
    if missing := [name for name in needs if name not in columns]:
        raise DataMissing(f"{table} has no column {', '.join(missing)}")
    return [row for row in found if split in {None, row.get("split")}]


def number(row: dict[str, str], column: str, table: Path) -> float:
    """The number in a column of a table row. Raises DataMissing with the table, the column and the wrong
    value.
    """
    try:
        return float(row[column])
    except (ValueError, TypeError, KeyError) as error:
        raise DataMissing(f"{table}: column {column} holds no number but {row.get(column)!r}") from error


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises DataMissing."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataMissing(f"{path} cannot be read: a list (text, UTF-8) was expected") from error


def read_grey(path: Path) -> Pixels:
    """A picture as grey levels ``[rows, columns]``, 0 to 255; DICOM as its header says. Raises
    DataMissing.
    """
    picture = _read(path, cv2.IMREAD_GRAYSCALE)
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)


def read_rgb(path: Path) -> Pixels:
    """A picture as RGB ``[rows, columns, 3]``, 0 to 255. Raises DataMissing."""
    picture = _read(path, cv2.IMREAD_COLOR)
    code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, code), np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture, from its header. Raises DataMissing."""
    if path.suffix.lower() in DICOM:
        facts = dicom_facts(path)
        return facts.rows, facts.columns
    try:
        with Image.open(path) as opened:
            return opened.height, opened.width
    except (OSError, UnidentifiedImageError) as error:
        raise _no_picture(path) from error


@dataclass(frozen=True, slots=True)
class DicomFacts:
    """Header values of a DICOM file as they are in the file; empty if missing."""

    rows: int
    columns: int
    patient: str
    age: str
    sex: str
    view: str


@cache
def dicom_facts(path: Path) -> DicomFacts:
    """The header of the file at ``path``. Raises DataMissing."""
    try:
        image = open_dicom(path)
    except (PixelError, OSError) as error:
        raise DataMissing(f"{path} cannot be read: a DICOM image was expected ({error})") from error
    names = ("PatientID", "PatientAge", "PatientSex", "ViewPosition")
    with warnings.catch_warnings(action="ignore"):  # published sets hold ages such as 58
        said = [str(image.dataset.get(name) or "") for name in names]
    return DicomFacts(image.header.rows, image.header.columns, *said)


def _read(path: Path, how: int) -> Pixels:
    """Grey, or the colours of OpenCV in their order."""
    if path.suffix.lower() in DICOM:
        try:
            shown = open_dicom(path).display()
        except (PixelError, OSError) as error:
            raise DataMissing(f"{path} cannot be read: a DICOM image was expected ({error})") from error
        return shown if shown.ndim == 2 else shown[:, :, ::-1]
    if path.suffix.lower() == JSRT:
        return _jsrt(path)
    image = cv2.imread(str(path), how)
    if image is None:
        raise _no_picture(path)
    return np.asarray(image, np.uint8)


def _jsrt(path: Path) -> Pixels:
    words = np.fromfile(path, ">u2") if path.is_file() else np.zeros(0)
    if words.size != JSRT_SIDE**2:
        raise DataMissing(f"{path} cannot be read: {JSRT_SIDE} × {JSRT_SIDE} words of 16 bits were expected")
    share = np.minimum(words, JSRT_WHITE).reshape(JSRT_SIDE, JSRT_SIDE) / np.float32(JSRT_WHITE)
    return np.asarray(255 * (1 - share), np.uint8)


def _no_picture(path: Path) -> DataMissing:
    kinds = "a PNG, JPEG, GIF or BMP picture was expected"
    return DataMissing(f"{path} is not an image that can be read: {kinds if path.is_file() else 'no file'}")
