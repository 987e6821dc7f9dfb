"""Train the YOLO candidate, and measure it beside the other arms, which learn from the same boxes.

Either once, on the train boxes, judged on the val boxes; or five times, in the folds that decide what ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.card import Card
from ai_pipeline.engine import OnnxRuntime
from ai_pipeline.preprocess import prepare
from ai_pipeline.training.detect import fusion
from ai_pipeline.training.detect.judge import Case, Report, cross_validated, told
from ai_pipeline.training.detect.locators import Locator, centre, constant
from ai_pipeline.training.detect.scores import Place, means, place_figures
from ai_pipeline.training.detect.truth import corners, detection_boxes
from ai_pipeline.training.detect.yolo import FILE, Recipe, labels_of, train_yolo
from ai_pipeline.training.sets.chest import chest_set, read_grey


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A YOLO in ONNX as a locator of images by path: no torch, no non-maximum suppression left to do."""

    engine: OnnxRuntime
    labels: tuple[str, ...]
    card: Card
    size: int

    def place(self, path: Path, label: str) -> Place | None:
        """The surest box of ``label`` among the boxes that the network draws; None without one."""
        assert self.card.input is not None
        chain = replace(self.card.input.chain, side=self.size)
        picture, _ = prepare(read_grey(path), chain, self.size)
        values = np.broadcast_to(picture.astype(np.float32) / 255.0, (1, 3, self.size, self.size))
        rows = self.engine(np.ascontiguousarray(values))["boxes"][0]
        mine = rows[rows[:, 5].round() == self.labels.index(label)]
        if not len(mine):
            return None
        best = mine[int(np.argmax(mine[:, 4]))]
        left, top, right, bottom = (float(edge) for edge in np.clip(best[:4] / self.size, 0.0, 1.0))
        return Place((left, top, right, bottom), ((left + right) / 2, (top + bottom) / 2), float(best[4]))


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """A :class:`Drawn` as a locator of images by their number in ``paths``."""

    drawn: Drawn
    paths: Sequence[Path]

    def place(self, image: int, label: str) -> Place | None:
        return self.drawn.place(self.paths[image], label)


def judged_in_folds(
    data: Path, out: Path, card: Card, more: Sequence[Path], recipe: Recipe, report: Report
) -> dict[str, Any]:
    """All figures of the five folds with a YOLO of each; a fold that is in ``out`` is not trained again.

    Raises DataMissing or CardError.
    """
    case = Case.of([box for box in detection_boxes(data, more) if box.split != "test"], card, report)

    def further(number: int, known: Sequence[int]) -> dict[str, Locator]:
        boxes, folder = [case.boxes[index] for index in known], out / f"fold-{number + 1}"
        path = folder / FILE
        labels = labels_of(boxes, card)
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            train_yolo(boxes, card, folder, recipe)
        drawn = Drawn(OnnxRuntime(path.read_bytes(), recipe.threads), labels, card, recipe.size)
        return {"yolo": Listed(drawn, case.paths)}

    said = cross_validated(case, fusion.Recipe(), report, further=further)
    figures = told(case, said, chest_set(data).images, card, decide=True)
    return {"model": card.name, "split": "cv", **figures}


def trained_and_judged(
    data: Path, out: Path, card: Card, more: Sequence[Path], recipe: Recipe, report: Report
) -> dict[str, Any]:
    """Train into ``out`` and return the figures on the val boxes. Raises DataMissing or CardError."""
    out.mkdir(parents=True, exist_ok=True)
    boxes = detection_boxes(data, more)
    known = [box for box in boxes if box.split == "train"]
    asked = [box for box in boxes if box.split == "val"]
    path, labels = train_yolo(known, card, out, recipe), labels_of(known, card)
    yolo = Drawn(OnnxRuntime(path.read_bytes(), recipe.threads), labels, card, recipe.size)
    case = Case.of([*known, *asked], card, report)
    head = fusion.fit(known, case.rows[: len(known)], case.read.maps, fusion.Recipe())
    fixed = {"constant": constant(known), "centre": centre(known)}
    rows = case.rows[len(known) :]
    said = {
        "yolo": [yolo.place(box.path, box.label) for box in asked],
        "fusion": [head.place(row, box.label) for row, box in zip(rows, asked, strict=True)],
        **{arm: [one.place(0, box.label) for box in asked] for arm, one in fixed.items()},
    }
    truth, patients = [corners(box) for box in asked], [box.patient for box in asked]
    tables = {arm: place_figures(truth, found) for arm, found in said.items()}
    return {
        "boxes": len(asked),
        "arms": {arm: means(table, patients) for arm, table in tables.items()},
        "differences": {
            f"yolo - {arm}": means(tables["yolo"] - tables[arm], patients) for arm in list(tables)[1:]
        },
    }
