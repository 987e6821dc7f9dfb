"""Real frames for evaluating the removal of marks: hand-drawn (test), coloured (validation), clean.

The hand-drawn masks lie in ``tests/data/marks`` (its README says who drew them, and how); the images under
``--data``. Choices are made on another set than the test set: coloured pixels in validation frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Box, Mask, Picture, index_of
from ai_training.errors import DataMissing
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.marks.data import LEAST_COLOURED, REAL_SOURCE
from ai_training.ultrasound.overlays import CleanFrame, MarkClass, clean_frames
from ai_training.ultrasound.overlays.frame_list import box_of

MOST_FLOW = 2000
"""More red or blue pixels: colour Doppler, whose colour bar and flow hold yellow (the set's own limit)."""
STRONG, WEAK = 45, 30
"""Yellow or cyan (grey levels): a mark has a pixel above the one, and is all that is above the other."""
SMALLEST = 4
"""Coloured pixels that make a mark; fewer are the rim of one, or JPEG (pixels)."""
SOLITARY = 3
"""Coloured pixels this near to each other are one mark (pixels)."""
NOT_CLEAN = frozenset(
    f"images/{name}"
    for name in (
        "322_HC.jpg",
        "679_HC.jpg",
        "benign_244.png",
        "024_HC.jpg",
        "623_HC.jpg",
        "benign_5.png",
        "benign_416.png",
        "otu_0057.jpg",
        "otu_0690.jpg",
    )
)
"""Parts of ``clean_frames.csv`` in which the eye sees marks after all: grey bars, calipers, cut letters.

First those of the test split (found by looking at all 107 before any detector ran on them), then validation.
What is right to be marked there is no false mark; overlays are still drawn on them.
"""
YELLOW, NO_YELLOW = "with yellow marks", "without yellow marks"

Owners = npt.NDArray[np.uint8] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RealMark:
    """One mark of a frame: its number in the frame's ``owners``, its class, its box, the annotator's note."""

    number: int
    kind: MarkClass
    box: Box
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class MarkedFrame:
    """A real frame and its marks. ``picture`` RGB uint8; ``owners`` holds a mark's number, 0 elsewhere.

    ``known``: pixels for which it is known whether they belong to a mark (in a hand-drawn frame: all).
    """

    name: str
    stratum: str
    picture: Picture
    owners: Owners
    known: Mask
    marks: tuple[RealMark, ...]


def drawn_frames(data: Path, masks: Path) -> Iterator[MarkedFrame]:
    """The hand-drawn test frames, in the order of ``frames.csv``. Raises DataMissing."""
    objects = rows(masks / "objects.csv")
    for row in rows(masks / "frames.csv"):
        picture = read_rgb(data / row["set"] / row["file"])
        name = f"{row['set']}__{Path(row['file']).stem}"
        owners = cv2.imread(str(masks / "owners" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        if owners is None or owners.shape != picture.shape[:2]:
            raise DataMissing(f"{masks / 'owners' / name}.png is missing or not of its frame's size")
        marks = tuple(
            RealMark(int(mark["object_id"]), MarkClass[mark["class"].upper()], box_of(mark), mark["note"])
            for mark in objects
            if (mark["set"], mark["file"]) == (row["set"], row["file"])
        )
        stratum = YELLOW if row["stratum"] == "yellow" else NO_YELLOW
        known = np.ones(owners.shape, np.bool_)
        yield MarkedFrame(name, stratum, picture, np.asarray(owners, np.uint8), known, marks)


def coloured_frames(data: Path, split: str = "val") -> Iterator[MarkedFrame]:
    """``us_ovarian`` frames whose yellow and cyan pixels are marks; only those and the clean part are known.

    The class of such a mark is unknown: all count as text. Raises DataMissing.
    """
    folder = data / REAL_SOURCE
    clean = {frame.file: frame.box for frame in clean_frames(split) if frame.source == REAL_SOURCE}
    for row in rows(folder / "manifest.csv"):
        marked = int(row["yellow_overlay_px"]) >= LEAST_COLOURED
        if row["split"] == split and marked and int(row["doppler_colour_px"]) <= MOST_FLOW:
            yield _coloured(read_rgb(folder / row["file"]), Path(row["file"]).stem, clean.get(row["file"]))


def clean_pictures(data: Path, split: str) -> Iterator[tuple[CleanFrame, Picture]]:
    """The parts of real frames without any mark (``clean_frames.csv``, checked by eye). Raises
    DataMissing.
    """
    for frame in clean_frames(split):
        if frame.file not in NOT_CLEAN:
            yield frame, frame.read(data)


def _coloured(picture: Picture, name: str, clean: Box | None) -> MarkedFrame:
    red, green, blue = (picture[..., channel].astype(np.int16) for channel in range(3))
    tint = np.minimum(green, np.maximum(red, blue)) - np.minimum(red, blue)
    coloured = tint > WEAK
    joined = cv2.dilate(coloured.astype(np.uint8), np.ones((SOLITARY, SOLITARY), np.uint8))
    count, labels = cv2.connectedComponents(joined, connectivity=8)
    owners = np.where(coloured, labels, 0)
    pixels = np.bincount(owners.ravel(), minlength=count)
    strong = np.bincount(owners[tint > STRONG], minlength=count) > 0
    marked = [number for number in range(1, count) if strong[number] and pixels[number] >= SMALLEST]
    owners[~np.isin(owners, marked)] = 0
    known = coloured.copy()
    if clean is not None:
        known[index_of(clean)] = True
    marks = tuple(RealMark(number, MarkClass.TEXT, _extent(owners == number)) for number in marked)
    return MarkedFrame(name, YELLOW, picture, np.asarray(owners, np.int32), known, marks)


def _extent(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
