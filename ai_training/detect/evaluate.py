"""``ai-pipeline evaluate detect``: with the shipped weights, by cross-validation or once on the
test boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ai_pipeline.chest.detector import YOLO, BoxDetector, DetectorInput
from ai_pipeline.chest.explain import BoxTemplates
from ai_pipeline.errors import CardError
from ai_pipeline.models.card import Card
from ai_pipeline.models.registry import read
from ai_training.detect.locating import fusion, stability
from ai_training.detect.locating.cross_validation import (
    LabelledBoxes,
    Predictions,
    activation_locator,
    cross_validated,
    figures_of,
    predicted,
)
from ai_training.detect.locating.locators import Locator, centre, constant
from ai_training.detect.locating.scores import Place
from ai_training.detect.locating.stacking import stacked_in_folds
from ai_training.detect.locating.trunk import trunk_of
from ai_training.detect.locating.truth import detection_boxes
from ai_training.detect.locating.yolo import YoloRecipe
from ai_training.detect.pictures import write_pictures
from ai_training.errors import DataMissing
from ai_training.progress import Report
from ai_training.sets.chest import chest_set
from ai_training.sets.files import read_grey
from ai_training.text import figures_text


def evaluate(
    data: Path,
    split: str,
    card: Card,
    more: Sequence[Path],
    yolos: tuple[Path, YoloRecipe] | None,
    report_to: Path | None,
    report: Report,
) -> dict[str, Any]:
    """All figures of ``split``: ``cv`` fits everything but the trunk again, ``test`` uses the shipped
    networks.

    ``yolos``: the folder with the YOLO of each fold, and the recipe by which a missing one is trained; None
    evaluates the head alone. Raises DataMissing or CardError.
    """
    boxes = detection_boxes(data, more)
    known = [box for box in boxes if box.split != "test"]
    asked = [box for box in boxes if box.split == "test"] if split == "test" else known
    if not asked:
        raise DataMissing(f"{data} has no boxes in the split {split}")
    case = LabelledBoxes.from_boxes(asked, card, report)
    if split == "test":
        labels = sorted({box.label for box in asked})
        moving: list[dict[str, Any]] = []
        predictions = predicted(_shipped_locators(case, known, card), range(len(case.paths)), labels)
    else:
        predictions, moving = (
            (stacked_in_folds(case, card, *yolos, report)[0], [])
            if yolos
            else _with_changed_films(case, card, report)
        )
    figures = figures_of(case, predictions, chest_set(data).images, card, decide=split == "cv")
    result = {"model": card.name, "split": split, **figures, "moving": moving}
    if report_to is not None:
        write_pictures(report_to, case, predictions)
        (report_to / "figures.txt").write_text(figures_text(result), encoding="utf-8")
    return result


def _with_changed_films(
    case: LabelledBoxes, card: Card, report: Report
) -> tuple[Predictions, list[dict[str, Any]]]:
    """The folds' boxes, and how many of the labels that get boxes move with small changes of the film."""
    more = stability.changed_heads(case, card, report)
    found = cross_validated(case, fusion.BoxHeadRecipe(), report, more_locators=more)
    labels = [label.name for label in card.labels if label.detector]
    return stability.without_changed(found), stability.left_out(case, found, labels)


@dataclass(frozen=True, slots=True, eq=False)
class _Shipped:
    """The detector of a card as a locator."""

    detector: BoxDetector
    images: Sequence[DetectorInput]

    def place(self, image: int, label: str) -> Place | None:
        prepared = self.images[image]
        found = self.detector.find(prepared, label)
        region = self.detector.in_source(found, prepared) if found else None
        if found is None or region is None:
            return None
        (left, top), (right, bottom) = region.points
        corners = (
            left / prepared.columns,
            top / prepared.rows,
            right / prepared.columns,
            bottom / prepared.rows,
        )
        return Place(corners, found.point, found.score)


def _without_yolo(prepared: DetectorInput) -> DetectorInput:
    return replace(prepared, run=lambda values: replace(prepared.run(values), detections={}))


def _shipped_locators(case: LabelledBoxes, known: Sequence[Any], card: Card) -> dict[str, Locator]:
    detector = BoxDetector.from_card(card)
    if detector is None:
        raise CardError(f"{card.name} has no detector: make one with `ai-pipeline train detect`")
    prepared = [detector.prepare(read_grey(path)) for path in case.paths]
    trunk = trunk_of(card)
    with torch.inference_mode():
        log_likelihoods = trunk.place(torch.from_numpy(case.read.maps)) + trunk.place_bias
    templates = BoxTemplates.from_bytes(read(card.file("boxes")))
    arms: dict[str, Locator] = {"fusion": _Shipped(detector, prepared)}
    if card.plays(YOLO):
        arms["head"] = _Shipped(detector, [_without_yolo(one) for one in prepared])
    return arms | {
        "activation": activation_locator(log_likelihoods, templates, sorted({box.label for box in known})),
        "constant": constant(known),
        "centre": centre(known),
    }
