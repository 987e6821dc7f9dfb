"""A fetal head in one picture: the network's outline, the ellipse through it, and whether it can be trusted.

The network sees three variants of the picture (as it is, mirrored, smaller); the ellipse is fitted to the
mean of their outlines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from ai_pipeline.contract import Bools, Floats, Grey, ModelRef, Point
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import Card, read

FINER = 4
"""The outline is found on a grid so many times finer than the network's output."""
SURE = 0.5
"""Probability from which a pixel belongs to the head."""
SECOND = 0.25
"""Area from which another part of the outline can be a second head, as a share of the largest: heads of twins
differ less, and a plane through one may be off its middle."""
SMALLER = 0.85
"""Size of the third variant."""
GRID = Affine(1 / FINER, 0.0, 0.0, 0.0, 1 / FINER, 0.0)
"""From the fine grid to the network's input."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """The limits within which the outline of a fetal head is measured; fitted on validation frames.
    ``present``: least score of "there is a head". ``shape``: least Dice of the outlined area and the ellipse
    through it. ``spread``: largest difference of the circumference between variants of the picture, as a
    share of the circumference. ``roundness``: least and largest ratio of short to long axis. ``outside``:
    largest share of the ellipse that may lie outside the picture. ``unevenness``: least
    :func:`unevenness` inside and around the head. ``inset``: by how many pixels of the network's input the
    measured ellipse runs inside the outlined area, because the training masks include the drawn line.
    """

    present: float
    shape: float
    spread: float
    roundness: tuple[float, float]
    outside: float
    unevenness: tuple[float, float]
    inset: float


@dataclass(frozen=True, slots=True)
class HeadOutline:
    """The outline of a fetal head found in one picture. ``area``: the ellipse around the whole outline;
    ``measured``: the ellipse along which biometry measures; both in source pixels, None if no head was
    outlined. ``present``, ``shape``, ``spread``, ``outside``, ``unevenness``: the values that
    :class:`HeadLimits` limits.
    ``fault``: why this head is not measured, as a sentence; "" if it is. ``second``: whether another part of
    the picture has the form of a head too.
    """

    area: Ellipse | None
    measured: Ellipse | None
    present: float
    shape: float = 0.0
    spread: float = 1.0
    outside: float = 1.0
    unevenness: tuple[float, float] = (math.inf, math.inf)
    fault: str = ""
    second: bool = False


class HeadModel:
    """The network of one model card that outlines fetal heads. Raises CardError when its weights are missing
    or altered.
    """

    def __init__(
        self,
        engine: Callable[[Floats], Mapping[str, Any]],
        limits: HeadLimits,
        ref: ModelRef,
        agreement: tuple[float, float] | None = None,
    ) -> None:
        """``engine``: the loaded network; ``ref``: the model as results name it; ``agreement``: the range in
        mm in which 95 % of the differences from a sonographer's circumference lay on test images, or None.
        """
        self._engine, self.limits, self.ref, self.agreement = engine, limits, ref, agreement

    @staticmethod
    def of(card: Card, threads: int = 0) -> HeadModel:
        """Load the model with the weights and limits that ``card`` names."""
        network = OnnxRuntime(read(card.file("head")), threads)
        tested = card.details.get("metrics", {}).get("test", {}).get("circumference")
        agreement = (float(tested["limits"][0]), float(tested["limits"][1])) if tested else None
        table = card.details["head"]
        low, high = map(float, table["roundness"])
        inside, around = map(float, table["unevenness"])
        number = {name: float(table[name]) for name in ("present", "shape", "spread", "outside", "inset")}
        limits = HeadLimits(roundness=(low, high), unevenness=(inside, around), **number)
        return HeadModel(network, limits, card.ref, agreement)

    def outline(self, grey: Grey) -> HeadOutline:
        """Outline the head in a displayed picture, uint8 grey ``[rows, columns]``, and check it against the
        limits.
        """
        found = self.find(grey)
        return replace(found, fault=fault(found, self.limits))

    def find(self, grey: Grey) -> HeadOutline:
        """Outline the head in a displayed picture, uint8 grey ``[rows, columns]``, without checking it
        against the limits.
        """
        picture, to_input = fit_to_input(grey)
        centre = ((COLUMNS - 1) / 2, (ROWS - 1) / 2)
        reduce, enlarge = (cv2.getRotationMatrix2D(centre, 0, size) for size in (SMALLER, 1 / SMALLER))
        reduced = np.asarray(cv2.warpAffine(picture, reduce, (COLUMNS, ROWS)), np.uint8)
        found = self._engine(values(np.stack([picture, picture[:, ::-1], reduced])))
        present = float(np.mean(found["present"]))
        maps = (
            found["head"][0],
            found["head"][1][:, ::-1],
            np.asarray(cv2.warpAffine(found["head"][2], enlarge, (COLUMNS, ROWS)), np.float32),
        )
        back = to_input.inverse().after(GRID)
        mask, *others = head_masks(np.mean(maps, axis=0))
        area = ellipse_of(mask, back)
        if area is None:
            return HeadOutline(None, None, present)
        sizes = [one.circumference if one else 0.0 for one in (ellipse_of(head_mask(m), back) for m in maps)]
        inset = 2 * self.limits.inset / to_input.a
        measured = replace(area, long=area.long - inset, short=area.short - inset)
        if measured.short <= 0:
            return HeadOutline(None, None, present)
        rows, columns = grey.shape
        points = np.array(area.polygon())
        return HeadOutline(
            area,
            measured,
            present,
            shape=_agreement(mask, area, back),
            spread=(max(sizes) - min(sizes)) / area.circumference,
            outside=float(((points < 0) | (points > [columns, rows])).any(1).mean()),
            unevenness=unevenness(grey, area),
            second=any(self._is_head(other, back) for other in others),
        )

    def _is_head(self, mask: Bools, to_source: Affine) -> bool:
        """Whether another outlined part, ``mask``, has the form of a head, so that the picture may show a
        second head.
        """
        area = ellipse_of(mask, to_source)
        low, high = self.limits.roundness
        return (
            area is not None
            and low <= area.short / area.long <= high
            and _agreement(mask, area, to_source) >= self.limits.shape
        )


def head_mask(probabilities: Floats) -> Bools:
    """The largest part of the head's mask ``[FINER · rows, FINER · columns]``, from ``probabilities [rows,
    columns]`` of 0 to 1.
    """
    return head_masks(probabilities)[0]


def head_masks(probabilities: Floats) -> list[Bools]:
    """The mask of :func:`head_mask`, then each further part of at least ``SECOND`` times its size."""
    rows, columns = probabilities.shape
    fine = cv2.resize(probabilities, (columns * FINER, rows * FINER), interpolation=cv2.INTER_LINEAR)
    mask = np.asarray(fine >= SURE, np.bool_)
    count, labels, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return [mask]
    areas = sizes[1:, cv2.CC_STAT_AREA]
    ranked = np.argsort(-areas, kind="stable")
    kept = [part for part in ranked if areas[part] >= SECOND * areas[ranked[0]]]
    return [np.asarray(labels == 1 + int(part), np.bool_) for part in kept]


def fault(found: HeadOutline, limits: HeadLimits) -> str:
    """Why ``found`` cannot be measured as a head, as a sentence; empty if it can."""
    if found.area is None or found.present < limits.present:
        return "no fetal head in a plane for biometry was found"
    low, high = limits.roundness
    faults = {
        "the outline is not the ellipse of a head": found.shape < limits.shape
        or not low <= found.area.short / found.area.long <= high,
        "too much of the head lies outside the picture": found.outside > limits.outside,
        "the outline changes with small changes of the picture": found.spread > limits.spread,
        "there is no tissue inside or around the outline": found.unevenness[0] < limits.unevenness[0]
        or found.unevenness[1] < limits.unevenness[1],
    }
    return next((sentence for sentence, there in faults.items() if there), "")


def unevenness(grey: Grey, head: Ellipse) -> tuple[float, float]:
    """How much brightness differs from place to place inside and around a head, without its skull: the
    standard deviation of local means, as a share of their mean; infinite where the picture has no such place.

    Brain, fluid, shadow and the mother's tissue differ; a ring drawn in noise has the same noise everywhere.
    ``grey``: the displayed picture, uint8 ``[rows, columns]``.
    """
    shape = grey.shape
    brain = _enlarged(head, 0.8).mask(*shape)
    near = _enlarged(head, 1.9).mask(*shape) & ~_enlarged(head, 1.25).mask(*shape)
    # Places of an eighth of the head are larger than speckle.
    window = max(4, int(head.short / 8))
    return _variation(grey, brain, window), _variation(grey, near, window)


def _enlarged(head: Ellipse, times: float) -> Ellipse:
    """An ellipse around the same middle, ``times`` as large."""
    return replace(head, long=head.long * times, short=head.short * times)


def _variation(grey: Grey, where: Bools, window: int) -> float:
    """The standard deviation of the local means of ``grey`` in ``where``, as a share of their mean;
    ``window``: side of the square of a local mean (pixels).
    """
    weight = where.astype(np.float32)
    share = cv2.boxFilter(weight, -1, (window, window))
    means = cv2.boxFilter(grey * weight, -1, (window, window))[share > 0.7] / share[share > 0.7]
    return float(means.std() / max(float(means.mean()), 1.0)) if len(means) else math.inf


def _agreement(mask: Bools, ellipse: Ellipse, to_source: Affine) -> float:
    """Dice of the mask and the ellipse, on the mask's grid."""
    to_grid = to_source.inverse()
    (x, y), scale = to_grid([(ellipse.x, ellipse.y)])[0], to_grid.a
    there = replace(ellipse, x=x, y=y, long=ellipse.long * scale, short=ellipse.short * scale)
    filled = there.mask(*mask.shape)
    return float(2 * (filled & mask).sum() / max(int(filled.sum() + mask.sum()), 1))


ROWS, COLUMNS = 192, 256
"""Size of the network's input."""
MEAN, SCALE = 127.0, 128.0
"""EfficientNet-Lite's own normalisation of 0..255."""


def fit_to_input(grey: Grey) -> tuple[Grey, Affine]:
    """Fit ``grey [rows, columns]`` into ``[ROWS, COLUMNS]`` with black around it; returns it and the map from
    source to input.
    """
    rows, columns = grey.shape
    scale = min(ROWS / rows, COLUMNS / columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    top, left = (ROWS - height) // 2, (COLUMNS - width) // 2
    picture = np.zeros((ROWS, COLUMNS), np.uint8)
    picture[top : top + height, left : left + width] = cv2.resize(grey, (width, height), interpolation=how)
    return picture, Affine(width / columns, 0.0, float(left), 0.0, height / rows, float(top))


def values(pictures: Grey) -> Floats:
    """Convert ``pictures [N, ROWS, COLUMNS]`` to the network's input, float32 ``[N, 3, ROWS, COLUMNS]``."""
    scaled = (pictures.astype(np.float32) - np.float32(MEAN)) / np.float32(SCALE)
    return np.ascontiguousarray(np.broadcast_to(scaled[:, None], (len(pictures), 3, *pictures.shape[1:])))


POINTS = 72
"""Points of a polygon in the place of an ellipse: its circumference is .13 % below the ellipse's."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """An ellipse. ``x``, ``y``: the middle; ``long`` and ``short``: the whole axes; all in pixels of the
    source.

    ``turn``: radians from the picture's rows to the long axis, clockwise as shown, 0 to π.
    """

    x: float
    y: float
    long: float
    short: float
    turn: float

    @property
    def circumference(self) -> float:
        """The circumference in pixels, by Ramanujan's second formula (error below one in ten thousand)."""
        a, b = self.long / 2, self.short / 2
        h = ((a - b) / (a + b)) ** 2
        return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))

    def polygon(self, count: int = POINTS) -> tuple[Point, ...]:
        """``count`` points on the ellipse, starting at one end of the long axis; not closed."""
        return tuple(self._at(2 * math.pi * step / count) for step in range(count))

    def long_axis(self) -> tuple[Point, Point]:
        """The two ends of the long axis."""
        return self._at(0.0), self._at(math.pi)

    def short_axis(self) -> tuple[Point, Point]:
        """The two ends of the short axis."""
        return self._at(math.pi / 2), self._at(3 * math.pi / 2)

    def mask(self, rows: int, columns: int) -> Bools:
        """The filled ellipse in a picture of ``rows`` × ``columns``."""
        down, across = np.mgrid[0:rows, 0:columns] + 0.5
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        along = (across - self.x) * cos + (down - self.y) * sin
        beside = (down - self.y) * cos - (across - self.x) * sin
        return np.asarray((2 * along / self.long) ** 2 + (2 * beside / self.short) ** 2 <= 1, np.bool_)

    def _at(self, angle: float) -> Point:
        """The point of the ellipse at ``angle`` (radians from the long axis)."""
        along, beside = math.cos(angle) * self.long / 2, math.sin(angle) * self.short / 2
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return self.x + along * cos - beside * sin, self.y + along * sin + beside * cos


def ellipse_of(mask: Bools, from_grid: Affine) -> Ellipse | None:
    """Fit an ellipse to the outline of ``mask [rows, columns]`` by least squares (A. Fitzgibbon et al., PAMI
    1999); None if too little of an outline is visible. ``from_grid`` maps corners of the mask's pixels to the
    source. Points on the mask's edge are left out, because there the head leaves the picture.
    """
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    points = max(outlines, key=len)[:, 0].astype(np.float64)
    rows, columns = mask.shape
    inside = (points > 0).all(1) & (points[:, 0] < columns - 1) & (points[:, 1] < rows - 1)
    # Points of an outline inside the picture that an ellipse is fitted to.
    if inside.sum() < 20:
        return None
    # From the middles of the outermost pixels to the mask's edge, half a pixel farther from its middle.
    away = points - [np.mean(axis) for axis in np.nonzero(mask)[::-1]]
    outwards = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    find = np.array(from_grid((points + 0.5 + 0.5 * outwards)[inside].tolist()), np.float32)
    (x, y), (first, second), degrees = cv2.fitEllipseDirect(find[:, None])
    if not all(map(math.isfinite, (x, y, first, second))) or min(first, second) <= 0:
        return None
    turn = math.radians(degrees) + (math.pi / 2 if second > first else 0)
    return Ellipse(x, y, max(first, second), min(first, second), turn % math.pi)
