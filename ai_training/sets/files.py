"""Tables and pictures as files: rows of a CSV file, grey and colour pictures, their sizes."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_training.base import DataMissing

Grey = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]
DICOM = (".dcm", ".dicom")


def rows(table: Path, split: str | None = None, needs: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file (or .csv.gz) as dictionaries by the names in its first line; with ``split``
    only rows of that split. Raises DataMissing, also if a column of ``needs`` is missing.
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
    """Read the number in a ``column`` of a table's ``row``. Raises DataMissing with the table, the column and
    the wrong value.
    """
    try:
        return float(row[column])
    except (ValueError, TypeError, KeyError) as error:
        raise DataMissing(f"{table}: column {column} holds no number but {row.get(column)!r}") from error


def lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank. Raises DataMissing."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataMissing(f"{path} cannot be read: a list (text, UTF-8) was expected") from error


def read_grey(path: Path) -> Grey:
    """Read a picture as grey levels ``[rows, columns]``, 0 to 255; DICOM as its header says. Raises
    DataMissing.
    """
    picture = _read(path, cv2.IMREAD_GRAYSCALE)
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)


def read_rgb(path: Path) -> Grey:
    """Read a picture as RGB ``[rows, columns, 3]``, 0 to 255. Raises DataMissing."""
    picture = _read(path, cv2.IMREAD_COLOR)
    code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, code), np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture, from its header. Raises DataMissing."""
    try:
        if path.suffix.lower() in DICOM:
            header = open_dicom(path).header
            return header.rows, header.columns
        with Image.open(path) as opened:
            return opened.height, opened.width
    except (PixelError, OSError, UnidentifiedImageError) as error:
        raise _no_picture(path) from error


def _read(path: Path, how: int) -> Grey:
    """Read a picture with OpenCV's flag ``how``: as grey, or with the colours in the order blue,
    green, red.
    """
    if path.suffix.lower() in DICOM:
        try:
            shown = open_dicom(path).display()
        except (PixelError, OSError) as error:
            raise _no_picture(path) from error
        return shown if shown.ndim == 2 else shown[:, :, ::-1]
    image = cv2.imread(str(path), how)
    if image is None:
        raise _no_picture(path)
    return np.asarray(image, np.uint8)


def _no_picture(path: Path) -> DataMissing:
    """The error for a file that is no readable picture."""
    kinds = "a PNG, JPEG, GIF, BMP or DICOM picture was expected"
    return DataMissing(f"{path} is not an image that can be read: {kinds if path.is_file() else 'no file'}")
