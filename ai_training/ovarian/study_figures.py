"""The tables of the study of cleaning, from the committed logits: AUCs, paired differences, activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_training.metrics import mean_auc_interval, mean_interval, patient_weights
from ai_training.ovarian import predictions
from ai_training.ovarian.calibration import scaled
from ai_training.ovarian.figures import MARGIN, difference
from ai_training.ovarian.frames import LABELS
from ai_training.ovarian.predictions import HeldOut
from ai_training.ovarian.study import CLEAN, CLEANED, ORIGINAL, PROBES, TRUTH

Floats = npt.NDArray[np.float64]
Scored = Mapping[str, tuple[Floats, Floats]]
"""Variant → logits ``[N, labels]`` and shares ``[N, 2]`` of the activation in lesion and marks."""


def figures(held_out: HeldOut, folder: Path = predictions.FOLDER) -> dict[str, Any]:
    """Macro AUC of every variant with its paired difference to the original; of the frames without yellow
    marks with that to the clean ones. Empty where the study was not run."""
    if not (folder / predictions.STUDY).is_file():
        return {}
    with np.load(folder / predictions.STUDY, allow_pickle=False) as found:
        rows = {str(file): row for row, file in enumerate(found["files"])}
        order = [rows[frame.name] for frame in held_out.frames]
        scored = {
            str(name): (logits[order].astype(np.float64), shares[order].astype(np.float64))
            for name, logits, shares in zip(found["names"], found["logits"], found["shares"], strict=True)
        }
    whole, some = _present(scored, held_out, (ORIGINAL, *CLEANED, *PROBES))
    truth, few = _present(scored, held_out, TRUTH)
    return {
        "margin": MARGIN,
        "all_frames": {"frames": len(some.frames), "rows": _table(whole, some, ORIGINAL)},
        "without_yellow_marks": {"frames": len(few.frames), "rows": _table(truth, few, CLEAN)},
    }


def _present(scored: Scored, held_out: HeldOut, names: Sequence[str]) -> tuple[Scored, HeldOut]:
    """The variants ``names`` of the frames that have them, and these frames."""
    there = ~np.isnan(scored[names[0]][0][:, 0])
    frames = tuple(frame for frame, kept in zip(held_out.frames, there, strict=True) if kept)
    kept = replace(held_out, frames=frames, folds=held_out.folds[there], logits=held_out.logits[:, there])
    return {name: (scored[name][0][there], scored[name][1][there]) for name in names}, kept


def _table(scored: Scored, held_out: HeldOut, reference: str) -> dict[str, Any]:
    """One calibration, that of the reference, for all: what is compared is the input alone."""
    truth, weights = held_out.labels, patient_weights(held_out.groups)
    hot = np.eye(len(LABELS))[truth]
    known = [label for label in range(len(LABELS)) if hot[:, label].any()]
    found = {
        name: _calibrated(logits, scored[reference][0], held_out) for name, (logits, _) in scored.items()
    }
    rows = {}
    for name, (_, shares) in scored.items():
        right = (found[name].argmax(1) == truth).astype(np.float64)
        same = found[name].argmax(1) == found[reference].argmax(1)
        rows[name] = {
            "macro_auc": mean_auc_interval(hot, found[name], known, weights).as_list(),
            "difference": difference(found[name], found[reference], hot, known, weights).as_list(),
            "accuracy": mean_interval(right, weights).as_list(),
            "same_class": round(float(same.mean()), 4),
            **{
                f"activation_in_{place}": round(float(np.nanmean(shares[:, number])), 4)
                for number, place in enumerate(("lesion", "marks"))
                if not np.isnan(shares[:, number]).all()
            },
        }
    return rows


def _calibrated(logits: Floats, reference: Floats, held_out: HeldOut) -> Floats:
    found = np.zeros_like(logits)
    for fold in np.unique(held_out.folds):
        inside = held_out.folds == fold
        found[inside] = scaled(reference[~inside], held_out.labels[~inside])(logits[inside])
    return found
