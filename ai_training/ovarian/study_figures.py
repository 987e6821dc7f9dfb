"""The tables of the study of cleaning, from the committed logits: AUCs, paired differences, activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.networks.efficientnet import NAME
from ai_training.metrics import (
    Floats,
    mean_auc_difference,
    mean_auc_interval,
    mean_interval,
    patient_weights,
)
from ai_training.ovarian import predictions
from ai_training.ovarian.calibration import scaled
from ai_training.ovarian.figures import MARGIN, binary
from ai_training.ovarian.predictions import HeldOut
from ai_training.ovarian.study import CLEAN, CLEANED, ORIGINAL, PROBES, TRUTH
from ai_training.sets.ovarian import LABELS, NEOPLASMS

Scored = Mapping[str, tuple[Floats, Floats]]
"""Variant → logits ``[N, labels]`` and shares ``[N, 2]`` of the activation in lesion and marks."""


def figures(held_out: HeldOut, folder: Path = predictions.FOLDER) -> dict[str, Any]:
    """Macro AUC of every variant with its paired difference to the original; for frames without yellow marks,
    to the clean frame. Empty if the study was not run.
    """
    scored = _read(folder / predictions.STUDY, held_out)
    if not scored:
        return {}
    whole, some = _present(scored, held_out, (ORIGINAL, *CLEANED, *PROBES))
    truth, few = _present(scored, held_out, TRUTH)
    return {
        "margin": MARGIN,
        "all_frames": {"frames": len(some.frames), "rows": _table(whole, some, ORIGINAL)},
        "without_yellow_marks": {"frames": len(few.frames), "rows": _table(truth, few, CLEAN)},
    }


def trained_on_cleaned(held_out: HeldOut, folder: Path = predictions.FOLDER) -> dict[str, Any]:
    """Figures of networks that learned from frames cleaned in each way, tested on frames cleaned likewise,
    with their own calibration; the reference is the network of the first seed on originals. Empty if this was
    not run.
    """
    scored = _read(folder / predictions.TRAINED_ON_CLEANED, held_out)
    return _trained(held_out, ORIGINAL, {name: logits for name, (logits, _) in scored.items()})


def compared(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of all figures with cleaned or marked frames, by the kind of study."""
    study = result["study"]
    tables = {
        "tested on": study["all_frames"]["rows"],
        "learned from and tested on": result["trained_on_cleaned"].get("rows", {}),
        "no yellow marks": study["without_yellow_marks"]["rows"],
    }
    left_out = {ORIGINAL, CLEAN, *PROBES}
    return {name: {key: rows[key] for key in rows if key not in left_out} for name, rows in tables.items()}


def other_networks(held_out: HeldOut, folder: Path = predictions.FOLDER) -> dict[str, Any]:
    """Figures of other networks on originals, compared with one seed of the shipped network."""
    others = predictions.others(held_out.frames, folder)
    return _trained(held_out, NAME, {name: one.logits[0] for name, one in others.items()})


def _trained(held_out: HeldOut, reference: str, others: Mapping[str, Floats]) -> dict[str, Any]:
    """Networks against that of the first seed, each with its own calibration."""
    if not others:
        return {}
    unknown = np.full((len(held_out.frames), 2), np.nan)
    scored = {name: (logits, unknown) for name, logits in {reference: held_out.logits[0], **others}.items()}
    table = _table(scored, held_out, reference, trained=True)
    return {"margin": MARGIN, "frames": len(held_out.frames), "rows": table}


def _read(path: Path, held_out: HeldOut) -> Scored:
    """The variants of a file, in the order of the frames; shares are NaN where it has none."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as found:
        rows = {str(file): row for row, file in enumerate(found["files"])}
        order = [rows[frame.name] for frame in held_out.frames]
        shape = (*found["logits"].shape[:2], 2)
        shares = found["shares"] if "shares" in found else np.full(shape, np.nan)
        return {
            str(name): (logits[order].astype(np.float64), inside[order].astype(np.float64))
            for name, logits, inside in zip(found["names"], found["logits"], shares, strict=True)
        }


def _present(scored: Scored, held_out: HeldOut, names: Sequence[str]) -> tuple[Scored, HeldOut]:
    """The variants ``names`` of the frames that have them, and these frames."""
    there = ~np.isnan(scored[names[0]][0][:, 0])
    frames = tuple(frame for frame, kept in zip(held_out.frames, there, strict=True) if kept)
    kept = replace(held_out, frames=frames, folds=held_out.folds[there], logits=held_out.logits[:, there])
    return {name: (scored[name][0][there], scored[name][1][there]) for name in names}, kept


def _table(scored: Scored, held_out: HeldOut, reference: str, *, trained: bool = False) -> dict[str, Any]:
    """One calibration, that of the reference, for all: what is compared is the input alone. What was
    ``trained`` for its input has its own."""
    truth, weights = held_out.labels, patient_weights(held_out.groups)
    hot = np.eye(len(LABELS))[truth]
    known = [label for label in range(len(LABELS)) if hot[:, label].any()]
    found = {
        name: _calibrated(logits, logits if trained else scored[reference][0], held_out)
        for name, (logits, _) in scored.items()
    }
    rows = {}
    for name, (_, shares) in scored.items():
        right = (found[name].argmax(1) == truth).astype(np.float64)
        same = found[name].argmax(1) == found[reference].argmax(1)
        rows[name] = {
            "macro_auc": mean_auc_interval(hot, found[name], known, weights).as_list(),
            "difference": mean_auc_difference(hot, found[name], found[reference], known, weights).as_list(),
            "accuracy": mean_interval(right, weights).as_list(),
            **_neoplasm(found[name], found[reference], hot, held_out, weights),
            "same_class": round(float(same.mean()), 4),
            **{
                f"activation_in_{place}": round(float(np.nanmean(shares[:, number])), 4)
                for number, place in enumerate(("lesion", "marks"))
                if not np.isnan(shares[:, number]).all()
            },
        }
    return rows


def _neoplasm(
    found: Floats, reference: Floats, hot: Floats, held_out: HeldOut, weights: Floats
) -> dict[str, Any]:
    """The published columns of "neoplasm or not" and the paired difference of its AUC to the reference."""
    positive = [LABELS.index(one) for one in NEOPLASMS]
    truth = hot[:, positive].sum(1)
    scores = [one[:, positive].sum(1) for one in (found, reference)]
    column, own, other = (one[:, None] for one in (truth, *scores))
    return {
        "neoplasm": binary(found, hot, positive, held_out, weights),
        "neoplasm_difference": mean_auc_difference(column, own, other, [0], weights).as_list(),
    }


def _calibrated(logits: Floats, reference: Floats, held_out: HeldOut) -> Floats:
    found = np.zeros_like(logits)
    for fold in np.unique(held_out.folds):
        inside = held_out.folds == fold
        found[inside] = scaled(reference[~inside], held_out.labels[~inside])(logits[inside])
    return found
