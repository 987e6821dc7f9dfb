"""The candidate locators: each predicts the box of a finding that is known to be present.

``constant``    the training box of the label that overlaps the label's others best: a baseline without image.
``centre``      a box of the label's median size in the middle of the image: a baseline without image.
``activation``  the classifier's place head with its box templates (:mod:`ai_pipeline.chest.explain`).
``fusion``      :mod:`ai_training.detect.locating.fusion`: what ships where it passes.
``yolo``        :mod:`ai_training.detect.locating.yolo`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.explain import BoxTemplates, overlaps, share_inside
from ai_training.detect.locating.scores import Corners, Place
from ai_training.detect.locating.truth import corners
from ai_training.sets.images import TruthBox

Floats = npt.NDArray[np.float32]


class Locator(Protocol):
    """Predicts boxes. ``image``: the image's row in the maps or features that the locator was
    created with.
    """

    def place(self, image: int, label: str) -> Place | None:
        """The likeliest box of ``label``; None for a label that the locator was not fitted to."""
        ...


@dataclass(frozen=True, slots=True)
class FixedLocator:
    """A baseline that uses no image: one place for each label."""

    places: Mapping[str, Place]

    def place(self, image: int, label: str) -> Place | None:  # noqa: ARG002
        return self.places.get(label)


@dataclass(frozen=True, slots=True, eq=False)
class ActivationLocator:
    """A locator by the classifier's maps and box templates. ``maps`` by image and label, 0 to 1, any grid."""

    maps: Mapping[tuple[int, str], Floats]
    templates: BoxTemplates
    numbers: Mapping[str, int]

    def place(self, image: int, label: str) -> Place | None:
        rows = self.templates.labels == self.numbers[label]
        if not rows.any():
            return None
        values, boxes = self.maps[image, label], self.templates.boxes[rows]
        weights = share_inside(values, boxes) / self.templates.usual[rows]
        expected = overlaps(boxes) @ (weights / weights.sum())
        best = int(np.argmax(expected))
        left, top, right, bottom = (float(edge) for edge in np.clip(boxes[best], 0.0, 1.0))
        return Place((left, top, right, bottom), _peak(values), float(expected[best]))


def constant(boxes: Sequence[TruthBox]) -> FixedLocator:
    """One fixed box per label: the baseline for a detector."""
    places: dict[str, Place] = {}
    for label, known in _by_label(boxes).items():
        expected = overlaps(known).mean(1)
        best = int(np.argmax(expected))
        places[label] = _at(known[best], float(expected[best]))
    return FixedLocator(places)


def centre(boxes: Sequence[TruthBox]) -> FixedLocator:
    """A box of the usual size in the middle of the picture."""
    places: dict[str, Place] = {}
    for label, known in _by_label(boxes).items():
        width, height = np.median(known[:, 2:] - known[:, :2], axis=0)
        box = np.array([0.5 - width / 2, 0.5 - height / 2, 0.5 + width / 2, 0.5 + height / 2], np.float32)
        expected = overlaps(np.vstack([box, known]))[0, 1:].mean()
        places[label] = _at(box, float(expected))
    return FixedLocator(places)


def _by_label(boxes: Sequence[TruthBox]) -> dict[str, Floats]:
    labels = sorted({box.label for box in boxes})
    return {k: np.array([corners(box) for box in boxes if box.label == k], np.float32) for k in labels}


def _at(box: Floats, score: float) -> Place:
    left, top, right, bottom = (float(edge) for edge in box)
    found: Corners = (left, top, right, bottom)
    return Place(found, ((left + right) / 2, (top + bottom) / 2), score)


def _peak(values: Floats) -> tuple[float, float]:
    side = 8 * values.shape[0]
    fine = cv2.blur(cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC), (3, 3))
    row, column = np.unravel_index(int(np.argmax(fine)), fine.shape)
    return (float(column) + 0.5) / side, (float(row) + 0.5) / side
