"""Heart and lungs of a frontal chest X-ray, and the cardiothoracic ratio between them.

The ratio is the heart's greatest width over the lungs' greatest outer width (C. Danzer, Am J Med Sci 1919),
both across the picture. The network outlines three variants of the picture, of slightly other sizes and greys
(test-time augmentation). If the outlines cannot be those of a chest, or the ratio differs between the
variants, nothing is measured.

Also here: whether a film shows a usual chest, so that a white or collapsed lung is said before anything else.
There are three signs. The border of the heart is hidden, as by fluid, consolidation or collapse: the grey
hardly changes from lung to heart along its outline. The outlines cannot be measured. And the classifier's
probability of one label is higher than on usual films; its card names label and limit in the table
``[usual_chest]``. With two of them, with a border that is not there at all, or with outlines that are not
those of a heart between two lungs, the film is to be looked at first; with one the AI is unsure of it.

And which ends of the lungs lie outside the picture. A part that is cut off cannot be assessed. Each
edge of the picture is judged by itself, by a logistic model of six figures of the lungs' outlines at that
edge; its coefficients are in the card of the anatomy network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import cv2
import numpy as np

from ai_pipeline.contract import (
    LOOK_FIRST,
    Bools,
    Code,
    Decision,
    Finding,
    Floats,
    Grey,
    ModelRef,
    Point,
    QualityNote,
)
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose, upright
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import Card, Change, Input, changed, network_input, read
from ai_pipeline.summary import NOT_ASSESSED

HEART, RIGHT_LUNG, LEFT_LUNG = range(3)
"""In the order of the network's outputs; right and left are the patient's."""
ORGANS = (
    Code("80891009", "SCT", "Heart"),
    Code("3341006", "SCT", "Right lung"),
    Code("44029006", "SCT", "Left lung"),
)
"""What they are, in the same order (PS3.16 CID 4031, CID 7151)."""
FINER = 4
"""Outlines are found on a grid so many times finer than the network's output."""
SURE = 0.5
"""Probability from which a pixel belongs to an organ."""
VARIANTS = (Change(), Change(size=0.9, gamma=1.25), Change(size=0.95, gamma=0.8))
"""Variants of the network's input: as it is, smaller and darker, smaller and brighter.
None larger: a chest that fills the picture would be cut off."""
RATIOS = (0.3, 0.85)
"""Ratios outside these are taken for wrong outlines."""
SIDED = 0.7
"""Share of the heart on the left of the thorax, from which the mirror image is not analysed: half of 70 films
have it, and none of their mirrored copies."""
LUNG_AREA = (0.03, 0.35)
"""Share of the picture that one lung may take."""
WALL = 0.01
"""Share of the thorax that must lie between the heart's end and the thorax's end."""
MARGIN = 0.003
"""Share of the picture's width that must lie on either side of the thorax."""
MEDIASTINUM = 0.045
"""Share of the thorax's width that must lie between the lungs: at least .059 on 513 frontal films of five
sources, at most .036 on 13 of the 14 views from the side that the domain gate took for frontal ones."""


@dataclass(frozen=True, slots=True)
class Width:
    """A width across the patient, in pixels of the source image.

    ``points``: from the right edge to the midline, then, at the height of the left edge, from the midline to
    the left edge. ``length``: horizontal distance between the right and the left edge.
    """

    points: tuple[Point, ...]
    length: float


@dataclass(frozen=True, slots=True)
class Cardiothoracic:
    """Widths of heart and thorax in source coordinates; ``ratio`` is usually .35 to .7."""

    heart: Width
    thorax: Width
    ratio: float


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The outlines of heart and lungs in one chest image. ``masks``: bool ``[3, FINER·s, FINER·s]`` of heart,
    right and left lung, on a grid that ``from_grid`` maps to source coordinates. ``measured``: the widths of
    heart and thorax, or None; then ``fault`` says why. ``is_chest``: whether the outlines can be those of a
    heart between two air-filled lungs. ``turn``: the share of the heart on the left of the chest in the
    mirror image, minus that share in the picture as it is; if it is above 0, the mirror image was
    outlined. Where the picture alone was, the mirror image's share is that of its mirrored outlines.
    """

    masks: Bools
    from_grid: Affine
    measured: Cardiothoracic | None
    fault: str = ""
    is_chest: bool = True
    turn: float = 0.0

    def seen(self, way: Affine) -> Anatomy:
        """Return the outlines in a turned, mirrored or enlarged picture: a copy whose coordinates are mapped
        by ``way``.
        """
        measured = self.measured
        if measured is not None:
            larger = math.sqrt(abs(way.a * way.e - way.b * way.d))
            heart, thorax = (
                Width(way(width.points), width.length * larger) for width in (measured.heart, measured.thorax)
            )
            measured = Cardiothoracic(heart, thorax, measured.ratio)
        return replace(self, from_grid=way.after(self.from_grid), measured=measured)

    def in_image(self, rows: int, columns: int) -> Grey:
        """The masks (0 or 255) at the size of a source image of ``rows`` × ``columns``: ``[3, rows,
        columns]``.
        """
        way, size, smooth = self.from_grid.between_centres(), (columns, rows), cv2.INTER_LINEAR
        masks = (cv2.warpAffine(mask.astype(np.float32), way, size, flags=smooth) for mask in self.masks)
        return np.stack([np.where(mask >= 0.5, np.uint8(255), np.uint8(0)) for mask in masks])

    @property
    def is_from_the_side(self) -> bool:
        """Whether the lungs lie over each other, with nothing between them, as in a lateral view."""
        lungs = [np.flatnonzero(self.masks[lung].any(axis=0)) for lung in (RIGHT_LUNG, LEFT_LUNG)]
        if not all(map(len, lungs)):
            return False
        first, second = sorted((int(columns[0]), int(columns[-1])) for columns in lungs)
        width = max(first[1], second[1]) - first[0]
        return second[0] - first[1] < MEDIASTINUM * width

    def touches(self, bounds: tuple[float, float, float, float], organs: Sequence[int]) -> bool:
        """Whether a box (left, top, right, bottom in source coordinates) overlaps one of ``organs``."""
        rows, columns = self.on_grid(bounds)
        return bool(self.masks[list(organs), rows, columns].any())

    def on_grid(self, bounds: tuple[float, float, float, float]) -> tuple[slice, slice]:
        """The rows and columns of the masks that a box in source coordinates covers."""
        corners = self.from_grid.inverse()([bounds[:2], bounds[2:]])
        columns, rows = (sorted(round(point[axis]) for point in corners) for axis in (0, 1))
        return slice(max(rows[0], 0), rows[1] + 1), slice(max(columns[0], 0), columns[1] + 1)


class AnatomyModel:
    """The network of one model card that outlines heart and lungs. Raises CardError when its weights are
    missing or altered.
    """

    def __init__(
        self,
        input_: Input,
        engine: Callable[[Floats], Any],
        tolerance: float,
        ref: ModelRef,
        agreement: tuple[float, float] | None = None,
    ) -> None:
        """``input_``: how an image is prepared for the network. ``engine``: the loaded network.
        ``tolerance``: the largest difference between the ratios of two variants of an image at which the
        ratio is reported. ``ref``: the model as results name it. ``agreement``: the range in which 95 % of
        the differences between the network's ratio and a reader's lay on test images, or None.
        """
        self._input, self._engine, self._tolerance = input_, engine, tolerance
        self.ref, self.agreement = ref, agreement

    @staticmethod
    def from_card(card: Card, threads: int = 0) -> AnatomyModel:
        """Load the model of ``card`` with its weights, input and limit."""
        assert card.input is not None
        network = OnnxRuntime(read(card.file("anatomy")), threads)
        tolerance = float(card.details["anatomy"]["tolerance"])
        tested = card.details.get("metrics", {}).get("test", {}).get("ratio")
        agreement = (float(tested["limits"][0]), float(tested["limits"][1])) if tested else None
        return AnatomyModel(card.input, network, tolerance, card.ref, agreement)

    def outline(self, grey: Grey, pose: Pose = UPRIGHT) -> Anatomy:
        """Outline heart and lungs in a displayed image, uint8 grey ``[rows, columns]``, shown in ``pose``.

        Of the picture and its mirror image the one with more of the heart on the left is used, so that a film
        and its mirrored copy get the same outlines. The mirror image is analysed only where the picture does
        not surely show the heart there.
        """
        picture, to_upright = upright(grey, pose)
        columns = picture.shape[1]
        values, to_model = network_input(picture, self._input)
        first = self._engine(values)["organs"]
        as_it_is = heart_on_left(organ_masks(first[0])) or 0.0
        # Of the same outlines in a mirror.
        side, other = 0, 1.0 - as_it_is
        if as_it_is < SIDED:
            mirrored, to_mirrored = upright(picture, Pose(mirrored=True))
            seen, mirror_to_model = network_input(mirrored, self._input)
            mirror_image = self._engine(seen)["organs"]
            other = heart_on_left(organ_masks(mirror_image[0])) or 0.0
            if other > as_it_is:
                side, first, values, to_model = 1, mirror_image, seen, mirror_to_model
                to_upright = to_mirrored.after(to_upright)
        variants = [changed(values[0], change, self._input) for change in VARIANTS]
        further = self._engine(np.stack([seen for seen, _ in variants[1:]]))["organs"]
        outputs = np.concatenate([first, further])
        found = anatomy_of(outputs, [move for _, move in variants], to_model, self._tolerance)
        # Left and right are those of the picture: a mirrored film is noted, and sides are not given.
        in_picture = [HEART, RIGHT_LUNG + side, LEFT_LUNG - side]  # not those of the mirror image
        found = replace(found, turn=other - as_it_is, masks=found.masks[in_picture])
        if found.measured is not None:
            points = found.measured.thorax.points
            if points[0][0] < MARGIN * columns or points[-1][0] > (1 - MARGIN) * columns:  # there may be more
                found = replace(found, measured=None, fault="the chest reaches the side of the image")
        return found.seen(to_upright.inverse())


def anatomy_of(found: Floats, moves: Sequence[Affine], to_model: Affine, tolerance: float) -> Anatomy:
    """Combine the outlines of all variants of an image, ``found [variants, 3, s, s]``, to one Anatomy with
    mean widths. ``moves``: the map from the unchanged input to each variant. ``to_model``: the map from the
    source image to the unchanged input. ``tolerance``: the largest difference between the variants' ratios at
    which the widths are reported.
    """
    grid = Affine(1 / FINER, 0.0, 0.0, 0.0, 1 / FINER, 0.0)
    ways = [to_model.inverse().after(move.inverse()).after(grid) for move in moves]
    masks = [organ_masks(probabilities) for probabilities in found]
    first = masks[0]
    if fault := next(filter(None, map(_no_chest, masks)), ""):
        return Anatomy(first, ways[0], None, fault, is_chest=False)
    if fault := next(filter(None, map(_not_measurable, masks)), ""):
        return Anatomy(first, ways[0], None, fault)
    measured = [_measured(mask, way) for mask, way in zip(masks, ways, strict=True)]
    ratios = [one.ratio for one in measured]
    if max(ratios) - min(ratios) > tolerance:
        return Anatomy(
            first, ways[0], None, "the outlines of heart and lungs change with small changes of the image"
        )
    if not RATIOS[0] <= float(np.mean(ratios)) <= RATIOS[1]:
        return Anatomy(first, ways[0], None, "the outlines of heart and lungs are not those of a chest")
    # The mean of the lines of several variants, and the ratio of the mean lines.
    heart, thorax = (
        _spanned(tuple((x, y) for x, y in np.mean([width.points for width in widths], axis=0).tolist()))
        for widths in zip(*((one.heart, one.thorax) for one in measured), strict=True)
    )
    # It ends where the thorax ends: an effusion or a white lung makes such a heart.
    gap = WALL * thorax.length
    if heart.points[0][0] < thorax.points[0][0] + gap or heart.points[-1][0] > thorax.points[-1][0] - gap:
        return Anatomy(first, ways[0], None, "the heart reaches the wall of the chest in its outline")
    return Anatomy(first, ways[0], Cardiothoracic(heart, thorax, heart.length / thorax.length))


def heart_on_left(masks: Bools) -> float | None:
    """The share (0 to 1) of the heart that lies left of the middle of the thorax: about .68 in a usual chest,
    .40 in its mirror image. None if an organ is missing. ``masks [3, rows, columns]`` as in Anatomy.
    """
    thorax = np.flatnonzero((masks[RIGHT_LUNG] | masks[LEFT_LUNG]).any(axis=0))
    heart = masks[HEART].sum(axis=0)
    if not len(thorax) or not heart.any():
        return None
    return float(heart[round((thorax[0] + thorax[-1] + 1) / 2) :].sum() / heart.sum())


def organ_masks(probabilities: Floats) -> Bools:
    """Return the largest connected part of each organ as a mask ``[3, FINER·s, FINER·s]``, from
    ``probabilities`` ``[3, s, s]`` of 0 to 1.
    """
    return np.stack([_largest(layer) for layer in probabilities])


def cardiothoracic(masks: Bools, from_grid: Affine) -> Cardiothoracic | None:
    """Measure the widths of heart and thorax between the outer edges of ``masks`` ``[3, rows, columns]``;
    None if an organ is missing. ``from_grid`` maps the corners of the masks' pixels to source coordinates; it
    must not turn the picture.
    """
    return _measured(masks, from_grid) if masks.any(axis=(1, 2)).all() else None


def _measured(masks: Bools, from_grid: Affine) -> Cardiothoracic:
    """Measure the widths of heart and thorax in ``masks``, which contain all three organs."""
    lungs = _edges(masks[RIGHT_LUNG] | masks[LEFT_LUNG])
    middle = (lungs[0][0] + lungs[1][0]) / 2
    heart, thorax = (
        _spanned(from_grid([(left, upper), (middle, upper), (middle, lower), (right, lower)]))
        for (left, upper), (right, lower) in (_edges(masks[HEART]), lungs)
    )
    return Cardiothoracic(heart, thorax, heart.length / thorax.length)


def _no_chest(masks: Bools) -> str:
    """Why ``masks`` cannot be a heart between two lungs, as a sentence; empty where they can."""
    if not masks.any(axis=(1, 2)).all():
        return "heart or lungs were not found"
    heart, right, left = (float(np.flatnonzero(mask.any(axis=0)).mean()) for mask in masks)
    areas = masks[[RIGHT_LUNG, LEFT_LUNG]].mean(axis=(1, 2))
    faults = {
        "heart and lungs do not lie as in an upright chest": not right < heart < left,
        "a lung is too small or too large for a whole chest": areas.min() < LUNG_AREA[0]
        or areas.max() > LUNG_AREA[1],
        # Least area of the smaller lung as a share of the larger one's.
        "the lungs differ too much in size": areas.min() < 0.4 * areas.max(),
    }
    return next((fault for fault, there in faults.items() if there), "")


def _not_measurable(masks: Bools) -> str:
    """Why the widths of heart and thorax cannot be measured in ``masks``, as a sentence; "" if they can."""
    outlines, _ = cv2.findContours(masks[HEART].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.contourArea(cv2.convexHull(outlines[0]))
    # Least area of a heart as a share of its convex hull: that of no reader's heart in `cxr_anatomy` is
    # less.
    if cv2.contourArea(outlines[0]) / max(hull, 1.0) < 0.92:
        return "the outline of the heart is ragged"
    return "the chest is cut off at the side of the image" if masks[:, :, [0, -1]].any() else ""


def _edges(mask: Bools) -> tuple[Point, Point]:
    """The leftmost and the rightmost point of ``mask``: at the outer sides of its pixels, and at the mean
    height of the mask in the first and in the last column.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    left, right = int(columns[0]), int(columns[-1])
    down = [float(np.flatnonzero(mask[:, column]).mean()) + 0.5 for column in (left, right)]
    return (float(left), down[0]), (float(right + 1), down[1])


def _spanned(points: tuple[Point, ...]) -> Width:
    """The Width through ``points`` of an upright picture, from the first to the last point."""
    return Width(points, points[-1][0] - points[0][0])


def _largest(layer: Floats) -> Bools:
    """The largest connected part of one organ, from its probabilities ``layer``; an empty mask if no pixel is
    probable enough.
    """
    rows, columns = layer.shape
    finer = cv2.resize(layer, (columns * FINER, rows * FINER), interpolation=cv2.INTER_LINEAR)
    mask = np.asarray(finer >= SURE, np.bool_)
    count, labels, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax()), np.bool_)


FIGURES: Final = ("gap", "other gap", "touch", "end", "other end", "shape")
"""The figures of an edge, in this order; see :func:`figures_at`."""


class Edge(StrEnum):
    """An edge of the upright picture at which the chest may be cut off; ``SIDE`` stands for the left and for
    the right edge.
    """

    TOP = "top"
    BOTTOM = "bottom"
    SIDE = "side"


MISSING: Final[Mapping[Edge, str]] = {
    Edge.TOP: "apices of the lungs",
    Edge.BOTTOM: "bases of the lungs",
    Edge.SIDE: "lateral wall of the chest",
}
"""What is outside the picture where it is cut off at an edge."""
NEEDS: Final[Mapping[str, Edge]] = {"Effusion": Edge.BOTTOM, "Pneumothorax": Edge.TOP}
"""By label the edge near which it lies in an upright patient: where that is cut off it was not looked for."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A logistic model that judges whether the film is cut off at one edge.

    ``weights [6]`` and ``offset`` are the model's; the film counts as cut off if the model's value exceeds
    ``limit``.
    """

    weights: tuple[float, ...]
    offset: float
    limit: float

    def is_cut(self, figures: Sequence[float]) -> bool:
        """Whether the film is cut off at an edge, from the six ``figures`` measured there."""
        # Share of a lung's length: lungs that end farther from an edge are not cut off there.
        return figures[0] <= 0.1 and float(np.dot(self.weights, figures) + self.offset) > self.limit


@dataclass(frozen=True, slots=True)
class Completeness:
    """The models (Judge) that find at which edges of the picture the chest is cut off. If the model card has
    no coefficients for them there are no models, and no edge counts as cut off.
    """

    judges: Mapping[Edge, Judge]

    @staticmethod
    def from_card(card: Card) -> Completeness:
        """The check with the coefficients in the table ``[completeness]`` of the anatomy network's card."""
        rows: Mapping[str, Any] = card.details.get("completeness", {})
        return Completeness(
            {
                edge: Judge(tuple(map(float, row["weights"])), float(row["offset"]), float(row["limit"]))
                for edge in Edge
                if (row := rows.get(edge.value))
            }
        )

    def missing(self, upright: Grey, anatomy: Anatomy) -> tuple[Edge, ...]:
        """The edges at which the chest is cut off. ``upright``: the displayed image ``[rows, columns]``,
        uint8, upright. ``anatomy``: its outlines, in its coordinates.
        """
        if not anatomy.masks[[RIGHT_LUNG, LEFT_LUNG]].any(axis=(1, 2)).all():
            return ()
        rows = figures_of(upright, anatomy)
        return tuple(
            edge
            for edge, judge in self.judges.items()
            if any(judge.is_cut(figures) for figures in rows[edge])
        )


def without_missing(findings: Sequence[Finding], missing: Collection[Edge]) -> list[Finding]:
    """The findings that may be stated for a film that is cut off at the edges ``missing``: findings that are
    suspected stay; "absent" becomes "indeterminate"; a finding that is not suspected is left out if it would
    lie where the film is cut off.
    """
    if not missing:
        return list(findings)
    seen = [
        one for one in findings if one.decision is Decision.PRESENT or NEEDS.get(one.label) not in missing
    ]
    return [
        replace(one, decision=Decision.INDETERMINATE) if one.decision is Decision.ABSENT else one
        for one in seen
    ]


def missing_notes(uid: str, findings: Sequence[Finding], missing: Collection[Edge]) -> list[QualityNote]:
    """Notes for the reader of image ``uid``: which parts of the chest lie outside the picture (``missing``),
    and which of ``findings`` are left out for it.
    """
    if not missing:
        return []
    parts = [MISSING[edge] for edge in Edge if edge in missing]
    stated = {one.label for one in without_missing(findings, missing)}
    names = [f"{part} (outside the picture)" for part in parts]
    names += [one.code.meaning.lower() for one in findings if one.label not in stated]
    text = f"{' and '.join(parts).capitalize()}: outside the picture."
    return [QualityNote(NOT_ASSESSED, text, uid, names=tuple(names))]


def figures_of(upright: Grey, anatomy: Anatomy) -> Mapping[Edge, list[tuple[float, ...]]]:
    """The six figures (:func:`figures_at`) of the lungs at each edge of the picture ``upright``; the left and
    the right side give one tuple each.
    """
    masks = anatomy.in_image(*upright.shape)[[RIGHT_LUNG, LEFT_LUNG]] > 0
    ends: list[int] = []  # of the film, in a picture that may have plain borders
    for axis in (1, 0):
        # Grey levels, 0 to 255, within which a whole row or column differs where the film does not reach.
        varies = np.flatnonzero(np.ptp(upright, axis=axis) > 10)
        ends += [int(varies[0]), int(varies[-1]) + 1] if len(varies) else [0, upright.shape[1 - axis]]
    film = masks[:, ends[0] : ends[1], ends[2] : ends[3]]
    across = film.transpose(0, 2, 1)
    return {
        Edge.TOP: [figures_at(film)],
        Edge.BOTTOM: [figures_at(film[:, ::-1])],
        Edge.SIDE: [figures_at(across), figures_at(across[::-1, ::-1])],
    }


def figures_at(lungs: Bools) -> tuple[float, ...]:
    """The figures at the first row of ``lungs [2, rows, columns]``, for both lungs, the worse one first.

    ``gap``: rows before the lung begins, as a share of its length. ``touch``: the lung's widest row in the
    strip along the edge, as a share of its widest row of all; the larger of both lungs. ``end``: its width
    where it begins, as a share of the same. ``shape``: length of the shorter lung as a share of the longer
    one's. All 0 to 1, gaps at most 1.
    """
    # Depth of the strip along an edge, as a share of the picture, that counts as touching it.
    strip = max(1, round(0.02 * lungs.shape[1]))
    measured: list[tuple[float, float, float, int]] = []
    for lung in lungs:
        widths = lung.sum(axis=1)
        rows = np.flatnonzero(widths)
        if not len(rows):
            measured.append((0.0, 1.0, 1.0, 0))
            continue
        first, length, widest = int(rows[0]), int(rows[-1] - rows[0] + 1), int(widths.max())
        touch = widths[:strip].max() / widest
        # Part of a lung's length at whose end its width is taken.
        end = widths[first : first + max(1, round(0.03 * length))].max() / widest
        measured.append((min(first / length, 1.0), touch, end, length))
    gaps, touches, ends, lengths = zip(*measured, strict=True)
    shape = min(lengths) / max(*lengths, 1)
    return (min(gaps), max(gaps), float(max(touches)), float(max(ends)), float(min(ends)), shape)


LONGEST: Final = 256
"""Longer side of the picture in which greys are compared (pixels)."""
UNSURE_NOTES: Final = (
    "Unsure: the heart's border is hidden.",
    "Unsure: heart and lungs cannot be outlined surely.",
    "Unsure: possible consolidation.",
)
"""What is said of a film with one of the three signs of :meth:`Look.doubt`, in their order: short, so that
the ratio has room on the same line."""
SIDES: Final = ("left", "right")
"""Those of the upright picture."""


@dataclass(frozen=True, slots=True)
class Look:
    """Signs in an upright picture that the film is unusual. ``hidden``: the sides on which the border of the
    heart is not seen; ``gone``: whether nothing at all is seen of one border. ``white``: the side of the lung
    that hides it because it is smaller or whiter, None if that is not clear. ``shallow``: whether the patient
    breathed in too little.
    """

    hidden: tuple[str, ...] = ()
    white: str | None = None
    shallow: bool = False
    gone: bool = False

    def doubt(self, card: Card, chances: Mapping[str, float], anatomy: Anatomy, *, marked: bool) -> str:
        """Why this film is not a usual chest film, as a sentence; "" if it is. ``chances``: the probability
        of each label of ``card``. ``marked``: whether a side marker confirms that the patient's left is on
        the right of the picture.
        """
        table = card.details.get("usual_chest", {})
        signs = [
            bool(self.hidden),
            bool(anatomy.fault),
            chances.get(table.get("label", ""), 0.0) > float(table.get("limit", 1.0)),
        ]
        if anatomy.is_chest and not self.gone and sum(signs) < 2:
            return next((note for sign, note in zip(signs, UNSURE_NOTES, strict=True) if sign), "")
        lung = "the borders of heart or lungs are hidden"
        if self.white:
            side = "left" if self.white == "right" else "right"
            name = f"{side} lung" if marked else f"lung on the {self.white} of the picture"
            lung = f"the {name} is opaque or small"
        return f"This film is not a usual chest: {lung}. {LOOK_FIRST.meaning}."


def look_at(picture: Grey, anatomy: Anatomy) -> Look:
    """Return the signs that an upright ``picture`` ``[rows, columns]``, whose outlines are ``anatomy``, is
    unusual.
    """
    scale = LONGEST / max(picture.shape)
    rows, columns = (max(1, round(scale * length)) for length in picture.shape)
    masks = anatomy.seen(Affine(scale, 0.0, 0.0, 0.0, scale, 0.0)).in_image(rows, columns) > 0
    small = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    if not masks.any(axis=(1, 2)).all():
        return Look(("left", "right"), gone=True)
    smooth = cv2.GaussianBlur(small.astype(np.float32), (0, 0), LONGEST / 150)
    low, high = np.percentile(smooth, [2, 98])
    smooth = (smooth - low) / max(float(high - low), 1.0)
    lungs = masks[[RIGHT_LUNG, LEFT_LUNG]]
    across = np.flatnonzero(lungs.any(axis=(0, 1)))
    wide = int(across[-1] - across[0] + 1)
    steps = [_step(smooth, masks[HEART], wide), _step(smooth[:, ::-1], masks[HEART][:, ::-1], wide)]
    (left, right), greys = (lung.sum() for lung in lungs), [np.median(smooth[lung]) for lung in lungs]
    # Above 0 the lung on the right of the picture is smaller or whiter.
    whiter = (left - right) / (left + right) + greys[1] - greys[0]
    # Of the picture's grey range: of films that radiologists call normal four in 100 have less than .06 on a
    # side, one in 100 less than .03. Of PA films that they call normal three in 100 have lungs lower than .65
    # of the chest's width.
    heights = [np.ptp(np.flatnonzero(lung.any(axis=1))) for lung in lungs]
    return Look(
        tuple(side for side, step in zip(SIDES, steps, strict=True) if step < 0.06),
        SIDES[int(whiter > 0)] if (whiter > 0) == (steps[1] < steps[0]) else None,
        shallow=bool(np.mean(heights) < 0.65 * wide),
        gone=min(steps) < 0.03,
    )


def _step(grey: Floats, heart: Bools, wide: int) -> float:
    """The median change of ``grey`` from lung to heart across the left border of ``heart``, in the rows of
    its middle: above lie vessels, below the diaphragm. ``wide``: the chest's width (pixels)."""
    rows = np.flatnonzero(heart.any(axis=1))
    changes, strip = [0.0], max(2, round(0.03 * wide))
    for row in range(int(rows[0] + 0.3 * len(rows)), int(rows[0] + 0.85 * len(rows)) + 1):
        border = int(np.argmax(heart[row]))
        if heart[row, border] and border > 0:
            outside = grey[row, max(border - strip, 0) : border]
            changes.append(float(grey[row, border : border + strip].mean() - outside.mean()))
    return float(np.median(changes))
