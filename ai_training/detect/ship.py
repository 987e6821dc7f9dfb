"""Fit head and YOLO to all boxes that may be learned from; write what ships: networks, candidates, card."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
import torch

from ai_pipeline.chest.boxes import BoxHead
from ai_pipeline.chest.detector import CANDIDATES, DRAWER, NETWORK
from ai_pipeline.models.card import Card
from ai_pipeline.models.registry import SHIPPED
from ai_pipeline.networks.efficientnet import PlacedClassifier
from ai_training.chest.export import forget_detector, strip
from ai_training.detect.locating import fusion
from ai_training.detect.locating.cross_validation import Case, cross_validated, figures_of
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
    ``yolo``: how the YOLOs are trained (six of them, in ``out/yolo``; one that is there is not trained
    again); None for the head alone. Raises DataMissing or CardError.
    """
    boxes = [box for box in detection_boxes(data, more) if box.split != "test"]
    case = Case.of(boxes, card, report)
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
        files[DRAWER] = out / f"{card.id}.yolo.onnx"
        shutil.copyfile(out / "yolo" / "all" / FILE, files[DRAWER])
    for weights in card.weights:
        if weights.role not in {NETWORK, CANDIDATES, DRAWER}:
            shutil.copyfile(weights.path, out / weights.path.name)
    return _write_card(card, out, files, {**_summary(figures), "trust": trust})


def export(trunk: PlacedClassifier, fitted: fusion.FittedHead, card: Card, path: Path) -> None:
    """Write trunk and head as ONNX: ``images [N, channels, size, size]`` → ``parts``."""
    assert card.input is not None
    weights, bias = fitted.layer()
    example = torch.zeros(2, card.input.channels, card.input.size, card.input.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        torch.onnx.export(
            BoxNetwork(trunk, weights, bias).eval(),
            (example,),
            str(path),
            input_names=["images"],
            output_names=["parts"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    strip(path, f"{card.id}-detector")


def _write_card(card: Card, out: Path, files: Mapping[str, Path], summary: dict[str, Any]) -> Path:
    made = tomlkit.parse(card.path.read_text())
    forget_detector(made)
    for role, file in files.items():
        entry = tomlkit.table()
        entry.update(
            {"role": role, "file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        )
        made["weights"].append(entry)
    passed = {row["label"]: row for row in summary["labels"]}
    for row in made["labels"]:
        row["detector"] = bool(passed.get(row["name"], {}).get("passes", False))
    made["detection"] = summary
    path = out / (f"{card.id}.toml" if card.path.parent == SHIPPED else card.path.name)
    path.write_text(tomlkit.dumps(made))
    return path


def write_test_figures(card: Card, figures: dict[str, Any]) -> None:
    """Put the pooled figures of ``ai-pipeline evaluate detect --split test`` into the card."""
    made = tomlkit.parse(card.path.read_text())
    made["detection"]["test"] = _pooled(figures)
    card.path.write_text(tomlkit.dumps(made))


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
