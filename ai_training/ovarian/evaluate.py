"""``ai-pipeline evaluate ovarian``: classifier, gate, outline and study, from what is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.models.card import Card
from ai_pipeline.ovarian.classifier import OvarianClassifier
from ai_pipeline.ovarian.outline import Outliner, dice
from ai_training.metrics import mean_interval, patient_weights
from ai_training.ovarian import figures, gate, predictions, study_figures
from ai_training.progress import Report, silent
from ai_training.sets.ovarian import OvarianFrame, ovarian_frames

TARGET = 0.90
"""The design's target of the macro AUC."""


def evaluate(data: Path, card: Card, report: Report = silent) -> dict[str, Any]:
    """All figures. The outline, and the gate on other pictures, are measured with the card's networks on the
    test splits; all other figures come from the committed predictions of the folds. Raises DataMissing,
    CardError.
    """
    frames = ovarian_frames(data)
    held_out = predictions.read(frames)
    points = card.labels[0]
    return {
        "model": card.id,
        "version": card.version,
        "cross_validation": figures.classification(held_out),
        "answers": figures.answer_figures(held_out, points.threshold, points.absent_below),
        "gate": gate.figures(predictions.FOLDER / predictions.GATE, OvarianClassifier(card), data, report),
        "outline": outlines([frame for frame in frames if frame.split == "test"], card, report),
        "study": study_figures.figures(held_out),
        "trained_on_cleaned": study_figures.trained_on_cleaned(held_out),
        "other_networks": study_figures.other_networks(held_out),
    }


def missed_targets(result: Mapping[str, Any]) -> list[str]:
    """Which of the design's targets are not reached, in words."""
    reached = result["cross_validation"]["macro_auc"][0] >= TARGET
    return [] if reached else [f"macro AUC of {TARGET}"]


def outlines(frames: Sequence[OvarianFrame], card: Card, report: Report = silent) -> dict[str, Any]:
    """Dice of the outlines that are shown, against the masks; how many are withheld, and why."""
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
