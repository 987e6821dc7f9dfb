"""Where findings lie: which boxes are drawn, on which side, and their places in words.

The place of a box in words, such as "right lower zone", where the header says which side is which.

Zones are the thirds of one lung's height. A view of PA or AP does not tell right from left: a picture may
have been turned over. So Patient Orientation (0020,0020; PS3.3 C.7.6.1.1.1) must say that the lung that is
outlined as the right one lies on the patient's right: a wrong side is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ai_pipeline.chest.anatomy import HEART, LEFT_LUNG, RIGHT_LUNG, Anatomy
from ai_pipeline.chest.explain import Activation
from ai_pipeline.contract import Bools, Code, Decision, Finding, Origin, QualityNote, Region, SourceImage
from ai_pipeline.images.coordinates import UPRIGHT, Pose

NO_PLACE: Final = "no reliable location"
_BOX_NOTES: Final = {
    Origin.ACTIVATION: "The box comes from class activation: an approximate place, not a contour or a "
    "measurement.",
    Origin.DETECTOR: "The box comes from a detector taught by radiologists' boxes: an approximate place, not "
    "a contour or a measurement.",
}


def on_its_organ(anatomy: Anatomy, site: Code | None, region: Region) -> bool:
    """Whether a box touches the organ of its finding: the heart, or a lung for any other ``site``."""
    in_heart = site is not None and site.meaning == "Heart"
    return anatomy.touches(region.bounds, (HEART,) if in_heart else (RIGHT_LUNG, LEFT_LUNG))


def contradicted(found: Activation | None, anatomy: Anatomy, site: Code | None, region: Region) -> bool:
    """Whether the map of a finding lies on the other side of the chest than its box.

    The middle between the outer edges of the lungs divides the sides. A finding of the heart has no side.
    """
    if found is None or (site is not None and site.meaning == "Heart"):
        return False
    edges = np.flatnonzero(anatomy.masks[[RIGHT_LUNG, LEFT_LUNG]].any(axis=(0, 1)))
    middle = (int(edges[0]) + int(edges[-1]) + 1) / 2
    to_grid = anatomy.from_grid.inverse()
    left, top, right, bottom = region.bounds
    box = to_grid([((left + right) / 2, (top + bottom) / 2)])[0][0]
    down, across = np.mgrid[0.5 : found.values.shape[0], 0.5 : found.values.shape[1]]
    cell = found.size / found.values.shape[1]
    centres = list(zip((across * cell).ravel().tolist(), (down * cell).ravel().tolist(), strict=True))
    columns = np.array([x for x, _ in to_grid.after(found.to_model.inverse())(centres)])
    beside = (columns < middle) != (box < middle)
    # Share of a map on the other side of the chest from which it contradicts a box.
    return float(found.values.ravel()[beside].sum() / found.values.sum()) >= 2 / 3


def in_lungs(
    image: SourceImage, pose: Pose, anatomy: Anatomy | None, site: Code | None, region: Region
) -> tuple[LungPlace, ...]:
    """The lungs in which a detector's box of a finding of lungs or pleurae lies.

    Empty for an image that had to be reoriented: its Patient Orientation is not trusted.
    """
    meant = site is not None and site.meaning in {"Lung", "Pleura"} and region.origin is Origin.DETECTOR
    if not meant or anatomy is None or pose != UPRIGHT:
        return ()
    return lung_places(region.bounds, anatomy, image.header.attributes.get("PatientOrientation", ""))


def side_of(places: Sequence[LungPlace]) -> Literal["", "L", "R"]:
    """The patient's side of a box inside one lung; "" for a box in both lungs or in none."""
    return places[0].side if len(places) == 1 else ""


def place_notes(
    image: SourceImage, pose: Pose, anatomy: Anatomy | None, findings: Sequence[Finding]
) -> list[QualityNote]:
    """A note with the places of the boxes in lungs and pleurae, in words."""
    places = [
        f"{finding.code.meaning}: {' and '.join(place.words for place in found)} (approximate)."
        for finding in findings
        for region in finding.regions
        if (found := in_lungs(image, pose, anatomy, finding.site, region))
    ]
    return [QualityNote("place", " ".join(places), image.uid)] if places else []


def no_place_notes(findings: Sequence[Finding]) -> list[QualityNote]:
    """A note that names the findings that are present but have no box reliable enough to be shown."""
    names = [f.code.meaning for f in findings if f.decision is Decision.PRESENT and not f.regions]
    return [QualityNote(NO_PLACE, f"{', '.join(names)}.", findings[0].source_uid)] if names else []


def box_notes(findings: Sequence[Finding]) -> list[QualityNote]:
    """Notes that explain the boxes, one for each origin of a box."""
    origins = {region.origin for finding in findings for region in finding.regions}
    return [QualityNote("box", text) for origin, text in _BOX_NOTES.items() if origin in origins]


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


def lung_places(
    box: tuple[float, float, float, float], anatomy: Anatomy, orientation: str
) -> tuple[LungPlace, ...]:
    """The lungs on which ``box`` (left, top, right, bottom in source coordinates) lies, with their zones.

    ``orientation``: the two values of Patient Orientation, joined by a backslash. Empty if they do not
    confirm that the film lies as it was outlined.
    """
    # The right lung lies on the left of the film, the head on top.
    if tuple(value[:1] for value in orientation.split("\\")) != ("L", "F"):
        return ()
    rows, columns = anatomy.on_grid(box)
    covered = {lung: int(anatomy.masks[lung, rows, columns].sum()) for lung, _, _ in _LUNGS}
    # Least share of a box's lung pixels in a lung for that lung to be named.
    least = max(0.25 * sum(covered.values()), 1)
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
