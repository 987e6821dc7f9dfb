"""Fit head and YOLO to all boxes that may be learned from; write networks, candidates and card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ai_pipeline.chest.boxes import BoxHead
from ai_pipeline.chest.detector import CANDIDATES, NETWORK, YOLO
from ai_pipeline.models.card import Card
from ai_pipeline.models.registry import SHIPPED
from ai_pipeline.networks.efficientnet import PlacedClassifier
from ai_training import onnx_file
from ai_training.cards import changed_card, weights_row
from ai_training.chest.export import forget_detector
from ai_training.detect.locating import fusion
from ai_training.detect.locating.cross_validation import LabelledBoxes, cross_validated, figures_of
from ai_training.detect.locating.stacking import stacked_in_folds
from ai_training.detect.locating.trunk import BoxNetwork, trunk_of
from ai_training.detect.locating.truth import detection_boxes
from ai_training.detect.locating.yolo import FILE, YoloRecipe
from ai_training.detect.locating.yolo_locator import trained
from ai_training.progress import Report
from ai_training.sets.chest import chest_set


def train_detector(
    data: Path, out: Path, card: Card, more: tuple[Path, ...], yolo: YoloRecipe | None, report: Report
) -> Path:
    """Cross-validate, decide label by label, fit to all train and val boxes; returns the new card in ``out``.

    ``card`` is the classifier whose trunk and labels are used: ``out`` gets a copy of all its weights.
    ``yolo``: how the six YOLOs in ``out/yolo`` are trained (an existing one is not trained again); None for
    the head alone. Raises DataMissing or CardError.
    """
    boxes = [box for box in detection_boxes(data, more) if box.split != "test"]
    case = LabelledBoxes.from_boxes(boxes, card, report)
    if yolo is None:
        predictions, trust = cross_validated(case, fusion.BoxHeadRecipe(), report), 0.0
    else:
        predictions, trust = stacked_in_folds(case, card, out / "yolo", yolo, report)
    figures = figures_of(case, predictions, chest_set(data).images, card, decide=True)
    fitted = fusion.fit(case.boxes, case.rows, case.read.maps, fusion.BoxHeadRecipe())
    out.mkdir(parents=True, exist_ok=True)
    files = {NETWORK: out / f"{card.id}.detector.onnx", CANDIDATES: out / f"{card.id}.detector.npz"}
    export(trunk_of(card), fitted, card, files[NETWORK])
    files[CANDIDATES].write_bytes(BoxHead(fitted.head.candidates, trust).to_bytes())
    if yolo is not None:
        trained(case.boxes, card, out / "yolo" / "all", yolo, ())
        files[YOLO] = out / f"{card.id}.yolo.onnx"
        shutil.copyfile(out / "yolo" / "all" / FILE, files[YOLO])
    for weights in card.weights:
        if weights.role not in {NETWORK, CANDIDATES, YOLO}:
            shutil.copyfile(weights.path, out / weights.path.name)
    return _write_card(card, out, files, {**_summary(figures), "trust": trust})


def export(trunk: PlacedClassifier, fitted: fusion.FittedHead, card: Card, path: Path) -> None:
    """Write trunk and head as ONNX: ``images [N, channels, size, size]`` → ``parts``."""
    assert card.input is not None
    weights, bias = fitted.layer()
    example = torch.zeros(2, card.input.channels, card.input.size, card.input.size)
    network = BoxNetwork(trunk, weights, bias).eval()
    shapes = {"images": {0: torch.export.Dim("batch")}}
    onnx_file.export(network, (example,), shapes, ["parts"], path, f"{card.id}-detector")


def _write_card(card: Card, out: Path, files: Mapping[str, Path], summary: dict[str, Any]) -> Path:
    path = out / (f"{card.id}.toml" if card.path.parent == SHIPPED else card.path.name)
    passed = {row["label"] for row in summary["labels"] if row["passes"]}
    with changed_card(card.path, path) as made:
        forget_detector(made)
        for role, file in files.items():
            made["weights"].append(weights_row(role, file))
        for row in made["labels"]:
            row["detector"] = row["name"] in passed
        made["detection"] = summary
    return path


def write_test_figures(card: Card, figures: dict[str, Any]) -> None:
    """Put the pooled figures of ``ai-pipeline evaluate detect --split test`` into the card."""
    with changed_card(card.path) as made:
        made["detection"]["test"] = _pooled(figures)


def _pooled(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "boxes": figures["boxes"],
        "patients": figures["patients"],
        **{arm: dict(values) for arm, values in figures["arms"].items()},
        "difference": dict(figures["differences"]["fusion - constant"]),
    }


def _summary(figures: dict[str, Any]) -> dict[str, Any]:
    """What the card says of the boxes: the pooled figures, and of every label whether and why not."""
    return {
        "split": "five folds by patient of the train and val boxes",
        **_pooled(figures),
        "labels": [
            {
                "label": row["label"],
                "boxes": row["boxes"],
                "mean_T": row["arms"]["fusion"]["mean T"],
                "constant": row["arms"]["constant"]["mean T"],
                "difference": row["differences"]["fusion - constant"]["mean T"],
                "passes": row["passes"],
                "why": row["why"],
            }
            for row in figures["labels"]
        ],
    }
