"""Tables and pictures as files: rows of a CSV file, grey and colour pictures, their sizes."""

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import is_dicom, open_dicom, open_image
from ai_pipeline.images.display import mean_grey
from ai_training.base import DataMissing

Grey = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]


def rows(table: Path, split: str | None = None, needs: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file (or .csv.gz) as dictionaries by the names in its first line; with ``split``
    only rows of that split. Raises DataMissing, also if a column of ``needs`` is missing.
    """
    columns, found = lined_rows(table)
    if missing := [name for name in needs if name not in columns]:
        raise DataMissing(f"{table} has no column {', '.join(missing)}")
    return [row for _, row in found if split in {None, row.get("split")}]


def lined_rows(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names in the first line of a CSV file (or .csv.gz), and its rows, each with the number of its last
    line. Spaces around names and values are removed. Raises DataMissing.
    """
    if not table.is_file():
        raise DataMissing(
            f"{table} is missing: --data must name a folder laid out as docs/reference/data-sets.md says"
        )
    try:
        reader = csv.reader(io.StringIO(read_limited(table).decode("utf-8-sig"), newline=""))
        columns = [name.strip() for name in next(reader, [])]
        read = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataMissing(f"{table} cannot be read: a table (CSV, UTF-8) was expected") from error
    found = [(line, cells) for line, cells in read if any(cells)]
    for line, cells in found:
        # Of values and names at the end of a line that are blank nobody misses one: NIH's table has such.
        if any(cells[len(columns) :]) or any(columns[len(cells) :]):
            raise DataMissing(f"{table}, line {line}: {len(cells)} values, but {len(columns)} columns")
    return columns, [(line, dict(zip(columns, cells, strict=False))) for line, cells in found]


LARGEST_TABLE = 256 << 20
"""Bytes of a table, unpacked. PadChest's, of 160,000 films, has a quarter of it."""


def read_limited(table: Path) -> bytes:
    """The bytes of a table or list, unpacked if its name ends with ``.gz``. Raises DataMissing for one that
    is larger than :data:`LARGEST_TABLE`, EOFError or zlib's errors for one that is cut off or broken.
    """
    opened = gzip.open if table.suffix == ".gz" else open
    if table.stat().st_size <= LARGEST_TABLE:
        with opened(table, "rb") as file:
            data: bytes = file.read(LARGEST_TABLE + 1)
        if len(data) <= LARGEST_TABLE:
            return data
    raise DataMissing(f"{table} is larger than {LARGEST_TABLE >> 20} MiB: no table of images is")


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
        text = read_limited(path).decode("utf-8-sig")
        return [line.strip() for line in text.splitlines() if line.strip()]
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise DataMissing(f"{path} cannot be read: a list (text, UTF-8) was expected") from error


def read_grey(path: Path) -> Grey:
    """Read a picture as grey levels ``[rows, columns]``, 0 to 255, as the node's pipelines see it: DICOM as
    its header says, deep samples by percentiles, upright as EXIF says. Raises DataMissing.
    """
    return mean_grey(_shown(path))


def read_rgb(path: Path) -> Grey:
    """Read a picture as RGB ``[rows, columns, 3]``, 0 to 255, as the node sees it. Raises DataMissing."""
    picture = _shown(path)
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture, from its header, before EXIF turns it. Raises DataMissing."""
    _check_file(path)
    try:
        if is_dicom(path):
            header = open_dicom(path).header
            return header.rows, header.columns
        with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as opened:
            return opened.height, opened.width
    except (PixelError, OSError, UnidentifiedImageError) as error:
        raise _no_picture(path, error) from error


def _shown(path: Path) -> Grey:
    """The picture of a file as the node's decoder shows it, grey or RGB. Raises DataMissing."""
    _check_file(path)
    try:
        image = open_image(path, "OT")  # the modality changes no pixel
        if image.header.frames > 1:
            raise PixelError(f"it has {image.header.frames} frames: one picture was expected")
        return image.display()
    except (PixelError, OSError) as error:
        raise _no_picture(path, error) from error


def _check_file(path: Path) -> None:
    """Raise DataMissing unless ``path`` is a file: nobody writes into a pipe, and a device has no end."""
    if path.is_file():
        return
    if path.is_dir():
        raise DataMissing(f"{path} is a folder: a picture was expected")
    if path.exists():
        raise DataMissing(f"{path} is a pipe, a socket or a device: a picture was expected")
    if path.is_symlink():
        raise DataMissing(f"{path} is a link that leads to no file")
    raise DataMissing(f"{path} is not there: no file of this name")


def _no_picture(path: Path, error: Exception) -> DataMissing:
    """The error for a file that is no readable picture; ``error``: the decoder's."""
    cause = str(error) if isinstance(error, PixelError) else "the file cannot be opened"
    return DataMissing(f"{path} is not an image that can be read: {cause}")
