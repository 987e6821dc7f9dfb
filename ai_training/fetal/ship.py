"""Export a finished run: weights, limits and card."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.contract import ModelRef
from ai_pipeline.fetal_head.outline import HeadModel
from ai_pipeline.models.engine import OnnxRuntime
from ai_training.fetal import fit
from ai_training.fetal.data import learned_from
from ai_training.fetal.export import ID, export_head, write_card
from ai_training.fetal.gate import OPEN, fit_limits
from ai_training.progress import Report, silent


def train_and_ship(
    data: Path, out: Path, recipe: fit.HeadRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train, export, fit the gate; returns the card. ``out`` receives checkpoints, weights and card.

    Raises DataMissing, or ExperimentError if ``resume`` finds a run with another recipe.
    """
    network, chosen = fit.train(data, out, recipe, resume=resume, report=report)
    weights = out / f"{ID}.onnx"
    export_head(network, weights)
    engine = OnnxRuntime(weights.read_bytes(), recipe.threads)
    limits = fit_limits(data, HeadModel(engine, OPEN, ModelRef(ID, "1", "", "")), report)
    training = {"data": learned_from(data), "recipe": recipe.described(), "chosen": chosen}
    return write_card(out, limits, training, recipe.backbone, recipe.start)
