"""Export a trained network: ONNX file, calibration, thresholds, gate and card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomlkit
import torch

from ai_pipeline.chest.detector import CANDIDATES, NETWORK, YOLO
from ai_pipeline.models.registry import SHIPPED, Chain
from ai_pipeline.networks.efficientnet import NAME, OUTPUTS, PlacedNetwork, fuse
from ai_training.calibrate import THRESHOLDS, LabelCalibration
from ai_training.cards import changed_card, weights_row
from ai_training.chest.card_figures import card_metrics, supported
from ai_training.chest.gates import TRUE_POSITIVE_RATE
from ai_training.networks.start import StartWeights
from ai_training.onnx_file import export
from ai_training.sets.images import LABELS

ID = "chest-efficientnet-lite0"
PACKAGED = StartWeights().licence_of(NAME, "trunk")
TOLD_OF_SHIPPED = ("mined from", "224 pixels", "another network", "NIH Clinical Center", "from a detector")
"""Words of the shipped card's limits that are true of its own training alone."""


def export_onnx(network: PlacedNetwork, size: int, path: Path) -> None:
    """Write ``network`` as ONNX: input ``images`` with a free batch size, outputs as ``OUTPUTS`` names them.

    The batch normalisations of EfficientNet-Lite0 are folded in (``network`` is changed), the parameters keep
    their names.
    """
    fuse(network.eval())
    export(
        network.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        (torch.zeros(2, 3, size, size),),
        {"images": {0: torch.export.Dim("batch")}},
        OUTPUTS,
        path,
        path.stem,
    )


def card_id(backbone: str) -> str:
    """The id of the card of a chest classifier on ``backbone``."""
    return f"chest-{re.sub('[^A-Za-z0-9._+-]+', '-', backbone)}"[:64]


def narrowed(network: PlacedNetwork, labels: Sequence[str]) -> PlacedNetwork:
    """``network`` with only the outputs of ``labels``, in their order among :data:`LABELS`, and with a new
    place head; ``network`` itself if ``labels`` are all of them.
    """
    if len(labels) == len(LABELS):
        return network
    return network.narrowed([LABELS.index(label) for label in labels])


@dataclass(frozen=True, slots=True)
class Facts:
    """The parts of a card that describe one training: labels, input, calibration, gate, reference for drift,
    and how it was made. ``taught_by``: the training set, empty for the set of the shipped card. ``backbone``,
    and the ``licence`` of a network on it.
    """

    backbone: str
    licence: str
    taught_by: str
    labels: tuple[str, ...]
    size: int
    chain: Chain
    points: tuple[LabelCalibration, ...]
    gate_threshold: float
    prevalence: dict[str, float]
    reference: dict[str, Any]
    training: dict[str, Any]


def write_card(folder: Path, facts: Facts) -> Path:
    """Write the card into ``folder``, beside the weights that are already there; labels and codes are kept.

    Test figures and operating points of older weights are dropped; no label is supported until ``ai-pipeline
    evaluate`` says so.
    """
    name = card_id(facts.backbone)
    path = folder / f"{name}.toml"
    with changed_card(SHIPPED / f"{ID}.toml", path) as card:
        forget_detector(card)
        for weights in card["weights"]:
            file = weights["file"].replace(ID, name)
            weights.update(weights_row(weights["role"], folder / file))
        if facts.backbone != NAME or facts.licence != PACKAGED:
            card.update({"id": name, "architecture": facts.backbone, "licence": facts.licence})
        if facts.backbone != NAME:
            card["version"] = "1"
        card["input"]["size"] = facts.size
        card["input"]["chain"].update(asdict(facts.chain))
        card["gate"]["threshold"] = round(facts.gate_threshold, 6)
        card["gate"]["true_positive_rate"] = TRUE_POSITIVE_RATE
        rows = [row for row in card["labels"] if row["name"] in facts.labels]
        for row, point in zip(rows, facts.points, strict=True):
            row.update({**point.rounded(), "supported": False})
        if len(rows) < len(card["labels"]):
            card["labels"] = tomlkit.aot()
            card["labels"].extend(rows)
        card["calibration"] = {
            "calibrated": True,
            "method": "Platt scaling of each label on the adults of the validation split",
            "thresholds": THRESHOLDS,
            "prevalence": facts.prevalence,
        }
        card["reference"] = facts.reference
        card["training"] = facts.training
        if facts.taught_by:
            _tell_of(card, facts)
        card["metrics"] = {}
        card.pop("operating_points", None)
    return path


def _tell_of(card: Any, facts: Facts) -> None:
    """In ``card`` (a TOML document), task and limits of a network that another set has taught."""
    card["task"] = f"findings in frontal chest X-rays of adults: {', '.join(facts.labels)}"
    kept = [text for text in card["limits"] if not any(words in text for words in TOLD_OF_SHIPPED)]
    unknown = "its labels may be wrong; other devices, populations and windows were not tested."
    card["limits"] = tomlkit.item([*kept, f"Taught by {facts.taught_by}: {unknown}"]).multiline(True)


def forget_detector(card: Any) -> None:
    """Remove the box detector from ``card`` (a TOML document): it was fitted to the layers of
    other weights.
    """
    others = tomlkit.aot()
    for weights in card["weights"]:
        if weights["role"] not in {NETWORK, CANDIDATES, YOLO}:
            others.append(weights)
    card["weights"] = others
    card.pop("detection", None)
    for row in card["labels"]:
        row.pop("detector", None)


def write_metrics(path: Path, result: dict[str, Any]) -> None:
    """Put the test figures of ``ai-pipeline evaluate chest`` into the card at ``path``.

    A label is supported if its test images hold at least 15 positives and the lower end of its AUC's interval
    is above .5, there and in external measurements (``[external]``, which is kept). If the card lacks
    operating points, those of the validation split are added. The card counts how often the test split was
    used.
    """
    shown = supported(result)
    with changed_card(path) as card:
        looks = card.get("metrics", {}).get("looks", 0) + (result["split"] == "test")
        card["metrics"] = {"looks": looks, **card_metrics(result)}
        if chosen := result["operating_points"]["chosen"]:
            card["operating_points"] = chosen
        for row in card["labels"]:
            row["supported"] = shown.get(row["name"], False)
