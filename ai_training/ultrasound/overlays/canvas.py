"""The picture that is drawn on, and the record of what was drawn where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Box, Picture
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
    """One drawn object. ``text``: its whole text (the names are invented).

    ``box`` (pixels; right and bottom exclusive) is computed from the drawn pixels, not from the plan.
    """

    kind: MarkClass
    meaning: Meaning
    box: Box
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """One colour, painted through one stencil. ``opacity`` 0 to 1."""

    alpha: Alpha
    colour: Colour
    opacity: float = 1.0


class Canvas:
    """An RGB picture that :meth:`burn` changes in place; ``owners`` holds 1 + the object's index per pixel.

    A pixel has an owner if and only if it differs from the clean picture.
    """

    def __init__(self, clean: Picture) -> None:
        self.clean: Picture = clean.copy()
        self.picture: Picture = clean.copy()
        self.owners: npt.NDArray[np.uint16] = np.zeros(clean.shape[:2], np.uint16)
        self.objects: list[BurnedObject] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.clean.shape[1], self.clean.shape[0]

    def blank(self) -> Alpha:
        return np.zeros(self.clean.shape[:2], np.uint8)

    def burn(self, stamps: list[Stamp], kind: MarkClass, meaning: Meaning, text: str = "") -> None:
        """Draw one object. An object that changes no pixel (outside the picture, white on white) is not
        listed.
        """
        number = len(self.objects) + 1
        boxes = [box for stamp in stamps if (box := self._lay(stamp, number)) is not None]
        if not boxes:
            return
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        box = (min(lefts), min(tops), max(rights), max(bottoms))
        self.objects.append(BurnedObject(kind, meaning, box, text))

    def ground(self, stamp: Stamp) -> None:
        """Draw a bar or box as the background of text, in the clean picture too.

        Without its text such a bar identifies nobody, so it belongs to the clean picture: cleaning keeps it.
        """
        for picture in (self.clean, self.picture):
            _blend(picture, stamp)
        self.owners[(self.picture == self.clean).all(axis=2)] = 0

    def _lay(self, stamp: Stamp, number: int) -> Box | None:
        cut = _blend(self.picture, stamp)
        if cut is None:
            return None
        differs = (self.picture[cut] != self.clean[cut]).any(axis=2)
        owners = self.owners[cut]
        owners[differs & (stamp.alpha[cut] > 0)] = number
        owners[~differs] = 0
        rows, columns = cut
        box = (columns.start, rows.start, columns.stop, rows.stop)
        return box if bool((owners == number).any()) else None


def _blend(picture: Picture, stamp: Stamp) -> tuple[slice, slice] | None:
    """Draw a stamp; returns the part of the picture that it covers."""
    left, top, width, height = cv2.boundingRect(stamp.alpha)
    if width == 0:
        return None
    cut = slice(top, top + height), slice(left, left + width)
    weight = stamp.alpha[cut].astype(np.float32)[..., None] * (stamp.opacity / 255.0)
    below = picture[cut].astype(np.float32)
    picture[cut] = np.rint(below + weight * (np.array(stamp.colour, np.float32) - below))
    return cut
