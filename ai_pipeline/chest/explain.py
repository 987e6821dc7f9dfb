"""Where a finding lies: the map of the place head as a heat map and as one box, in source coordinates.

The map alone would give boxes of no sensible size. So a box is chosen among the boxes that radiologists drew
for the same label in training images (:class:`BoxTemplates`): the one that overlaps best, on average, with
all of them, each weighted by the ratio of the map inside it to the average map of the label. With a flat map
this is the best constant box, so the map can only improve on it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

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
    values = np.exp(places - places.max())
    return Activation(values.astype(np.float32), size, to_model, rows, columns)


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
    edges = np.clip(np.rint(boxes * side).astype(int), 0, side)
    left, top, right, bottom = edges.T
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
