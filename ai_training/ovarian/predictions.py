"""The committed predictions of the folds' networks for frames that they had not seen.

From them every figure can be computed again without the networks.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_training.errors import DataMissing
from ai_training.sets.ovarian import LABELS, OvarianFrame

FOLDER = Path(__file__).parent / "held_out"
TABLE, STUDY, GATE = "out_of_fold.csv", "study.npz", "gate.csv"
TRAINED_ON_CLEANED = "trained_on_cleaned.npz"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Predictions for N frames: ``labels [N]``, ``groups``, ``folds [N]``, ``logits [seeds, N, labels]``."""

    frames: tuple[OvarianFrame, ...]
    folds: Ints
    logits: Floats

    @property
    def labels(self) -> Ints:
        return np.array([frame.label for frame in self.frames], np.intp)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(frame.group for frame in self.frames)

    @property
    def mean(self) -> Floats:
        """The mean logits over the seeds, ``[N, labels]``."""
        return np.asarray(self.logits.mean(0))


def write(held_out: HeldOut, folder: Path = FOLDER) -> Path:
    """Write the table: a row for each seed and frame."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TABLE
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("seed", "file", "fold", *LABELS))
        for seed, logits in enumerate(held_out.logits, start=1):
            for frame, fold, row in zip(held_out.frames, held_out.folds, logits, strict=True):
                writer.writerow((seed, frame.name, fold, *(f"{value:.4f}" for value in row)))
    return path


def others(frames: Sequence[OvarianFrame], folder: Path = FOLDER) -> dict[str, HeldOut]:
    """The predictions of networks that do not ship, by the name of their file. Raises DataMissing."""
    names = sorted(path.name for path in folder.glob("*.csv") if path.name not in {TABLE, GATE})
    return {Path(name).stem: read(frames, folder, name) for name in names}


def read(frames: Sequence[OvarianFrame], folder: Path = FOLDER, name: str = TABLE) -> HeldOut:
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
