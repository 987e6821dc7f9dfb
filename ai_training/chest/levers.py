"""Measure the effect of single settings: one experiment and its variants, trained alike, compared image by
image.

All comparisons are on the validation split; the test split is not used.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_training.chest.experiment import Experiment, Levers
from ai_training.chest.fit import UNFAIR, Material, fit
from ai_training.metrics import Interval, within_source_auc, within_source_difference
from ai_training.progress import Report, part_of, silent
from ai_training.sets.chest import label_matrix
from ai_training.sets.images import ChestImage

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Lever:
    """The result of training one variant.

    ``validation_auc``: mean of the AUCs within each source, on validation. ``difference``: that AUC minus the
    AUC of the variant ``against``, with a 95 % interval.
    """

    name: str
    against: str | None
    validation_auc: float
    difference: Interval | None
    iterations: int


def pull(
    data: Path,
    out: Path,
    levers: Levers,
    *,
    threads: int = 0,
    cache: Path | None = None,
    report: Report = silent,
) -> list[Lever]:
    """Train base and variants into folders of ``out``; a finished one is not trained again.

    Returns one result for each. Writes ``levers.json`` and ``levers.csv``. Raises ``DataMissing``.
    """
    cache = cache or out / "cache"
    runs = [levers.base, *(variant.experiment for variant in levers.variants)]
    for number, experiment in enumerate(runs):
        part = part_of(report, number, len(runs), experiment.name)
        _finish(data, out / experiment.name, experiment, threads, cache, part)
    rows = compare(data, out, levers, cache)
    _write(out, rows)
    return rows


def compare(data: Path, out: Path, levers: Levers, cache: Path) -> list[Lever]:
    """The results of a comparison whose runs are finished in ``out``."""
    material = Material.gather(data, levers.base, cache)
    images = [material.images[row] for row in material.rows("val")]
    pairs = [("base", None), *((v.experiment.name, v.against) for v in levers.variants)]
    scores = {name: _scores(out / name, images) for name, _ in pairs}
    return [
        _row(out / name, against, scores[name], scores[against] if against else None, images)
        for name, against in pairs
    ]


def _row(
    folder: Path, against: str | None, score: Floats, other: Floats | None, images: list[ChestImage]
) -> Lever:
    truth = label_matrix(images)
    sources = np.array([image.source for image in images])
    patients = [image.patient for image in images]
    value = within_source_auc(truth, score, sources, left_out=UNFAIR)
    difference = None
    if other is not None:
        difference = within_source_difference(truth, score, other, sources, patients, left_out=UNFAIR)
    best = max(json.loads((folder / "history.json").read_text()), key=lambda entry: entry["validation_auc"])
    return Lever(folder.name, against, value, difference, int(best["iteration"]))


def _finish(
    data: Path, folder: Path, experiment: Experiment, threads: int, cache: Path, report: Report
) -> None:
    done = folder / "done.json"
    if done.exists() and done.read_text() == experiment.model_dump_json():
        return
    resume = (folder / "checkpoint.pt").exists()
    fit(data, folder, experiment, resume=resume, threads=threads, cache=cache, report=report)
    done.write_text(experiment.model_dump_json())


def _scores(folder: Path, images: list[ChestImage]) -> Floats:
    with np.load(folder / "validation.npz", allow_pickle=False) as arrays:
        logits = dict(zip(arrays["names"].tolist(), arrays["logits"], strict=True))
    return np.stack([logits[image.path.name] for image in images])


def _write(out: Path, rows: list[Lever]) -> None:
    (out / "levers.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    with (out / "levers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "against", "validation_auc", "difference", "low", "high", "iterations"))
        for row in rows:
            found = row.difference.as_list() if row.difference else ["", "", ""]
            writer.writerow((row.name, row.against, round(row.validation_auc, 4), *found, row.iterations))
