"""Five folds by patient: every box is evaluated once, by a locator fitted without its patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ai_training.sets.images import LABELS, TruthBox
from ai_training.sets.splits import split_by_patient

FOLDS = 5
SEED = 1


def folds(boxes: Sequence[TruthBox], count: int = FOLDS, seed: int = SEED) -> npt.NDArray[np.int64]:
    """The fold of each box, 0 to ``count`` - 1: no patient is in two folds, and every label is
    spread evenly.
    """
    truth = np.zeros((len(boxes), len(LABELS)), np.float32)
    truth[np.arange(len(boxes)), [LABELS.index(box.label) for box in boxes]] = 1.0
    names = {str(fold): 1.0 / count for fold in range(count)}
    dealt = split_by_patient([box.patient for box in boxes], truth, names, seed)
    return np.array([int(name) for name in dealt], np.int64)
