"""From a finished run to a folder of models: places, calibration, thresholds, gate, ONNX file, card."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ai_pipeline.training.batches import MEAN, SCALE
from ai_pipeline.training.calibrate import operating_point
from ai_pipeline.training.chest import Material, Report, Trained, fit, infer, silent
from ai_pipeline.training.chestdata import LABELS, label_matrix
from ai_pipeline.training.experiment import Experiment
from ai_pipeline.training.export import ID, export_onnx, fit_gate, write_card
from ai_pipeline.training.places import fit_places

GATE_IMAGES = 2000  # of the train split, for the gate's directions


def train(
    data: Path,
    out: Path,
    experiment: Experiment,
    *,
    resume: bool = False,
    threads: int = 0,
    cache: Path | None = None,
    report: Report = silent,
) -> Path:
    """Train, export and calibrate; returns the card, which with its weights makes ``out`` a models folder.

    ``data``: the folder that docs/training.md describes. Raises ``DataMissing`` when image sets are missing,
    ExperimentError when ``resume`` meets another experiment.
    """
    trained = fit(data, out, experiment, resume=resume, threads=threads, cache=cache, report=report)
    return ship(data, out, trained, cache or out / "cache")


def ship(data: Path, out: Path, trained: Trained, cache: Path) -> Path:
    """Export the chosen network and read calibration, thresholds and gate off the validation split."""
    network, experiment = trained.network, trained.experiment
    places = fit_places(network, data, experiment, MEAN, SCALE)
    material = Material.gather(data, experiment, cache)
    learned, validated = material.rows("train"), material.rows("val")
    random = np.random.default_rng(experiment.seed)
    sample = random.choice(learned, min(GATE_IMAGES, len(learned)), replace=False)
    truth = label_matrix([material.images[row] for row in validated])
    outputs = infer(network, material.pixels[validated], experiment.size)
    gate, threshold = fit_gate(
        infer(network, material.pixels[sample], experiment.size).pooled, outputs.pooled
    )
    points = tuple(operating_point(truth[:, k], outputs.logits[:, k]) for k in range(len(LABELS)))
    export_onnx(network, experiment.size, out / f"{ID}.onnx")
    (out / f"{ID}.gate.npz").write_bytes(gate.to_bytes())
    (out / f"{ID}.boxes.npz").write_bytes(places.to_bytes())
    best = max(trained.history, key=lambda entry: entry["validation_auc"])
    described = {
        "images": len(learned),
        "patients": len({material.images[row].patient for row in learned}),
        "chosen_iteration": int(best["iteration"]),
        "validation_auc_within_sources": round(best["validation_auc"], 4),
        "validation_images": len(validated),
        "experiment": experiment.model_dump(exclude_defaults=False),
    }
    return write_card(out, points, threshold, truth.mean(0), described)
