"""The figures of the card, the ONNX file, and the model as it ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomlkit
import torch

from ai_pipeline.chest.classifier import CANDIDATES, NETWORK, YOLO
from ai_pipeline.models.registry import SHIPPED, reduce
from ai_training.backbones import card_id
from ai_training.base import Report, silent
from ai_training.cards import changed_card, export, export_traced, fit_limit, weights_row
from ai_training.chest.gate import TRUE_POSITIVE_RATE, fit_gate
from ai_training.chest.places import fit_places
from ai_training.chest.training import Material, Trained, infer
from ai_training.convert import NO_GATE
from ai_training.metrics import THRESHOLDS, LabelCalibration, calibrated, prevalence, reference
from ai_training.networks import (
    IMAGENET,
    NAME,
    OUTPUTS,
    PlacedClassifier,
    PlacedNetwork,
    fuse,
    licence_from,
    start_described,
)
from ai_training.sets.chest import chest_set, label_matrix
from ai_training.sets.images import LABELS, ImageSet, known_label
from ai_training.sets.tables import NAME as SHIPPED_SET

COMPARED = (
    "mean_auc",
    "mean_auc_hog",
    "difference_to_hog",
    "mean_auc_age_sex_view",
    "difference_to_age_sex_view",
)
OPERATING = ("sensitivity_present", "specificity_present", "sensitivity_not_absent", "specificity_not_absent")


def card_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``[metrics]`` of a model card from the result of an evaluation: plain values, without None,
    which TOML lacks.
    """
    main = result["main"]
    boxes = result["boxes"] or {}
    called = result["called"]
    metrics: dict[str, Any] = {
        "set": (
            f"{result['data']['main']}, {result['split']}: {main['images']} images of "
            f"{main['patients']} adults; [value, low, high], 95 % by bootstrap over patients"
        ),
        "notes": result["data"]["notes"],
        "images": main["images"],
        "patients": main["patients"],
        "mean_auc_labels": main["labels_counted"],
        **{key: main.get(key) for key in COMPARED},
        "mean_average_precision": main["mean_average_precision"],
        "permuted_labels": result["permuted_labels"],
        "with_children": {key: result["with_children"][key] for key in ("images", "mean_auc")},
        "within_source": result["within_source"],
        "source_probe": result["probes"].get("source"),
        "teacher": result["teacher"],
        "top3": called["top3"],
        "all_findings": called.get("all_findings"),
        "operating_points": result["operating_points"]["tested"],
        **{key: boxes.get(key) for key in ("pointing", "iou_at_least_0.3")},
        "gate": result["gate"],
        "labels": _rows(main["labels"], "label", ("positives", "auc", "average_precision", *OPERATING)),
        "sources": _rows(
            result["sources"], "source", ("images", "patients", "mean_auc", "labels", "left_out")
        ),
        "calibration": {name: _calibration(found) for name, found in result["calibration"].items()},
        "subgroups": _subgroups(result["subgroups"]),
    }
    return {
        key: known for key, value in metrics.items() if (known := known_only(value)) not in (None, {}, [])
    }


def _rows(rows: Sequence[Mapping[str, Any]], by: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The figures ``keys`` of each row, by its value of ``by``."""
    return {row[by]: {key: row[key] for key in keys} for row in rows}


def _subgroups(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The subgroups of each set in which labels could be measured."""
    return [{"set": name, **row} for name, rows in found.items() for row in rows if row["labels"]]


def _calibration(found: Mapping[str, Any]) -> dict[str, Any]:
    """The calibration figures that go into the model card, from ``found``, those of an evaluation."""
    labels = {name: {"prevalence": found["prevalence"][name], **row} for name, row in found["labels"].items()}
    known = ("natural_prevalence", "images", "mean_ece", "mean_brier")
    return {**{key: found[key] for key in known if key in found}, "labels": labels}


def known_only(value: Any) -> Any:
    """A copy of ``value`` without the figures that are None."""
    if isinstance(value, Mapping):
        known = {key: known_only(item) for key, item in value.items()}
        return {key: item for key, item in known.items() if item is not None}
    if isinstance(value, list):
        return None if None in value else [known_only(item) for item in value]
    return value


ID = "chest-efficientnet-lite0"
TOLD_OF_WEIGHTS = ("224 pixels", "lateral films", "from a detector", "fewer than 15 boxes")
"""Words of the shipped card's limits that are true of its own weights alone."""
TOLD_OF_SET = ("mined from", "another network", "NIH Clinical Center")
"""Words of the shipped card's limits that are true of the set alone that has taught it."""


def export_onnx(network: PlacedNetwork, size: int, path: Path) -> None:
    """Write ``network`` as ONNX: input ``images`` with a free batch size, outputs as ``OUTPUTS`` names them.

    The batch normalisations of EfficientNet-Lite0 are folded in (``network`` is changed), the parameters keep
    their names. Other networks are traced.
    """
    if not isinstance(network, PlacedClassifier):
        export_traced(network.eval(), torch.zeros(2, 3, size, size), OUTPUTS, path)
        return
    fuse(network.eval())
    export(
        network.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        (torch.zeros(2, 3, size, size),),
        {"images": {0: torch.export.Dim("batch")}},
        OUTPUTS,
        path,
        path.stem,
    )


def forget_detector(card: Any) -> None:
    """Remove the box detector from ``card`` (a model card as TOML document): it was fitted to the layers of
    other weights.
    """
    forget_roles(card, NETWORK, CANDIDATES, YOLO)
    card.pop("detection", None)
    for row in card["labels"]:
        row.pop("detector", None)


def forget_roles(card: Any, *roles: str) -> None:
    """Remove the weights with these ``roles`` from ``card`` (a model card as TOML document)."""
    kept = [weights for weights in card["weights"] if weights["role"] not in roles]
    card["weights"] = tomlkit.aot()
    card["weights"].extend(kept)


def write_metrics(path: Path, result: dict[str, Any]) -> None:
    """Put the test figures of ``ai-pipeline evaluate chest`` into the model card at ``path``. A label is
    supported if its test images hold at least 15 positives and the lower end of its AUC's interval is above
    .5, there and in external measurements (``[external]``, which stays). If the card lacks operating points,
    those of the validation split are added; they replace the card's where they were chosen anew. The card
    counts how often the test split was used.
    """
    shown = {row["label"] for row in result["main"]["labels"] if row["supported"]}
    with changed_card(path) as card:
        looks = card.get("metrics", {}).get("looks", 0) + (result["split"] == "test")
        card["metrics"] = {"looks": looks, **card_metrics(result)}
        if chosen := result["operating_points"]["chosen"]:
            card["operating_points"] = chosen
        for row in card["labels"]:
            row["supported"] = known_label(row["name"]) in shown


def ship(
    data: Path, out: Path, trained: Trained, cache: Path, report: Report = silent, *, gated: bool = True
) -> Path:
    """Export the network of a training run with its model card; returns the card's path. Calibration,
    thresholds and domain gate come from the validation split. ``trained``: the run; ``cache``: folder of
    reduced images. ``out`` becomes a folder of models. Labels and codes are those of the shipped card, no
    label is supported until ``ai-pipeline evaluate`` says so. Without ``gated`` the card has no domain gate,
    and says so. Raises DataMissing.
    """
    out.mkdir(parents=True, exist_ok=True)
    experiment, found = trained.experiment, chest_set(data)
    size, start = experiment.network.size, experiment.network
    backbone, name = start.architecture, card_id("chest", start.architecture)
    material = Material.gather(data, experiment, cache, report)
    labels, columns = material.labels, [LABELS.index(label) for label in material.labels]
    network = trained.network if len(labels) == len(LABELS) else trained.network.narrowed(columns)
    places = fit_places(network, data, experiment, labels)

    def see(pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return infer(network, np.stack([reduce(one, experiment.images.chain)[0] for one in pictures]), size)[
            1
        ]

    validated = material.rows("val")
    truth = label_matrix([material.images[row] for row in validated], unknown=np.nan)[:, columns]
    logits, pooled = infer(network, material.pixels[validated], size)
    points = [calibrated(truth[:, k], logits[:, k]) for k in range(len(labels))]
    odds = [point.slope * logits[:, k] + point.intercept for k, point in enumerate(points)]
    chances, refused = 1 / (1 + np.exp(-np.stack(odds, axis=1))), np.zeros(len(pooled), bool)
    limit = None
    if gated:
        gate, limit = fit_gate(data, see, experiment.seed, report)
        refused = gate.distance(pooled) > limit
        (out / f"{name}.gate.npz").write_bytes(gate.to_bytes())
    export_onnx(network, size, out / f"{name}.onnx")
    if backbone != NAME and (said := fit_limit(out / f"{name}.onnx")):
        report(1.0, f"{said}\n")
    (out / f"{name}.boxes.npz").write_bytes(places.to_bytes())
    about, path = start_described(start.initial, start.licence or "", backbone), out / f"{name}.toml"
    with changed_card(SHIPPED / f"{ID}.toml", path) as card:
        forget_detector(card)
        _write_gate(card, limit)
        for weights in card["weights"]:
            weights.update(weights_row(weights["role"], out / weights["file"].replace(ID, name)))
        if backbone != NAME:
            card.update({"id": name, "version": "1", "architecture": backbone})
        if start.initial != IMAGENET:
            card["licence"] = licence_from(about)
        card["input"]["size"] = size
        card["input"]["chain"].update(asdict(experiment.images.chain))
        _write_labels(card, labels, points)
        card["calibration"] = {
            "calibrated": True,
            "method": "Platt scaling of each label on the adults of the validation split",
            "thresholds": THRESHOLDS,
            "prevalence": prevalence(truth, labels),
        }
        card["reference"] = reference("the adults of the validation split", labels, chances, refused)
        card["training"] = _training(trained, material, found, about)
        _retell(card, found, labels, size)
        card["metrics"] = {}
        for told in ("operating_points", "external", "usual_chest"):  # measured with other weights
            card.pop(told, None)
    return path


def _write_gate(card: Any, limit: float | None) -> None:
    """Put the ``limit`` of the gate into the card; for None there is no gate, and the card says so."""
    if limit is None:
        forget_roles(card, card.pop("gate")["role"])
        card["limits"].append(NO_GATE)
    else:
        card["gate"].update({"threshold": round(limit, 6), "true_positive_rate": TRUE_POSITIVE_RATE})


def _write_labels(card: Any, labels: Sequence[str], points: Sequence[LabelCalibration]) -> None:
    """Leave the card's rows of ``labels`` alone, each with its operating point, none supported."""
    rows = [row for row in card["labels"] if row["name"] in labels]
    for row, point in zip(rows, points, strict=True):
        row.update({**point.rounded(), "supported": False})
    if len(rows) < len(card["labels"]):
        card["labels"] = tomlkit.aot()
        card["labels"].extend(rows)


def _training(
    trained: Trained, material: Material, found: ImageSet, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What the card says of the training: its images, the step that was chosen, where it started from."""
    learned = material.rows("train", trained.experiment.images.smallest)
    best = max(trained.history, key=lambda entry: entry["validation_auc"])
    return {
        "data": [found.title, *material.notes],
        "images": len(learned),
        "patients": len({material.images[row].patient for row in learned}),
        "chosen_iteration": int(best["iteration"]),
        "validation_auc_within_sources": round(best["validation_auc"], 4),
        "validation_images": len(material.rows("val")),
        "start": about,
        "experiment": trained.experiment.described(),
    }


def _retell(card: Any, found: ImageSet, labels: Sequence[str], size: int) -> None:
    """Write task and limits of a network whose input has ``size`` pixels a side, taught by the set
    ``found``.
    """
    untrue = TOLD_OF_WEIGHTS if found.name == SHIPPED_SET else (*TOLD_OF_WEIGHTS, *TOLD_OF_SET)
    kept = [text for text in card["limits"] if not any(words in text for words in untrue)]
    kept += [
        f"The image is seen at {size} pixels a side: what is small or thin cannot be seen.",
        "Frontal views of patients of 16 years and over only. Lateral films, limbs and mirrored films were "
        "not tested.",
    ]
    if found.name != SHIPPED_SET:
        card["task"] = f"findings in frontal chest X-rays of adults: {', '.join(labels)}"
        kept.append(
            f"Taught by the set {found.title}: its labels may be wrong; other devices, populations and "
            "windows were not tested."
        )
    card["limits"] = tomlkit.item(kept).multiline(True)
