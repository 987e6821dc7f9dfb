"""A card's classifier on one displayed image: probabilities, activation maps, distance to the domain.

The pipeline and ``ai-pipeline evaluate`` both use it, so that the evaluation measures what runs.

A finding's place is shown by the map of the place head as a heat map, and as a box in source coordinates. The
map alone would give boxes of no sensible size. So a box is chosen among the boxes that radiologists drew for
the same label in training images (:class:`BoxTemplates`): the one that overlaps best, on average, with all of
them, each weighted by the ratio of the map inside it to the average map of the label. With a flat map this is
the best constant box, so the map can only improve on it.

The card's box detector is one network: a box head, or the YOLO that a site has trained.

The box head chooses the candidate box that fits a finding best, with its expected overlap. For every label
its network gives five maps (:data:`PARTS`): one for the evidence that a box covers a place, and four for the
evidence that a box lies just right of, left of, below or above it. A candidate's score is the sum of two
terms: the means of each map over the part of the picture that the map concerns, and the label's position
prior at the candidate. A softmax over the scores of a label's candidates gives a probability for each. The
answer is the box with the largest expected overlap under these probabilities, and that overlap is the
answer's score.

Fitted by :mod:`ai_training.detect`; numpy alone here, so that no torch is needed to run it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Decision, Floats, Grey, Heatmap, Origin, Region
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose, upright
from ai_pipeline.models.engine import load
from ai_pipeline.models.registry import Card, Change, Input, Label, changed, network_input, read
from ai_pipeline.networks.gate import UNKNOWN, FeatureGate, Kind

METHOD = "likely place, learned from radiologists' boxes"


@dataclass(frozen=True, slots=True)
class Activation:
    """A map of where in an image the evidence for one label lies. ``values [h, w]``, 0 to 1, cover the whole
    model input. ``size``: the model input's side in pixels; ``to_model``: the map from source to model
    coordinates; ``rows`` and ``columns``: the size of the source image.
    """

    values: Floats
    size: int
    to_model: Affine
    rows: int
    columns: int


def activation(places: Floats, size: int, to_model: Affine, rows: int, columns: int) -> Activation:
    """Make the evidence map of one label from the network's log-likelihoods ``places [h, w]``; its peak is
    set to 1. The other parameters are the fields of :class:`Activation`.
    """
    return Activation(np.exp(places - places.max()).astype(np.float32), size, to_model, rows, columns)


def heatmap(found: Activation) -> Heatmap:
    """Return the evidence map ``found`` as a smooth picture of the source image's size, float32 0 to 1."""
    # Eight times finer by a cubic first: linear interpolation of ten cells shows as diamonds.
    height, width = (8 * cells for cells in found.values.shape)
    fine = np.clip(cv2.resize(found.values, (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
    # Grid cell (i, j) covers model pixels from j·size/w to (j+1)·size/w; pixel centres lie at +0.5.
    across, down = width / found.size, height / found.size
    to = found.to_model
    matrix = np.array(
        [
            [to.a * across, to.b * across, (to.a * 0.5 + to.b * 0.5 + to.c) * across - 0.5],
            [to.d * down, to.e * down, (to.d * 0.5 + to.e * 0.5 + to.f) * down - 0.5],
        ]
    )
    values = cv2.warpAffine(
        fine,
        matrix,
        (found.columns, found.rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return Heatmap(np.asarray(values, np.float32), METHOD)


@dataclass(frozen=True, slots=True, eq=False)
class BoxTemplates:
    """Boxes that radiologists drew in training images, from which a box for a new image is chosen. ``labels
    [K]``: index of each box's label; ``boxes [K, 4]``: left, top, right, bottom as shares of the model
    input's side; ``usual [K]``: the share of the label's average evidence map inside the box.
    """

    labels: npt.NDArray[np.int64]
    boxes: Floats
    usual: Floats

    @staticmethod
    def from_bytes(data: bytes) -> BoxTemplates:
        """Read the templates from the bytes of an ``.npz`` file. Raises ValueError or KeyError for other
        bytes.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return BoxTemplates(arrays["labels"], arrays["boxes"], arrays["usual"])

    def to_bytes(self) -> bytes:
        """The templates as the bytes of an ``.npz`` file; equal templates give equal bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, labels=self.labels, boxes=self.boxes, usual=self.usual)
        return buffer.getvalue()

    def box(self, found: Activation, label: int) -> Region | None:
        """Choose the template box that fits the evidence map ``found`` of label number ``label``; in source
        coordinates, cut at the image's edges; None if the label has no templates.
        """
        rows = self.labels == label
        if not rows.any():
            return None
        boxes = self.boxes[rows]
        weights = share_inside(found.values, boxes) / self.usual[rows]
        left, top, right, bottom = (boxes[int(np.argmax(overlaps(boxes) @ weights))] * found.size).tolist()
        box = (left, top, right, bottom)
        return source_region(box, found.to_model, found.rows, found.columns, Origin.ACTIVATION)


def share_inside(values: Floats, boxes: Floats) -> Floats:
    """The share of the evidence map ``values [h, w]`` (any positive scale) that lies in each of ``boxes [K,
    4]``: ``[K]``, 0 to 1. Boxes are left, top, right, bottom as shares of the map's sides.
    """
    side = 16 * values.shape[0]
    fine = np.maximum(cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC), 0.0)
    total = cv2.integral(fine)
    left, top, right, bottom = np.clip(np.rint(boxes * side).astype(int), 0, side).T
    inside = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return np.asarray(np.maximum(inside / max(total[-1, -1], 1e-12), 1e-6), np.float32)


def overlaps(boxes: Floats, others: Floats | None = None) -> Floats:
    """Intersection over union of each of ``boxes [K, 4]`` with each of ``others [M, 4]``: ``[K, M]``. Without
    ``others``, of ``boxes`` with one another.
    """
    others = boxes if others is None else others
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=2)
    area, its = (np.prod(some[:, 2:] - some[:, :2], axis=1) for some in (boxes, others))
    return np.asarray(common / (area[:, None] + its[None, :] - common), np.float32)


def source_region(
    box: tuple[float, float, float, float], to_model: Affine, rows: int, columns: int, origin: Origin
) -> Region | None:
    """Return a box of the model input (left, top, right, bottom in pixels) as a region of the source image of
    ``rows`` × ``columns``, cut at its edges; None if the box lies outside. ``to_model``: the map from source
    to model coordinates; ``origin``: the method that found the box.
    """
    corners = to_model.inverse()((box[:2], box[2:]))
    # Two corners of the upright copy may be any two opposite corners of a source image that is turned.
    (left, right), (top, bottom) = (sorted(edges) for edges in zip(*corners, strict=True))
    left, right = max(0.0, left), min(float(columns), right)
    top, bottom = max(0.0, top), min(float(rows), bottom)
    return Region("box", ((left, top), (right, bottom)), origin) if left < right and top < bottom else None


PARTS = ("inside", "left", "right", "above", "below")
REACH, LEAST_REACH = 0.35, 0.03  # width of the outer parts: a share of the box, at least one of the picture
GRID = 64  # cells a side in which the likeliest point is searched


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidate boxes of a label: ``boxes [M, 4]`` as left, top, right, bottom, in shares of the model
    input's sides; ``prior [M]``: the logarithm, up to a constant, of how usual each box is.
    """

    boxes: Floats
    prior: Floats


@dataclass(frozen=True, slots=True)
class ScoredBox:
    """A box for one finding. ``corners`` (left, top, right, bottom) and ``point`` (the likeliest place, x and
    y) are shares of the model input's sides. ``score``, 0 to 1: the overlap (IoU) with the true box that is
    expected if the finding is present.
    """

    corners: tuple[float, float, float, float]
    point: tuple[float, float]
    score: float


@dataclass(frozen=True, eq=False)
class BoxHead:
    """Chooses the box of a finding among fixed candidate boxes, from the network's maps. ``candidates``: by
    label name, in the order of the network's maps.
    """

    candidates: Mapping[str, Candidates]
    _overlaps: dict[str, Floats] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def from_bytes(data: bytes) -> BoxHead:
        """Read the candidates from the bytes of an ``.npz`` file. Raises ValueError or KeyError for other
        bytes.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["labels"]]
            return BoxHead({n: Candidates(arrays[f"boxes-{n}"], arrays[f"prior-{n}"]) for n in names})

    def to_bytes(self) -> bytes:
        """The candidates as the bytes of an ``.npz`` file; equal candidates give equal bytes."""
        arrays = {f"boxes-{name}": one.boxes for name, one in self.candidates.items()}
        arrays |= {f"prior-{name}": one.prior for name, one in self.candidates.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, labels=np.array(list(self.candidates)), **arrays)
        return buffer.getvalue()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the network's maps."""
        return tuple(self.candidates)

    def find(self, maps: Floats, label: str) -> ScoredBox:
        """Choose the box of ``label`` with the best score in the network's ``maps [labels, parts, h, w]``.
        Raises KeyError for an unknown label.
        """
        own = self.candidates[label]
        parts, rectangles = maps[self.labels.index(label)], part_rectangles(own.boxes)
        means = [mean_over(parts[k][None], rectangles[k])[:, 0] for k in range(len(PARTS))]
        return self.choose(label, softmax(own.prior + np.stack(means, 1).sum(1)))

    def choose(self, label: str, chance: Floats) -> ScoredBox:
        """The box of ``label`` with the largest expected overlap, for probabilities ``chance [M]`` of its
        candidates.
        """
        boxes = self.candidates[label].boxes
        if label not in self._overlaps:
            self._overlaps[label] = overlaps(boxes)
        expected = self._overlaps[label] @ chance
        best = int(np.argmax(expected))
        left, top, right, bottom = (float(edge) for edge in boxes[best])
        return ScoredBox((left, top, right, bottom), _likeliest_point(boxes, chance), float(expected[best]))


def region(found: ScoredBox, size: int, to_model: Affine, rows: int, columns: int) -> Region | None:
    """Return the box ``found`` in the coordinates of a source image of ``rows`` × ``columns``; None if it
    lies outside the image. ``size``: the model input's side in pixels; ``to_model``: the map from source to
    model coordinates.
    """
    left, top, right, bottom = (edge * size for edge in found.corners)
    return source_region((left, top, right, bottom), to_model, rows, columns, Origin.DETECTOR)


def softmax(scores: Floats) -> Floats:
    """``scores [M]`` as probabilities that add up to 1."""
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum(), np.float32)


def part_rectangles(boxes: Floats) -> Floats:
    """The rectangles whose map values score a candidate box: for each of ``boxes`` one per part in
    :data:`PARTS` (the box itself and the strips beside it), ``[parts, M, 4]``, cut at the edges.
    """
    left, top, right, bottom = boxes.T
    across = np.maximum(REACH * (right - left), LEAST_REACH)
    down = np.maximum(REACH * (bottom - top), LEAST_REACH)
    sides = (
        (left, top, right, bottom),
        (left - across, top, left, bottom),
        (right, top, right + across, bottom),
        (left, top - down, right, top),
        (left, bottom, right, bottom + down),
    )
    return np.asarray(np.clip(np.stack([np.stack(side, 1) for side in sides]), 0.0, 1.0), np.float32)


def mean_over(maps: Floats, rectangles: Floats) -> Floats:
    """The mean of ``maps [C, h, w]`` over each of ``rectangles [M, 4]``: ``[M, C]``. Cells count in part
    where a rectangle cuts them.

    0 where a rectangle has no area.
    """
    channels, height, width = maps.shape
    sums = np.zeros((channels, height + 1, width + 1), np.float64)
    sums[:, 1:, 1:] = maps.cumsum(1, dtype=np.float64).cumsum(2)
    left, top, right, bottom = rectangles.T.astype(np.float64)
    inside = (
        _between(sums, right, bottom)
        - _between(sums, left, bottom)
        - _between(sums, right, top)
        + _between(sums, left, top)
    )
    area = (right - left) * (bottom - top) * width * height
    return np.asarray((inside / np.maximum(area, 1e-3)).T, np.float32)


def _between(
    sums: npt.NDArray[np.float64], x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Interpolate the running sums ``sums`` linearly at the places ``x``, ``y`` (shares of the sides)."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    x, y = x * width, y * height
    column, row = np.minimum(x.astype(int), width - 1), np.minimum(y.astype(int), height - 1)
    right, down = x - column, y - row
    upper = sums[:, row, column] * (1 - right) + sums[:, row, column + 1] * right
    lower = sums[:, row + 1, column] * (1 - right) + sums[:, row + 1, column + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _likeliest_point(boxes: Floats, chance: Floats) -> tuple[float, float]:
    """The point (x, y as shares of the sides) that is covered by most of the boxes' probability; small boxes
    count more.
    """
    likeliest = np.argsort(-chance)[:100]
    density = np.zeros((GRID, GRID))
    for index in likeliest:
        left, top, right, bottom = boxes[index] * GRID
        share = chance[index] / np.sqrt(max((right - left) * (bottom - top), 1.0))
        density[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] += share
    row, column = np.nonzero(density >= density.max() - 1e-12)
    return float(column.mean() + 0.5) / GRID, float(row.mean() + 0.5) / GRID


CERTAIN = 1e-7  # a probability of 0 or 1 has no logit


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """The classifier's input and output for one image of ``rows`` × ``columns``. ``values [1, channels, size,
    size]``: the network's input, also used by the card's other networks. ``logits [labels]``; ``places
    [labels, h, w]``: the evidence maps, None if the network gives none; ``distance``: how far the image is
    from the training images, NaN if the model card has no domain gate. ``to_model``: the map from source to
    model coordinates. ``pose``: how the image was shown before it was put upright for the analysis; ``kind``
    (what the domain gate takes the image for) and ``shown_distance`` (its distance) belong to the image as it
    was shown.
    """

    values: Floats
    logits: Floats
    places: Floats | None
    distance: float
    to_model: Affine
    rows: int
    columns: int
    kind: Kind = UNKNOWN
    shown_distance: float = float("nan")
    pose: Pose = UPRIGHT

    def seen(self, way: Affine, rows: int, columns: int) -> Analysis:
        """Return this analysis of a smaller copy in the coordinates of the full image of ``rows`` ×
        ``columns``; ``way`` maps the copy to the full image.
        """
        return replace(self, to_model=self.to_model.after(way.inverse()), rows=rows, columns=columns)


class Classifier:
    """A classifier of chest X-rays, loaded from its model card. Raises CardError when the card or its weights
    are not usable.
    """

    def __init__(self, card: Card, threads: int = 0) -> None:
        """Load the networks of ``card``. ``threads``: for one inference, 0 for as many as the process may
        use.
        """
        if card.input is None or not card.labels:
            raise CardError(f"{card.path.name}: a classifier's card needs input and labels")
        self.card = card
        self._input: Input = card.input
        self._gate = FeatureGate.from_bytes(read(card.file(card.gate.role))) if card.gate else None
        self._templates = BoxTemplates.from_bytes(read(card.file("boxes"))) if card.plays("boxes") else None
        self._engine = load(card, "classifier", threads)

    def analyse(self, image: Grey) -> Analysis:
        """Run the network on a displayed image: uint8 grey, bright = dense, any size.

        If the domain gate takes the image for a turned or inverted chest film, an upright copy is analysed
        too. Its analysis is returned, in coordinates of ``image``, if the gate finds the copy like the
        training images; otherwise the analysis of the image as it is shown is returned.
        """
        found = self.analyse_as_shown(image)
        if self.in_domain(found) or found.kind.pose == UPRIGHT:
            return found
        picture, to_upright = upright(image, found.kind.pose)
        reoriented = self.analyse_as_shown(picture)
        if not self.in_domain(reoriented):
            return found
        return replace(
            reoriented,
            to_model=reoriented.to_model.after(to_upright),
            rows=found.rows,
            columns=found.columns,
            pose=found.kind.pose,
            kind=found.kind,
            shown_distance=found.shown_distance,
        )

    def analyse_as_shown(self, image: Grey) -> Analysis:
        """Run the network once on the image as it is shown, whatever its pose."""
        values, to_model = network_input(image, self._input)
        outputs = self._engine(values)
        distance, kind = float("nan"), UNKNOWN
        if self._gate is not None:
            pooled = self._pooled(outputs)
            distance, kind = float(self._gate.distance(pooled)[0]), self._gate.kind(pooled)
        places = outputs[self.card.outputs.places][0] if self.card.outputs.places in outputs else None
        rows, columns = image.shape
        logits = self._output(outputs, "scores")[0]
        if logits.shape != (len(self.card.labels),):
            raise CardError(
                f"{self.card.name}: the network's scores have the shape {logits.shape}, "
                f"the card has {len(self.card.labels)} labels"
            )
        if self.card.outputs.kind == "probabilities":
            chance = np.clip(logits.astype(np.float64), CERTAIN, 1.0 - CERTAIN)
            logits = np.asarray(np.log(chance / (1.0 - chance)), np.float32)
        return Analysis(values, logits, places, distance, to_model, rows, columns, kind, distance)

    def features(self, image: Grey) -> Floats:
        """The network's mean features ``[1, C]`` of an image as it is shown, to which the domain gate is
        fitted.
        """
        return self._pooled(self._engine(network_input(image, self._input)[0]))

    def in_domain(self, found: Analysis) -> bool:
        """Whether the image looks like the training images; True if the model card has no domain gate."""
        return self.card.gate is None or found.distance <= self.card.gate.threshold

    def probability(self, found: Analysis, label: int) -> float:
        """The calibrated probability (0 to 1) of the model card's label number ``label`` in the analysis
        ``found``.
        """
        return probability(self.card.labels[label], float(found.logits[label]))

    def activation(self, found: Analysis, label: int) -> Activation | None:
        """The map of the evidence for label number ``label`` in the analysis ``found``; None where the
        network has no map for it.
        """
        class_activation = self.card.outputs.place_kind == "activation"
        if found.places is None or not (class_activation or self.card.labels[label].box):
            return None
        places = found.places[label]
        if class_activation:  # evidence against the label counts as none
            places = np.log(np.maximum(places, 0.0) + 1e-6 * max(float(np.abs(places).max()), 1e-6))
        return activation(places, self._input.size, found.to_model, found.rows, found.columns)

    def heatmap(self, found: Activation) -> Heatmap:
        """Return the evidence map ``found`` as a heat map of the source image's size, with the name of the
        method.
        """
        drawn = heatmap(found)
        class_activation = self.card.outputs.place_kind == "activation"
        return replace(drawn, method="class activation") if class_activation else drawn

    def box(self, found: Activation, label: int) -> Region | None:
        """Choose a box for label number ``label`` from its evidence map ``found``, in source coordinates;
        None if the model card has no box templates for it.
        """
        if self._templates is None or not self.card.labels[label].box:
            return None
        return self._templates.box(found, label)

    def _pooled(self, outputs: Mapping[str, Floats]) -> Floats:
        """The mean over all places of the network's features ``[1, C]``."""
        return np.asarray(self._output(outputs, "features").mean((2, 3)), np.float32)

    def _output(self, outputs: Mapping[str, Floats], part: Literal["scores", "features"]) -> Floats:
        """The output of the network that the model card names as ``part``. Raises CardError if the network
        has none of that name.
        """
        name = self.card.outputs.scores if part == "scores" else self.card.outputs.features
        if name not in outputs:
            known = ", ".join(sorted(outputs))
            raise CardError(
                f"{self.card.name}: the network has no output {name!r} (it has {known}): "
                f"name the {part} in the card's [outputs]"
            )
        return outputs[name]


def probability(label: Label, logit: float) -> float:
    """Convert a ``logit`` to a probability, 0 to 1, by the calibration of ``label``."""
    # exp(709) is the largest that a double holds.
    scaled = max(label.slope * logit + label.intercept, -700.0)
    return float(1.0 / (1.0 + np.exp(-scaled)))


def decide(label: Label, value: float) -> Decision:
    """The decision for the probability ``value``, 0 to 1, by the two thresholds of ``label``."""
    if value >= label.threshold:
        return Decision.PRESENT
    if value < label.absent_below:
        return Decision.ABSENT
    return Decision.INDETERMINATE


NETWORK, CANDIDATES, YOLO = "detector", "detector-boxes", "detector-yolo"
"""The roles of a card's weights: the box head's network in ONNX, and its candidate boxes with their priors;
or, instead of both, a YOLO in ONNX with the classifier's input, which gives rows of left, top, right, bottom
in pixels of the input, score (0 to 1), number of the label in the card."""


Corners = tuple[float, float, float, float]
CHANGES = (
    Change(size=0.95, gamma=1.2),
    Change(size=1.05, gamma=0.85),
    Change(shift=(0.03, -0.03)),
    Change(shift=(-0.03, 0.03), reduced=0.8),
)
"""Changes of the networks' input under which a box must be found again."""


Places = Callable[[str], ScoredBox | None]
"""Gives the likeliest box of a label in one image, reliable or not; None for a label that the network has
no box of."""
Locator = Callable[[Floats], Places]
"""Looks at one image, given as the network's input ``[1, channels, size, size]``."""


@dataclass(frozen=True, eq=False)
class DetectorInput:
    """An image of ``rows`` × ``columns`` prepared for the box detector. The network (``run``) runs only when
    the first box is needed, as most images have no finding with a box. ``values``: the input; ``wanted``: how
    it was normalised; ``to_model``: the map from source to model coordinates.
    """

    values: Floats = field(repr=False)
    wanted: Input
    run: Locator = field(repr=False)
    to_model: Affine
    rows: int
    columns: int

    @cached_property
    def output(self) -> Places:
        """What the network finds in the image; computed once."""
        return self.run(self.values)

    @cached_property
    def changed(self) -> tuple[Places, ...]:
        """What the network finds after each small change in :data:`CHANGES`; computed once."""
        inputs = (changed(self.values[0], change, self.wanted)[0] for change in CHANGES)
        return tuple(self.run(values[None]) for values in inputs)


class BoxDetector:
    """The box detector of one model card. Raises CardError when its weights are missing, altered or
    unusable.
    """

    def __init__(self, card: Card) -> None:
        """Load the detector's network."""
        if card.input is None:
            raise CardError(f"{card.path.name}: a detector's card needs input")
        self._input = card.input
        self._shown = {label.name for label in card.labels if label.detector}
        if card.plays(YOLO) and card.plays(NETWORK):
            raise CardError(f"{card.path.name}: one network locates, {NETWORK!r} or {YOLO!r}, never both")
        self._run = yolo_of(card) if card.plays(YOLO) else head_of(card)

    def prepare(self, image: Grey, pose: Pose = UPRIGHT) -> DetectorInput:
        """Prepare a displayed image (uint8 grey, bright = dense) that is shown in ``pose`` for
        :meth:`find`.
        """
        picture, to_upright = upright(image, pose)
        values, to_model = network_input(picture, self._input)
        return self.take(values, to_model.after(to_upright), *image.shape)

    def take(self, values: Floats, to_model: Affine, rows: int, columns: int) -> DetectorInput:
        """Prepare the input ``values [1, channels, size, size]`` that the classifier already made for
        :meth:`find`. ``to_model``: the map to that input from a source image of ``rows`` × ``columns``.
        """
        return DetectorInput(values, self._input, self._run, to_model, rows, columns)

    def boxes_in(self, image: Grey, analysis: Analysis) -> Callable[[str], tuple[Region, ...]]:
        """Return a function that gives the boxes of a label in a displayed ``image``; it uses the input of
        the classifier's ``analysis``.
        """
        prepared = self.take(analysis.values, analysis.to_model, *image.shape)

        def regions(label: str) -> tuple[Region, ...]:
            """The box of ``label`` as a tuple, empty if there is no reliable one."""
            found = self.region(prepared, label)
            return (found,) if found else ()

        return regions

    def find(self, prepared: DetectorInput, label: str) -> ScoredBox | None:
        """The likeliest box of ``label``, reliable or not; None if the network has none."""
        return prepared.output(label)

    def region(self, prepared: DetectorInput, label: str) -> Region | None:
        """The box of ``label`` in source coordinates; None if the model card marks it as not reliable, or if
        it moves with small changes of the image.
        """
        found = self.find(prepared, label) if label in self._shown else None
        # Overlap (IoU) with the box of every changed input from which a box is shown: in five folds the
        # lowest that removes as many wrong boxes of effusions as any up to .4 does
        # (docs/studies/detection.md).
        if found is None or self.agreement(prepared, label, found) < 0.2:
            return None
        return self.in_source(found, prepared)

    def agreement(self, prepared: DetectorInput, label: str, found: ScoredBox) -> float:
        """The least overlap (IoU) of ``found`` with the box of ``label`` in a changed input, 0 to 1."""
        again = [(places(label), change) for places, change in zip(prepared.changed, CHANGES, strict=True)]
        boxes = [moved_back(one.corners, change) for one, change in again if one]
        if len(boxes) < len(CHANGES):
            return 0.0
        return float(overlaps(np.array([found.corners], np.float32), np.array(boxes, np.float32)).min())

    def in_source(self, found: ScoredBox, prepared: DetectorInput) -> Region | None:
        """Return the box ``found`` in source coordinates; None if it lies outside the image."""
        return region(found, self._input.size, prepared.to_model, prepared.rows, prepared.columns)


def moved_back(corners: Corners, change: Change) -> Corners:
    """Map ``corners`` of a box in a changed input back to the unchanged input; both as shares of the input's
    sides.
    """
    (across, down), size = change.offsets, change.size
    left, top, right, bottom = corners
    return (left - across) / size, (top - down) / size, (right - across) / size, (bottom - down) / size


def head_of(card: Card) -> Locator:
    """Load the box head of ``card``. Raises CardError when its weights are missing, altered or unusable."""
    try:
        head = BoxHead.from_bytes(read(card.file(CANDIDATES)))
    except (ValueError, KeyError) as error:
        raise CardError(f"{card.path.name}: {card.file(CANDIDATES).path.name} holds no boxes") from error
    engine = load(card, NETWORK)

    def look(values: Floats) -> Places:
        """Run the head's network on ``values``."""
        maps = engine(values)["parts"][0]
        if maps.shape[:2] != (len(head.labels), len(PARTS)):
            raise CardError(f"the detector's maps have the shape {maps.shape}, not that of its boxes")
        return lambda label: head.find(maps, label) if label in head.labels else None

    return look


def yolo_of(card: Card) -> Locator:
    """Load the YOLO of ``card``. Raises CardError when its weights are missing, altered or unusable."""
    engine, labels = load(card, YOLO), [label.name for label in card.labels]
    return lambda values: likeliest(engine(values)["boxes"][0], labels, values.shape[-1]).get


def likeliest(rows: Floats, labels: Sequence[str], size: int) -> dict[str, ScoredBox]:
    """The box with the highest score of each label among a YOLO's ``rows [N, 6]`` (:data:`YOLO`) for an input
    of ``size`` pixels a side; its middle is the point. A label without a detection is left out. Raises
    CardError for a number that no label has.
    """
    found: dict[str, ScoredBox] = {}
    if not ((rows[:, 5] > -0.5) & (rows[:, 5] < len(labels) - 0.5)).all():
        raise CardError(f"the YOLO gives other labels than the {len(labels)} of the card")
    for *edges, score, number in rows[np.argsort(-rows[:, 4])].tolist():
        left, top, right, bottom = (min(max(edge / size, 0.0), 1.0) for edge in edges)
        name = labels[round(number)]
        if name not in found and left < right and top < bottom and score > 0:
            found[name] = ScoredBox(
                (left, top, right, bottom), ((left + right) / 2, (top + bottom) / 2), score
            )
    return found
