"""Tables and pictures of the image sets as they lie on disk. What is not there is DataMissing."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.errors import DataMissing

Pixels = npt.NDArray[np.uint8]


def rows(table: Path, split: str | None = None) -> list[dict[str, str]]:
    """The rows of a CSV file by the names in its first line; with ``split`` those of its column ``split``."""
    if not table.is_file():
        raise DataMissing(f"{table} is missing: --data must name a folder laid out as docs/training.md says")
    with table.open(newline="", encoding="utf-8-sig") as file:
        return [row for row in csv.DictReader(file) if split in {None, row.get("split")}]


def read_grey(path: Path) -> Pixels:
    """A PNG or JPEG as grey levels ``[rows, columns]``, 0 to 255."""
    return _read(path, cv2.IMREAD_GRAYSCALE)


def read_rgb(path: Path) -> Pixels:
    """A PNG or JPEG as RGB ``[rows, columns, 3]``, 0 to 255."""
    return np.asarray(cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def _read(path: Path, how: int) -> Pixels:
    image = cv2.imread(str(path), how)
    if image is None:
        raise DataMissing(f"{path} is not an image that can be read")
    return np.asarray(image, np.uint8)
