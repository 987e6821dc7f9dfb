"""Export a finished run: weights, the strength at which heads are still found, and the card."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ai_pipeline.contract import ModelRef
from ai_pipeline.despeckle.despeckler import Despeckler
from ai_pipeline.fetal_head.outline import HeadModel
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find
from ai_training.despeckle.afterwards.heads import head_scores
from ai_training.despeckle.export import export_despeckler, name_of, write_card
from ai_training.despeckle.fit import DespeckleRecipe, train
from ai_training.fetal.export import ID as HEADS
from ai_training.metrics import mean_interval, patient_weights
from ai_training.progress import Report, silent

STRENGTHS = (1.0, 0.75, 0.5, 0.25)
MARGIN = 0.005
"""Largest loss of Dice of heads on despeckled frames; the lower end of the interval must stay above it."""


def train_and_ship(
    data: Path,
    out: Path,
    recipe: DespeckleRecipe,
    segmenter: Path | None = None,
    *,
    resume: bool = False,
    report: Report = silent,
) -> Path:
    """Train, export, choose the strength; returns the card. Raises the errors of :func:`fit.train`."""
    network, chosen = train(data, out, recipe, segmenter, resume=resume, report=report)
    card_id = name_of(recipe.network, recipe.loss)
    weights = out / f"{card_id}.onnx"
    export_despeckler(network, weights)
    engine = OnnxRuntime(weights.read_bytes(), recipe.threads)
    described = {"recipe": recipe.described(), "chosen": chosen}
    if recipe.network != "residual":
        return write_card(out, card_id, 1.0, described)
    tried, strength = _strength(data, Despeckler(engine, 1.0, ModelRef(card_id, "1", "", "")), report)
    return write_card(out, card_id, strength, {**described, "strengths": tried})


def _strength(data: Path, despeckler: Despeckler, report: Report) -> tuple[dict[str, list[float]], float]:
    """The largest strength at which Dice of validation heads is not inferior, 0 if none is, with the
    difference at each that was tried, from the largest on."""
    model = HeadModel.of(find(HEADS))
    raw = head_scores(data, model, "val", lambda picture: picture, report)
    weights = patient_weights(raw.patients)
    tried: dict[str, list[float]] = {}
    for strength in STRENGTHS:
        weaker = Despeckler(despeckler.engine, strength, despeckler.ref)
        found = head_scores(data, model, "val", weaker.picture, report)
        difference = mean_interval(np.array(found.dice) - np.array(raw.dice), weights)
        tried[f"{strength:g}"] = difference.as_list()
        if difference.low >= -MARGIN:
            return tried, strength
    return tried, 0.0
