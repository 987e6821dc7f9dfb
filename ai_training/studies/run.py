"""Run a study from its file to its figures: every arm with every seed, then the comparison."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from ai_training.engine.run import BEST
from ai_training.errors import ExperimentError
from ai_training.progress import Report, part_of, silent
from ai_training.studies.experiment import ChestStudy
from ai_training.studies.fit import HeldAnswers, run_arm
from ai_training.studies.material import StudyMaterial
from ai_training.studies.synthetic.recipe import Synthesis
from ai_training.studies.synthetic.synthesis import RealImages, synthesise

Answers = Mapping[str, tuple[HeldAnswers, ...]]
"""Of each arm's name what it said with each seed."""


def run_study(
    data: Path,
    out: Path,
    study: ChestStudy,
    *,
    weights: Path | None = None,
    left_out: Mapping[str, str] = MappingProxyType({}),
    threads: int = 0,
    cache: Path | None = None,
    report: Report = silent,
) -> tuple[StudyMaterial, Answers]:
    """Train every arm with every seed into folders of ``out``; a finished one is not trained again.

    ``weights``: the folder of the files that arms start from, ``data`` if None. ``left_out``: arms that do
    not run, and why; they can be run later into the same ``out``.

    Raises DataMissing, or ExperimentError, also if ``out`` holds another study or one on other images.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    material = StudyMaterial.gather(data, study, cache or out / "cache", report)
    _claim(out, study, material)
    study = study.without(left_out)
    for name, why in left_out.items():
        report(0.0, f"left out: {name}, {why}\n")
    if study.synthesis:
        material = _with_synthetic(material, study.synthesis, out, report)
    runs = [(seed, arm) for seed in study.seeds for arm in study.arms]
    answers: dict[str, list[HeldAnswers]] = {arm.name: [] for arm in study.arms}
    for number, (seed, arm) in enumerate(runs):
        part = part_of(report, number, len(runs), f"{arm.name}, seed {seed}")
        of_arm = out / f"{arm.network.from_arm}-{seed}" / BEST if arm.network.from_arm else None
        start, to = of_arm or weights or data, out / f"{arm.name}-{seed}"
        answers[arm.name].append(run_arm(arm, seed, material, start, to, part))
    return material, {name: tuple(found) for name, found in answers.items()}


def _claim(out: Path, study: ChestStudy, material: StudyMaterial) -> None:
    """Name the study and the images that ``out`` is of, or compare them: runs must not be mixed."""
    of = hashlib.sha256(study.model_dump_json().encode())
    for image in material.images:
        of.update(f"{image.path.name}|{image.patient}|{image.split}\n".encode())
    named = out / "study.sha256"
    if named.is_file() and named.read_text() != of.hexdigest():
        raise ExperimentError(f"{out} holds another study, or one on other images: take another folder")
    out.mkdir(parents=True, exist_ok=True)
    named.write_text(of.hexdigest())


def _with_synthetic(material: StudyMaterial, how: Synthesis, out: Path, report: Report) -> StudyMaterial:
    splits = np.array([image.split for image in material.images])
    labelled = material.truth[:, material.names.index(how.label)] > 0
    source = RealImages(material.pixels, splits == "train", np.isin(splits, ("val", "test")), labelled)
    images = synthesise(how, source, out, report)
    for kind, made in images.items():
        material = material.with_synthetic(kind, how.label, made)
    return material
