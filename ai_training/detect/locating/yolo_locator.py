"""A YOLO as a locator: trained once and measured on the val boxes, or in each of the folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.chest.detector import detections_by_label
from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.preprocess import normalise, prepare
from ai_training.detect.locating import fusion
from ai_training.detect.locating.cross_validation import LabelledBoxes, compared
from ai_training.detect.locating.locators import Floats, Locator, centre, constant
from ai_training.detect.locating.scores import Place, place_figures
from ai_training.detect.locating.truth import corners, detection_boxes
from ai_training.detect.locating.yolo import FILE, YoloRecipe, labels_of, train_yolo
from ai_training.progress import Report
from ai_training.sets.files import read_grey
from ai_training.sets.images import TruthBox


@dataclass(frozen=True, slots=True, eq=False)
class YoloLocator:
    """A YOLO in ONNX as a locator; images are indices into ``paths``. It needs no torch and no non-maximum
    suppression.
    """

    engine: OnnxRuntime
    labels: tuple[str, ...]
    card: Card
    size: int
    paths: Sequence[Path]
    _seen: dict[int, dict[str, Floats]] = field(default_factory=dict, init=False, repr=False)

    def boxes(self, image: int, label: str) -> Floats:
        """The detections of ``label``: ``[K, 5]``, corners as shares of the sides, and scores."""
        if image not in self._seen:
            self._seen[image] = self._look(self.paths[image])
        return self._seen[image].get(label, np.zeros((0, 5), np.float32))

    def place(self, image: int, label: str) -> Place | None:
        """The box of ``label`` with the highest score; None if there is none."""
        mine = self.boxes(image, label)
        if not len(mine):
            return None
        left, top, right, bottom, score = (float(value) for value in mine[int(np.argmax(mine[:, 4]))])
        return Place((left, top, right, bottom), ((left + right) / 2, (top + bottom) / 2), score)

    def _look(self, path: Path) -> dict[str, Floats]:
        wanted = self.card.input
        assert wanted is not None
        picture, _ = prepare(read_grey(path), replace(wanted.chain, side=self.size), self.size)
        values = normalise(picture[None], wanted.mean[0], wanted.scale[0])
        return detections_by_label(self.engine(values)["boxes"][0], self.labels, self.size)


def trained(
    boxes: Sequence[TruthBox], card: Card, folder: Path, recipe: YoloRecipe, paths: Sequence[Path]
) -> YoloLocator:
    """The YOLO trained on ``boxes`` in ``folder``; it is trained now if there is none yet.

    Raises FileExistsError if the YOLO in ``folder`` was trained in another way, or on other boxes.
    """
    path, note, wanted = folder / FILE, folder / "made_of.json", _made_of(boxes, card, recipe)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(wanted)
        train_yolo(boxes, card, folder, recipe)
    elif not note.exists() or note.read_text() != wanted:
        raise FileExistsError(
            f"{folder} holds a YOLO of other boxes or settings: remove it or name another --out"
        )
    return YoloLocator(
        OnnxRuntime(path.read_bytes(), recipe.threads), labels_of(boxes), card, recipe.size, tuple(paths)
    )


def _made_of(boxes: Sequence[TruthBox], card: Card, recipe: YoloRecipe) -> str:
    truth = sorted((box.file, box.label, *corners(box)) for box in boxes)
    settings = {name: value for name, value in asdict(recipe).items() if name != "threads"}
    boxes_hash = hashlib.sha256(json.dumps(truth).encode()).hexdigest()
    return json.dumps({"classifier": card.id, "boxes": boxes_hash, **settings}, indent=1)


def trained_and_judged(
    data: Path, out: Path, card: Card, more: Sequence[Path], recipe: YoloRecipe, report: Report
) -> dict[str, Any]:
    """Train into ``out``; returns the figures on the val boxes, together with those of head, constant box and
    centre prior fitted to the same train boxes. Raises DataMissing or CardError.
    """
    boxes = detection_boxes(data, more)
    known = [box for box in boxes if box.split == "train"]
    asked = [box for box in boxes if box.split == "val"]
    case = LabelledBoxes.from_boxes([*known, *asked], card, report)
    rows = case.rows[len(known) :]
    arms: dict[str, Locator] = {
        "yolo": trained(known, card, out, recipe, case.paths),
        "head": fusion.fit(known, case.rows[: len(known)], case.read.maps, fusion.BoxHeadRecipe()),
        "constant": constant(known),
        "centre": centre(known),
    }
    truth = [corners(box) for box in asked]
    tables = {
        arm: place_figures(truth, [one.place(row, box.label) for row, box in zip(rows, asked, strict=True)])
        for arm, one in arms.items()
    }
    return {"boxes": len(asked), **compared(tables, [box.patient for box in asked])}
