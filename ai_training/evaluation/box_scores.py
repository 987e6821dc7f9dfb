"""Do the boxes point at the lesion? Compared with one constant box and one constant map per label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.classifier import Analysis, Classifier
from ai_pipeline.chest.explain import heatmap, overlaps
from ai_pipeline.contract import Region
from ai_training.metrics import mean_interval, patient_weights
from ai_training.sets.chest import truth_boxes
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, TruthBox

Corners = tuple[float, float, float, float]
SIDE = 512  # pixels: the grid in which the constant answers are given


def box_scores(data: Path, split: str, classifier: Classifier) -> dict[str, object]:
    """IoU and pointing game over every box of an adult of ``split``, each predicted for its own label.

    ``model`` and ``constant`` (the train box that overlaps the label's train boxes best; the mean of their
    areas), with intervals by patient and the paired difference.
    """
    labels = {label.name for label in classifier.card.labels}
    boxes = [box for box in truth_boxes(data) if box.adult and box.label in labels]
    known = [box for box in boxes if box.split == "train"]
    asked = [box for box in boxes if box.split == split]
    analyses = {path: classifier.analyse(read_grey(path)) for path in {box.path for box in asked}}
    constant = {label: _constant([box for box in known if box.label == label]) for label in LABELS}
    figures = {
        "model": _figures(asked, lambda box: _answer(classifier, analyses[box.path], box)),
        "constant": _figures(asked, lambda box: _unscaled(constant[box.label], box)),
    }
    weights = patient_weights([box.patient for box in asked])
    result: dict[str, object] = {"boxes": len(asked)}
    for name in figures["model"]:
        model, prior = figures["model"][name], figures["constant"][name]
        result[name] = {
            "model": mean_interval(model, weights).as_list(),
            "constant": mean_interval(prior, weights).as_list(),
            "difference": mean_interval(model - prior, weights).as_list(),
        }
    return result


Answer = tuple[Corners | None, npt.NDArray[np.float32]]


def _answer(classifier: Classifier, analysis: Analysis, box: TruthBox) -> Answer:
    """The model's answer, in the pixels in which the box is given: the file may be a smaller copy."""
    index = [label.name for label in classifier.card.labels].index(box.label)
    activation = classifier.activation(analysis, index)
    if activation is None:
        return None, np.zeros((SIDE, SIDE), np.float32)
    region: Region | None = classifier.box(activation, index)
    corners = _scaled(region.bounds, box.side / analysis.columns) if region else None
    return corners, heatmap(activation).values


def _unscaled(answer: Answer, box: TruthBox) -> Answer:
    corners, density = answer
    return (_scaled(corners, box.side / SIDE) if corners else None), density


def _constant(boxes: Sequence[TruthBox]) -> Answer:
    """The answer that a label gets without an image, on a grid of ``SIDE`` pixels."""
    if not boxes:
        return None, np.zeros((SIDE, SIDE), np.float32)
    corners = np.array([_scaled(box.corners, SIDE / box.side) for box in boxes], np.float32)
    best = corners[int(np.argmax(overlaps(corners).mean(1)))]
    density = np.zeros((SIDE, SIDE), np.float32)
    for left, top, right, bottom in corners:
        density[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] += 1
    return (float(best[0]), float(best[1]), float(best[2]), float(best[3])), density


def _figures(
    boxes: Sequence[TruthBox], answer: Callable[[TruthBox], Answer]
) -> dict[str, npt.NDArray[np.float64]]:
    overlap, hit = np.zeros(len(boxes)), np.zeros(len(boxes))
    for index, box in enumerate(boxes):
        corners, density = answer(box)
        if corners is not None:
            overlap[index] = overlaps(np.array([corners, box.corners], np.float32))[0, 1]
        row, column = np.unravel_index(int(np.argmax(cv2.blur(density, (9, 9)))), density.shape)
        across, down = (int(place) * box.side / density.shape[0] for place in (column, row))
        hit[index] = box.left <= across <= box.right and box.top <= down <= box.bottom
    shares = {f"iou_at_least_{cut}": (overlap >= cut).astype(float) for cut in (0.1, 0.3, 0.5)}
    return {**shares, "mean_iou": overlap, "pointing": hit}


def _scaled(corners: Corners, factor: float) -> Corners:
    left, top, right, bottom = (value * factor for value in corners)
    return left, top, right, bottom
