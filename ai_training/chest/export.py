"""From a trained network to what ships: ONNX file, calibration, thresholds, gate and card."""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import tomlkit
import torch

from ai_pipeline.chest.detector import CANDIDATES, DRAWER, NETWORK
from ai_pipeline.models.registry import SHIPPED, Chain
from ai_pipeline.networks.efficientnet import OUTPUTS, PlacedClassifier, fused
from ai_training.calibrate import SPECIFICITY, OperatingPoint
from ai_training.chest.card_figures import card_metrics
from ai_training.chest.gates import TRUE_POSITIVE_RATE

ID = "chest-efficientnet-lite0"


def export_onnx(network: PlacedClassifier, size: int, path: Path) -> None:
    """Write ``network`` as ONNX: input ``images`` with a free batch size, outputs as ``OUTPUTS`` names them.

    The batch normalisations are folded in (``network`` is changed), the parameters keep their names.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(2, 3, size, size)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        torch.onnx.export(
            fused(network).to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            (example,),
            str(path),
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"images": {0: batch}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    strip(path, ID)


def strip(path: Path, name: str) -> None:
    """Drop the exporter's notes: they name this machine's folders and make equal networks differ in bytes."""
    model = onnx.load(str(path))
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    graph.name = name
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says of one training: input, calibration, gate, reference for drift, how it was made."""

    size: int
    chain: Chain
    points: tuple[OperatingPoint, ...]
    gate_threshold: float
    prevalence: dict[str, float]
    reference: dict[str, Any]
    training: dict[str, Any]


def write_card(folder: Path, facts: Facts) -> Path:
    """Write the card into ``folder``, beside the weights that are already there; labels and codes are kept.

    Test figures of older weights are dropped; no label is supported until ``ai-pipeline evaluate`` says so.
    """
    card = tomlkit.parse((SHIPPED / f"{ID}.toml").read_text())
    forget_detector(card)
    for weights in card["weights"]:
        weights["sha256"] = hashlib.sha256((folder / weights["file"]).read_bytes()).hexdigest()
    card["input"]["size"] = facts.size
    card["input"]["chain"].update(asdict(facts.chain))
    card["gate"]["threshold"] = round(facts.gate_threshold, 6)
    card["gate"]["true_positive_rate"] = TRUE_POSITIVE_RATE
    for row, point in zip(card["labels"], facts.points, strict=True):
        row["slope"], row["intercept"] = round(point.slope, 6), round(point.intercept, 6)
        row["threshold"], row["absent_below"] = round(point.threshold, 6), round(point.absent_below, 6)
        row["supported"] = False
    card["calibration"] = {
        "calibrated": True,
        "method": "Platt scaling of each label on the adults of the validation split",
        "thresholds": (
            "on the same images: absent below Youden's J; present from the higher of Youden's J and the cut "
            f"with specificity {SPECIFICITY}; indeterminate between them"
        ),
        "prevalence": facts.prevalence,
    }
    card["reference"] = facts.reference
    card["training"] = {"data": card["training"]["data"], **facts.training}
    card["metrics"] = tomlkit.table()
    path = folder / f"{ID}.toml"
    path.write_text(tomlkit.dumps(card))
    return path


def forget_detector(card: Any) -> None:
    """Take the box detector out of ``card`` (a TOML document): it reads the layers of other weights."""
    kept = tomlkit.aot()
    for weights in card["weights"]:
        if weights["role"] not in {NETWORK, CANDIDATES, DRAWER}:
            kept.append(weights)
    card["weights"] = kept
    card.pop("detection", None)
    for row in card["labels"]:
        row.pop("detector", None)


def write_metrics(path: Path, result: dict[str, Any]) -> None:
    """Put the test figures of ``ai-pipeline evaluate chest`` into the card at ``path``.

    A label is supported when its test images hold at least 15 positives and the lower end of its AUC's
    interval is above .5.
    """
    card = tomlkit.parse(path.read_text())
    card["metrics"] = card_metrics(result)
    supported = {row["label"]: row["supported"] for row in result["main"]["labels"]}
    for row in card["labels"]:
        row["supported"] = supported.get(row["name"], False)
    path.write_text(tomlkit.dumps(card))
