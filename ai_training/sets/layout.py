"""The interface of readers, and their common parts: splits by patient, ages, names, look-alikes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from ai_training.base import DataMissing
from ai_training.sets.images import ImageSet, SetImage, read_grey

OURS = {
    "Infiltrate": "Infiltration",
    "Pleural Thickening": "Pleural_Thickening",
    "Pleural thickening": "Pleural_Thickening",
    "Pleural Effusion": "Effusion",
    "Pleural effusion": "Effusion",
    "Pulmonary fibrosis": "Fibrosis",
    "Lung Opacity": "Lung_Opacity",
    "Diffuse Nodule": "Nodule",
}


def ours(name: str) -> str:
    """The classifier's name for the finding ``name``; ``name`` itself if the classifier does not know it."""
    return OURS.get(name, name)


SIDE, APART = 16, 44
"""Two pictures are alike when their difference hashes, 16 × 16 bits, are at most so many bits apart."""


@cache
def near_duplicates(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """The group of each picture: similar pictures share a group, also if linked by a third. Raises
    DataMissing.
    """
    if not paths:
        return ()
    small = [cv2.resize(read_grey(p), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA) for p in paths]
    bits = np.stack([(one[:, 1:] > one[:, :-1]).ravel() for one in small]).astype(np.float32) * 2 - 1
    apart = (SIDE**2 - bits @ bits.T) / 2
    _, groups = connected_components(apart <= APART, directed=False)
    return tuple(f"g{group}" for group in groups)


CHEST, FETAL, OVARY, BREAST = "chest X-rays", "fetal heads", "ovaries", "breasts"
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Of the patients of a set without splits of its own."""
HELD_BACK = {"val": 0.125, "train": 0.875}
"""Of the patients of an official train part, where no part is for choices."""
SEED = 1
OLDEST = 150  # years; ChestX-ray14 holds a few ages above 400
PARTS = {"training": "train", "valid": "val", "validate": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True, slots=True)
class SetLayout:
    """A layout of files. ``name``: for ``--layout``. ``kinds``: what the pictures show. ``needs``: patterns
    of files that must all be there for the layout to be recognised; a layout without any has to be named.
    ``read`` raises DataMissing.
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    read: Callable[[Path], ImageSet]

    def lies_in(self, folder: Path) -> bool:
        """Whether ``folder`` has this layout."""
        return bool(self.needs) and all(any(folder.glob(pattern)) for pattern in self.needs)


def dealt(patients: Iterable[str], shares: Mapping[str, float]) -> dict[str, str]:
    """The split of each patient, drawn at random with :data:`SEED`: the same for the same patients. Every
    split gets one if there are enough patients.
    """
    names = sorted(set(patients))
    order = np.random.default_rng(SEED).permutation(len(names)).tolist()
    ends = np.round(np.cumsum(list(shares.values())) * len(names)).astype(int)
    if len(names) >= len(shares):
        ends = np.maximum(ends, np.arange(1, len(shares) + 1))
    parts = np.searchsorted(ends, np.arange(len(names)), side="right")
    return {names[name]: list(shares)[part] for name, part in zip(order, parts.tolist(), strict=True)}


def in_splits(images: Sequence[SetImage], where: Path) -> tuple[SetImage, ...]:
    """``images`` with train, val and test. Official splits are kept, but a missing val is taken from train;
    without any official split, patients are divided at random. Raises DataMissing if a patient is in two
    splits.
    """
    parts = {image.split for image in images}
    if parts == {""}:
        splits = dealt((image.patient for image in images), SHARES)
        return tuple(replace(image, split=splits[image.patient]) for image in images)
    check_splits(where, images)
    if "val" in parts:
        return tuple(images)
    splits = dealt((image.patient for image in images if image.split == "train"), HELD_BACK)
    return tuple(
        replace(image, split=splits[image.patient]) if image.split == "train" else image for image in images
    )


def check_splits(where: Path, images: Iterable[Any]) -> None:
    """Raise DataMissing if a patient is in more than one split."""
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.patient, set()).add(image.split)
    torn = sum(len(found) > 1 for found in splits.values())
    if torn:  # their number only: patients are not named in errors
        raise DataMissing(f"{where}: {torn} patients are in more than one split (see ai-pipeline split)")


def those_there(images: Sequence[SetImage], folder: Path) -> tuple[tuple[SetImage, ...], tuple[str, ...]]:
    """The images whose files exist, and a note on the missing ones. Raises DataMissing when none exists."""
    found = tuple(image for image in images if image.path.is_file())
    if not found:
        first = f", {images[0].path} for one" if images else ""
        raise DataMissing(f"{folder}: none of the listed images is there{first}: unpack the archives")
    missing = len(images) - len(found)
    return found, (f"{missing} of {len(images)} listed images are not there",) if missing else ()


def part_of(text: str | None) -> str:
    """The name of a split in any set (``Train``, ``validate``, ``testing``) as train, val or test; others
    unchanged.
    """
    name = (text or "").strip().lower()
    return PARTS.get(name, name)


def years(text: str) -> float:
    """An age in the spelling of any set (``58``, ``058Y``, ``006M``, ``011D``) in years.

    NaN if it is missing or no age of a living person (ages above 400 are in ``Data_Entry_2017.csv``).
    """
    value, unit = text.strip(), "Y"
    if value and value[-1].upper() in "YMWD":
        value, unit = value[:-1], value[-1].upper()
    try:
        age = float(value) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[unit]
    except ValueError:
        return float("nan")
    return age if 0 <= age <= OLDEST else float("nan")
