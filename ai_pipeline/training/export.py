"""From a trained network to what ships: ONNX file, calibration, thresholds, gate and card."""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tomlkit
import torch

from ai_pipeline.gate import FeatureGate
from ai_pipeline.networks.efficientnet import OUTPUTS, PlacedClassifier, fused
from ai_pipeline.registry import SHIPPED
from ai_pipeline.training.calibrate import SPECIFICITY, OperatingPoint
from ai_pipeline.training.chestdata import LABELS

ID = "chest-efficientnet-lite0"
TRUE_POSITIVE_RATE = 0.99
DIRECTIONS = 32
OPERATING = (
    "sensitivity_present",
    "specificity_present",
    "sensitivity_not_absent",
    "specificity_not_absent",
)


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
    _strip(path)


def _strip(path: Path) -> None:
    """Drop the exporter's notes: they name this machine's folders and make equal networks differ in bytes."""
    model = onnx.load(str(path))
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    graph.name = ID
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def fit_gate(
    train: npt.NDArray[np.float32], validation: npt.NDArray[np.float32]
) -> tuple[FeatureGate, float]:
    """The gate from pooled features of train images, and the distance that 99 % of validation images keep."""
    gate = FeatureGate.fit(train, DIRECTIONS)
    return gate, float(np.quantile(gate.distance(validation), TRUE_POSITIVE_RATE))


def write_card(
    folder: Path,
    points: tuple[OperatingPoint, ...],
    gate_threshold: float,
    prevalence: npt.NDArray[np.floating],
    training: dict[str, Any],
) -> Path:
    """Write the card into ``folder``, beside the weights that are already there; labels and codes are kept.

    Test figures of older weights are dropped; no label is supported until ``ai-pipeline evaluate`` says so.
    """
    card = tomlkit.parse((SHIPPED / f"{ID}.toml").read_text())
    for weights in card["weights"]:
        weights["sha256"] = hashlib.sha256((folder / weights["file"]).read_bytes()).hexdigest()
    card["gate"]["threshold"] = round(gate_threshold, 6)
    card["gate"]["true_positive_rate"] = TRUE_POSITIVE_RATE
    for row, point in zip(card["labels"], points, strict=True):
        row["slope"], row["intercept"] = round(point.slope, 6), round(point.intercept, 6)
        row["threshold"], row["absent_below"] = round(point.threshold, 6), round(point.absent_below, 6)
        row["supported"] = False
    calibration = card["calibration"]
    calibration["calibrated"] = True
    calibration["method"] = "Platt scaling of each label on the adults of the validation split"
    calibration["prevalence"] = ", ".join(
        f"{name} {share:.3f}" for name, share in zip(LABELS, prevalence, strict=True)
    )
    calibration["thresholds"] = (
        "on the same images: absent below Youden's J; present from the higher of Youden's J and the cut with "
        f"specificity {SPECIFICITY}; indeterminate between them"
    )
    kept = {key: card["training"][key] for key in ("data",)}
    card["training"] = {**kept, **training}
    card["metrics"] = tomlkit.table()
    path = folder / f"{ID}.toml"
    path.write_text(tomlkit.dumps(card))
    return path


def write_metrics(path: Path, result: dict[str, Any]) -> None:
    """Put the test figures of ``ai-pipeline evaluate chest`` into the card at ``path``.

    A label is supported when its test images hold at least 15 positives and the lower end of its AUC's
    interval is above .5.
    """
    card = tomlkit.parse(path.read_text())
    main = result["cxr_nih"]
    metrics = tomlkit.table()
    metrics["set"] = (
        f"cxr_nih {result['split']}: {main['images']} images of {main['patients']} patients; "
        "[value, low, high], 95 % by bootstrap over patients"
    )
    metrics["mean_auc"] = main["mean_auc"]
    metrics["mean_auc_labels"] = main["labels_counted"]
    for name in ("hog", "age_sex_view"):
        metrics[f"mean_auc_{name}"] = main[f"mean_auc_{name}"]
        metrics[f"difference_to_{name}"] = main[f"difference_to_{name}"]
    metrics["pointing"] = result["boxes"]["pointing"]
    metrics["iou_at_least_0.3"] = result["boxes"]["iou_at_least_0.3"]
    metrics["gate_refuses"] = result["gate"]["refused"]
    figures = tomlkit.table()
    for row in main["labels"]:
        inline = tomlkit.inline_table()
        inline.update({key: row[key] for key in ("positives", "auc", "average_precision", *OPERATING)})
        inline["ece_all_sources"] = result["calibration_all_sources"]["labels"][row["label"]]["ece"]
        figures[row["label"]] = inline
    metrics["labels"] = figures
    card["metrics"] = metrics
    supported = {row["label"]: row["supported"] for row in main["labels"]}
    for row in card["labels"]:
        row["supported"] = supported[row["name"]]
    path.write_text(tomlkit.dumps(card))
