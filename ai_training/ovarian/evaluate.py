"""``ai-pipeline evaluate ovarian``: classifier, gate, outline and study, from committed predictions or new
ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.errors import CardError
from ai_pipeline.models.card import Card
from ai_pipeline.ovarian.classifier import OvarianClassifier
from ai_pipeline.ovarian.outline import Outliner, dice
from ai_training.engine.run import BEST
from ai_training.metrics import mean_interval, patient_weights
from ai_training.ovarian import figures, fit, gate, predictions, study_figures
from ai_training.ovarian.ship import predict
from ai_training.progress import Report, silent
from ai_training.sets.ovarian import OvarianFrame, ovarian_frames

TARGET = 0.90
"""The design's target of the macro AUC."""


def evaluate(data: Path, card: Card, report: Report = silent, runs: Path | None = None) -> dict[str, Any]:
    """All figures. The outline, and the gate on other pictures, are measured with the card's networks on the
    test splits; all other figures come from the committed predictions of the folds.

    With ``runs`` the networks of the folds predict again from the images (:func:`recompute`); the figures of
    the study and of other networks still come from committed predictions. Raises DataMissing, CardError,
    ExperimentError.
    """
    frames = ovarian_frames(data)
    folder = recompute(data, card, runs, report) if runs else predictions.FOLDER
    held_out = predictions.read(frames, folder)
    points = card.labels[0]
    again = {"recomputed": agreement(held_out, predictions.read(frames))} if runs else {}
    return {
        **again,
        "model": card.id,
        "version": card.version,
        "cross_validation": figures.classification(held_out),
        "answers": figures.answer_figures(held_out, points.threshold, points.absent_below),
        "gate": gate.figures(folder / predictions.GATE, OvarianClassifier(card), data, report),
        "outline": outlines([frame for frame in frames if frame.split == "test"], card, report),
        "study": study_figures.figures(held_out),
        "trained_on_cleaned": study_figures.trained_on_cleaned(held_out),
        "other_networks": study_figures.other_networks(held_out),
    }


def recompute(data: Path, card: Card, runs: Path, report: Report = silent) -> Path:
    """Let the networks of the folds predict again; returns the folder with their predictions and distances.

    The networks are those that ``ai-pipeline train ovarian`` wrote into ``runs``; missing ones are trained
    first, with the recipe and the seeds that ``card`` names. Raises DataMissing, CardError, or
    ExperimentError if ``runs`` holds runs of another recipe.
    """
    training = card.details["training"]
    try:
        recipe = fit.OvarianRecipe(**training["recipe"])
        seeds = range(1, int(training["seeds"]) + 1)
    except (KeyError, TypeError, ValueError) as error:
        raise CardError(f"{card.path.name} does not say by which recipe its network was trained") from error
    folder = runs / "recomputed"
    left = [runs / f"seed-{seed}" / fold / BEST for seed in seeds for fold in fit.FOLD_RUNS]
    if not all(path.is_file() for path in left):
        fit.train(data, runs, recipe, seeds, fit.FOLD_RUNS, report)
    predict(data, runs, recipe, seeds, folder, report, fit.FOLD_RUNS)
    return folder


def agreement(again: predictions.HeldOut, committed: predictions.HeldOut) -> dict[str, Any]:
    """How close new predictions are to the committed ones."""
    same = again.mean.argmax(1) == committed.mean.argmax(1)
    off = np.abs(again.mean - committed.mean)
    return {
        "frames": len(same),
        "same class": round(float(same.mean()), 4),
        "logits apart, mean": round(float(off.mean()), 4),
        "logits apart, at most": round(float(off.max()), 4),
    }


def missed_targets(result: Mapping[str, Any]) -> list[str]:
    """The targets of the design that are not reached, in words."""
    reached = result["cross_validation"]["macro_auc"][0] >= TARGET
    return [] if reached else [f"macro AUC of {TARGET}"]


def outlines(frames: Sequence[OvarianFrame], card: Card, report: Report = silent) -> dict[str, Any]:
    """Dice of the shown outlines against the masks; how many outlines are withheld, and why."""
    classifier, outliner = OvarianClassifier(card), Outliner(card)
    found, groups, faults = [], [], Counter[str]()
    for number, frame in enumerate(frames):
        report(number / len(frames), "outlines")
        outline = outliner.outline(classifier.analyse(frame.rgb()))
        if outline.mask is None:
            faults[outline.fault] += 1
            continue
        found.append(dice(outline.mask, frame.lesion()))
        groups.append(frame.group)
    values = np.array(found)
    return {
        "frames": len(frames),
        "shown": len(found),
        "dice": mean_interval(values, patient_weights(groups)).as_list(),
        "median": round(float(np.median(values)), 4),
        "below_half": int((values < 0.5).sum()),
        "withheld": dict(faults),
    }
