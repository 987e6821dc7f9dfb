"""Signs of a photographed print or screen, which cannot be cleaned surely: slanting lines, tiny letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ai_pipeline.burnin.decide.texts import Text

STEEPEST, ALIKE = 5.0, 3.0
"""Slant up to which lines are read surely, and by how much lines of one picture differ in it (degrees)."""
FEWEST_LINES = 3
"""Lines that show a slant, or letters that are too small, at least."""
LOWEST = 9.0
"""Height of a line's box, up to which letters of five or six pixels stand in it (pixels)."""

TOO_SMALL = "it has lines of letters too small to be read: export it from the device in its full size"
"""Why a picture with such letters is withheld."""


def slant_of(texts: Sequence[Text]) -> float:
    """The slant of the lines of a picture in degrees, clockwise as shown, -45 to 45; 0 unless most of what is
    read stands on lines of one slant.
    """
    lines = [
        text
        for text in texts
        # A short box may stand askew though its word is level.
        if text.line.legible and text.line.letters >= 4 and text.box.length >= 3 * text.box.height
    ]
    if len(lines) < FEWEST_LINES:
        return 0.0
    slants = np.array([_slant(text) for text in lines])
    middle = float(np.median(slants))
    lengths = np.array([text.box.length for text in lines])
    alike = np.abs(slants - middle) <= ALIKE
    # Share of the length of all lines that stands on the same slant, at least.
    return middle if alike.sum() >= FEWEST_LINES and lengths[alike].sum() >= 0.6 * lengths.sum() else 0.0


def are_tiny(texts: Sequence[Text]) -> bool:
    """Whether several lines of letters are too small for any reader."""
    lines = [
        text
        for text in texts
        # Confidence of the detector from which an unreadable box is a line of letters, not speckle.
        if not text.line.legible
        and text.box.confidence >= 0.6
        and text.box.height <= LOWEST
        and text.box.length >= 3 * text.box.height
    ]
    return len(lines) >= FEWEST_LINES


def _slant(text: Text) -> float:
    """The slant of one line, of the rows or, for an upright line, of the columns (degrees)."""
    across, down = (text.box.corners[1] - text.box.corners[0]).tolist()
    return (math.degrees(math.atan2(down, across)) + 45) % 90 - 45
