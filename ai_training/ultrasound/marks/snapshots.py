"""Pictures for a person, written as PNG: missed marks and remains, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_pipeline.burnin.annotation.pixels import Box, Mask, Picture

AROUND = 40
"""Pixels that are shown around a mark."""
ENLARGED = 4
OUTLINE, TARGET = (255, 0, 255), (0, 255, 0)
TITLE = 22
"""Height of the line above a picture (pixels)."""
GAP = 6
COLOURS = (128, 64, 32)
"""Numbers of colours that a picture is brought to when its file has to be small."""
SMALLEST = 120
"""Side under which a picture is not made smaller (pixels)."""


def crop_around(picture: Picture, box: Box, around: int = AROUND) -> tuple[slice, slice]:
    """The part of the picture that holds the box and a margin of ``around`` pixels."""
    left, top, right, bottom = box
    rows = slice(max(0, top - around), min(picture.shape[0], bottom + around))
    return rows, slice(max(0, left - around), min(picture.shape[1], right + around))


def outlined(picture: Picture, masks: Sequence[tuple[Mask, tuple[int, int, int]]], scale: int) -> Picture:
    """A copy of the picture, enlarged ``scale`` times, with the outlines of the masks in their colours."""
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    for mask, colour in masks:
        part = np.repeat(np.repeat(mask.astype(np.uint8), scale, 0), scale, 1)
        contours, _ = cv2.findContours(part, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(large, contours, -1, colour, 1)
    return np.asarray(large, np.uint8)


def titled(picture: Picture, title: str) -> Picture:
    """The picture with a line of text above it (Latin letters)."""
    width = max(picture.shape[1], 8 * len(title))
    page = np.zeros((picture.shape[0] + TITLE, width, 3), np.uint8)
    page[TITLE:, : picture.shape[1]] = picture
    cv2.putText(page, title, (3, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return page


def beside(pictures: Sequence[Picture]) -> Picture:
    """Pictures in a row, aligned at the top."""
    rows = max(picture.shape[0] for picture in pictures)
    padded = [
        np.pad(picture, ((0, rows - picture.shape[0]), (0, GAP), (0, 0)), constant_values=90)
        for picture in pictures
    ]
    return np.concatenate(padded, axis=1)


def stacked(rows: Sequence[Picture]) -> Picture:
    """Pictures below one another, aligned at the left."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=90) for row in rows]
    return np.concatenate(padded)


def save(path: Path, picture: npt.NDArray[np.uint8], most_bytes: int | None = None) -> Path:
    """Write an RGB picture as PNG; with ``most_bytes``, colours and then size are reduced until the file
    fits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = Image.fromarray(picture)
    coded = _png(shown)
    if most_bytes is not None:
        for colours in COLOURS:
            if len(coded) > most_bytes:
                coded = _png(shown.quantize(colours, dither=Image.Dither.NONE))
        while len(coded) > most_bytes and min(shown.size) > SMALLEST:
            shown = shown.resize((round(shown.width * 0.9), round(shown.height * 0.9)))
            coded = _png(shown.quantize(COLOURS[-1], dither=Image.Dither.NONE))
    path.write_bytes(coded)
    return path


def _png(shown: Image.Image) -> bytes:
    into = io.BytesIO()
    shown.save(into, "PNG", optimize=True)
    return into.getvalue()
