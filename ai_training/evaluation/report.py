"""The pictures of ``evaluate --report``: curves, confusion, and the pictures that the model judged worst, or
that the node refuses.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.chest.calls import called_labels, chosen_point, labels_at
from ai_pipeline.contract import Grey
from ai_pipeline.models.registry import Card
from ai_training.evaluation.plots import DECISIONS, draw_confusions, draw_curves, draw_pictures
from ai_training.evaluation.scores import Scored, curves
from ai_training.evaluation.tables import ENOUGH
from ai_training.metrics import Floats
from ai_training.sets.files import read_grey
from ai_training.sets.images import SetImage

WORST = 12
"""How many pictures are drawn; a table beside them lists all."""
CURVES, CONFUSION, FIGURES = "curves.png", "confusion.png", "figures.json"
Confusion = tuple[Sequence[str], Sequence[str], Any]
"""Names of the rows (truth), of the columns (answer), and counts ``[rows, columns]``."""


@dataclass(frozen=True, slots=True)
class WronglyJudged:
    """A picture with an answer far from the truth, or without one. ``file``: its name in the set; ``truth``,
    ``said``: in words; ``probability``: the calibrated one of what is true, 0 to 1, None without an answer;
    ``read`` gives its pixels.
    """

    file: str
    truth: str
    said: str
    probability: float | None
    read: Callable[[], Grey]


def write_report(
    folder: Path,
    figures: Mapping[str, Any],
    drawn: Mapping[str, Any],
    aucs: Mapping[str, Any],
    confusions: Mapping[str, Confusion],
    pictures: Mapping[str, Sequence[WronglyJudged]],
) -> None:
    """Write ``curves.png``, ``confusion.png``, for each name of ``pictures`` a picture of the first twelve
    with a table of all (``worst.png``, ``worst.csv``), and ``figures.json`` into ``folder``. ``drawn``,
    ``aucs``: as :func:`draw_curves` takes them; a label that is not in ``drawn`` has too few images, and
    without any there are no curves. The numbers on the pictures are those of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if drawn:
        draw_curves(folder / CURVES, drawn, aucs)
    if confusions:
        draw_confusions(folder / CONFUSION, confusions)
    for name, listed in pictures.items():
        _write_pictures(folder / name, listed)
    (folder / FIGURES).write_text(json.dumps(figures, indent=1), encoding="utf-8")


def _write_pictures(path: Path, listed: Sequence[WronglyJudged]) -> None:
    """Draw the first pictures of ``listed`` into ``path`` with the suffix ``.png``, and list all in ``.csv``
    beside it.
    """
    captions, table = [], [("number", "file", "truth", "said", "probability_of_the_truth")]
    for number, judged in enumerate(listed, start=1):
        caption, chance = f"{number}: {judged.truth}\n{judged.said}", ""
        if judged.probability is not None:
            caption += f"; truth {judged.probability:.3f}"
            chance = f"{judged.probability:.4f}"
        captions.append(caption)
        table.append((str(number), judged.file, judged.truth, judged.said, chance))
    if listed:
        drawn = [judged.read() for judged in listed[:WORST]]
        draw_pictures(path.with_suffix(".png"), drawn, captions[:WORST])
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)


def report_films(folder: Path, figures: Mapping[str, Any], found: Scored, card: Card) -> None:
    """Write the report of the films ``found`` that the model of ``card`` has scored; ``figures``: those of
    their evaluation. Decisions are those of the operating point that the pipeline uses by itself. Curves are
    of all films; one that the node refuses gets no decision, and is counted and shown as refused.
    """
    rows = {row["label"]: row["auc"] for row in figures["main"]["labels"]}
    point = chosen_point(card, None)
    at_point = {label.name: label for label in labels_at(card, point)}
    seen = called_labels(card, point, list(at_point))
    confusions, counted = {}, found.with_positives(ENOUGH)
    for k in counted:
        label = at_point[found.labels[k].name]
        decided = (found.chance[:, k, None] >= [label.absent_below, label.threshold]).sum(1)
        decided[~found.analysed] = DECISIONS.index("refused")
        there = found.truth[:, k] > 0
        counts = [np.bincount(decided[part], minlength=len(DECISIONS)) for part in (~there, there)]
        title = found.names[k] if label.name in seen else f"{found.names[k]} (no call is shown)"
        confusions[title] = (("without", "with it"), DECISIONS, np.array(counts))
    pictures = {"worst": _worst_films(found.where(found.analysed), counted)}
    if refused := _refused_films(found):
        pictures["refused"] = refused
    figures = {**figures, "refused": {"films": len(refused), "of": len(found.images)}}
    drawn = curves(replace(found, labels=tuple(at_point[label.name] for label in found.labels)), ENOUGH)
    write_report(folder, figures, drawn, rows, confusions, pictures)


def _refused_films(found: Scored) -> list[WronglyJudged]:
    """The films that the node refuses, by its gate or for their exposure."""
    films = []
    for row in np.flatnonzero(~found.analysed).tolist():
        image = found.images[row]
        there = [found.names[k] for k in np.flatnonzero(found.truth[row] > 0)]
        films.append(_listed(image, ", ".join(there) or "no finding", "refused", None))
    return films


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
        truth_in_words = name if there else f"no {name}"
        films.append(_listed(image, truth_in_words, f"{name} {value:.3f}", float(right[row].min())))
    return films


def _listed(image: SetImage, truth: str, said: str, probability: float | None) -> WronglyJudged:
    """A row of a table of films, whose picture is read when it is drawn."""
    return WronglyJudged(
        image.name or image.path.name, truth, said, probability, lambda: read_grey(image.path)
    )
