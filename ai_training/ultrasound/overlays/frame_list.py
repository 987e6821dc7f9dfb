"""Find parts of the public ultrasound frames without annotation, to draw synthetic annotation on.

Few published frames are clean, but parts of marked frames are. Text (rapidocr's detector), colour and drawn
marks (:mod:`~ai_training.ultrasound.overlays.looking_clean`) are excluded with a margin, calipers with
everything between them, since their dotted lines are faint; the largest remaining rectangle is used. The list
is committed (``clean_frames.csv``): the search takes minutes and its result was checked by eye.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Box, Mask, Picture, brightest, dilated
from ai_pipeline.burnin.find.text import CERTAIN_TEXT, TextReader, paint
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.overlays.looking_clean import chroma, find_graphics, overlay_colours

LIST = Path(__file__).with_name("clean_frames.csv")
SETS = ("us_fetal_head", "us_breast", "us_ovarian")
FIXED_EDGES = {"us_fetal_head": (12, 0), "us_breast": (0, 12), "us_ovarian": (0, 0)}
"""Columns on the left and rows on top that always go: HC18's grey bar, the corner mark of BUSI's frames."""
SMALLEST_SIDE = 112
"""Shorter side of a part that is worth keeping (pixels)."""
REJECTED = frozenset(
    f"images/{name}"
    for name in (
        "otu_0164.jpg",
        "otu_0215.jpg",
        "otu_0308.jpg",
        "otu_0611.jpg",
        "otu_0997.jpg",
        "otu_1462.jpg",
        "benign_278.png",
        "benign_299.png",
        "malignant_111.png",
        "malignant_126.png",
        "malignant_15.png",
        "malignant_196.png",
    )
)
"""Frames in which the eye sees marks that the filter does not: hands, white calipers, a thin white box."""
LIT_SHARE = 0.6
"""Least share of a part that is echo picture, not black surround."""
CHROMA = 45
"""Difference of the channels from which a pixel is coloured (grey levels)."""
ROOM = 7
"""Distance from whatever was found (pixels)."""
GRID = 4
FAINT, FAINT_PIXELS = 6, 12
"""Thin colour above the surroundings (grey levels) and how many such pixels make a frame a marked one."""
DOT, DOT_GROUND = 90, 28
"""A dot this much above its surroundings where they are this dark is a tick, not an echo (grey levels)."""


@dataclass(frozen=True, slots=True)
class CleanFrame:
    """A part of a public frame without annotation. ``box`` in pixels of the file; ``split`` as published."""

    source: str
    file: str
    split: str
    box: Box

    def read(self, data: Path) -> Picture:
        """The part as RGB ``[rows, columns, 3]``. Raises DataMissing when the file is not there."""
        left, top, right, bottom = self.box
        return np.ascontiguousarray(read_rgb(data / self.source / self.file)[top:bottom, left:right])


def clean_frames(split: str, path: Path = LIST) -> tuple[CleanFrame, ...]:
    """The listed parts of one split (train, val or test), in the order of the list."""
    return tuple(
        CleanFrame(row["source"], row["file"], row["split"], box_of(row))
        for row in rows(path)
        if row["split"] == split
    )


def find_clean_frames(
    data: Path, reader: TextReader, report: Callable[[float, str], None], *, stride: int = 1
) -> Iterable[CleanFrame]:
    """Search the manifests under ``data`` (every ``stride``-th frame). Raises DataMissing.

    The test split of ``us_ovarian`` is not searched: detectors are evaluated on its real marks.
    """
    listed = [
        (source, row["file"], row["split"])
        for source in SETS
        for row in rows(data / source / "manifest.csv")
        if (source, row["split"]) != ("us_ovarian", "test")
    ][::stride]
    for number, (source, file, split) in enumerate(listed):
        report(number / len(listed), f"frame {number + 1} of {len(listed)}")
        if file in REJECTED:
            continue
        box = clean_part(read_rgb(data / source / file), FIXED_EDGES[source], reader)
        if box is None:
            continue
        frame = CleanFrame(source, file, split, box)
        if source != "us_ovarian" or not looks_marked(frame.read(data)):
            yield frame


def write_list(frames: Iterable[CleanFrame], path: Path) -> int:
    """Write the list row by row, as frames are found; returns the number of rows."""
    count = 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("source", "file", "split", "left", "top", "right", "bottom"))
        for frame in frames:
            writer.writerow((frame.source, frame.file, frame.split, *frame.box))
            file.flush()
            count += 1
    return count


def clean_part(picture: Picture, edges: tuple[int, int], reader: TextReader) -> Box | None:
    """The largest rectangle without annotation; None if it would be small or mostly black."""
    taken = marked_area(picture, reader)
    taken[:, : edges[0]] = True
    taken[: edges[1]] = True
    grey = brightest(picture)
    rows, columns = (side // GRID for side in grey.shape)
    blocks = taken[: rows * GRID, : columns * GRID].reshape(rows, GRID, columns, GRID)
    free = ~np.asarray(blocks.any(axis=(1, 3)), np.bool_)
    left, top, right, bottom = (GRID * edge for edge in largest_rectangle(free))
    if min(right - left, bottom - top) < SMALLEST_SIDE:
        return None
    lit = cv2.blur(np.ascontiguousarray(grey[top:bottom, left:right]), (9, 9)) > 10
    return (left, top, right, bottom) if float(lit.mean()) >= LIT_SHARE else None


def marked_area(picture: Picture, reader: TextReader) -> Mask:
    """The mask of everything that may be annotation, with a margin; it rather marks too much."""
    boxes = [
        box
        for box in reader.find(picture)
        if box.confidence >= CERTAIN_TEXT or reader.read(picture, box).legible
    ]
    texts = paint(boxes, picture.shape, 0.4)
    coloured = cv2.morphologyEx(chroma(picture), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > CHROMA
    drawn, calipers = find_graphics(picture, texts)
    area = (texts | drawn | coloured).astype(np.uint8)
    corners = [(x, y) for left, top, right, bottom in calipers for x in (left, right) for y in (top, bottom)]
    if corners:
        cv2.fillConvexPoly(area, cv2.convexHull(np.array(corners, np.int32)), 1)
    return dilated(area, 2 * ROOM + 1)


def looks_marked(part: Picture) -> bool:
    """Whether thin colour or single bright dots are left: faint outlines, ticks, hands.

    Stricter than any detector may be, since a frame that is dropped costs nothing.
    """
    kernel = np.ones((11, 11), np.uint8)
    thin = [
        cv2.morphologyEx(cv2.blur(excess, (3, 3)), cv2.MORPH_TOPHAT, kernel) > FAINT
        for excess in overlay_colours(part)
    ]
    if int(np.logical_or.reduce(thin).sum()) >= FAINT_PIXELS:
        return True
    grey = brightest(part)
    lone = (cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, kernel) > DOT) & (cv2.medianBlur(grey, 15) < DOT_GROUND)
    return bool(lone.any())


def largest_rectangle(free: npt.NDArray[np.bool_]) -> Box:
    """The largest all-true rectangle (left, top, right, bottom); empty if there is none."""
    heights = np.zeros(free.shape[1], np.int64)
    best, found = 0, (0, 0, 0, 0)
    for bottom, row in enumerate(free):
        heights = np.where(row, heights + 1, 0)
        stack: list[tuple[int, int]] = []  # (leftmost column, height), heights ascending
        for column, height in enumerate((*heights.tolist(), 0)):
            start = column
            while stack and stack[-1][1] >= height:
                start, tall = stack.pop()
                if tall * (column - start) > best:
                    best, found = tall * (column - start), (start, bottom + 1 - tall, column, bottom + 1)
            stack.append((start, height))
    return found


def box_of(row: dict[str, str]) -> Box:
    """The box in the columns ``left`` to ``bottom`` of a list's row (pixels)."""
    return int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])
