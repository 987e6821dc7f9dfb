"""The outline of the lesion (of the ovary if it is normal), if the network is sure of it.

The network outlines the picture and its mirror image. If the two disagree, or the outline is not a single
place in the picture, there is no outline: a wrong one is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ai_pipeline.contract import Bools, Origin, Region
from ai_pipeline.models.engine import Engine, load
from ai_pipeline.models.registry import Card
from ai_pipeline.ovarian.classifier import OvarianAnalysis, in_source

SURE = 0.5
"""Probability from which a pixel belongs to the lesion."""
AGREEMENT = 0.85
"""Least Dice of the outlines of the picture and of its mirror image."""
AREA = (0.005, 0.8)
"""Share of the picture that a lesion takes: that of all masks of the training frames but the extremes."""
IN_ONE_PLACE = 0.8
"""Least share of the outlined pixels that lies in the largest part."""
FINENESS = 0.0025
"""How far the polygon may leave the outline, as a share of the outline's length."""


@dataclass(frozen=True, slots=True, eq=False)
class LesionOutline:
    """``mask [rows, columns]`` of the source image, and its polygon; both None if ``fault`` says why."""

    mask: Bools | None
    region: Region | None
    fault: str = ""


class Outliner:
    """The outline network of the ovarian card. Raises CardError."""

    def __init__(self, card: Card) -> None:
        self._engine: Engine = load(card, "outline")

    def outline(self, seen: OvarianAnalysis) -> LesionOutline:
        """The outline of the lesion in the picture of the analysis ``seen``."""
        twice = np.concatenate([seen.values, seen.values[..., ::-1]])
        (found,) = self._engine(np.ascontiguousarray(twice)).values()
        shown, mirrored = found[0, 0], found[1, 0, :, ::-1]
        if dice(shown >= SURE, mirrored >= SURE) < AGREEMENT:
            return LesionOutline(None, None, "the outline changes when the picture is mirrored")
        mean = np.asarray((shown + mirrored) / 2, np.float32)
        whole = in_source(mean, seen.to_model, seen.rows, seen.columns) >= SURE
        return of_mask(whole)


def of_mask(mask: Bools) -> LesionOutline:
    """The outline of the largest part of ``mask``, if it can be a lesion."""
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return LesionOutline(None, None, "no lesion was outlined")
    largest = 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax())
    area = int(sizes[largest, cv2.CC_STAT_AREA])
    if area < IN_ONE_PLACE * mask.sum():
        return LesionOutline(None, None, "the outline falls apart into several places")
    if not AREA[0] <= area / mask.size <= AREA[1]:
        return LesionOutline(None, None, "the outline is too small or too large for a lesion")
    part = parts == largest
    lines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(lines, key=cv2.contourArea)
    polygon = cv2.approxPolyDP(line, FINENESS * cv2.arcLength(line, True), True)[:, 0]
    points = tuple((float(x) + 0.5, float(y) + 0.5) for x, y in polygon.tolist())  # from pixels' centres
    return LesionOutline(np.asarray(part, np.bool_), Region("polygon", points, Origin.DETECTOR))


def dice(one: Bools, other: Bools) -> float:
    """The Dice coefficient of two masks: twice the common pixels over the sum of both; 0 where both are
    empty.
    """
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 0.0
