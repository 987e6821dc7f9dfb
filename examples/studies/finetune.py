#!/usr/bin/env python3
"""Learn one finding against the rest from the images of a site.

The table is a CSV file with ``file`` (relative to it), ``patient_id`` and either a column of 0 and 1 with the
name of the target or a column ``labels`` (``Mass|Nodule``); optional ``split``. Without splits, patients are
divided at random.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from arms import Alteration, Arm, ArmRun, Lesson, Split, StudyMaterial, StudyNetwork, Task, logits_of

from ai_pipeline.models.registry import Chain, reduce
from ai_training import commands
from ai_training.base import DataMissing, Report, silent
from ai_training.commands import Figures, verb
from ai_training.metrics import Interval, auc_interval, patient_weights
from ai_training.sets.chest import label_matrix
from ai_training.sets.files import read_grey, rows
from ai_training.sets.images import SetImage
from ai_training.sets.splits import SHARES, check_splits, split_by_patient

FEWEST = 5  # positives and negatives to learn from: fewer teach nothing
ALTER = Alteration(rotation=5.0, shift=0.05, scale=0.1, contrast=0.15)
LIMIT = 200_000  # rows of a table
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class AucOfSet:
    """The AUC on one set of images that were not learned from, with its interval by patient."""

    images: int
    patients: int
    positives: int
    auc: Interval


@dataclass(frozen=True, slots=True)
class Finetuned:
    """The weights, the number of images learned from, and figures on held-out patients and on another set."""

    weights: Path
    learned: int
    positives: int
    held_out: AucOfSet
    external: AucOfSet | None


def finetune(
    labels: Path,
    target: str,
    out: Path,
    *,
    weights: str = "imagenet",
    architecture: str = "efficientnet-lite0",
    size: int = 128,
    iterations: int = 400,
    seed: int = 1,
    external: Path | None = None,
    threads: int = 0,
    resume: bool = False,
    report: Report = silent,
) -> Finetuned:
    """Fine-tune on the table ``labels``; writes ``best.pt`` and ``figures.json`` into ``out``.

    ``weights``: ``random``, ``imagenet``, or a file of an earlier training. Nothing is chosen on the
    validation split, so figures are of validation and test split together. ``external``: the table of another
    hospital, measured on its test split, or on all images if it has none. The figures hold only if neither
    ``weights`` nor this training has seen these patients; for ``weights`` this cannot be checked here.

    Raises DataMissing, ExperimentError.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    cv2.setNumThreads(1)
    made = Arm(
        name=target,
        network=StudyNetwork(architecture=architecture, initial=weights, size=size),
        split=Split(held_out=("val", "test")),
        task=Task(labels=(target,)),
        alter=ALTER,
    )
    material = dealt_out(read_local(labels, target, size))
    learned, _ = material.rows(made)
    positives = int(material.truth[learned].sum())
    if min(positives, len(learned) - positives) < FEWEST:
        raise DataMissing(f"{labels}: {positives} of {len(learned)} training images have {target}: too few")
    copies = max(1.0, (len(learned) - positives) / positives / 2)
    arm = made.model_copy(update={"lesson": Lesson(iterations=iterations, copies=copies)})
    run = ArmRun(arm, seed, material, Path(weights), out)
    run.finish(report, resume=resume)
    held = run.held_out()
    found = Finetuned(
        out / "best.pt",
        len(learned),
        positives,
        measured(material, held.rows, held.logits[:, 0]),
        _external(external, target, size, run) if external else None,
    )
    (out / "figures.json").write_text(json.dumps(asdict(found), indent=1, default=str))
    return found


def read_local(table: Path, target: str, size: int) -> StudyMaterial:
    """Read the images of ``table`` at ``size`` pixels a side, with one label. Raises DataMissing."""
    listed = rows(table)
    if not listed or len(listed) > LIMIT:
        raise DataMissing(f"{table} lists {len(listed)} images: 1 to {LIMIT} are taken")
    needed = {"file", "patient_id"} - set(listed[0])
    if needed or not {target, "labels"} & set(listed[0]):
        wanted = ", ".join(sorted(needed)) or f"{target} and no column labels"
        raise DataMissing(f"{table} has no column {wanted}")
    images = tuple(_image(table, row, target) for row in listed)
    check_splits(table, images)
    pixels = np.stack([reduce(read_grey(image.path), Chain(side=size))[0] for image in images])
    return StudyMaterial(images, pixels, label_matrix(images), names=(target,))


def dealt_out(material: StudyMaterial) -> StudyMaterial:
    """``material``; if no image has a split, with patients divided into splits."""
    if any(image.split for image in material.images):
        return material
    dealt = split_by_patient([image.patient for image in material.images], material.truth, SHARES, seed=1)
    rows = zip(material.images, dealt, strict=True)
    return replace(material, images=tuple(replace(image, split=split) for image, split in rows))


def measured(material: StudyMaterial, found: np.ndarray, scores: np.ndarray) -> AucOfSet:
    """The AUC of ``scores [n]`` for the images ``found``, by bootstrap over patients."""
    truth = material.truth[found, 0]
    patients = [material.images[row].patient for row in found]
    value = auc_interval(truth, scores, patient_weights(patients))
    return AucOfSet(len(found), len(set(patients)), int(truth.sum()), value)


def _external(table: Path, target: str, size: int, run: ArmRun) -> AucOfSet:
    material = read_local(table, target, size)
    tested = np.flatnonzero([image.split in ("test", "") for image in material.images])  # no split: all
    return measured(material, tested, logits_of(run.network, material.pixels[tested])[:, 0])


def _image(table: Path, row: Mapping[str, str], target: str) -> SetImage:
    named = {part.strip() for part in re.split(r"[|,]", row.get("labels") or "")}
    mark = row.get(target) or str(int(target in named))
    if mark not in ("0", "1"):
        raise DataMissing(f"{table}: the column {target} holds 0 and 1 only")
    return SetImage(
        row["file"],
        table.parent / row["file"],
        row["patient_id"],
        row.get("split") or "",
        source=table.stem,
        marks=(int(mark),),
    )


@verb(app, "finetune")
def command(
    *,
    report: Report,
    labels: Annotated[Path, typer.Option(help="CSV file: file, patient_id, the target (0, 1) or labels.")],
    target: Annotated[str, typer.Option(help="The finding, against the rest: Cardiomegaly.")],
    out: commands.Out,
    weights: Annotated[
        str, typer.Option(help="random, imagenet, or the best.pt or .safetensors of an earlier training.")
    ] = "imagenet",
    architecture: Annotated[
        str, typer.Option(help="efficientnet-lite0, a network of torchvision, or timm/NAME.")
    ] = "efficientnet-lite0",
    size: Annotated[int, typer.Option(help="Side of the input in pixels.", min=32, max=1024)] = 128,
    iterations: commands.Iterations = 400,
    seed: commands.Seed = 1,
    external: Annotated[
        Path | None, typer.Option("--test", help="CSV file of another hospital, to measure on.")
    ] = None,
    threads: commands.Threads = 0,
    resume: commands.Resume = False,
) -> Figures:
    """Fine-tune a chest network on images of one's own: one finding against the rest.

    Measures on patients that were held out, and on another hospital's images. Not for diagnostic use.
    """
    found = finetune(
        labels,
        target,
        out,
        weights=weights,
        architecture=architecture,
        size=size,
        iterations=iterations,
        seed=seed,
        external=external,
        threads=threads,
        resume=resume,
        report=report,
    )
    measured = {"held out": found.held_out, "other hospital": found.external}
    return {
        "weights": str(found.weights),
        "images": found.learned,
        target: found.positives,
        "measured": {
            name: {**asdict(one), "auc": one.auc.as_list()}
            for name, one in measured.items()
            if one is not None
        },
    }


if __name__ == "__main__":
    app()
