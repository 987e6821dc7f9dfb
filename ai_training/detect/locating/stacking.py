"""Head and YOLO together: how far a drawn box is trusted is learned on the folds.

The boxes that a YOLO draws raise the scores of the head's candidates near them
(:func:`ai_pipeline.chest.boxes.nearness`), with one weight for all labels. What a fold is answered with was
chosen on the other four, so the figures are of a weight that has not seen their patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.boxes import trusting
from ai_pipeline.models.card import Card
from ai_training.detect.locating import fusion
from ai_training.detect.locating.cross_validation import MEAN_T, Case, LocatorPredictions, cross_validated
from ai_training.detect.locating.folds import folds
from ai_training.detect.locating.locators import Locator
from ai_training.detect.locating.scores import Place, place_figures
from ai_training.detect.locating.truth import corners
from ai_training.detect.locating.yolo import YoloRecipe
from ai_training.detect.locating.yolo_locator import Drawn, trained
from ai_training.progress import Report

TRUSTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """The head with what a YOLO draws, trusted so far. A locator."""

    head: fusion.FittedHead
    drawn: Drawn
    trust: float

    def place(self, image: int, label: str) -> Place | None:
        if label not in self.head.head.candidates:
            return None
        boxes, drawn = self.head.head.candidates[label].boxes, self.drawn.boxes(image, label)
        return self.head.chosen(label, trusting(self.head.scores(image, label), boxes, drawn, self.trust))


def stacked_in_folds(
    case: Case, card: Card, runs: Path, recipe: YoloRecipe, report: Report
) -> tuple[LocatorPredictions, float]:
    """All arms in five folds, ``fusion`` being head and YOLO, and the trust that is best on all of them.

    The YOLO of a fold is trained into ``runs`` where it is not there yet.
    """

    def more_locators(number: int, known: Sequence[int], arms: Mapping[str, Locator]) -> dict[str, Locator]:
        boxes = [case.boxes[index] for index in known]
        drawn = trained(boxes, card, runs / f"fold-{number + 1}", recipe, case.paths)
        head = arms["fusion"]
        assert isinstance(head, fusion.FittedHead)
        return {"yolo": drawn, **{_arm(trust): Stacked(head, drawn, trust) for trust in TRUSTS}}

    return settled(case, cross_validated(case, fusion.BoxHeadRecipe(), report, more_locators=more_locators))


def settled(case: Case, predictions: LocatorPredictions) -> tuple[LocatorPredictions, float]:
    """``predictions`` with one locator ``fusion`` instead of one for each trust, and the trust that ships."""
    fold = folds(case.boxes)
    of_image = dict(zip(case.rows, fold, strict=True))
    truth = [corners(box) for box in case.boxes]
    worth = np.stack([place_figures(truth, predictions.places[_arm(trust)])[:, MEAN_T] for trust in TRUSTS])
    best = {number: TRUSTS[_best(worth[:, fold != number])] for number in set(fold.tolist())}
    places = {
        "fusion": tuple(
            predictions.places[_arm(best[number])][index] for index, number in enumerate(fold.tolist())
        ),
        "head": predictions.places["fusion"],
    }
    every = {
        "fusion": {
            key: place
            for number, trust in best.items()
            for key, place in predictions.every[_arm(trust)].items()
            if of_image[key[0]] == number
        },
        "head": predictions.every["fusion"],
    }
    others = ("yolo", "activation", "constant", "centre")
    places |= {arm: predictions.places[arm] for arm in others}
    every |= {arm: dict(predictions.every[arm]) for arm in others}
    return LocatorPredictions(places, every), TRUSTS[_best(worth)]


def _best(worth: npt.NDArray[np.float64]) -> int:
    return int(np.argmax(worth.mean(1)))


def _arm(trust: float) -> str:
    return f"trust {trust}"
