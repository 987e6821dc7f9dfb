"""Read the boxes in the output of another project's detector: Ultralytics' YOLO and RT-DETR, in ONNX.

A card's table ``[box_output]`` names the layout of the output, the least score, the overlap above which the
weaker of two boxes of one label is dropped (non-maximum suppression), and the most boxes of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Floats
from ai_pipeline.errors import CardError
from ai_pipeline.models.card import BoxOutput, Card

MOST_ROWS = 100_000
"""Rows of an output, at most: YOLO at 1280 pixels has 33,600."""


@dataclass(frozen=True, slots=True)
class DetectedBox:
    """A box. ``corners``: left, top, right, bottom in pixels of the network's input; ``label``: number in the
    card.
    """

    corners: tuple[float, float, float, float]
    score: float
    label: int


def detections(card: Card, output: Floats) -> tuple[DetectedBox, ...]:
    """The boxes of one image, strongest first. Raises CardError when ``output`` contradicts the card."""
    if card.box_output is None or card.input is None:
        raise CardError(f"{card.name} is no detector: its card needs a table [box_output] and [input]")
    boxes, scores, labels = _rows(card, card.box_output, output, card.input.size)
    sound = np.isfinite(boxes).all(1) & (scores > card.box_output.score)
    # Boxes above the score that are compared with one another: the strongest.
    order = np.flatnonzero(sound)[np.argsort(-scores[sound], kind="stable")][:3_000]
    kept = suppressed(boxes[order], labels[order], card.box_output.overlap, card.box_output.most)
    stay = order[kept]
    return tuple(
        DetectedBox((left, top, right, bottom), float(scores[index]), int(labels[index]))
        for index, (left, top, right, bottom) in zip(stay, boxes[stay].tolist(), strict=True)
    )


def suppressed(boxes: Floats, labels: npt.NDArray[np.int64], overlap: float, most: int) -> list[int]:
    """The indices of those ``boxes [K, 4]`` that stay, strongest first: at most ``most``, and none that
    overlaps a stronger box of its label by more than ``overlap`` (IoU).
    """
    kept: list[int] = []
    left = np.ones(len(boxes), bool)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    for index in range(len(boxes)):
        if not left[index]:
            continue
        kept.append(index)
        if len(kept) == most:
            break
        low = np.maximum(boxes[index, :2], boxes[:, :2])
        high = np.minimum(boxes[index, 2:], boxes[:, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        whole = np.maximum(areas[index] + areas - common, np.finfo(np.float32).tiny)
        left &= (common / whole <= overlap) | (labels != labels[index])
    return kept


def _rows(
    card: Card, detector: BoxOutput, output: Floats, size: int
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Corners in pixels, scores and labels of each row of an output. Raises CardError."""
    columns = 6 if detector.layout.endswith("rows") else 4 + len(card.labels)
    wanted = f"[1, {columns}, n]" if detector.layout == "yolo" else f"[1, n, {columns}]"
    rows = output[0] if output.ndim == 3 and len(output) == 1 else np.zeros((0, 0))
    rows = rows.T if detector.layout == "yolo" else rows
    if rows.ndim != 2 or rows.shape[1] != columns or len(rows) > MOST_ROWS:
        raise CardError(
            f"{card.name}: the network's output has the shape {list(output.shape)}; {detector.layout!r} with "
            f"{len(card.labels)} labels is {wanted}: name another layout in [box_output], or list its labels"
        )
    boxes = np.asarray(rows[:, :4], np.float32)
    if detector.layout != "yolo-rows":
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    if detector.layout.startswith("rtdetr"):
        boxes = boxes * size
    if columns == 6 and detector.layout.endswith("rows"):
        labels = np.nan_to_num(rows[:, 5], nan=-1.0).round().astype(np.int64)
        known = (labels >= 0) & (labels < len(card.labels))
        return boxes[known], np.asarray(rows[known, 4], np.float32), labels[known]
    scores = np.asarray(rows[:, 4:], np.float32)
    return boxes, scores.max(1), scores.argmax(1)
