"""Boxes that move with small changes of the film are counted as left out, others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from ai_pipeline.chest.changes import Change, changed
from ai_pipeline.chest.detector import CHANGES, moved_back
from ai_pipeline.models.card import Chain, Input
from ai_training.detect.locating.cross_validation import LabelledBoxes
from ai_training.detect.locating.scores import Place
from ai_training.detect.locating.stability import _arm, left_out, without_changed
from ai_training.detect.locating.trunk import TrunkFeatures
from ai_training.sets.images import TruthBox

SIDE = 200
INPUT = Input(SIDE, 3, (127.0,), (128.0,), "MONOCHROME2", Chain(side=SIDE))
HERE, THERE = (0.1, 0.5, 0.3, 0.8), (0.7, 0.5, 0.9, 0.8)


@pytest.mark.parametrize("change", CHANGES)
def test_a_box_in_a_changed_film_is_mapped_back_to_where_it_was(change: Change) -> None:
    picture = np.full((3, SIDE, SIDE), -127 / 128, np.float32)
    picture[:, 100:160, 20:60] = 1.0
    seen, _ = changed(picture, change, INPUT)
    rows, columns = np.nonzero(seen[0] > 0)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)

    found = moved_back(tuple(float(edge) / SIDE for edge in edges), change)  # type: ignore[arg-type]

    assert found == pytest.approx(HERE, abs=0.01)


def test_a_box_that_jumps_in_one_changed_film_is_left_out() -> None:
    left, top, right, bottom = (edge * 100 for edge in HERE)
    boxes = tuple(
        TruthBox(f"{n}.png", "Effusion", left, top, right, bottom, "train", side=100.0, patient=str(n))
        for n in range(2)
    )
    features = TrunkFeatures(np.zeros((3, 1, 1, 1), np.float32), np.zeros((3, 14), np.float32))
    case = LabelledBoxes(boxes, (0, 1), tuple(Path(f"{n}.png") for n in range(3)), features)
    places = {0: HERE, 1: THERE, 2: THERE}
    predictions = {"fusion": {(n, "Effusion"): _place(box) for n, box in places.items()}}
    predictions |= {_arm(change): dict(predictions["fusion"]) for change in CHANGES}
    predictions[_arm(CHANGES[-1])][1, "Effusion"] = _place(HERE)

    (row,) = left_out(case, predictions, ["Effusion"])

    assert row == {"label": "Effusion", "right": [1, 0], "wrong": [1, 1], "no box": [1, 0]}
    assert list(without_changed(predictions)) == ["fusion"]


def _place(corners: tuple[float, float, float, float]) -> Place:
    return Place(corners, (0.5, 0.5), 0.5)
