"""What each lever gave: one experiment and its variants, trained alike and compared image by image.

All comparisons are on the validation split; the test split is never looked at.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.training.chest import Material, Report, fit, silent
from ai_pipeline.training.chestdata import ChestImage, label_matrix
from ai_pipeline.training.experiment import Experiment, Levers
from ai_pipeline.training.metrics import Interval, within_source_auc, within_source_difference

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Lever:
    """One row: mean AUC inside sources on validation, and its difference to the base with a 95 % interval."""

    name: str
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

    Writes ``levers.json`` and ``levers.csv``. Raises ``DataMissing``.
    """
    kept = cache or out / "cache"
    runs = [levers.base, *levers.variants]
    for number, experiment in enumerate(runs):
        part = _part(report, number, len(runs), experiment.name)
        _finish(data, out / experiment.name, experiment, threads, kept, part)
    rows = compare(data, out, [experiment.name for experiment in runs], kept, levers.base)
    _write(out, rows)
    return rows


def compare(data: Path, out: Path, names: list[str], cache: Path, base: Experiment) -> list[Lever]:
    """The table of runs that are done: ``names`` are folders of ``out``, the first is what is compared to."""
    material = Material.gather(data, base, cache)
    images = {material.images[row].path.name: material.images[row] for row in material.rows("val")}
    known = {name: _said(out / name) for name in names}
    shared = sorted(set(images).intersection(*(set(said) for said in known.values())))
    chosen = [images[name] for name in shared]
    scores = {name: np.stack([said[file] for file in shared]) for name, said in known.items()}
    return [_row(out / name, name, scores[name], scores[names[0]], chosen) for name in names]


def _row(folder: Path, name: str, score: Floats, base: Floats, images: list[ChestImage]) -> Lever:
    truth = label_matrix(images)
    sources = np.array([image.source for image in images])
    patients = [image.patient for image in images]
    difference = None
    if score is not base:
        difference = within_source_difference(truth, score, base, sources, patients)
    best = max(json.loads((folder / "history.json").read_text()), key=lambda entry: entry["validation_auc"])
    return Lever(name, within_source_auc(truth, score, sources), difference, int(best["iteration"]))


def _finish(
    data: Path, folder: Path, experiment: Experiment, threads: int, cache: Path, report: Report
) -> None:
    done = folder / "done.json"
    if done.exists() and done.read_text() == experiment.model_dump_json():
        return
    resume = (folder / "checkpoint.pt").exists()
    fit(data, folder, experiment, resume=resume, threads=threads, cache=cache, report=report)
    done.write_text(experiment.model_dump_json())


def _said(folder: Path) -> dict[str, Floats]:
    with np.load(folder / "validation.npz", allow_pickle=False) as arrays:
        return dict(zip(arrays["names"].tolist(), arrays["logits"], strict=True))


def _part(report: Report, number: int, count: int, name: str) -> Report:
    def part(share: float, what: str) -> None:
        report((number + share) / count, f"{name}: {what}")

    return part


def _write(out: Path, rows: list[Lever]) -> None:
    (out / "levers.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    with (out / "levers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "validation_auc", "difference", "low", "high", "iterations"))
        for row in rows:
            found = row.difference.as_list() if row.difference else ["", "", ""]
            writer.writerow((row.name, round(row.validation_auc, 4), *found, row.iterations))
