"""A box in words: "right lower zone", where the header says which side of the picture is which.

The side is taken from Patient Orientation (0020,0020) alone (PS3.3 C.7.6.1.1.1): its two values say towards
which part of the patient rows and columns run. A view of PA or AP does not tell: a picture may have been
turned over, and a wrong side is worse than none.
"""

from __future__ import annotations

from typing import Literal

Bounds = tuple[float, float, float, float]

ALL = "all zones"
ONE_SIDE = 0.75  # of the box's width lies on one side of the picture's middle
UPPER, LOWER = 0.36, 0.58
"""Where the middle zone begins and ends, as shares of the picture from the head down.

Lungs reach from about .12 to .80 of a frontal chest film's height; zones are their thirds. By eye on films
of ChestX-ray14, not measured: words for a place, not anatomy."""

_AWAY = {"L": "R", "R": "L", "H": "F", "F": "H", "A": "P", "P": "A"}


def zone_words(box: Bounds, size: tuple[int, int], orientation: str) -> str | None:
    """``"right lower zone"`` of a frontal chest film; None where the header does not say how it lies.

    ``box`` is (left, top, right, bottom) in pixels of a picture of ``size`` (columns, rows).
    ``orientation``: the two values of Patient Orientation, joined by a backslash. A box over the midline has
    no side: ``"lower zone, across the midline"``.
    """
    placed = _placed(box, size, orientation)
    if placed is None:
        return None
    zone, side = _zone(*placed["down"]), _side(*placed["across"])
    if not side:
        return f"{zone}, across the midline"
    return f"{side} lung, {zone}" if zone == ALL else f"{side} {zone}"


def side_of(box: Bounds, size: tuple[int, int], orientation: str) -> Literal["", "L", "R"]:
    """The patient's side on which a box lies, as in :func:`zone_words`; empty across the midline too."""
    placed = _placed(box, size, orientation)
    side = _side(*placed["across"]) if placed else ""
    return "R" if side == "right" else "L" if side == "left" else ""


def _placed(box: Bounds, size: tuple[int, int], orientation: str) -> dict[str, tuple[float, float]] | None:
    """Where a box begins and ends, as shares from the patient's right to left and from head to feet."""
    axes = _axes(orientation)
    if axes is None:
        return None
    spans = ((box[0] / size[0], box[2] / size[0]), (box[1] / size[1], box[3] / size[1]))
    placed = {}
    for towards, (low, high) in zip(axes, spans, strict=True):
        axis = "across" if towards in "LR" else "down"
        placed[axis] = (low, high) if towards in "LF" else (1.0 - high, 1.0 - low)
    return placed


def _axes(orientation: str) -> tuple[str, str] | None:
    """The main direction of rows and of columns, where one runs across and the other along the patient."""
    values = orientation.split("\\")
    if len(values) != 2 or not all(value and set(value) <= set(_AWAY) for value in values):
        return None
    first, second = (value[0] for value in values)
    if {first in "LR", second in "LR"} != {True, False} or {first in "HF", second in "HF"} != {True, False}:
        return None
    return first, second


def _side(low: float, high: float) -> str:
    right = max(0.0, min(high, 0.5) - low) / (high - low)
    if right >= ONE_SIDE:
        return "right"
    return "left" if right <= 1.0 - ONE_SIDE else ""


def _zone(low: float, high: float) -> str:
    edges = (("upper", 0.0, UPPER), ("middle", UPPER, LOWER), ("lower", LOWER, 1.0))
    # A zone is named when a third of the box lies in it, or a third of the zone in the box.
    named = [
        name
        for name, start, end in edges
        if (inside := min(high, end) - max(low, start)) > 0
        and inside >= min((high - low) / 3.0, (end - start) / 1.5)
    ]
    if len(named) == 3:
        return ALL
    return f"{' and '.join(named)} zone{'s' if len(named) > 1 else ''}"
