"""What one picture of a cine shows that those before it do not: only there is it searched again."""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Mask, Picture, brightest
from ai_pipeline.burnin.find.area import CONTRAST, thin

WORD, STEP = (48, 16), 8
"""Columns and rows of a short word, in which strokes are counted, and how far two such places are apart
(pixels)."""
FEW, MORE = 0.03, 0.15
"""Share of such a place that strokes take which were not there before, at least: of one small letter, where
nothing moves; and of a third of a word, over tissue, whose echoes move."""
CODE = 24
"""Side of a square that lies within any QR or bar code that a machine can read (pixels)."""


def new_strokes(picture: Picture, before: Picture, moves: Mask) -> Mask:
    """The mask of the places, as large as a short word, where ``picture`` shows strokes of letters that the
    picture ``before`` does not. ``moves``: where tissue does; there it must show clearly
    more of them.
    """
    drawn, drawn_before = (thin(brightest(shown)) for shown in (picture, before))
    changed = (drawn | drawn_before) & ~moves & (brightest(cv2.absdiff(picture, before)) > CONTRAST)
    # As of single frames that show more than their neighbours: text covers echoes that look like strokes.
    found = (_shares(drawn, WORD) > 1.2 * _shares(drawn_before, WORD) + MORE) | (_shares(changed, WORD) > FEW)
    places = np.kron(found, np.ones((STEP, STEP), np.bool_))
    return np.asarray(places[: picture.shape[0], : picture.shape[1]], np.bool_)


def may_hold_another_code(picture: Picture, searched: Iterable[Picture]) -> bool:
    """Whether ``picture`` may hold a QR or bar code that none of the pictures ``searched`` shows: about half
    of the pixels of a code differ from whatever was there.
    """
    places: Mask | None = None
    for before in searched:
        # Difference of a module of a code from what was at its place, at least (grey levels).
        changed = _shares(brightest(cv2.absdiff(picture, before)) > 32, (CODE, CODE)) > 0.25
        places = changed if places is None else places & changed
        if not places.any():
            return False
    return True


def _shares(mask: Mask, place: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The share of ``mask`` in places of these columns and rows, one in each eighth row and column."""
    return np.asarray(cv2.blur(mask.astype(np.float32), place)[::STEP, ::STEP], np.float32)
