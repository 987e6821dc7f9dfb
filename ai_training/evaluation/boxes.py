"""Whether the place that is shown lies in the box that readers drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.classifier import Analysis, Classifier, ScoredBox, heatmap
from ai_training.chest.places import box_mask
from ai_training.detect import constant, place_figures
from ai_training.metrics import mean_interval, patient_weights
from ai_training.sets.files import read_grey
from ai_training.sets.images import TruthBox, corners

BOX_FIGURES = ("iou_at_least_0.1", "iou_at_least_0.3", "iou_at_least_0.5", "mean_t", "mean_iou", "pointing")
"""Names in a chest card of :data:`ai_training.detect.PLACE_NAMES`."""


def box_scores(
    known: Sequence[TruthBox], wanted: Sequence[TruthBox], classifier: Classifier
) -> dict[str, Any]:
    """IoU and pointing game of the model's boxes over the true boxes ``wanted``, each predicted for its own
    label: for ``model`` and for ``constant`` (the box among ``known`` that overlaps the label's others best),
    with intervals by patient and the paired difference.
    """
    analyses = {path: classifier.analyse(read_grey(path)) for path in {box.image.path for box in wanted}}
    found = [_located(classifier, analyses[box.image.path], box.label) for box in wanted]
    fixed = {
        label: replace(
            place, point=_peak(np.sum([box_mask(b, 64) for b in known if b.label == label], axis=0))
        )
        for label, place in constant(known).items()
    }
    truth = [corners(box) for box in wanted]
    model, prior = (
        place_figures(truth, places) for places in (found, [fixed.get(box.label) for box in wanted])
    )
    weights = patient_weights([box.image.patient for box in wanted])
    return {"boxes": len(wanted)} | {
        name: {
            "model": mean_interval(model[:, k], weights).as_list(),
            "constant": mean_interval(prior[:, k], weights).as_list(),
            "difference": mean_interval(model[:, k] - prior[:, k], weights).as_list(),
        }
        for k, name in enumerate(BOX_FIGURES)
    }


def _located(classifier: Classifier, analysis: Analysis, label: str) -> ScoredBox | None:
    """The model's box of a label in an analysed image, with the peak of its heat map as the point; None
    without a box.
    """
    index = [known.name for known in classifier.card.labels].index(label)
    activation = classifier.activation(analysis, index)
    if activation is None or (region := classifier.box(activation, index)) is None:
        return None
    left, top, right, bottom = (edge / analysis.columns for edge in region.bounds)
    peak = _peak(cv2.blur(heatmap(activation).values, (9, 9)))
    return ScoredBox((left, top, right, bottom), peak, 0.0)


def _peak(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The place of the highest value: x and y as shares of width and height."""
    row, column = divmod(int(np.argmax(values)), values.shape[1])
    return (column + 0.5) / len(values), (row + 0.5) / len(values)
