"""What burned-in annotation is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Meaning

Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""``left, top, right, bottom`` in pixels; right and bottom are exclusive."""


class AnnotationKind(StrEnum):
    """What burned-in annotation looks like. ``banner``: writing at a place that is known to hold some."""

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
"""What a mark means by its looks alone; a text may mean something else once it is read."""


class CleaningPolicy(StrEnum):
    """What a destination should not see. ``clinical``: who the patient is; ``research``: any annotation."""

    CLINICAL = "clinical"
    RESEARCH = "research"

    def removes(self, meaning: Meaning) -> bool:
        return self is CleaningPolicy.RESEARCH or meaning is Meaning.IDENTITY


@dataclass(frozen=True, slots=True)
class Annotation:
    """One burned-in mark. What a text says is not part of it: it may be a name.

    ``confidence`` 0 to 1, of the text detector or of the mark detector. ``frame`` (1-based) is the first one
    that shows the mark, None in a single-frame image. ``removed``: False where the policy keeps it.
    """

    kind: AnnotationKind
    box: Box
    confidence: float
    frame: int | None = None
    meaning: Meaning = Meaning.IDENTITY
    removed: bool = True


def brightest(picture: Picture) -> Picture:
    """Return the brightest channel of a colour picture; a grey one as it is."""
    if picture.ndim == 2:
        return picture
    # Channel by channel: max(axis=2) takes five times as long.
    return np.maximum(np.maximum(picture[..., 0], picture[..., 1]), picture[..., 2])


def contrast(picture: Picture, drawn: Mask, box: Box) -> float:
    """How far a drawing stands out: its mean against that around it, in its strongest channel, 0 to 1.

    ``drawn`` are the pixels of all drawings; those within ``box`` are this one's.
    """
    left, top, right, bottom = box
    around = slice(max(top - 3, 0), bottom + 3), slice(max(left - 3, 0), right + 3)
    own = drawn[around]
    pixels = picture[around].reshape(own.size, -1).astype(np.float32)
    if own.all() or not own.any():
        return 0.0
    inside, outside = pixels[own.ravel()].mean(axis=0), pixels[~own.ravel()].mean(axis=0)
    return float(np.abs(inside - outside).max() / 255.0)


def merged(marks: Sequence[Annotation], reach: int) -> tuple[Annotation, ...]:
    """Join marks of one sort and frame within ``reach`` pixels: a ruler is one mark, not 30 ticks."""
    groups: list[Annotation] = []
    for mark in marks:
        joined = mark
        apart = []
        for group in groups:
            if _sort(group) == _sort(joined) and _near(group.box, joined.box, reach):
                joined = _union(group, joined)
            else:
                apart.append(group)
        groups = [*apart, joined]
    if len(groups) < len(marks):
        return merged(groups, reach)
    return tuple(sorted(groups, key=lambda mark: (mark.frame or 0, mark.box[1], mark.box[0])))


def _sort(mark: Annotation) -> tuple[object, ...]:
    return mark.kind, mark.frame, mark.meaning, mark.removed


def _near(a: Box, b: Box, reach: int) -> bool:
    return (
        a[0] - reach < b[2] and b[0] - reach < a[2] and a[1] - reach < b[3] and b[1] - reach < a[3]
    )  # fmt: skip


def _union(a: Annotation, b: Annotation) -> Annotation:
    box = (min(a.box[0], b.box[0]), min(a.box[1], b.box[1]), max(a.box[2], b.box[2]), max(a.box[3], b.box[3]))
    return replace(a, box=box, confidence=max(a.confidence, b.confidence))
