"""Tables and pictures as files: rows of a CSV file, grey and colour pictures, their sizes."""

import csv
import gzip
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
    opened = gzip.open if table.suffix == ".gz" else open
    try:
        with opened(table, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
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
    try:
        if is_dicom(path):
            header = open_dicom(path).header
            return header.rows, header.columns
        with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as opened:
            return opened.height, opened.width
    except (PixelError, OSError, UnidentifiedImageError) as error:
        raise _no_picture(path, error) from error


def _shown(path: Path) -> Grey:
    """The picture of a file as the node's decoder shows it, grey or RGB."""
    try:
        image = open_image(path, "OT")  # the modality changes no pixel
        if image.header.frames > 1:
            raise PixelError(f"it has {image.header.frames} frames: one picture was expected")
        return image.display()
    except (PixelError, OSError) as error:
        raise _no_picture(path, error) from error


def _no_picture(path: Path, error: Exception) -> DataMissing:
    """The error for a file that is no readable picture; ``error``: the decoder's."""
    if not path.is_file():
        return DataMissing(f"{path} is not there: no file of this name")
    cause = str(error) if isinstance(error, PixelError) else "the file cannot be opened"
    return DataMissing(f"{path} is not an image that can be read: {cause}")
