"""Head and YOLO together; cross-validation chooses how much a YOLO box counts.

The boxes of a YOLO raise the scores of the head's candidates near them
(:func:`ai_pipeline.chest.boxes.nearness`), with one weight for all labels. The weight for a fold is chosen on
the other four, so no figure comes from patients on whom the weight was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.boxes import raised_near_detections
from ai_pipeline.models.card import Card
from ai_training.detect.locating import fusion
from ai_training.detect.locating.cross_validation import MEAN_T, LabelledBoxes, Predictions, cross_validated
from ai_training.detect.locating.folds import folds
from ai_training.detect.locating.locators import Locator
from ai_training.detect.locating.scores import Place, place_figures
from ai_training.detect.locating.truth import corners
from ai_training.detect.locating.yolo import YoloRecipe
from ai_training.detect.locating.yolo_locator import YoloLocator, trained
from ai_training.progress import Report

TRUSTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A locator that adds a YOLO's boxes to the scores of the fitted head, with the weight ``trust``."""

    head: fusion.FittedHead
    drawn: YoloLocator
    trust: float

    def place(self, image: int, label: str) -> Place | None:
        if label not in self.head.head.candidates:
            return None
        boxes, drawn = self.head.head.candidates[label].boxes, self.drawn.boxes(image, label)
        return self.head.chosen(
            label, raised_near_detections(self.head.scores(image, label), boxes, drawn, self.trust)
        )


def stacked_in_folds(
    case: LabelledBoxes, card: Card, runs: Path, recipe: YoloRecipe, report: Report
) -> tuple[Predictions, float]:
    """The predictions of all locators in five folds, and the trust that is best on all folds together.

    ``fusion`` is head and YOLO. The YOLO of a fold is trained into ``runs`` if it is not there yet.
    """

    def more_locators(number: int, known: Sequence[int], arms: Mapping[str, Locator]) -> dict[str, Locator]:
        boxes = [case.boxes[index] for index in known]
        drawn = trained(boxes, card, runs / f"fold-{number + 1}", recipe, case.paths)
        head = arms["fusion"]
        assert isinstance(head, fusion.FittedHead)
        return {"yolo": drawn, **{_arm(trust): Stacked(head, drawn, trust) for trust in TRUSTS}}

    return settled(case, cross_validated(case, fusion.BoxHeadRecipe(), report, more_locators=more_locators))


def settled(case: LabelledBoxes, predictions: Predictions) -> tuple[Predictions, float]:
    """``predictions`` with one locator ``fusion`` in place of one for each trust, and the trust
    that ships.
    """
    fold = folds(case.boxes)
    of_image = dict(zip(case.rows, fold.tolist(), strict=True))
    truth = [corners(box) for box in case.boxes]
    arms = [predictions[_arm(trust)] for trust in TRUSTS]
    worth = np.stack([place_figures(truth, case.of_boxes(found))[:, MEAN_T] for found in arms])
    best = {number: arms[_best(worth[:, fold != number])] for number in set(of_image.values())}
    fusion = {
        pair: place
        for number, found in best.items()
        for pair, place in found.items()
        if of_image[pair[0]] == number
    }
    others = {arm: predictions[arm] for arm in ("yolo", "activation", "constant", "centre")}
    return {"fusion": fusion, "head": predictions["fusion"], **others}, TRUSTS[_best(worth)]


def _best(worth: npt.NDArray[np.float64]) -> int:
    return int(np.argmax(worth.mean(1)))


def _arm(trust: float) -> str:
    return f"trust {trust}"
