"""``ai-pipeline evaluate anatomy``: outlines and the cardiothoracic ratio against a reader's masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.anatomy import Anatomy, AnatomyModel, cardiothoracic
from ai_pipeline.images.coordinates import Affine
from ai_training.anatomy.data import AnatomyImage, anatomy_images
from ai_training.errors import DataMissing
from ai_training.metrics import agreement, mean_interval, patient_weights
from ai_training.networks.outlines import ORGANS
from ai_training.progress import Report, silent

TARGETS = {"heart": 0.95, "right lung": 0.975, "left lung": 0.975, "ratio error": 0.010, "limits": 0.03}
"""Least Dice, largest mean absolute error of the ratio, widest limits of agreement around the bias."""
HERE = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class AnatomyCase:
    """One image: Dice of each organ, the reader's ratio and the measured one (NaN if missing), and why it is
    missing.
    """

    name: str
    dice: npt.NDArray[np.float64]
    truth: float
    measured: float
    fault: str


def evaluate(data: Path, model: AnatomyModel, split: str, report: Report = silent) -> dict[str, Any]:
    """All figures of ``split`` (test, val). Intervals are 95 %, by bootstrap over images, one image per
    patient.

    Raises DataMissing.
    """
    images = anatomy_images(data, split)
    if not images:
        raise DataMissing(f"{data} has no chest with masks in the split {split}")
    cases = []
    for number, image in enumerate(images):
        report(number / len(images), "heart and lungs")
        cases.append(measure(image, model))
    return {"model": model.ref.id, "version": model.ref.version, "split": split, **figures(cases)}


def measure(image: AnatomyImage, model: AnatomyModel) -> AnatomyCase:
    """Measure ``image`` as the node does, and compare the result with the image's masks."""
    picture, organs = image.read()
    found = model.outline(picture)
    truth = cardiothoracic(organs, HERE)
    return AnatomyCase(
        image.name,
        dice(found.masks, on_grid(organs, found)),
        truth.ratio if truth else float("nan"),
        found.measured.ratio if found.measured else float("nan"),
        found.fault,
    )


def on_grid(organs: npt.NDArray[np.bool_], found: Anatomy) -> npt.NDArray[np.bool_]:
    """``organs [3, rows, columns]`` of the source image, resampled to the grid of ``found``."""
    there = found.from_grid.inverse()
    matrix = np.array([[there.a, there.b, there.c], [there.d, there.e, there.f]])
    matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5  # OpenCV counts from pixel centres
    size = found.masks.shape[1:][::-1]
    return np.stack([cv2.warpAffine(organ.astype(np.float32), matrix, size) >= 0.5 for organ in organs])


def dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The Dice coefficient of each organ, 0 to 1, for masks ``[3, rows, columns]``."""
    common = (found & truth).sum((1, 2))
    return np.asarray(2 * common / np.maximum(found.sum((1, 2)) + truth.sum((1, 2)), 1), np.float64)


def figures(cases: Sequence[AnatomyCase]) -> dict[str, Any]:
    """Dice over all images, agreement of the measured ratios with the readers', and why some images were not
    measured.
    """
    dices = np.array([case.dice for case in cases])
    measured = [case for case in cases if not np.isnan(case.measured - case.truth)]
    difference = np.array([case.measured - case.truth for case in measured])
    faults = [case.fault for case in cases if case.fault]
    ratio = None
    if len(measured) > 1:
        ratio = {"error": _mean(np.abs(difference)), **agreement(difference, 4)}
    return {
        "images": len(cases),
        "dice": {name: _mean(dices[:, organ]) for organ, name in enumerate(ORGANS)},
        "measured": len(measured),
        "not_measured": {fault: faults.count(fault) for fault in dict.fromkeys(faults)},
        "ratio": ratio,
        "pairs": [[case.truth, case.measured] for case in measured],
    }


def missed_targets(result: Mapping[str, Any]) -> list[str]:
    """The targets of the design that are not reached, in words."""
    missed = [f"Dice of {organ}" for organ, dice in result["dice"].items() if dice[0] < TARGETS[organ]]
    ratio = result["ratio"]
    if ratio and ratio["error"][0] > TARGETS["ratio error"]:
        missed.append("error of the ratio")
    if ratio and (ratio["limits"][1] - ratio["limits"][0]) / 2 > TARGETS["limits"]:
        missed.append("limits of agreement")
    return missed


def _mean(values: npt.NDArray[np.float64]) -> list[float]:
    weights = patient_weights([str(number) for number in range(len(values))])
    return mean_interval(values, weights).as_list()
