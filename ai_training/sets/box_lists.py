"""Radiologists' boxes from the lists of NIH and of ChestX-Det.

``BBox_List_2017.csv``    of the NIH download, read by position: its header is
                          ``Image Index,Finding Label,Bbox [x,y,w,h],,,`` and names half of the columns;
``*.json``                of ChestX-Det and ChestX-Det10 (J. Liu, J. Lian, Y. Yu, arXiv 2006.10550), a list of
                          ``{"file_name": "00000042_006.png", "syms": ["Mass"], "boxes": [[1, 2, 30, 40]]}``
                          (corners), several boxes of one label in an image being usual.

Both give pixels of 1,024 squares, as NIH published them; the files at hand may be smaller copies.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ai_training.errors import DataMissing
from ai_training.sets.images import LABELS, SetBox
from ai_training.sets.names import ours

SIDE = 1024.0  # pixels of the images that both lists were drawn on
Row = tuple[str, str, Sequence[Any]]
"""File name, label as the list has it, corners (left, top, right, bottom) in pixels."""


def listed_boxes(path: Path) -> Iterator[tuple[str, SetBox]]:
    """The boxes of a list, each with the name of its image file.

    Labels that the classifier does not know and empty boxes are left out. Raises DataMissing if the list is
    missing or cannot be read.
    """
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    try:
        for file, label, corners in _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path):
            left, top, right, bottom = (float(edge) for edge in corners)
            if ours(label) in LABELS and left < right and top < bottom:
                yield file, SetBox(ours(label), (left, top, right, bottom), SIDE)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataMissing(f"{path} is no list of boxes that can be read: {error!r}") from error


def _json_rows(path: Path) -> Iterator[Row]:
    for entry in json.loads(path.read_text(encoding="utf-8")):
        for label, corners in zip(entry["syms"], entry["boxes"], strict=True):
            yield entry["file_name"], label, corners


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        if next(rows, [""])[0] != "Image Index":
            raise ValueError("its first column is not 'Image Index'")
        for row in rows:
            left, top, width, height = (float(value) for value in row[2:6])
            yield row[0], row[1], (left, top, left + width, top + height)
