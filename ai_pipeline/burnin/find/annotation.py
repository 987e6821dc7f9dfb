"""Burned-in annotation: its kinds, which of it a policy removes, and the masks and boxes that cover it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Meaning

ULTRASOUND = frozenset({"US", "IVUS"})
"""Modalities in which graphics (calipers, scales …) are searched as well; in all others only text is."""


class AnnotationKind(StrEnum):
    """The form of burned-in annotation. ``banner``: text in a part of the picture that is known to hold
    text.
    """

    TEXT = "text"
    CALIPER = "caliper"
    MARKER = "marker"
    SCALE = "scale"
    LOGO = "logo"
    BANNER = "banner"


MEANINGS = {
    AnnotationKind.TEXT: Meaning.IDENTITY,
    AnnotationKind.CALIPER: Meaning.MEASUREMENT,
    AnnotationKind.MARKER: Meaning.ORIENTATION,
    AnnotationKind.SCALE: Meaning.SCALE,
    AnnotationKind.LOGO: Meaning.LOGO,
    AnnotationKind.BANNER: Meaning.IDENTITY,
}
"""What an annotation is for by its kind alone; a text may be for something else once it is read."""


class CleaningPolicy(StrEnum):
    """Which annotation is removed: ``clinical``: all that may identify the patient; ``research``: all
    annotation.
    """

    CLINICAL = "clinical"
    RESEARCH = "research"

    def removes(self, meaning: Meaning) -> bool:
        """Whether annotation of this meaning is removed."""
        return self is CleaningPolicy.RESEARCH or meaning is Meaning.IDENTITY


class InDoubt(StrEnum):
    """What happens, under the policy ``clinical``, to a place in the image area that may hold letters."""

    KEEP = "keep"
    BOX = "box"
    WITHHOLD = "withhold"


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark that is burned into a picture, such as a line of text or a caliper. It does not hold the words
    of a text: they may be a name. ``confidence`` 0 to 1, of the text detector or of the mark detector.
    ``frame``: the number, from 1, of the first of the frames that were searched together and show the mark;
    None in a single-frame image. ``removed``: False if the policy leaves it. ``proof``: how it was found, or
    why it has its meaning; for explanations, never the words themselves. ``contents``: what kinds of text a
    line holds, such as a date; empty where it was not read.
    """

    kind: AnnotationKind
    box: Box
    confidence: float
    frame: int | None = None
    meaning: Meaning = Meaning.IDENTITY
    removed: bool = True
    proof: str = field(default="", compare=False)
    contents: tuple[str, ...] = field(default=(), compare=False)

    def explained(self) -> str:
        """The mark in one line for a person: what it is, where, whether it is removed, and why."""
        left, top, right, bottom = self.box
        where = f"{left},{top} to {right},{bottom}" + (f" in frame {self.frame}" if self.frame else "")
        return f"{self.kind} at {where} {'goes' if self.removed else 'stays'} as {self.meaning}: {self.proof}"


def merged(marks: Sequence[Mark], reach: int) -> tuple[Mark, ...]:
    """Join marks of one kind, meaning and frame within ``reach`` pixels, such as a ruler's ticks."""
    groups: list[Mark] = []
    for mark in marks:
        alike = [
            group
            for group in groups
            if (group.kind, group.frame, group.meaning, group.removed)
            == (mark.kind, mark.frame, mark.meaning, mark.removed)
            and max(gaps(group.box, mark.box)) < reach
        ]
        first, *others = zip(*(one.box for one in (mark, *alike)), strict=True)
        box = (min(first), min(others[0]), max(others[1]), max(others[2]))
        sure = max(one.confidence for one in (mark, *alike))
        groups = [
            *(one for one in groups if one not in alike),
            replace(
                (*alike, mark)[0],
                box=box,
                confidence=sure,
                contents=tuple(dict.fromkeys(what for one in (*alike, mark) for what in one.contents)),
            ),
        ]
    if len(groups) < len(marks):
        return merged(groups, reach)
    return tuple(sorted(groups, key=lambda mark: (mark.frame or 0, mark.box[1], mark.box[0])))


Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""``left, top, right, bottom`` in pixels; right and bottom are exclusive."""


def brightest(picture: Picture) -> Picture:
    """The brightest channel of a colour picture; a grey picture unchanged."""
    if picture.ndim == 2:
        return picture
    # Channel by channel: max(axis=2) takes five times as long.
    return np.maximum(np.maximum(picture[..., 0], picture[..., 1]), picture[..., 2])


def colourfulness(picture: Picture) -> Picture:
    """The difference of the brightest and the darkest channel of a colour picture: ``[rows, columns]``."""
    import cv2

    red, green, blue = cv2.split(np.ascontiguousarray(picture))
    return np.asarray(cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue))


def index_of(box: Box) -> tuple[slice, slice]:
    """The rows and columns of a box as an index of a picture, without parts beyond the picture's edges."""
    left, top, right, bottom = box
    return slice(max(top, 0), bottom), slice(max(left, 0), right)


def mask_of(boxes: Iterable[Box], shape: tuple[int, ...]) -> Mask:
    """The mask of boxes in a picture of ``shape`` (rows, columns, …)."""
    mask: Mask = np.zeros(shape[:2], np.bool_)
    for box in boxes:
        mask[index_of(box)] = True
    return mask


def centre_of(box: tuple[float, float, float, float]) -> tuple[float, float]:
    """``(column, row)`` of the middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def gaps(box: Box, other: Box) -> tuple[int, int]:
    """The pixels between two boxes across and down; below 0 where they overlap."""
    return max(box[0], other[0]) - min(box[2], other[2]), max(box[1], other[1]) - min(box[3], other[3])


def clipped(box: Box, shape: tuple[int, ...]) -> Box | None:
    """The part of a box inside a picture of ``shape`` (rows, columns, …); None if the box is outside."""
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], shape[1]), min(box[3], shape[0])
    return (left, top, right, bottom) if left < right and top < bottom else None


def dilated(mask: Mask, side: int) -> Mask:
    """Grow the mask by a square of ``side`` pixels."""
    import cv2  # `check` reads device rules on a machine without it

    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)), np.bool_)


def box_around(mask: Mask, margin: int) -> Box:
    """The bounding box of a mask that is not empty, widened by ``margin`` pixels, within the picture."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        max(0, int(columns[0]) - margin),
        max(0, int(rows[0]) - margin),
        min(mask.shape[1], int(columns[-1]) + 1 + margin),
        min(mask.shape[0], int(rows[-1]) + 1 + margin),
    )


def components(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The 8-connected parts of a mask: the label of each pixel (0 for none) and OpenCV's statistics by label.

    Only the bounding box of the mask is searched, which is faster: a whole picture takes 8 ms.
    """
    import cv2

    labels = np.zeros(mask.shape, np.int32)
    rows, columns = mask.shape
    if not mask.any():
        return labels, np.array([[0, 0, columns, rows, mask.size]], np.int32)
    left, top, right, bottom = box_around(mask, 0)
    left, top = left & ~1, top & ~1  # parts are numbered in blocks of two rows and columns
    _, own, stats, _ = cv2.connectedComponentsWithStats(
        mask[top:bottom, left:right].astype(np.uint8), connectivity=8
    )
    labels[top:bottom, left:right] = own
    stats[1:, cv2.CC_STAT_LEFT] += left
    stats[1:, cv2.CC_STAT_TOP] += top
    stats[0] = (0, 0, columns, rows, mask.size - stats[1:, cv2.CC_STAT_AREA].sum())
    return labels, np.asarray(stats, np.int32)


def component_boxes(stats: npt.NDArray[np.int32]) -> list[Box]:
    """The boxes of the parts that :func:`components` has found, from label 1 on."""
    return [(left, top, left + width, top + height) for left, top, width, height, _ in stats[1:].tolist()]
