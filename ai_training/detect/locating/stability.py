"""How far the folds' boxes move with small changes of the film, and which of them a node would leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ai_pipeline.chest.changes import Change
from ai_pipeline.chest.detector import CHANGES, LEAST_AGREEMENT, moved_back
from ai_pipeline.chest.explain import overlaps
from ai_pipeline.models.card import Card
from ai_training.detect.locating.cross_validation import LabelledBoxes, MoreLocators, Predictions
from ai_training.detect.locating.fusion import FittedHead
from ai_training.detect.locating.locators import Floats, Locator
from ai_training.detect.locating.scores import Corners, Place
from ai_training.detect.locating.trunk import read_images
from ai_training.detect.locating.truth import corners
from ai_training.metrics import overlap
from ai_training.progress import Report

RIGHT = 0.1  # overlap with the radiologist's box from which a box is not wrong


@dataclass(frozen=True, slots=True, eq=False)
class _ChangedHead:
    """A head on the layers of changed films, with its boxes mapped back."""

    head: FittedHead
    change: Change

    def place(self, image: int, label: str) -> Place | None:
        found = self.head.place(image, label)
        return replace(found, corners=moved_back(found.corners, self.change)) if found else None


def changed_heads(case: LabelledBoxes, card: Card, report: Report) -> MoreLocators:
    """A function that gives, for each fold, its head applied to the films after each of the
    node's changes.
    """
    maps = [read_images(card, case.paths, report, change).maps for change in CHANGES]

    def more(_number: int, _known: Sequence[int], arms: Mapping[str, Locator]) -> Mapping[str, Locator]:
        head = arms["fusion"]
        assert isinstance(head, FittedHead)
        pairs = zip(CHANGES, maps, strict=True)
        return {_arm(change): _ChangedHead(replace(head, maps=seen), change) for change, seen in pairs}

    return more


def without_changed(predictions: Predictions) -> Predictions:
    """The predictions for unchanged films only."""
    changed = {_arm(change) for change in CHANGES}
    return {arm: found for arm, found in predictions.items() if arm not in changed}


def left_out(case: LabelledBoxes, predictions: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """For each label the number of boxes that are right, wrong, or on films without the finding; and how many
    of each kind are left out because they move.
    """
    truth: dict[tuple[int, str], list[Corners]] = {}
    for row, box in zip(case.rows, case.boxes, strict=True):
        truth.setdefault((row, box.label), []).append(corners(box))
    counts = {label: {"right": [0, 0], "wrong": [0, 0], "no box": [0, 0]} for label in labels}
    for (image, label), place in predictions["fusion"].items():
        if label not in counts:
            continue
        others = [predictions[_arm(change)][image, label].corners for change in CHANGES]
        least = overlaps(_boxes([place.corners]), _boxes(others)).min()
        drawn = truth.get((image, label))
        kind = "no box" if drawn is None else "wrong"
        if drawn and max(overlap(box, place.corners) for box in drawn) >= RIGHT:
            kind = "right"
        counts[label][kind][0] += 1
        counts[label][kind][1] += bool(least < LEAST_AGREEMENT)
    return [{"label": label, **kinds} for label, kinds in counts.items()]


def _arm(change: Change) -> str:
    return f"fusion, {change}"


def _boxes(some: Sequence[Corners]) -> Floats:
    return np.array(some, np.float32)
