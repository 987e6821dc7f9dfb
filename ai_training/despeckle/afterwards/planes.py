"""``ai-pipeline train plane-segmenters``: the published comparison on its own data, by plane and class.

SegNet and a U-Net learn brain, cavum septi pellucidi and lateral ventricles from the frames of
:mod:`ai_training.sets.fetal_biometry`, and are evaluated on the test patients' frames after every filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_training.despeckle.afterwards import Filter
from ai_training.despeckle.afterwards.teaching import (
    STRONG,
    TAUGHT_BY,
    Frames,
    SegmenterRecipe,
    answers,
    blurs,
)
from ai_training.metrics import mean_interval, patient_weights
from ai_training.networks.segmenters import SEGMENTERS
from ai_training.progress import Report, silent
from ai_training.sets.fetal_biometry import CLASSES, BiometryImage, biometry_images

Floats = npt.NDArray[np.float64]


def compare(
    data: Path, recipe: SegmenterRecipe | None, filters: Mapping[str, Filter], report: Report = silent
) -> dict[str, Any]:
    """Train each segmenter on each kind of frames; Dice of every plane and class, raw and after each filter.

    ``recipe`` None: :meth:`SegmenterRecipe.published`. ``filters`` take pictures 0 to 1. Raises DataMissing.
    """
    learned, asked = biometry_images(data, "train"), biometry_images(data, "test")
    recipe = recipe or SegmenterRecipe.published(len(learned))
    lessons = Frames.read(learned, {STRONG: blurs()[STRONG]}, recipe.size, report)
    exam = Frames.read(asked, {**filters, **blurs()}, recipe.size, report)
    found: dict[str, Any] = {}
    for name in SEGMENTERS:
        found[name] = {
            by: _figures(
                [answers(name, lessons, exam, by, recipe, seed, report) for seed in recipe.seeds], exam, asked
            )
            for by in TAUGHT_BY
        }
    return {
        "recipe": asdict(recipe),
        "frames": {"train": len(learned), "test": len(asked)},
        "patients": len({image.patient for image in asked}),
        "segmenters": found,
    }


def _figures(
    runs: Sequence[Mapping[str, npt.NDArray[np.uint8]]], exam: Frames, asked: Sequence[BiometryImage]
) -> dict[str, Any]:
    """Mean Dice with its interval by patient, for each filter, plane and class; seeds are averaged first."""
    return {
        seen: _by_plane(np.mean([dices(run[seen], exam.classes) for run in runs], axis=0), asked)
        for seen in exam.pictures
    }


def dices(found: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> Floats:
    """The Dice coefficient of each frame and class without the background, ``[N, 3]``; NaN if both lack the
    class.
    """
    columns = []
    for value in range(1, len(CLASSES)):
        here, there = found == value, truth == value
        sizes = (here.sum((1, 2)) + there.sum((1, 2))).astype(np.float64)
        common = 2.0 * (here & there).sum((1, 2))
        columns.append(np.divide(common, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0))
    return np.stack(columns, axis=1)


def _by_plane(values: Floats, asked: Sequence[BiometryImage]) -> dict[str, dict[str, list[float]]]:
    planes = np.array([image.plane for image in asked])
    patients = np.array([image.patient for image in asked])
    found: dict[str, dict[str, list[float]]] = {}
    for plane in dict.fromkeys([*planes.tolist(), "all"]):
        for number, name in enumerate(CLASSES[1:]):
            rows = ~np.isnan(values[:, number]) & ((planes == plane) | (plane == "all"))
            if rows.any():
                measured = mean_interval(values[rows, number], patient_weights(patients[rows].tolist()))
                found.setdefault(plane, {})[name] = measured.as_list()
    return found


def as_text(result: Mapping[str, Any]) -> str:
    """A line for each segmenter, training frames, test frames and plane."""
    frames = result["frames"]
    lines = [
        f"{frames['test']} test frames of {result['patients']} patients, {frames['train']} to learn from, "
        f"{result['recipe']}: Dice"
    ]
    for name, runs in result["segmenters"].items():
        for by, seen_as in runs.items():
            for seen, planes in seen_as.items():
                for plane, classes in planes.items():
                    values = "  ".join(
                        f"{kind} {value:.3f} [{low:.3f}, {high:.3f}]"
                        for kind, (value, low, high) in classes.items()
                    )
                    lines.append(f"  {name:7} by {by:9} on {seen:26} {plane:18} {values}")
    return "\n".join(lines)
