"""Splits by patient, the parts of official splits, near-duplicates."""

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from iterstrat.ml_stratifiers import IterativeStratification
from scipy.sparse.csgraph import connected_components

from ai_training.base import DataMissing
from ai_training.sets.files import read_rgb
from ai_training.sets.images import LABELS, ImageSet, SetImage

HELD_BACK = {"val": 0.125, "train": 0.875}
"""Of the patients of an official train part, where no part is for choices."""
SEED = 1
PARTS = {"training": "train", "valid": "val", "validate": "val", "validation": "val", "testing": "test"}


def random_splits(patients: Iterable[str], shares: Mapping[str, float]) -> dict[str, str]:
    """Assign each patient to a random split, always the same for the same patients (:data:`SEED`).
    ``shares``: the share of the patients in each split. Every split gets a patient if there are enough.
    """
    names = sorted(set(patients))
    order = np.random.default_rng(SEED).permutation(len(names)).tolist()
    ends = np.round(np.cumsum(list(shares.values())) * len(names)).astype(int)
    if len(names) >= len(shares):
        ends = np.maximum(ends, np.arange(1, len(shares) + 1))
    parts = np.searchsorted(ends, np.arange(len(names)), side="right")
    return {names[name]: list(shares)[part] for name, part in zip(order, parts.tolist(), strict=True)}


def in_splits(images: Sequence[SetImage], where: Path) -> tuple[SetImage, ...]:
    """Return ``images`` with the splits train, val and test. Official splits are used; if they have no val,
    it is made of patients of train; without official splits, patients are divided at random. Raises
    DataMissing if a patient is in two splits; ``where`` names the set in its text.
    """
    parts = {image.split for image in images}
    if parts == {""}:
        splits = random_splits((image.patient for image in images), {"train": 0.7, "val": 0.15, "test": 0.15})
        return tuple(replace(image, split=splits[image.patient]) for image in images)
    check_splits(where, images)
    if "val" in parts:
        return tuple(images)
    splits = random_splits((image.patient for image in images if image.split == "train"), HELD_BACK)
    return tuple(
        replace(image, split=splits[image.patient]) if image.split == "train" else image for image in images
    )


def check_splits(where: Path, images: Iterable[Any]) -> None:
    """Raise DataMissing if a patient has ``images`` in more than one split; ``where`` names the set in its
    text.
    """
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.patient, set()).add(image.split)
    torn = sum(len(found) > 1 for found in splits.values())
    if torn:  # their number only: patients are not named in errors
        raise DataMissing(f"{where}: {torn} patients are in more than one split (see ai-pipeline split)")


def existing_images(images: Sequence[SetImage], folder: Path) -> tuple[tuple[SetImage, ...], tuple[str, ...]]:
    """The images whose files exist, and a note on the missing ones. Raises DataMissing if none exists."""
    found = tuple(image for image in images if image.path.is_file())
    if not found:
        first = f", {images[0].path} for one" if images else ""
        raise DataMissing(f"{folder}: none of the listed images is there{first}: unpack the archives")
    missing = len(images) - len(found)
    return found, (f"{missing} of {len(images)} listed images are not there",) if missing else ()


def part_of(text: str | None) -> str:
    """Translate the name of a split in any set (``Train``, ``validate``, ``testing``) to train, val or test;
    another name is returned in small letters, and None as "".
    """
    name = (text or "").strip().lower()
    return PARTS.get(name, name)


def years(text: str) -> float:
    """Convert an age in the spelling of any set (``58``, ``058Y``, ``006M``, ``011D``) to years. NaN if it is
    missing or no age of a living person (ages above 400 are in ``Data_Entry_2017.csv``).
    """
    value, unit = text.strip(), "Y"
    if value and value[-1].upper() in "YMWD":
        value, unit = value[:-1], value[-1].upper()
    try:
        age = float(value) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[unit]
    except ValueError:
        return float("nan")
    # ChestX-ray14 holds a few ages above 400.
    return age if 0 <= age <= 150 else float("nan")


HASHED, APART = 16, 44
"""Two pictures are alike when their difference hashes, 16 × 16 bits, are at most so many bits apart."""


@cache
def near_duplicates(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """The name of each picture's group. Two pictures are in one group if they are similar, or linked by a
    chain of pictures of which each is similar to the next. Raises DataMissing.
    """
    if not paths:
        return ()
    greys = (cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2GRAY) for path in paths)
    small = [cv2.resize(grey, (HASHED + 1, HASHED), interpolation=cv2.INTER_AREA) for grey in greys]
    bits = np.stack([(one[:, 1:] > one[:, :-1]).ravel() for one in small]).astype(np.float32) * 2 - 1
    apart = (HASHED**2 - bits @ bits.T) / 2
    _, groups = connected_components(apart <= APART, directed=False)
    return tuple(f"g{group}" for group in groups)


SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_by_patient(
    patients: Sequence[str], truth: npt.NDArray[np.floating], shares: Mapping[str, float], seed: int
) -> list[str]:
    """Assign each of N images to a split, by patient, with every label in about the same proportion in each
    split. ``patients [N]``, ``truth [N, labels]``, ``shares`` of the patients by split; ``seed``: the random
    seed: the same input and seed give the same splits. Raises ValueError if the shares do not sum to 1.
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
    images: Sequence[SetImage], splits: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the contents of each split: patients, images, and the positives of each label."""
    held = {
        name: [image for image, split in zip(images, splits, strict=True) if split == name]
        for name in dict.fromkeys((*SHARES, *splits))
    }
    numbers = {label: LABELS.index(label) for label in labels}
    return {
        "patients": {name: len({image.patient for image in inside}) for name, inside in held.items()},
        "images": {name: len(inside) for name, inside in held.items()},
        **{
            label: {name: sum(one.marks[number] == 1 for one in inside) for name, inside in held.items()}
            for label, number in numbers.items()
        },
    }


def write_manifest(found: ImageSet, splits: Sequence[str], path: Path, *, force: bool = False) -> None:
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
            # -1 for what is neither 1 nor 0, as CheXpert writes it
            marks = [int(np.nan_to_num(image.marks[LABELS.index(name)], nan=-1)) for name in found.labels]
            age = "" if math.isnan(image.age) else f"{image.age:g}"
            known = (image.patient, age, image.sex, image.view, split, image.source, image.repository)
            writer.writerow((os.path.relpath(image.path, path.parent), *marks, *known))
