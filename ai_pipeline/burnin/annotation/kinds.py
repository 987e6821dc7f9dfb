"""Burned-in annotation: its kinds, and which of it a policy removes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ai_pipeline.burnin.annotation.pixels import Box
from ai_pipeline.contract import Meaning


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
    """The annotation to remove: ``clinical``, all that may identify the patient; ``research``, all
    annotation.
    """

    CLINICAL = "clinical"
    RESEARCH = "research"

    def removes(self, meaning: Meaning) -> bool:
        return self is CleaningPolicy.RESEARCH or meaning is Meaning.IDENTITY


class InDoubt(StrEnum):
    """What to do, under ``clinical``, with a place in the image area that may hold letters."""

    KEEP = "keep"
    BOX = "box"
    WITHHOLD = "withhold"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One burned-in annotation. It does not hold the words of a text: they may be a name.

    ``confidence`` 0 to 1, of the text detector or of the mark detector. ``frame`` (1-based) is the first one
    that shows the annotation, None in a single-frame image. ``removed``: False where the policy keeps it.
    """

    kind: AnnotationKind
    box: Box
    confidence: float
    frame: int | None = None
    meaning: Meaning = Meaning.IDENTITY
    removed: bool = True


def merged(marks: Sequence[Annotation], reach: int) -> tuple[Annotation, ...]:
    """Join annotations of one kind, meaning and frame within ``reach`` pixels, such as a ruler's ticks."""
    groups: list[Annotation] = []
    for mark in marks:
        joined = mark
        apart = []
        for group in groups:
            if _is_alike(group, joined) and _is_near(group.box, joined.box, reach):
                joined = _union(group, joined)
            else:
                apart.append(group)
        groups = [*apart, joined]
    if len(groups) < len(marks):
        return merged(groups, reach)
    return tuple(sorted(groups, key=lambda mark: (mark.frame or 0, mark.box[1], mark.box[0])))


def _is_alike(a: Annotation, b: Annotation) -> bool:
    return (a.kind, a.frame, a.meaning, a.removed) == (b.kind, b.frame, b.meaning, b.removed)


def _is_near(a: Box, b: Box, reach: int) -> bool:
    return all(a[axis] - reach < b[axis + 2] and b[axis] - reach < a[axis + 2] for axis in (0, 1))


def _union(a: Annotation, b: Annotation) -> Annotation:
    (left, top, right, bottom), (left2, top2, right2, bottom2) = a.box, b.box
    box = (min(left, left2), min(top, top2), max(right, right2), max(bottom, bottom2))
    return replace(a, box=box, confidence=max(a.confidence, b.confidence))
