"""Make a folder of models from a finished run: places, calibration, thresholds, gate, ONNX file, card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.models.preprocess import reduce
from ai_pipeline.networks.efficientnet import PlacedNetwork
from ai_training.calibrate import calibrated, prevalence, reference
from ai_training.chest import gates
from ai_training.chest.experiment import Experiment
from ai_training.chest.export import Facts, card_id, export_onnx, narrowed, write_card
from ai_training.chest.fit import Material, Trained, infer
from ai_training.chest.places import fit_places
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_set, label_matrix
from ai_training.sets.images import LABELS
from ai_training.sets.public import NAME as SHIPPED_SET


def ship(
    data: Path, out: Path, trained: Trained, cache: Path, report: Report = silent, levers: Path | None = None
) -> Path:
    """Export the chosen network; calibration, thresholds and gate come from the validation split.

    Returns the card, which with its weights makes ``out`` a folder of models. ``levers``: the file
    ``levers.json`` of a comparison, for the card. Raises DataMissing.
    """
    out.mkdir(parents=True, exist_ok=True)
    experiment, found = trained.experiment, chest_set(data)
    backbone = experiment.network.architecture
    material = Material.gather(data, experiment, cache, report)
    labels = material.labels
    network = narrowed(trained.network, labels)
    places = fit_places(network, data, experiment, labels)
    fitted = gates.fit(data, _seen_by(network, experiment), experiment.seed, report)
    learned, validated = material.rows("train", experiment.images.smallest), material.rows("val")
    of_labels = [LABELS.index(label) for label in labels]
    truth = label_matrix([material.images[row] for row in validated], unknown=np.nan)[:, of_labels]
    outputs = infer(network, material.pixels[validated], experiment.size)
    points = tuple(calibrated(truth[:, k], outputs.logits[:, k]) for k in range(len(labels)))
    name = card_id(backbone)
    export_onnx(network, experiment.size, out / f"{name}.onnx")
    (out / f"{name}.gate.npz").write_bytes(fitted.gate.to_bytes())
    (out / f"{name}.boxes.npz").write_bytes(places.to_bytes())
    best = max(trained.history, key=lambda entry: entry["validation_auc"])
    training = {
        "data": [found.title, *found.notes],
        "images": len(learned),
        "patients": len({material.images[row].patient for row in learned}),
        "chosen_iteration": int(best["iteration"]),
        "validation_auc_within_sources": round(best["validation_auc"], 4),
        "validation_images": len(validated),
        "start": experiment.start.described(backbone),
        "experiment": experiment.described(),
    }
    if levers is not None:
        training["levers"] = _lever_rows(levers)
    chances = [
        1 / (1 + np.exp(-(p.slope * outputs.logits[:, k] + p.intercept))) for k, p in enumerate(points)
    ]
    refused = fitted.gate.distance(outputs.pooled) > fitted.threshold
    tenths = reference("the adults of the validation split", labels, np.stack(chances, axis=1), refused)
    return write_card(
        out,
        Facts(
            backbone,
            experiment.start.licence_of(backbone, "trunk"),
            "" if found.name == SHIPPED_SET else found.title,
            labels,
            experiment.size,
            experiment.chain,
            points,
            fitted.threshold,
            prevalence(truth, labels),
            tenths,
            training,
        ),
    )


def _lever_rows(levers: Path) -> list[dict[str, Any]]:
    """The rows of a study, without what TOML cannot hold."""
    rows: list[dict[str, Any]] = []
    for row in json.loads(levers.read_text()):
        entry = {"name": row["name"], "validation_auc": round(row["validation_auc"], 4)}
        if row["difference"]:
            entry["against"] = row["against"]
            entry["difference"] = round(row["difference"]["value"], 4)
            entry |= {end: round(row["difference"][end], 4) for end in ("low", "high")}
        rows.append(entry)
    return rows


def _seen_by(network: PlacedNetwork, experiment: Experiment) -> gates.See:
    def see(pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        reduced = np.stack([reduce(picture, experiment.chain)[0] for picture in pictures])
        return infer(network, reduced, experiment.size).pooled

    return see
