"""The pictures of ``evaluate --report``: curves, confusion, and the pictures that the model judged worst."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.chest.calls import chosen_point, labels_at
from ai_pipeline.contract import Grey
from ai_pipeline.models.registry import Card
from ai_training.evaluation.plots import DECISIONS, draw_confusions, draw_curves, draw_pictures
from ai_training.evaluation.scores import Scored, curves
from ai_training.evaluation.tables import ENOUGH
from ai_training.metrics import Floats
from ai_training.sets.files import read_grey

WORST = 12
CURVES, CONFUSION, PICTURES, FIGURES = "curves.png", "confusion.png", "worst.png", "figures.json"
Confusion = tuple[Sequence[str], Sequence[str], Any]
"""Names of the rows (truth), of the columns (answer), and counts ``[rows, columns]``."""


@dataclass(frozen=True, slots=True)
class WronglyJudged:
    """A picture with an answer far from the truth. ``file``: its name in the set; ``truth``, ``said``: in
    words; ``probability``: the calibrated one of what is true, 0 to 1; ``read`` gives its pixels.
    """

    file: str
    truth: str
    said: str
    probability: float
    read: Callable[[], Grey]


def write_report(
    folder: Path,
    figures: Mapping[str, Any],
    drawn: Mapping[str, Any],
    aucs: Mapping[str, Any],
    confusions: Mapping[str, Confusion],
    worst: Sequence[WronglyJudged],
) -> None:
    """Write ``curves.png``, ``confusion.png``, ``worst.png`` with its table ``worst.csv``, and
    ``figures.json`` into ``folder``. ``drawn``, ``aucs``: as :func:`draw_curves` takes them; a label that is
    not in ``drawn`` has too few images, and without any there are no curves. The numbers on the pictures of
    ``worst`` are those of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if drawn:
        draw_curves(folder / CURVES, drawn, aucs)
    if confusions:
        draw_confusions(folder / CONFUSION, confusions)
    captions = [
        f"{number}: {one.truth}\n{one.said}; truth {one.probability:.3f}"
        for number, one in enumerate(worst, start=1)
    ]
    draw_pictures(folder / PICTURES, [one.read() for one in worst], captions)
    with (folder / PICTURES).with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("number", "file", "truth", "said", "probability_of_the_truth"))
        for number, one in enumerate(worst, start=1):
            writer.writerow((number, one.file, one.truth, one.said, f"{one.probability:.4f}"))
    (folder / FIGURES).write_text(json.dumps(figures, indent=1), encoding="utf-8")


def report_films(folder: Path, figures: Mapping[str, Any], found: Scored, card: Card) -> None:
    """Write the report of the films ``found`` that the model of ``card`` has scored; ``figures``: those of
    their evaluation. Decisions are those of the operating point that the pipeline uses by itself.
    """
    rows = {row["label"]: row["auc"] for row in figures["main"]["labels"]}
    at_point = {label.name: label for label in labels_at(card, chosen_point(card, None))}
    confusions, counted = {}, found.with_positives(ENOUGH)
    for k in counted:
        label = at_point[found.labels[k].name]
        decided = (found.chance[:, k, None] >= [label.absent_below, label.threshold]).sum(1)
        there = found.truth[:, k] > 0
        counts = [np.bincount(decided[part], minlength=len(DECISIONS)) for part in (~there, there)]
        confusions[found.names[k]] = (("without", "with it"), DECISIONS, np.array(counts))
    write_report(folder, figures, curves(found, ENOUGH), rows, confusions, _worst_films(found, counted))


def _worst_films(found: Scored, counted: Sequence[int]) -> list[WronglyJudged]:
    """The films whose truth the model thinks least likely, each with its worst label among ``counted``."""
    if not counted:
        return []
    truth, chance = found.truth[:, counted] > 0, found.chance[:, counted]
    right: Floats = np.where(truth, chance, 1 - chance)
    worst = right.argmin(1)
    chosen = np.argsort(right.min(1), kind="stable")[:WORST]
    films = []
    for row in chosen.tolist():
        image, name = found.images[row], found.names[counted[worst[row]]]
        there, value = bool(truth[row, worst[row]]), float(chance[row, worst[row]])
        films.append(
            WronglyJudged(
                image.name or image.path.name,
                name if there else f"no {name}",
                f"{name} {value:.3f}",
                float(right[row].min()),
                lambda path=image.path: read_grey(path),  # type: ignore[misc]
            )
        )
    return films
