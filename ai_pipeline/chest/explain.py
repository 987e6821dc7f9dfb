"""Where a finding lies: the map of the place head as a heat map and as one box, in source coordinates.

The map alone would give boxes of no sensible size. So a box is chosen among the boxes that radiologists drew
for the same label in training images (:class:`BoxTemplates`): the one that overlaps best, on average, with
all of them, each weighted by the ratio of the map inside it to the average map of the label. With a flat map
this is the best constant box, so the map can only improve on it.

The box detector at run time: choose the candidate box that best fits a finding, with its expected overlap.

For every label the network gives five maps (:data:`PARTS`): one for the evidence that a box covers a place,
and four for the evidence that a box lies just right of, left of, below or above it. A candidate's score is
the sum of three terms: the means of each map over the part of the picture that the map concerns; the label's
position prior at the candidate; and, where the card has a YOLO, the nearness to its detections. A softmax
over the scores of a label's candidates gives a probability for each. The answer is the box with the largest
expected overlap under these probabilities, and that overlap is the answer's score.

Fitted by :mod:`ai_training.detect`; numpy alone here, so that no torch is needed to run it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Floats, Heatmap, Origin, Region
from ai_pipeline.images.coordinates import Affine

METHOD = "likely place, learned from radiologists' boxes"


@dataclass(frozen=True, slots=True)
class Activation:
    """A label's map in the network's own grid: ``values [h, w]``, 0 to 1, covering the whole model input.

    ``size`` is the model input's side in pixels; ``to_model`` maps source to model coordinates; ``rows`` and
    ``columns`` are the size of the source image.
    """

    values: Floats
    size: int
    to_model: Affine
    rows: int
    columns: int


def activation(places: Floats, size: int, to_model: Affine, rows: int, columns: int) -> Activation:
    """The map of one label from the place head's log-likelihoods ``places [h, w]``, its peak set to 1.

    The other parameters as in :class:`Activation`.
    """
    return Activation(np.exp(places - places.max()).astype(np.float32), size, to_model, rows, columns)


def heatmap(found: Activation) -> Heatmap:
    """The map at the source image's size, smoothed, float32 0 to 1."""
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
    """Boxes that radiologists drew in training images.

    ``labels [K]``: index of each box's label; ``boxes [K, 4]``: left, top, right, bottom as shares of the
    model input's side; ``usual [K]``: the share of the label's average map inside the box.
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
        """The box for label number ``label`` in source coordinates, cut at the image's edges; None without
        templates.
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
    """Share of the map ``values [h, w]`` (any positive scale) in each of ``boxes [K, 4]``: ``[K]``, 0 to 1.

    Boxes are left, top, right, bottom as shares of the map's sides.
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
    """A box of the model input (left, top, right, bottom in pixels) as a region of the source image, cut at
    its edges.

    ``rows``, ``columns``: size of the source image. None if the box lies outside it.
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
    """A box for one finding. ``corners`` and ``point`` are shares of the model input's sides.

    ``score``, 0 to 1: the overlap (IoU) with the true box that is expected if the finding is present.
    """

    corners: tuple[float, float, float, float]
    point: tuple[float, float]
    score: float


@dataclass(frozen=True, eq=False)
class BoxHead:
    """Finds boxes among fixed candidates. ``candidates``: by label name, in the order of the network's maps.

    ``trust``: the amount that a YOLO detection adds to the score of a candidate box that it covers exactly.
    """

    candidates: Mapping[str, Candidates]
    trust: float = 0.0
    _overlaps: dict[str, Floats] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def from_bytes(data: bytes) -> BoxHead:
        """Read the head from the bytes of an ``.npz`` file. Raises ValueError or KeyError for other bytes."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["labels"]]
            trust = float(arrays["trust"]) if "trust" in arrays else 0.0
            return BoxHead({n: Candidates(arrays[f"boxes-{n}"], arrays[f"prior-{n}"]) for n in names}, trust)

    def to_bytes(self) -> bytes:
        """The candidates as the bytes of an ``.npz`` file; equal candidates give equal bytes."""
        arrays = {f"boxes-{name}": one.boxes for name, one in self.candidates.items()}
        arrays |= {f"prior-{name}": one.prior for name, one in self.candidates.items()}
        arrays |= {"trust": np.array(self.trust, np.float32)} if self.trust else {}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, labels=np.array(list(self.candidates)), **arrays)
        return buffer.getvalue()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the network's maps."""
        return tuple(self.candidates)

    def find(self, maps: Floats, label: str, detections: Floats | None = None) -> ScoredBox:
        """Choose the box of ``label`` with the best score in the maps ``[labels, parts, h, w]``.

        ``detections``: boxes of a YOLO as :func:`nearness` takes them; they raise the score of boxes near to
        them. Raises KeyError for an unknown label.
        """
        own = self.candidates[label]
        parts, rectangles = maps[self.labels.index(label)], part_rectangles(own.boxes)
        means = [mean_over(parts[k][None], rectangles[k])[:, 0] for k in range(len(PARTS))]
        scores = own.prior + np.stack(means, 1).sum(1)
        if detections is not None:
            scores = raised_near_detections(scores, own.boxes, detections, self.trust)
        return self.choose(label, softmax(scores))

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
    """``found`` in the coordinates of a source image of ``rows`` × ``columns``; None if it lies outside the
    image.

    ``size``: the model input's side in pixels; ``to_model``: the map from source to model coordinates.
    """
    left, top, right, bottom = (edge * size for edge in found.corners)
    return source_region((left, top, right, bottom), to_model, rows, columns, Origin.DETECTOR)


def raised_near_detections(scores: Floats, boxes: Floats, detections: Floats, trust: float) -> Floats:
    """The ``scores [M]`` of ``boxes [M, 4]``, each raised by ``trust`` × its nearness to ``detections``."""
    return np.asarray(scores + np.float32(trust) * nearness(boxes, detections), np.float32)


def nearness(boxes: Floats, detections: Floats) -> Floats:
    """The largest overlap (IoU) of each of ``boxes [M, 4]`` with a detection, 0 to 1: ``[M]``.

    ``detections [K, 5]``: boxes as shares of the sides, and scores; overlaps are weighted by the score as a
    share of the highest one.
    """
    sides, scores = detections[:, 2:4] - detections[:, :2], detections[:, 4]
    # Sides of a YOLO's box, at least, as shares of the picture.
    detections = detections[(sides > 1e-3).all(1) & (scores > 0)]
    if not len(detections):
        return np.zeros(len(boxes), np.float32)
    near = overlaps(boxes, detections[:, :4]) * (detections[:, 4] / detections[:, 4].max())
    return np.asarray(near.max(1), np.float32)


def softmax(scores: Floats) -> Floats:
    """``scores [M]`` as probabilities that add up to 1."""
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum(), np.float32)


def part_rectangles(boxes: Floats) -> Floats:
    """The rectangle of each part in :data:`PARTS` for each of ``boxes``: ``[parts, M, 4]``, cut
    at the edges.
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
    """The running sums at places between the cells' corners, straight lines between."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    x, y = x * width, y * height
    column, row = np.minimum(x.astype(int), width - 1), np.minimum(y.astype(int), height - 1)
    right, down = x - column, y - row
    upper = sums[:, row, column] * (1 - right) + sums[:, row, column + 1] * right
    lower = sums[:, row + 1, column] * (1 - right) + sums[:, row + 1, column + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _likeliest_point(boxes: Floats, chance: Floats) -> tuple[float, float]:
    """The place that most of the probability covers; small boxes count more where they agree."""
    likeliest = np.argsort(-chance)[:100]
    density = np.zeros((GRID, GRID))
    for index in likeliest:
        left, top, right, bottom = boxes[index] * GRID
        share = chance[index] / np.sqrt(max((right - left) * (bottom - top), 1.0))
        density[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] += share
    row, column = np.nonzero(density >= density.max() - 1e-12)
    return float(column.mean() + 0.5) / GRID, float(row.mean() + 0.5) / GRID
