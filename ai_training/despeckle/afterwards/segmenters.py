"""``ai-pipeline train segmenters``: does less speckle harm a later segmentation, and why?

A published comparison found that frames without speckle were segmented worse. Its segmenter had been trained
on raw frames. Here SegNet and a U-Net learn heads from raw frames, from smoothed ones and from both, and are
evaluated on test frames after every filter. If all of them get worse, the filter removed information; if only
those trained on raw frames do, filtered frames were merely unfamiliar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

from ai_training.despeckle.afterwards import Filter
from ai_training.despeckle.afterwards.teaching import (
    STRONG,
    TAUGHT_BY,
    Frames,
    SegmenterRecipe,
    answers,
    blurs,
)
from ai_training.fetal.data import head_images
from ai_training.metrics import dice, mean_interval, patient_weights
from ai_training.networks.segmenters import SEGMENTERS
from ai_training.progress import Report, silent

FILE_COLUMNS = 512
"""Columns of the frames' files, whose pixel size the manifest gives."""
MEASURES = ("dice", "iou", "boundary", "area", "circumference")
"""Dice, intersection over union, mean distance of the outlines (mm), area over the true one, error of the
circumference of the fitted ellipse (mm)."""
Bools = npt.NDArray[np.bool_]
Scores = dict[str, npt.NDArray[np.float64]]
"""By filter: ``[frames, measures]``."""


def compare(
    data: Path, recipe: SegmenterRecipe, filters: Mapping[str, Filter], report: Report = silent
) -> dict[str, Any]:
    """Train every segmenter on every kind of frames, and evaluate it on the test frames raw and after each
    filter.

    ``filters`` take pictures 0 to 1. Differences are to the segmenter trained on raw frames, on raw frames,
    paired by frame, after averaging over seeds. Raises DataMissing.
    """
    torch.set_num_threads(1)
    seen_in_test = head_images(data, "test")
    lessons = Frames.read(head_images(data, "train"), {STRONG: blurs()[STRONG]}, recipe.size, report)
    exam = Frames.read(seen_in_test, {**filters, **blurs()}, recipe.size, report)
    pixels = [image.pixel_mm * FILE_COLUMNS / recipe.size[1] for image in seen_in_test]
    weights = patient_weights(exam.patients)
    found: dict[str, Any] = {}
    for name in SEGMENTERS:
        runs = {
            by: [
                _scores(answers(name, lessons, exam, by, recipe, seed, report), exam, pixels)
                for seed in recipe.seeds
            ]
            for by in TAUGHT_BY
        }
        found[name] = _figures(runs, weights)
    return {"recipe": asdict(recipe), "frames": len(exam.classes), "segmenters": found}


def _scores(masks: Mapping[str, npt.NDArray[np.uint8]], exam: Frames, pixels: Sequence[float]) -> Scores:
    truth = exam.classes > 0
    return {
        seen: np.array([measures(*row) for row in zip(found > 0, truth, pixels, strict=True)])
        for seen, found in masks.items()
    }


def _figures(runs: Mapping[str, Sequence[Scores]], weights: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Mean of each measure with its interval, and of Dice the difference to raw frames taught by raw ones."""
    means = {taught: _mean_of_seeds(scores) for taught, scores in runs.items()}
    before = means["raw"]["raw"][:, 0]

    def row(values: npt.NDArray[np.float64]) -> dict[str, list[float]]:
        measured = {
            name: mean_interval(values[:, number], weights).as_list() for number, name in enumerate(MEASURES)
        }
        return {**measured, "difference": mean_interval(values[:, 0] - before, weights).as_list()}

    return {
        taught: {seen: row(values) for seen, values in seen_as.items()} for taught, seen_as in means.items()
    }


def _mean_of_seeds(runs: Sequence[Scores]) -> Scores:
    return {seen: np.mean([run[seen] for run in runs], axis=0) for seen in runs[0]}


def measures(found: Bools, truth: Bools, pixel_mm: float) -> tuple[float, ...]:
    """:data:`MEASURES` of a mask. If nothing is found, the distance is that from the middle of the head to
    its outline.
    """
    union = int((found | truth).sum())
    return (
        dice(found, truth),
        float((found & truth).sum()) / max(union, 1),
        _distance(found, truth) * pixel_mm,
        float(found.sum()) / max(int(truth.sum()), 1),
        abs(_circumference(found) - _circumference(truth)) * pixel_mm,
    )


def _distance(found: Bools, truth: Bools) -> float:
    """Mean distance in pixels from each outline to the other."""
    if not found.any():
        return float(distance_transform_edt(truth).max())
    lines = [mask & ~binary_erosion(mask) for mask in (found, truth)]
    to_other = [distance_transform_edt(~line)[other] for line, other in zip(lines, lines[::-1], strict=True)]
    return float(np.concatenate(to_other).mean())


def _circumference(mask: Bools) -> float:
    """Circumference of the ellipse of the largest part (S. Ramanujan, 1914), in pixels; 0 without one."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea, default=None)
    if largest is None or len(largest) < 5:
        return 0.0
    a, b = (axis / 2 for axis in cv2.fitEllipse(largest)[1])
    return float(math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b))))


def as_text(result: Mapping[str, Any]) -> str:
    """A line for each segmenter, training frames and test frames."""
    lines = [
        f"{result['frames']} test frames, {result['recipe']}: Dice, "
        "difference to raw by raw, outlines apart mm, area, circumference mm"
    ]
    for name, runs in result["segmenters"].items():
        for taught, seen in runs.items():
            for frames, row in seen.items():
                d, diff, b, a, c = (
                    row[key] for key in ("dice", "difference", "boundary", "area", "circumference")
                )
                lines.append(
                    f"  {name:7} by {taught:9} on {frames:26} {d[0]:.3f}  {diff[0]:+.3f} [{diff[1]:+.3f}, "
                    f"{diff[2]:+.3f}]  {b[0]:.2f}  {a[0]:.3f}  {c[0]:.1f}"
                )
    return "\n".join(lines)
