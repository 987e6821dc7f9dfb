"""Compare the arms of a study: AUC within sources with intervals, paired differences, accuracy.

Intervals come from a bootstrap over patients and seeds: each resample draws patients of the held-out images,
and for each arm as many of its seeds as there are, both with replacement. A difference between two arms uses
the same patients for both. With three seeds the spread between them is only roughly known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_training.errors import ExperimentError
from ai_training.metrics import SEED, Cell, Interval, auc, cells, interval, patient_weights, resampled_auc
from ai_training.studies.experiment import Arm, ChestStudy
from ai_training.studies.fit import HeldAnswers
from ai_training.studies.material import StudyMaterial
from ai_training.studies.run import Answers

Floats = npt.NDArray[np.floating]
FEWEST, RESAMPLES = 10, 1000


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label of one arm: number of positives among the held-out images, mean AUC within sources."""

    label: str
    positives: int
    auc: Interval


@dataclass(frozen=True, slots=True)
class ArmRow:
    """The results of one arm. ``seeds``: its mean AUC with each seed; ``difference``: its AUC minus that of
    the arm ``against``.

    ``accuracy``: share of right answers over images and labels at a probability of .5; ``always_no``: the
    accuracy of answering no to everything.
    """

    name: str
    block: str
    against: str
    learned: int
    images: int
    patients: int
    auc: Interval
    seeds: tuple[float, ...]
    difference: Interval | None
    accuracy: float
    always_no: float
    milliseconds: float
    labels: tuple[LabelRow, ...]

    @property
    def verdict(self) -> str:
        """The result of the difference in a word: ``tie`` if its interval holds 0."""
        if self.difference is None or np.isnan(self.difference.low):
            return ""
        if self.difference.low > 0:
            return f"better than {self.against}"
        return f"worse than {self.against}" if self.difference.high < 0 else f"tie with {self.against}"


def compare(study: ChestStudy, material: StudyMaterial, answers: Answers) -> tuple[ArmRow, ...]:
    """The rows of a study. Raises ExperimentError if arms to compare were tested on different images."""
    arms = {arm.name: _Resampled(arm, material, answers[arm.name]) for arm in study.arms}
    return tuple(_row(arm, arms, material) for arm in study.arms)


class _Resampled:
    """An arm's AUC of every cell with every seed, as it is and in every resample of patients."""

    def __init__(self, arm: Arm, material: StudyMaterial, held: Sequence[HeldAnswers]) -> None:
        self.arm, self.held, self.rows = arm, held, held[0].rows
        self.columns = [material.names.index(label) for label in arm.task.labels]
        self.truth = material.truth[self.rows]
        sources = np.array([material.images[row].source for row in self.rows])
        self.patients = [material.images[row].patient for row in self.rows]
        found = cells(self.truth, sources, FEWEST, material.left_out)
        self.cells = [cell for cell in found if cell.label in self.columns]
        weights = patient_weights(self.patients, RESAMPLES)
        self.plain = np.array([[self._auc(one, cell) for cell in self.cells] for one in held])
        self.drawn = np.array([[self._drawn(one, cell, weights) for cell in self.cells] for one in held])

    def mean(self, labels: Sequence[int]) -> tuple[Floats, Floats]:
        """The mean AUC over the cells of ``labels``: of each seed ``[S]``, and resampled ``[S, B]``."""
        chosen = [k for k, cell in enumerate(self.cells) if cell.label in labels]
        if not chosen:
            return np.full(len(self.held), np.nan), np.full((len(self.held), RESAMPLES), np.nan)
        return self.plain[:, chosen].mean(1), self.drawn[:, chosen].mean(1)

    def _auc(self, held: HeldAnswers, cell: Cell) -> float:
        return auc(self.truth[cell.rows, cell.label], self._scores(held, cell))

    def _drawn(self, held: HeldAnswers, cell: Cell, weights: Floats) -> Floats:
        return resampled_auc(
            self.truth[cell.rows, cell.label], self._scores(held, cell), weights[:, cell.rows]
        )

    def _scores(self, held: HeldAnswers, cell: Cell) -> Floats:
        return np.asarray(held.logits[cell.rows, self.columns.index(cell.label)])


def _row(arm: Arm, arms: dict[str, _Resampled], material: StudyMaterial) -> ArmRow:
    one = arms[arm.name]
    truth = material.labels(arm.task)[one.rows]
    plain, _ = one.mean(one.columns)
    right = [float(((held.logits > 0) == (truth > 0)).mean()) for held in one.held]
    return ArmRow(
        name=arm.name,
        block=arm.block,
        against=arm.against,
        learned=one.held[0].learned,
        images=len(one.rows),
        patients=len(set(one.patients)),
        auc=_interval(one, one.columns),
        seeds=tuple(float(value) for value in plain),
        difference=_difference(one, arms[arm.against]) if arm.against else None,
        accuracy=float(np.mean(right)),
        always_no=float(1 - truth.mean()),
        milliseconds=float(np.median([held.milliseconds for held in one.held])),
        labels=tuple(
            LabelRow(material.names[k], int(one.truth[:, k].sum()), _interval(one, [k])) for k in one.columns
        ),
    )


def _interval(one: _Resampled, labels: Sequence[int]) -> Interval:
    plain, drawn = one.mean(labels)
    return interval(float(plain.mean()), _seeds_drawn(drawn, 0))


def _difference(one: _Resampled, other: _Resampled) -> Interval:
    if not np.array_equal(one.rows, other.rows):
        raise ExperimentError(f"{one.arm.name} and {other.arm.name} were measured on different images")
    common = [k for k in one.columns if k in other.columns]
    (plain, drawn), (others_plain, others_drawn) = one.mean(common), other.mean(common)
    return interval(
        float(plain.mean() - others_plain.mean()), _seeds_drawn(drawn, 1) - _seeds_drawn(others_drawn, 2)
    )


def _seeds_drawn(drawn: Floats, stream: int) -> Floats:
    """The mean over seeds drawn with replacement: ``[S, B]`` → ``[B]``."""
    seeds, resamples = drawn.shape
    picked = np.random.default_rng((SEED, stream)).integers(seeds, size=(seeds, resamples))
    return np.asarray(np.take_along_axis(drawn, picked, 0).mean(0))
