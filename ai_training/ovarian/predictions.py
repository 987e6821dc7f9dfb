"""The committed predictions of the folds, read and written."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai_training.base import DataMissing
from ai_training.ovarian.calibration import Doubles, Ints
from ai_training.ovarian.frames import LABELS, OvarianFrame

FOLDER = Path(__file__).parents[1] / "held_out"
TABLE, GATE = "out_of_fold.csv", "gate.csv"


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """The predictions for N frames by networks that were not trained on them: ``folds [N]``, ``logits [seeds,
    N, labels]``.
    """

    frames: tuple[OvarianFrame, ...]
    folds: Ints
    logits: Doubles

    @property
    def labels(self) -> Ints:
        """The true label of each frame, ``[N]``."""
        return np.array([frame.label for frame in self.frames], np.intp)

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each frame."""
        return tuple(frame.group for frame in self.frames)

    @property
    def mean(self) -> Doubles:
        """The mean logits over the seeds, ``[N, labels]``."""
        return np.asarray(self.logits.mean(0))


def write_predictions(held_out: HeldOut, folder: Path = FOLDER) -> Path:
    """Write the predictions as a CSV table with a row for each seed and frame; returns its path."""
    rows = [
        ("seed", "file", "fold", *LABELS),
        *(
            (seed, frame.name, fold, *(f"{value:.4f}" for value in row))
            for seed, logits in enumerate(held_out.logits, start=1)
            for frame, fold, row in zip(held_out.frames, held_out.folds, logits, strict=True)
        ),
    ]
    return write_table(folder / TABLE, rows)


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """Write rows as CSV; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read_predictions(frames: Sequence[OvarianFrame], folder: Path = FOLDER, name: str = TABLE) -> HeldOut:
    """Read the predictions for ``frames`` from the table. Raises DataMissing if a frame is missing."""
    rows: dict[str, Mapping[str, dict[str, str]]] = {}
    with (folder / name).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["seed"], {})[row["file"]] = row  # type: ignore[index]
    try:
        found = [[seed[frame.name] for frame in frames] for seed in rows.values()]
    except KeyError as error:
        raise DataMissing(f"{name} has no prediction of {error}: another version of the set?") from error
    logits = np.array([[[float(row[label]) for label in LABELS] for row in seed] for seed in found])
    return HeldOut(tuple(frames), np.array([int(row["fold"]) for row in found[0]], np.intp), logits)
