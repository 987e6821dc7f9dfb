"""``ai-pipeline evaluate marks``: how much the detector finds of overlays in a style it was not
trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.burnin.find.mark_network import MarkFinder
from ai_training.metrics import mean_interval, patient_weights, ratio
from ai_training.progress import Report, silent
from ai_training.ultrasound.marks.data import burned_frames
from ai_training.ultrasound.marks.fit import FOUND_SHARE, object_shares
from ai_training.ultrasound.overlays import FAMILIES, MarkClass, clean_frames

SEED = 15485863


def evaluate_marks(
    data: Path,
    finder: MarkFinder,
    threshold: float,
    *,
    pictures: int = 200,
    split: str = "test",
    style: str = "held-out",
    report: Report = silent,
) -> dict[str, Any]:
    """Object recall by kind, pixel recall, precision, Dice, and the area marked on the clean pictures.

    Intervals are 95 % by bootstrap over frames. Raises DataMissing.
    """
    frames: list[str] = []
    counts: list[list[int]] = []
    areas: list[float] = []
    kinds = [kind for kind in MarkClass if kind is not MarkClass.BACKGROUND]
    found = {kind: ([], []) for kind in kinds}  # type: dict[MarkClass, tuple[list[int], list[int]]]
    overlays = burned_frames(data, clean_frames(split), pictures, SEED, FAMILIES[style])
    for number, (frame, burned) in enumerate(overlays):
        report(number / pictures, f"picture {number + 1}")
        mask, truth = finder.find(burned.image).above(threshold), burned.owners > 0
        frames.append(frame.file)
        counts.append([int((mask & truth).sum()), int(mask.sum()), int(truth.sum())])
        areas.append(float(finder.find(burned.clean).above(threshold).mean()))
        seen = np.bincount(burned.owners.ravel(), minlength=len(burned.objects) + 1)[1:] > 0
        shown = [thing.kind for thing, visible in zip(burned.objects, seen, strict=True) if visible]
        hits = object_shares(burned, mask) >= FOUND_SHARE
        for kind, (above, below) in found.items():
            own = np.array([shape is kind for shape in shown], np.bool_)
            above.append(int(hits[own].sum()) if own.size else 0)
            below.append(int(own.sum()))
    weights = patient_weights(frames)
    hit, marked, true = np.array(counts, np.float64).T
    recall = {
        kind.name.lower(): {
            "objects": sum(below),
            "recall": ratio(np.array(above, float), np.array(below, float), weights).as_list(),
        }
        for kind, (above, below) in found.items()
    }
    everything = [np.sum([pair[side] for pair in found.values()], axis=0).astype(float) for side in (0, 1)]
    return {
        "set": f"{len(frames)} synthetic pictures on {len(set(frames))} {split} frames, style {style}",
        "threshold": threshold,
        "object_recall": ratio(everything[0], everything[1], weights).as_list(),
        "objects": int(everything[1].sum()),
        "by_kind": recall,
        "pixel_recall": ratio(hit, true, weights).as_list(),
        "precision": ratio(hit, marked, weights).as_list(),
        "dice": ratio(2 * hit, marked + true, weights).as_list(),
        "clean_area": mean_interval(np.array(areas), weights).as_list(6),
    }
