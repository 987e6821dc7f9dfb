"""`evaluate --report`: curves, confusion and the worst films are of the calls that the pipeline makes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ai_pipeline.chest.calls import OperatingPoint, labels_at
from ai_pipeline.models.registry import find
from ai_training.evaluation import report
from ai_training.evaluation.scores import Outputs, Scored, scored
from ai_training.evaluation.tables import headline
from ai_training.sets.files import rows
from ai_training.sets.images import LABELS, SetImage

CARD = find("chest-efficientnet-lite0")
EFFUSION = LABELS.index("Effusion")
FILMS = 60


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Films with and without an effusion; the higher the number the likelier the model thinks it."""
    folder = tmp_path_factory.mktemp("films")
    images = []
    for number in range(FILMS):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 30), 4 * number, np.uint8))
        marks = tuple(int(k == EFFUSION and number % 3 == 0) for k in range(len(LABELS)))
        path = folder / f"{number}.png"
        images.append(SetImage(path.name, path, f"p{number}", "test", marks=marks, age=50.0))
    logits = np.tile(np.linspace(-6, 6, FILMS)[:, None], (1, len(CARD.labels)))
    outputs = Outputs(logits, np.zeros(FILMS), np.ones(FILMS, np.bool_))
    return scored(images, outputs, CARD.labels, LABELS)


def test_a_report_has_the_calls_of_the_pipeline_and_its_worst_films_first(
    found: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(report, "draw_confusions", lambda _, confusions: shown.update(confusions))
    report.report_films(tmp_path, {"main": headline(found, {})}, found, CARD)

    [(name, (_, decisions, counts))] = shown.items()
    point = {label.name: label for label in labels_at(CARD, OperatingPoint.SPECIFIC)}["Effusion"]
    chance = found.chance[:, found.names.index("Effusion")]
    sick = np.arange(FILMS) % 3 == 0
    assert (name, decisions[2]) == ("Effusion", "suspected")
    assert counts.sum(1).tolist() == [(~sick).sum(), sick.sum()]
    assert counts[:, 2].tolist() == [(chance[part] >= point.threshold).sum() for part in (~sick, sick)]
    assert counts[:, 0].tolist() == [(chance[part] < point.absent_below).sum() for part in (~sick, sick)]

    listed = rows(tmp_path / "worst.csv")
    right = np.where(sick, chance, 1 - chance)
    worst = np.argsort(right, kind="stable")[: report.WORST].tolist()
    assert [row["file"] for row in listed] == [f"{number}.png" for number in worst]
    assert [row["truth"] for row in listed] == [
        "Effusion" if sick[number] else "no Effusion" for number in worst
    ]
    assert float(listed[0]["probability_of_the_truth"]) == pytest.approx(right.min(), abs=1e-4)


def test_the_pictures_of_a_report_are_drawn(found: Scored, tmp_path: Path) -> None:
    report.report_films(tmp_path, {"main": headline(found, {})}, found, CARD)
    drawn = {path.name: cv2.imread(str(path)) for path in tmp_path.glob("*.png")}
    assert set(drawn) == {"curves.png", "confusion.png", "worst.png"}
    assert all(picture.std() > 5 for picture in drawn.values()), "an empty picture"


def test_films_that_the_node_refuses_get_no_decision_and_are_counted_and_shown(
    found: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(report, "draw_confusions", lambda _, confusions: shown.update(confusions))
    number = np.arange(FILMS)
    some = replace(found, analysed=number % 4 != 0)  # among them the film that is judged worst
    report.report_films(tmp_path, {"main": headline(found, {})}, some, CARD)

    [(_, decisions, counts)] = shown.values()
    refused = counts[:, decisions.index("refused")].tolist()
    assert refused == [((number % 4 == 0) & (number % 3 != 0)).sum(), (number % 12 == 0).sum()]
    assert counts.sum() == FILMS
    listed = rows(tmp_path / "refused.csv")
    assert [row["file"] for row in listed] == [f"{n}.png" for n in range(0, FILMS, 4)]
    assert [row["truth"] for row in listed[:4]] == ["Effusion", "no finding", "no finding", "Effusion"]
    assert {row["probability_of_the_truth"] for row in listed} == {""}
    drawn = cv2.imread(str(tmp_path / "refused.png"))
    assert drawn.std() > 5, "an empty picture"
    assert {row["file"] for row in listed}.isdisjoint(row["file"] for row in rows(tmp_path / "worst.csv"))
    assert json.loads((tmp_path / "figures.json").read_text())["refused"] == {"films": 15, "of": FILMS}


def test_a_label_that_no_reader_sees_called_is_marked(
    found: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(report, "draw_confusions", lambda _, confusions: shown.update(confusions))
    report.report_films(tmp_path, {"main": headline(found, {})}, found, replace(CARD, details={}))
    assert list(shown) == ["Effusion (no call is shown)"]


def test_a_report_of_too_few_films_says_so_by_what_it_lacks(found: Scored, tmp_path: Path) -> None:
    few = found.where(number < 4 for number in range(FILMS))
    report.report_films(tmp_path, {"main": headline(few, {})}, few, CARD)
    assert not list(tmp_path.glob("*.png"))
    assert rows(tmp_path / "worst.csv") == []
