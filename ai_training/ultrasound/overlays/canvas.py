"""What is drawn: stencils blended onto a picture, with the truth of each object and its place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Box, Picture
from ai_pipeline.contract import Meaning

Colour = tuple[int, int, int]
Alpha = npt.NDArray[np.uint8]
"""How much of the colour a pixel takes: 0 none, 255 all. Shape of the picture."""


class MarkClass(IntEnum):
    """The classes of marks that the detector distinguishes by appearance."""

    BACKGROUND = 0
    TEXT = 1
    CALIPER = 2
    MARKER = 3
    SCALE = 4
    LOGO = 5


@dataclass(frozen=True, slots=True)
class BurnedObject:
    """One object that was drawn into a synthetic picture. ``text``: its whole text (names are invented).
    ``box`` (pixels; right and bottom exclusive) is computed from the pixels of the stored picture.
    """

    kind: MarkClass
    meaning: Meaning
    text: str
    box: Box = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """A colour to be painted through a stencil ``alpha``; ``opacity`` 0 to 1."""

    alpha: Alpha
    colour: Colour
    opacity: float = 1.0


class Canvas:
    """An RGB picture into which :meth:`burn` draws marks; ``owners`` holds 1 + the object's index at each
    pixel. A pixel has an owner if and only if it differs from the clean picture.
    """

    def __init__(self, clean: Picture) -> None:
        """Start from the picture ``clean``."""
        self.clean: Picture = clean.copy()
        self.picture: Picture = clean.copy()
        self.owners: npt.NDArray[np.uint16] = np.zeros(clean.shape[:2], np.uint16)
        self.objects: list[BurnedObject] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.clean.shape[1], self.clean.shape[0]

    def blank(self) -> Alpha:
        """An empty stencil of the picture's size."""
        return np.zeros(self.clean.shape[:2], np.uint8)

    def sketch(self, *strokes: tuple[Any, ...]) -> Alpha:
        """The stencil that ``strokes`` draw: each is a function of OpenCV with its arguments after the
        picture.
        """
        alpha = self.blank()
        for draw, *how in strokes:
            draw(alpha, *how)
        return alpha

    def burn(self, stamps: list[Stamp], kind: MarkClass, meaning: Meaning, text: str = "") -> None:
        """Draw one object of the class ``kind`` from ``stamps`` (stencils with colours), and list it with its
        ``meaning`` and ``text``. An object that changes no pixel (outside the picture, white on white) is not
        listed.
        """
        number = len(self.objects) + 1
        for stamp in stamps:
            cut = _blend(self.picture, stamp)
            differs, owners = (self.picture[cut] != self.clean[cut]).any(axis=2), self.owners[cut]
            owners[differs & (stamp.alpha[cut] > 0)] = number
            owners[~differs] = 0
        if (self.owners == number).any():
            self.objects.append(BurnedObject(kind, meaning, text))

    def ground(self, stamp: Stamp) -> None:
        """Draw a bar or box as the background of text, in the clean picture too.

        Without its text such a bar identifies nobody, so it belongs to the clean picture: cleaning keeps it.
        """
        for picture in (self.clean, self.picture):
            _blend(picture, stamp)
        self.owners[(self.picture == self.clean).all(axis=2)] = 0


def _blend(picture: Picture, stamp: Stamp) -> tuple[slice, slice]:
    """Draw a stamp; returns the part of the picture that it covers."""
    left, top, width, height = cv2.boundingRect(stamp.alpha)
    cut = slice(top, top + height), slice(left, left + width)
    weight = stamp.alpha[cut].astype(np.float32)[..., None] * (stamp.opacity / 255.0)
    below = picture[cut].astype(np.float32)
    picture[cut] = np.rint(below + weight * (np.array(stamp.colour, np.float32) - below))
    return cut
