"""Radiologists' boxes from every list that we can read, as one table of :class:`TruthBox`.

``boxes.csv``             of the public sets and
``BBox_List_2017.csv``    of the NIH download come with ``--data`` (:mod:`ai_training.sets`);
``BBox_List_2017.csv``    may also be named alone: the whole list, for whichever images are there;
``*.json``                of ChestX-Det and ChestX-Det10 (J. Liu, J. Lian, Y. Yu, arXiv 2006.10550), a list of
                          ``{"file_name": "00000042_006.png", "syms": ["Mass"], "boxes": [[1, 2, 30, 40]]}``
                          (corners), several boxes of one label in an image being usual.

Both give pixels of 1,024 squares, as NIH published them; the files at hand may be smaller copies.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_training.errors import DataMissing
from ai_training.sets.chest import LABELS, ChestImage, TruthBox, chest_set

SIDE = 1024.0  # pixels of the images that both lists were drawn on
RENAMED = {
    "Infiltrate": "Infiltration",
    "Pleural Thickening": "Pleural_Thickening",
    "Diffuse Nodule": "Nodule",
}
SAME = 0.5  # two boxes of one label that overlap so much are one


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a list: the file's name, the label as this project spells it, corners in pixels."""

    file: str
    label: str
    corners: tuple[float, float, float, float]


def detection_boxes(data: Path, more: Sequence[Path] = ()) -> tuple[TruthBox, ...]:
    """The boxes that ``data`` holds, and those of the lists ``more`` on images of ``data``.

    A box that another list has too is taken once. Labels that the classifier does not know (fractures,
    calcifications) are left out, as are images that are not there. Raises DataMissing when nothing is left,
    or a list cannot be read.
    """
    found = chest_set(data)
    boxes = list(found.boxes)
    by_name = {image.path.stem: image for image in found.images}
    for path in more:
        boxes += _new(boxes, _placed(_rows(path), by_name))
    if not boxes:
        raise DataMissing(f"{data} holds no boxes: name a list with --boxes (docs/training.md)")
    return tuple(boxes)


def corners(box: TruthBox) -> tuple[float, float, float, float]:
    """``(left, top, right, bottom)`` as shares of the image's side, cut at its edges."""
    edges = (box.left, box.top, box.right, box.bottom)
    left, top, right, bottom = (min(max(edge / box.side, 0.0), 1.0) for edge in edges)
    return left, top, right, bottom


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes ``(left, top, right, bottom)``."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (both - common)


def _rows(path: Path) -> Iterator[_Row]:
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    try:
        yield from _json_rows(path) if path.suffix.lower() == ".json" else _list_rows(path)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataMissing(f"{path} is no list of boxes that can be read: {error!r}") from error


def _json_rows(path: Path) -> Iterator[_Row]:
    listed: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    for entry in listed:
        for label, box in zip(entry["syms"], entry["boxes"], strict=True):
            left, top, right, bottom = (float(edge) for edge in box)
            yield _Row(entry["file_name"], RENAMED.get(label, label), (left, top, right, bottom))


def _list_rows(path: Path) -> Iterator[_Row]:
    """By position: the header is ``Image Index,Finding Label,Bbox [x,y,w,h],,,`` and names half of them."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        if next(rows, [""])[0] != "Image Index":
            raise ValueError("its first column is not 'Image Index'")
        for row in rows:
            left, top, width, height = (float(value) for value in row[2:6])
            yield _Row(row[0], RENAMED.get(row[1], row[1]), (left, top, left + width, top + height))


def _placed(rows: Iterable[_Row], images: Mapping[str, ChestImage]) -> Iterator[TruthBox]:
    for row in rows:
        image = images.get(Path(row.file).stem)
        left, top, right, bottom = row.corners
        if image is None or row.label not in LABELS or not (left < right and top < bottom):
            continue
        yield TruthBox(
            file=row.file, label=row.label, left=left, top=top, right=right, bottom=bottom,
            split=image.split, path=image.path, side=SIDE, patient=image.patient, adult=image.adult,
        )  # fmt: skip


def _new(known: Iterable[TruthBox], listed: Iterable[TruthBox]) -> Iterator[TruthBox]:
    there: dict[tuple[Path, str], list[tuple[float, float, float, float]]] = {}
    for box in known:
        there.setdefault((box.path, box.label), []).append(corners(box))
    for box in listed:
        others = there.setdefault((box.path, box.label), [])
        if all(overlap(corners(box), other) < SAME for other in others):
            others.append(corners(box))
            yield box
