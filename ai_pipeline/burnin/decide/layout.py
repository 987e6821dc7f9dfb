"""How the boxes of texts lie to each other and to a mask: in one row, above each other, covered."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ai_pipeline.burnin.find.annotation import Box, Mask, centre_of, gaps, index_of
from ai_pipeline.burnin.find.text import TextBox, paint

FILLED = 0.95
"""Share of a box that is filled pixels, from which it cannot hold text of the source."""
RIM = 0.15
"""What a box has above and below its letters (share of its height); boxes of close lines overlap by it."""
ALIGNED = 0.7
"""Distance of two lines of a block and of their ends or middles, at most (heights of a line)."""


def level_box(box: Box, confidence: float) -> TextBox:
    """Make a TextBox whose sides run along rows and columns."""
    left, top, right, bottom = box
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    return TextBox(corners, confidence)


def inner(box: TextBox) -> TextBox:
    """Return the box without its rim, so that it holds only the letters of the line."""
    corners = box.corners
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    rim = RIM * (down if np.linalg.norm(down) <= np.linalg.norm(across) else across)
    towards = (1, 1, -1, -1) if np.linalg.norm(down) <= np.linalg.norm(across) else (1, -1, -1, 1)
    return TextBox(corners + np.outer(towards, rim).astype(np.float32), box.confidence)


def share_of(mask: Mask, box: TextBox) -> float:
    """Share of the box's rectangle that lies in the mask."""
    inside = mask[index_of(box.box)]
    return float(inside.mean()) if inside.size else 0.0


def covered(box: TextBox, mask: Mask) -> bool:
    """Whether the mask covers the box, which may slope, except for its rim; true of a box without a pixel."""
    inside = mask[index_of(box.box)]
    # The detector may end a box where it begins, at the edge of the part that it searched.
    if not inside.size:
        return True
    place = np.zeros(inside.shape, np.uint8)
    origin = np.maximum(box.box[:2], 0).astype(np.float32)
    cv2.fillPoly(place, [np.rint(box.corners - origin).astype(np.int32)], 1)
    own = inside[place.astype(np.bool_)]
    return not own.size or float(own.mean()) >= FILLED


def overlap(box: Box, other: Box) -> float:
    """Share of ``box`` that lies in ``other``, 0 to 1."""
    across, down = gaps(box, other)
    return min(0, across) * min(0, down) / max(1, (box[2] - box[0]) * (box[3] - box[1]))


def around(
    residue: Sequence[TextBox], lines: Sequence[Box], stays: Mask, margin: float, *, spare: bool
) -> Mask:
    """The places of the text ``residue`` that is still found, grown as :func:`paint` does, and of the
    ``lines`` they touch. ``lines``: the letters of each line that was read and stays, if it lies in
    ``stays``. A line that is touched is taken whole. With ``spare`` it is left whole if the text only lies
    beside it: a line that overlaps the text could be left in part.
    """
    place = paint(list(residue), stays.shape, margin)
    for line in lines:
        letters = index_of(line)
        if place[letters].any() and stays[letters].any():
            place[letters] = not (spare and all(overlap(line, box.box) <= 0 for box in residue))
    return place


def in_one_row(box: Box, other: Box, apart: float = 1.5) -> bool:
    """Whether two boxes stand in one row, less than ``apart`` heights from each other."""
    (across, down), height = gaps(box, other), min(box[3] - box[1], other[3] - other[1])
    # Gap up to which two texts belong to one line (heights of the lower one).
    return -down > 0.5 * height and across < apart * height


def is_above(box: Box, other: Box, apart: float = ALIGNED) -> bool:
    """Whether a line is above another of its block, no farther ``apart`` (heights of a line)."""
    height = min(box[3] - box[1], other[3] - other[1])
    return aligned(box, other) and -ALIGNED * height <= other[1] - box[3] <= apart * height


def aligned(box: Box, other: Box) -> bool:
    """Whether the left or right ends or the middles of two lines are below each other."""
    reach = ALIGNED * min(box[3] - box[1], other[3] - other[1])
    edges = zip((box[0], box[2], centre_of(box)[0]), (other[0], other[2], centre_of(other)[0]), strict=True)
    return any(abs(one - another) <= reach for one, another in edges)


def is_same_place(box: Box, proven: Box) -> bool:
    """Whether ``box`` is about the place of the box ``proven``, so that both are readings of one text."""
    height = max(proven[3] - proven[1], box[3] - box[1])
    beyond = max(proven[0] - box[0], box[2] - proven[2])
    common = min(box[3], proven[3]) - max(box[1], proven[1])
    # How far a second reading's box reaches beyond the first one's at either end, at most, and their common
    # height, at least (heights of the higher, and of the first): a letter is wider.
    return beyond <= 0.3 * height and common >= 0.6 * (proven[3] - proven[1])
