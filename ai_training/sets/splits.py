"""``ai-pipeline split``: train, val and test by patient, with every label close to its share in each split.

Patients are divided by iterative stratification (K. Sechidis, G. Tsoumakas, I. Vlahavas, ECML PKDD 2011) as
the package iterative-stratification implements it. A patient has a label if one of the patient's images has
it.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from iterstrat.ml_stratifiers import IterativeStratification

from ai_training.sets.images import LABELS, ChestImage, ChestSet

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_by_patient(
    patients: Sequence[str], truth: npt.NDArray[np.floating], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each of N images: ``patients [N]``, ``truth [N, labels]``, ``shares`` of the patients.

    The same input and seed give the same splits. Raises ValueError if the shares do not sum to 1.
    """
    if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6) or min(shares.values()) < 0:
        raise ValueError(f"the shares of {', '.join(shares)} must sum to 1, not to {sum(shares.values()):g}")
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    united = np.zeros((len(names), truth.shape[1]), bool)
    np.logical_or.at(united, owner, truth > 0)
    wanted = {name: share for name, share in shares.items() if share > 0}
    random = np.random.RandomState(seed)  # what the library takes
    order = random.permutation(len(names))
    dealt = IterativeStratification(united[order], np.array(list(wanted.values())), random)
    of_patient = np.empty(len(names), int)
    of_patient[order] = dealt
    splits = list(wanted)
    return [splits[number] for number in of_patient[owner]]


def table(
    images: Sequence[ChestImage], splits: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """The contents of each split: patients, images, and the positives of each label."""
    held = {
        name: [image for image, split in zip(images, splits, strict=True) if split == name]
        for name in dict.fromkeys((*SHARES, *splits))
    }
    numbers = {label: LABELS.index(label) for label in labels}
    return {
        "patients": {name: len({image.patient for image in inside}) for name, inside in held.items()},
        "images": {name: len(inside) for name, inside in held.items()},
        **{
            label: {name: sum(one.labels[number] == 1 for one in inside) for name, inside in held.items()}
            for label, number in numbers.items()
        },
    }


def write_manifest(found: ChestSet, splits: Sequence[str], path: Path, *, force: bool = False) -> None:
    """Write the images of ``found`` with their new splits as a manifest that ``--data`` takes.

    Raises FileExistsError if ``path`` exists and ``force`` is not set: figures belong to one split.
    """
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already: --force replaces it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = ("patient_id", "age", "sex", "view", "split", "source", "source_repo")
        writer.writerow(("file", *found.labels, *header))
        for image, split in zip(found.images, splits, strict=True):
            marks = [_mark(image.labels[LABELS.index(label)]) for label in found.labels]
            age = "" if math.isnan(image.age) else f"{image.age:g}"
            known = (image.patient, age, image.sex, image.view, split, image.source, image.repository)
            writer.writerow((os.path.relpath(image.path, path.parent), *marks, *known))


def _mark(label: float) -> int:
    """1 or 0; -1 for what is neither, as CheXpert writes it."""
    return -1 if math.isnan(label) else int(label)
