"""``ai-pipeline evaluate fetal``: outlines and circumferences against a sonographer's, and the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.fetal_head.outline import HeadModel
from ai_training.errors import DataMissing
from ai_training.fetal.data import HEADS, OTHERS, PLANES, HeadImage, head_images, other_images
from ai_training.fetal.gate import headless
from ai_training.metrics import agreement, dice, mean_interval, patient_weights, share
from ai_training.progress import Report, silent
from ai_training.sets.files import read_grey

TARGETS = {"dice": 0.972, "circumference": 2.5}
"""Least Dice, largest mean absolute error in millimetres."""
SMALL = 120.0
"""Circumference in mm below which a head is that of a fetus of about 15 weeks or less."""
BESIDE = f"{HEADS}, parts beside the head"


@dataclass(frozen=True, slots=True)
class HeadCase:
    """One head. ``error``: the measured circumference minus the sonographer's, mm. If no head was outlined,
    Dice is 0 and the error is the whole circumference. ``fault``: why the gate refuses the head, empty if it
    does not.
    """

    patient: str
    circumference: float
    dice: float
    error: float
    fault: str


def evaluate(data: Path, model: HeadModel, split: str, report: Report = silent) -> dict[str, Any]:
    """All figures of ``split`` (test, val). Intervals are 95 %, by bootstrap over examinations.

    Raises DataMissing.
    """
    images = head_images(data, split)
    if not images:
        raise DataMissing(f"{data} has no fetal heads in the split {split}")
    cases = []
    for number, image in enumerate(images):
        report(number / len(images), "fetal heads")
        cases.append(measure(image, model))
    return {
        "model": model.ref.id,
        "version": model.ref.version,
        "split": split,
        **figures(cases),
        "gate": gate_figures(data, model, split, cases, report),
    }


def measure(image: HeadImage, model: HeadModel) -> HeadCase:
    """Measure ``image`` as the node does, and compare the result with its reference."""
    picture, head = image.read()
    found = model.outline(picture)
    if found.area is None or found.measured is None:
        return HeadCase(image.patient, image.circumference, 0.0, -image.circumference, found.fault)
    error = found.measured.circumference * image.pixel_mm - image.circumference
    return HeadCase(
        image.patient, image.circumference, dice(found.area.mask(*head.shape), head), error, found.fault
    )


def figures(cases: Sequence[HeadCase]) -> dict[str, Any]:
    """Figures of all heads, whatever the gate says, and of the heads that the gate accepts."""
    passed = [case for case in cases if not case.fault]
    small = [case for case in cases if case.circumference < SMALL]
    differences = np.array([case.error for case in passed])
    return {
        "images": len(cases),
        "dice": _mean([case.dice for case in cases], cases),
        "error": _mean([abs(case.error) for case in cases], cases),
        "measured": len(passed),
        "circumference": {
            "dice": _mean([case.dice for case in passed], passed),
            "error": _mean([abs(case.error) for case in passed], passed),
            **agreement(differences, 2),
        },
        "small": {
            "images": len(small),
            "dice": _mean([case.dice for case in small], small),
            "error": _mean([abs(case.error) for case in small], small),
        },
        "pairs": [[case.circumference, round(case.circumference + case.error, 2)] for case in cases],
    }


def gate_figures(
    data: Path, model: HeadModel, split: str, heads: Sequence[HeadCase], report: Report = silent
) -> dict[str, Any]:
    """For each set the number of pictures and the share that is measured: high is good for heads, 0 for
    others.
    """
    found = {HEADS: _passed([case.patient for case in heads], [not case.fault for case in heads])}
    sets: dict[str, tuple[list[str], list[npt.NDArray[np.uint8]]]] = {
        name: (
            [image.patient for image in other_images(data, name, split)],
            [read_grey(image.picture) for image in other_images(data, name, split)],
        )
        for name in (PLANES, *OTHERS)
        if other_images(data, name, split)
    }
    sets[BESIDE] = [image.patient for image in head_images(data, split)], headless(data, "", split)
    for name, (patients, pictures) in sets.items():
        passed = []
        for number, picture in enumerate(pictures):
            report(number / len(pictures), name)
            passed.append(not model.outline(picture).fault)
        found[name] = _passed(patients, passed)
    return found


def missed_targets(result: Mapping[str, Any]) -> list[str]:
    """The targets of the design that are missed over all heads, whatever the gate says, in words."""
    missed = {
        "Dice": result["dice"][0] < TARGETS["dice"],
        "error of the circumference": result["error"][0] > TARGETS["circumference"],
    }
    return [what for what, is_missed in missed.items() if is_missed]


def _passed(patients: Sequence[str], passed: Sequence[bool]) -> dict[str, Any]:
    hits = np.array(passed, np.bool_)
    found = share(hits, np.ones(len(hits), np.bool_), patient_weights(patients))
    return {"images": len(hits), "passed": found.as_list()}


def _mean(values: Sequence[float], cases: Sequence[HeadCase]) -> list[float] | None:
    if not cases:
        return None
    weights = patient_weights([case.patient for case in cases])
    return mean_interval(np.array(values), weights).as_list()
