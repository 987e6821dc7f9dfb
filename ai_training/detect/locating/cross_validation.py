"""Five-fold cross-validation by patient: all candidate locators are evaluated on the same boxes.

The fusion is compared with both baselines that use no image, the constant box and the centre prior. A label
passes if (1) the mean of T(IoU .1/.3/.5) is higher, with the whole 95 % interval of the paired difference
above 0; (2) pointing is no worse; (3) it touches at least half of the findings (T(IoU .1)), since it is not
enough to beat a baseline that never hits a nodule. The rule was fixed before the test boxes were evaluated. A
label that does not pass gets no box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ai_pipeline.chest.explain import BoxTemplates
from ai_pipeline.models.card import Card
from ai_training.chest.places import learn_places
from ai_training.detect.locating import fusion
from ai_training.detect.locating.folds import FOLDS, folds
from ai_training.detect.locating.locators import ActivationLocator, Floats, Locator, centre, constant
from ai_training.detect.locating.scores import (
    PLACE_NAMES,
    Detection,
    Place,
    detection_figures,
    means,
    place_figures,
)
from ai_training.detect.locating.trunk import TrunkFeatures, read_images
from ai_training.detect.locating.truth import corners
from ai_training.metrics import overlap
from ai_training.progress import Report
from ai_training.sets.images import LABELS, ChestImage, TruthBox

MoreLocators = Callable[[int, Sequence[int], Mapping[str, Locator]], Mapping[str, Locator]]
"""Further locators of a fold: its number, the training boxes by number, the locators fitted so far."""
LEAST_TOUCHED = 0.5  # T(IoU .1) from which a label passes
FEWEST = 15  # boxes of a label from which its test figures are reported separately
MEAN_T, POINTING = PLACE_NAMES.index("mean T"), PLACE_NAMES.index("pointing")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledBoxes:
    """Labelled boxes with the classifier's features of their images. ``rows``: the index of
    each box's image.
    """

    boxes: tuple[TruthBox, ...]
    rows: tuple[int, ...]
    paths: tuple[Path, ...]
    read: TrunkFeatures

    @staticmethod
    def from_boxes(boxes: Sequence[TruthBox], card: Card, report: Report) -> LabelledBoxes:
        paths = sorted({box.path for box in boxes})
        rows = tuple(paths.index(box.path) for box in boxes)
        return LabelledBoxes(tuple(boxes), rows, tuple(paths), read_images(card, paths, report))

    @property
    def patients(self) -> list[str]:
        """The patient of each box, in the order of ``boxes``."""
        return [box.patient for box in self.boxes]

    def of_boxes(self, found: Mapping[tuple[int, str], Place]) -> tuple[Place | None, ...]:
        """The prediction of one locator for each box, found by the box's image and label."""
        return tuple(found.get((row, box.label)) for row, box in zip(self.rows, self.boxes, strict=True))


Predictions = Mapping[str, Mapping[tuple[int, str], Place]]
"""By locator, then by image and label: where the finding is."""


def cross_validated(
    case: LabelledBoxes,
    recipe: fusion.BoxHeadRecipe,
    report: Report,
    count: int = FOLDS,
    more_locators: MoreLocators | None = None,
) -> Predictions:
    """Predictions for every box and image by locators that were fitted without the box's patient."""
    fold = folds(case.boxes, count)
    image_fold = dict(zip(case.rows, fold, strict=True))  # a patient's images are all in one fold
    labels = sorted({box.label for box in case.boxes})
    found: dict[str, dict[tuple[int, str], Place]] = {}
    for number in range(count):
        report(number / count, "fitting the folds")
        known = [index for index in range(len(case.boxes)) if fold[index] != number]
        arms = fit_locators(case, known, recipe)
        arms |= more_locators(number, known, arms) if more_locators else {}
        images = [image for image, its in image_fold.items() if its == number]
        for arm, places in predicted(arms, images, labels).items():
            found.setdefault(arm, {}).update(places)
    return found


def predicted(arms: Mapping[str, Locator], images: Iterable[int], labels: Sequence[str]) -> Predictions:
    """The prediction of each locator for every label in every image."""
    pairs = [(image, label) for image in images for label in labels]
    return {
        arm: {pair: place for pair in pairs if (place := locator.place(*pair)) is not None}
        for arm, locator in arms.items()
    }


def fit_locators(
    case: LabelledBoxes, known: Sequence[int], recipe: fusion.BoxHeadRecipe
) -> dict[str, Locator]:
    """All locators, fitted to the boxes ``known`` (numbers of ``case.boxes``)."""
    boxes, rows = tuple(case.boxes[i] for i in known), [case.rows[i] for i in known]
    return {
        "fusion": fusion.fit(boxes, rows, case.read.maps, recipe),
        "activation": _fitted_activation(boxes, rows, case.read.maps),
        "constant": constant(boxes),
        "centre": centre(boxes),
    }


def figures_of(
    case: LabelledBoxes, predictions: Predictions, images: Sequence[ChestImage], card: Card, *, decide: bool
) -> dict[str, Any]:
    """All figures in printable form; with ``decide``, each label says whether it passes."""
    truth = [corners(box) for box in case.boxes]
    rows = {arm: place_figures(truth, case.of_boxes(found)) for arm, found in predictions.items()}
    labels = sorted({box.label for box in case.boxes})
    patients = np.array(case.patients)

    def part(chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        mine = {arm: table[chosen] for arm, table in rows.items()}
        return {"boxes": int(chosen.sum()), **compared(mine, patients[chosen].tolist())}

    per_label = []
    for label in labels:
        chosen = np.array([box.label == label for box in case.boxes])
        if not decide and chosen.sum() < FEWEST:
            continue
        entry: dict[str, Any] = {"label": label, **part(chosen)}
        if decide:
            entry |= passes(entry)
        per_label.append(entry)
    result: dict[str, Any] = {
        "boxes": len(case.boxes),
        "images": len(case.paths),
        "patients": len(set(case.patients)),
        "children": sum(not box.adult for box in case.boxes),
        **compared(rows, case.patients),
        "labels": per_label,
        "detection": _detections(case, predictions, images, card, labels),
    }
    unseen = np.array([box.split == "val" for box in case.boxes])
    if decide and unseen.any() and not unseen.all():
        result["images that the classifier was not trained on"] = part(unseen)
    return result


def passes(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a label's boxes may be shown; if not, why."""
    for prior in ("constant", "centre"):
        difference = entry["differences"][f"fusion - {prior}"]
        name = PLACE_NAMES[MEAN_T]
        if not difference[name][1] > 0:
            low, high = difference[name][1:]
            return {"passes": False, "why": f"not surely above the {prior} box: {low:+.3f} to {high:+.3f}"}
        if difference[PLACE_NAMES[POINTING]][0] < 0:
            return {"passes": False, "why": f"points worse than the {prior} box"}
    touched = entry["arms"]["fusion"]["T(IoU.1)"][0]
    if touched < LEAST_TOUCHED:
        return {"passes": False, "why": f"misses more than half of the findings: T(IoU.1) is {touched:.2f}"}
    return {"passes": True, "why": ""}


def compared(rows: Mapping[str, npt.NDArray[np.float64]], patients: Sequence[str]) -> dict[str, Any]:
    """The means of each locator's table ``[boxes, 6]``, and the paired differences of the first to the
    others.
    """
    first, *others = rows
    return {
        "arms": {arm: means(table, patients) for arm, table in rows.items()},
        "differences": {f"{first} - {arm}": means(rows[first] - rows[arm], patients) for arm in others},
    }


def _detections(
    case: LabelledBoxes,
    predictions: Predictions,
    images: Sequence[ChestImage],
    card: Card,
    labels: Sequence[str],
) -> dict[str, Any]:
    """mAP and FROC: a box's score is the label's probability times how sure the place is."""
    of_path = {image.path: image for image in images}
    named = np.array([[of_path[p].labels[LABELS.index(k)] > 0 for k in labels] for p in case.paths], bool)
    drawn: dict[tuple[int, str], list[TruthBox]] = {}
    for row, box in zip(case.rows, case.boxes, strict=True):
        drawn.setdefault((row, box.label), []).append(box)
    positives = np.array([[(row, k) in drawn for k in labels] for row in range(len(case.paths))], bool)
    chance = case.read.chances[:, [[one.name for one in card.labels].index(k) for k in labels]]
    arms = {}
    for arm, answers in predictions.items():
        found = []
        for (image, label), place in answers.items():
            column = labels.index(label)
            truth = drawn.get((image, label), [])
            reached = max((overlap(corners(box), place.corners) for box in truth), default=0.0)
            found.append(Detection(column, image, float(chance[image, column]) * place.score, reached))
        arms[arm] = found
    patients = [of_path[path].patient for path in case.paths]
    return detection_figures(arms, positives, positives | ~named, patients)


def activation_locator(
    places: torch.Tensor, templates: BoxTemplates, labels: Sequence[str]
) -> ActivationLocator:
    """The place head as a locator, from its log-likelihoods ``places [images, 14, h, w]``."""
    values = torch.exp(places - places.amax((2, 3), keepdim=True)).numpy().astype(np.float32)
    numbers = {label: LABELS.index(label) for label in labels}
    by_name = {(n, label): values[n, k] for n in range(len(values)) for label, k in numbers.items()}
    return ActivationLocator(by_name, templates, numbers)


def _fitted_activation(boxes: Sequence[TruthBox], rows: Sequence[int], maps: Floats) -> ActivationLocator:
    learned = learn_places(torch.from_numpy(maps[sorted(set(rows))]), tuple(boxes), _among(rows), 1)
    log_likelihoods = torch.einsum("lc,nchw->nlhw", learned.weight, torch.from_numpy(maps)) + learned.bias
    return activation_locator(log_likelihoods, learned.templates, sorted({box.label for box in boxes}))


def _among(rows: Sequence[int]) -> list[int]:
    """``rows`` as places in the sorted list of themselves."""
    order = {row: place for place, row in enumerate(sorted(set(rows)))}
    return [order[row] for row in rows]
