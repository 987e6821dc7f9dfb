"""How well fetal heads are still outlined in filtered pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ai_pipeline.fetal_head.outline import HeadModel
from ai_training.despeckle.afterwards import Filter
from ai_training.fetal.data import head_images
from ai_training.metrics import dice
from ai_training.progress import Report


@dataclass(frozen=True, slots=True)
class HeadScores:
    """One value for each head: Dice, error of the circumference in mm, outlined area divided by true area."""

    patients: list[str]
    dice: list[float]
    error: list[float]
    area: list[float]


def head_scores(data: Path, model: HeadModel, split: str, filtered: Filter, report: Report) -> HeadScores:
    """Outline all heads of ``split`` after the filter, even those the gate refuses; score the outlines.

    ``filtered`` takes and returns pictures 0 to 1.
    """
    found = HeadScores([], [], [], [])
    images = head_images(data, split)
    for number, image in enumerate(images):
        report(number / len(images), "heads after the filter")
        picture, head = image.read()
        seen = np.clip(filtered(picture.astype(np.float32) / np.float32(255)), 0, 1)
        outline = model.outline(np.rint(seen * 255).astype(np.uint8))
        mask = outline.area.mask(*head.shape) if outline.area else np.zeros_like(head)
        measured = outline.measured.circumference * image.pixel_mm if outline.measured else 0.0
        found.patients.append(image.patient)
        found.dice.append(dice(mask, head))
        found.error.append(abs(measured - image.circumference))
        found.area.append(float(mask.sum() / head.sum()))
    return found
