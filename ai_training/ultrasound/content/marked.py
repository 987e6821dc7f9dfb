"""Real frames with all drawn objects marked by hand: content that must stay, and identity that must go.

Boxes and classes were drawn by hand (``tests/data/content``, whose README explains how); :func:`ink` finds
the drawn pixels of a box in the picture. The images are under ``--data``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import cv2
import numpy as np

from ai_pipeline.burnin.annotation.pixels import Box, Mask, Picture, brightest, components, index_of
from ai_pipeline.contract import SourceImage
from ai_pipeline.images.decode import PictureImage, open_dicom
from ai_pipeline.images.header import picture_header
from ai_training.errors import DataMissing
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.marks.maskers import MODALITY
from ai_training.ultrasound.overlays.frame_list import box_of

Row = dict[str, str]

STROKE = 9
"""Side of the square in which a stroke of a letter or a curve stands out from what is beside it (pixels)."""
CONTRAST, TICK_CONTRAST = 40, 60
"""How far strokes, and the ticks of a ruler, stand out at least (grey levels)."""
COLOURED = 50
"""Difference of a pixel's channels from which it is coloured (grey levels)."""
LARGEST_TICK = 20
"""Sides of a tick, at most (pixels)."""


class Content(StrEnum):
    """The kind of a drawn object."""

    WAVEFORM = "waveform"
    M_MODE = "m-mode"
    FLOW = "flow"
    COLOUR_BAR = "colour bar"
    GREY_BAR = "grey bar"
    RULER = "ruler"
    CALIPER = "caliper"
    MEASUREMENT = "measurement"
    NUMBER = "number"
    PLACE = "place"
    SETTING = "setting"
    IDENTITY = "identity"


TEXTS = frozenset({Content.MEASUREMENT, Content.NUMBER, Content.PLACE, Content.SETTING, Content.IDENTITY})


@dataclass(frozen=True, slots=True, eq=False)
class MarkedObject:
    """One drawn object: its class, its box, its pixels."""

    content: Content
    box: Box
    ink: Mask


@dataclass(frozen=True, slots=True, eq=False)
class MarkedContent:
    """A frame of an image. ``frame`` counts from 1; ``picture`` RGB uint8 as displayed."""

    name: str
    source: SourceImage
    frame: int
    picture: Picture
    objects: tuple[MarkedObject, ...]


def marked_content(data: Path, content: Path, masks: Path) -> Iterator[MarkedContent]:
    """The frames of ``content`` in their order; ``masks``: the folder of the hand-drawn masks.

    Raises DataMissing.
    """
    objects = rows(content / "objects.csv")
    for row in rows(content / "frames.csv"):
        source, picture = shown_frame(data, row)
        name = name_of(row)
        own = objects_of(row, objects)
        owners = _owners(masks / "owners" / f"{name}.png") if any(one["owner"] for one in own) else None
        found = tuple(marked(one, picture, owners) for one in own)
        yield MarkedContent(name, source, int(row["frame"]), picture, found)


def shown_frame(data: Path, row: Row) -> tuple[SourceImage, Picture]:
    """The image and the displayed picture of a row of ``frames.csv``. Raises DataMissing."""
    source = _opened(data / row["set"] / row["file"])
    shown = source.display(int(row["frame"]) - 1)
    return source, shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, axis=2)


def name_of(row: Row) -> str:
    """The name under which results list the frame of ``row``."""
    return f"{row['set']}__{Path(row['file']).stem}"


def patient_of(name: str) -> str:
    """The unit for resampling of a frame: its patient if the set names one, else its file."""
    return name.partition("_Plane")[0]


def objects_of(frame: Row, objects: Iterable[Row]) -> list[Row]:
    """The rows of ``objects`` that belong to ``frame``."""
    return [one for one in objects if (one["set"], one["file"]) == (frame["set"], frame["file"])]


def _opened(path: Path) -> SourceImage:
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    if path.suffix == ".dcm":
        return open_dicom(path)
    picture = read_rgb(path)
    return PictureImage("2.25.1", "2.25.2", picture_header(picture, MODALITY, lossy=True), picture)


def _owners(path: Path) -> Picture:
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise DataMissing(f"{path} is missing")
    return np.asarray(found, np.uint8)


def marked(row: Row, picture: Picture, owners: Picture | None = None) -> MarkedObject:
    """One drawn object; without ``owners``, its pixels are found by its box and its class."""
    content, box = Content(row["class"]), box_of(row)
    if owners is not None and row["owner"]:
        return MarkedObject(content, box, np.asarray(owners == int(row["owner"]), np.bool_))
    within = np.zeros(picture.shape[:2], np.bool_)
    within[index_of(box)] = True
    return MarkedObject(content, box, ink(content, picture, within) & within)


def ink(content: Content, picture: Picture, within: Mask) -> Mask:
    """The pixels of a picture, RGB uint8, that may belong to an object of a class, ``within`` the object's
    box.
    """
    if content in {Content.M_MODE, Content.COLOUR_BAR, Content.GREY_BAR}:
        return within
    if content is Content.FLOW:
        return coloured(picture)
    if content is Content.RULER:
        return _ticks(strokes(picture, TICK_CONTRAST) & within)
    if content is Content.WAVEFORM and (curve := coloured(picture) & within).any():
        return curve
    return strokes(picture, CONTRAST)


def strokes(picture: Picture, contrast: int) -> Mask:
    """Thin pixels that are lighter, or more coloured, than their neighbours."""
    square = np.ones((STROKE, STROKE), np.uint8)
    lighter, more_coloured = (
        cv2.morphologyEx(np.ascontiguousarray(grey), cv2.MORPH_TOPHAT, square) > contrast
        for grey in (brightest(picture), _saturation(picture))
    )
    return np.asarray(lighter | more_coloured, np.bool_)


def coloured(picture: Picture) -> Mask:
    """The mask of the coloured pixels of a picture."""
    return np.asarray(_saturation(picture) > COLOURED, np.bool_)


def _saturation(picture: Picture) -> Picture:
    return np.asarray(picture.max(axis=2) - picture.min(axis=2), np.uint8)


def _ticks(found: Mask) -> Mask:
    labels, stats = components(found)
    small = [
        label
        for label in range(1, len(stats))
        if max(stats[label][cv2.CC_STAT_WIDTH], stats[label][cv2.CC_STAT_HEIGHT]) <= LARGEST_TICK
    ]
    return np.asarray(np.isin(labels, small), np.bool_)
