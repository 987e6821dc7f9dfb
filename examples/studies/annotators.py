#!/usr/bin/env python3
"""How far the annotator of the real frames agrees with a second one, who drew some of them again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ai_pipeline.burnin.find.annotation import Box, Mask
from ai_training import commands
from ai_training.commands import Figures, verb
from ai_training.metrics import overlap, patient_weights, ratio
from ai_training.sets.files import rows
from ai_training.ultrasound.cleaning import (
    Content,
    MarkedObject,
    name_of,
    object_of_row,
    objects_of,
    patient_of,
    shown_frame,
)

Row = dict[str, str]
AGAIN = "again.csv"
SAME = 0.5
"""Boxes that overlap so much are of one object."""
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class FrameAgreement:
    """The agreement on one frame: classes and overlap of matched objects, and the classes of unmatched ones.

    ``pixels``: for each class, and for all (None), the number of pixels that both annotators drew, and the
    sum of each one's pixels.
    """

    name: str
    matched: tuple[tuple[Content, Content, float], ...]
    first: tuple[Content, ...]
    second: tuple[Content, ...]
    pixels: dict[Content | None, tuple[int, int]]


def evaluate_agreement(data: Path, content: Path) -> dict[str, Any]:
    """Compare ``objects.csv`` with ``again.csv`` in the folder ``content``. Raises DataMissing."""
    first, second = rows(content / "objects.csv"), rows(content / AGAIN)
    found = []
    for row in rows(content / "frames.csv"):
        if again := objects_of(row, second):
            picture = shown_frame(data, row)[1]
            both = (
                [object_of_row(one, picture) for one in drawn] for drawn in (objects_of(row, first), again)
            )
            found.append(compared(name_of(row), *both))
    return agreement_figures(found)


def compared(name: str, first: Sequence[MarkedObject], second: Sequence[MarkedObject]) -> FrameAgreement:
    """The agreement of two annotators on one frame."""
    pairs = dict(_matched([one.box for one in first], [one.box for one in second]))
    others = {other for other, _ in pairs.values()}
    contents = {one.content for one in (*first, *second)}
    return FrameAgreement(
        name,
        tuple((first[one].content, second[other].content, same) for one, (other, same) in pairs.items()),
        tuple(drawn.content for one, drawn in enumerate(first) if one not in pairs),
        tuple(drawn.content for other, drawn in enumerate(second) if other not in others),
        {content: _common(_ink(first, content), _ink(second, content)) for content in (*contents, None)},
    )


def agreement_figures(frames: Sequence[FrameAgreement]) -> dict[str, Any]:
    """The figures of all frames, by class."""
    matched = [pair for frame in frames for pair in frame.matched]
    renamed = Counter((one, other) for one, other, _ in matched if one is not other)
    drawn = {content for frame in frames for content in frame.pixels}
    return {
        "frames": len(frames),
        "kappa": _kappa([(one, other) for one, other, _ in matched]),
        "other_class": [
            {"first": one.value, "second": other.value, "objects": n} for (one, other), n in renamed.items()
        ],
        "content": {content.value: _agreement(frames, content) for content in Content if content in drawn},
        "all": _agreement(frames, None),
    }


def _matched(first: Sequence[Box], second: Sequence[Box]) -> Iterator[tuple[int, tuple[int, float]]]:
    """The best pairs of boxes first, each box once: ``(first, (second, overlap))``."""
    overlaps = ((overlap(one, other), i, j) for i, one in enumerate(first) for j, other in enumerate(second))
    left, right = set(range(len(first))), set(range(len(second)))
    for same, one, other in sorted(overlaps, reverse=True):
        if same >= SAME and one in left and other in right:
            left.remove(one)
            right.remove(other)
            yield one, (other, same)


def _ink(objects: Sequence[MarkedObject], content: Content | None) -> Mask | None:
    own = [one.ink for one in objects if content in {None, one.content}]
    return np.logical_or.reduce(own) if own else None


def _common(one: Mask | None, other: Mask | None) -> tuple[int, int]:
    both = 0 if one is None or other is None else int((one & other).sum())
    return both, sum(int(ink.sum()) for ink in (one, other) if ink is not None)


def _kappa(pairs: Sequence[tuple[Content, Content]]) -> float | None:
    """Cohen's kappa; None where chance alone would agree in everything."""
    if not pairs:
        return None
    seen = sum(one is other for one, other in pairs) / len(pairs)
    first, second = (Counter(pair[which] for pair in pairs) for which in (0, 1))
    chance = sum(first[content] * second[content] for content in first) / len(pairs) ** 2
    return round((seen - chance) / (1 - chance), 4) if chance < 1 else None


def _agreement(frames: Sequence[FrameAgreement], content: Content | None) -> dict[str, Any]:
    """One class, or everything: objects, median overlap of the boxes both drew, Dice of the pixels."""
    wanted = set(Content) if content is None else {content}
    pairs = [pair for frame in frames for pair in frame.matched if wanted & set(pair[:2])]
    same = [overlap for one, other, overlap in pairs if one is other]
    counts = [frame.pixels.get(content, (0, 0)) for frame in frames]
    common, drawn = (np.array([count[which] for count in counts], np.float64) for which in (0, 1))
    dice = ratio(2 * common, drawn, patient_weights([patient_of(frame.name) for frame in frames]))
    return {
        "both": len(same),
        "other_class": len(pairs) - len(same),
        "only_first": sum(one in wanted for frame in frames for one in frame.first),
        "only_second": sum(one in wanted for frame in frames for one in frame.second),
        "overlap": round(float(np.median(same)), 4) if same else None,
        "dice": dice.as_list() if drawn.any() else None,
    }


@verb(app, "annotators")
def command(
    *,
    data: commands.PublicData,
    content: Annotated[Path, typer.Option(help="Folder with what was marked by hand.")] = Path(
        "tests/data/content"
    ),
) -> Figures:
    """Print objects, classes (Cohen's kappa) and pixels (Dice) on which the two annotators agree."""
    return evaluate_agreement(data, content)


if __name__ == "__main__":
    app()
