"""Sheets of hits, misses and false boxes, chosen by a rule and not by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.detect.locating.cross_validation import LabelledBoxes, Predictions
from ai_training.detect.locating.scores import Corners
from ai_training.detect.locating.truth import corners
from ai_training.metrics import overlap
from ai_training.sets.files import read_grey

SIDE, ACROSS, DOWN = 200, 4, 2  # pixels of a tile, tiles of a sheet
TRUTH, OURS, PRIOR = (90, 220, 90), (60, 170, 255), (170, 170, 170)  # BGR: green, orange, grey
HIT, MISS = 0.5, 0.1


@dataclass(frozen=True, slots=True)
class _Tile:
    path: Path
    title: str
    boxes: tuple[tuple[Corners, tuple[int, int, int]], ...]


def write_pictures(folder: Path, case: LabelledBoxes, predictions: Predictions) -> list[Path]:
    """Write ``hits.png``, ``misses.png``, ``false.png``: truth green, the fusion's box orange, constant box
    grey.

    Hits overlap the truth by at least half, misses by less than a tenth; false boxes are those with the
    highest score in images without a box of the label. Labels take turns; within a label the order is by file
    name, for false boxes by score.
    """
    hits: dict[str, list[_Tile]] = {}
    misses: dict[str, list[_Tile]] = {}
    found = [case.of_boxes(predictions[arm]) for arm in ("fusion", "constant")]
    for box, ours, prior in sorted(zip(case.boxes, *found, strict=True), key=lambda row: row[0].file):
        if ours is None or prior is None:
            continue
        reached = overlap(corners(box), ours.corners)
        tile = _Tile(
            box.path,
            f"{box.label} {reached:.2f}",
            ((prior.corners, PRIOR), (corners(box), TRUTH), (ours.corners, OURS)),
        )
        if reached >= HIT:
            hits.setdefault(box.label, []).append(tile)
        elif reached < MISS:
            misses.setdefault(box.label, []).append(tile)
    sheets = {"hits": hits, "misses": misses, "false": _false(case, predictions)}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, tiles in sheets.items():
        path = folder / f"{name}.png"
        cv2.imwrite(str(path), _sheet(_in_turn(tiles.values())), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        written.append(path)
    return written


def _false(case: LabelledBoxes, predictions: Predictions) -> dict[str, list[_Tile]]:
    there = {(row, box.label) for row, box in zip(case.rows, case.boxes, strict=True)}
    surest = sorted(predictions["fusion"].items(), key=lambda item: -item[1].score)
    tiles: dict[str, list[_Tile]] = {}
    for (image, label), place in surest:
        own = [box for row, box in zip(case.rows, case.boxes, strict=True) if row == image]
        if (image, label) in there or len(tiles.get(label, [])) >= DOWN:
            continue
        boxes = [(corners(box), TRUTH) for box in own]
        title = f"{label}? ({own[0].label})"
        tiles.setdefault(label, []).append(_Tile(case.paths[image], title, (*boxes, (place.corners, OURS))))
    return tiles


def _in_turn(groups: Iterable[Sequence[_Tile]]) -> list[_Tile]:
    """The first of every group, then the second …"""
    lists = list(groups)
    longest = max((len(group) for group in lists), default=0)
    return [group[k] for k in range(longest) for group in lists if k < len(group)]


def _sheet(tiles: Sequence[_Tile]) -> npt.NDArray[np.uint8]:
    sheet = np.zeros((DOWN * SIDE, ACROSS * SIDE, 3), np.uint8)
    for number, tile in enumerate(tiles[: DOWN * ACROSS]):
        row, column = divmod(number, ACROSS)
        sheet[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = _drawn(tile)
    return sheet


def _drawn(tile: _Tile) -> npt.NDArray[np.uint8]:
    small = cv2.resize(read_grey(tile.path), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    picture = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    for box, colour in tile.boxes:
        left, top, right, bottom = (min(max(round(edge * SIDE), 1), SIDE - 2) for edge in box)
        cv2.rectangle(picture, (left, top), (right, bottom), colour, 1, cv2.LINE_AA)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, tile.title, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, width, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)
