"""The place of a box in words, such as "right lower zone", where the header says which side is which.

Zones are the thirds of one lung's height. A view of PA or AP does not tell right from left: a picture may
have been turned over. So Patient Orientation (0020,0020; PS3.3 C.7.6.1.1.1) must say that the lung that is
outlined as the right one lies on the patient's right: a wrong side is worse than none.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ai_pipeline.chest.anatomy import LEFT_LUNG, RIGHT_LUNG, Anatomy, Bools

Bounds = tuple[float, float, float, float]
AS_OUTLINED: Final = ("L", "F")
"""Main directions of rows and columns of a film whose right lung lies on its left, with the head on top."""
LEAST_SHARE: Final = 0.25
"""Least share of a box's lung pixels in a lung for that lung to be named."""
_LUNGS: Final[tuple[tuple[int, Literal["L", "R"], str], ...]] = (
    (RIGHT_LUNG, "R", "right"),
    (LEFT_LUNG, "L", "left"),
)
_ZONES: Final = ("upper", "middle", "lower")


@dataclass(frozen=True, slots=True)
class LungPlace:
    """The place of a box in one lung: ``side`` of the patient, ``words`` such as "right lower zone"."""

    side: Literal["L", "R"]
    words: str


def lung_places(box: Bounds, anatomy: Anatomy, orientation: str) -> tuple[LungPlace, ...]:
    """The lungs on which ``box`` (left, top, right, bottom in source coordinates) lies, with their zones.

    ``orientation``: the two values of Patient Orientation, joined by a backslash. Empty if they do not
    confirm that the film lies as it was outlined.
    """
    if tuple(value[:1] for value in orientation.split("\\")) != AS_OUTLINED:
        return ()
    rows, columns = anatomy.on_grid(box)
    covered = {lung: int(anatomy.masks[lung, rows, columns].sum()) for lung, _, _ in _LUNGS}
    least = max(LEAST_SHARE * sum(covered.values()), 1)
    return tuple(
        LungPlace(side, f"{name} {_zones(rows, anatomy.masks[lung])}")
        for lung, side, name in _LUNGS
        if covered[lung] >= least
    )


def _zones(rows: slice, lung: Bools) -> str:
    """The thirds of the height of ``lung`` in which ``rows`` lie: "lower zone", "middle and lower zones"."""
    inside = np.flatnonzero(lung.any(axis=1))
    start, height = int(inside[0]), int(inside[-1]) + 1 - int(inside[0])
    low, high = (min(max((row - start) / height, 0.0), 1.0) for row in (rows.start, rows.stop))
    # A zone is named when a third of the box lies in it, or half of the zone in the box.
    least = min((high - low) / 3, 1 / 6)
    named = [
        zone
        for place, zone in enumerate(_ZONES)
        if (part := min(high, (place + 1) / 3) - max(low, place / 3)) > 0 and part >= least
    ]
    if len(named) == len(_ZONES):
        return "lung, all zones"
    return f"{' and '.join(named)} zone{'s' if len(named) > 1 else ''}"
