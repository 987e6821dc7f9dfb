"""The full NIH ChestX-ray14 as it is downloaded: 112,120 PNG files, one table, official lists.

Recognised by ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``, which is taken when both are there).
Images lie in ``images_001/images/*.png`` … or in one ``images/``. A download of which only some archives
were unpacked works: the notes of the set say how many images are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ai_training.errors import DataMissing
from ai_training.sets.box_lists import listed_boxes
from ai_training.sets.files import rows
from ai_training.sets.images import LABELS, ChestImage, ChestSet
from ai_training.sets.manifests import SOFT, soft_labels, years

ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {
    "train_val": ("train_val_list.txt", "train_val_list_NIH.txt"),
    "test": ("test_list.txt", "test_list_NIH.txt"),
}
BOXES = "BBox_List_2017.csv"
SOURCE, REPOSITORY = "nih", "NIH Clinical Center"
VALIDATION_SHARE, SEED = 0.125, 1  # of the patients of train_val_list.txt


def is_download(folder: Path) -> bool:
    """True when ``folder`` holds the table of the NIH download."""
    return any((folder / name).is_file() for name in ENTRIES)


def nih_download(folder: Path) -> ChestSet:
    """The download with its official lists; val is a seeded eighth of the patients of train_val.

    Raises DataMissing when a list or all images are missing.
    """
    files = {path.name: path for path in _pictures(folder)}
    table = next(folder / name for name in ENTRIES if (folder / name).is_file())
    listed = rows(table)
    there = [row for row in listed if row.get("Image Index", "") in files]
    if not there:
        raise DataMissing(
            f"{folder}: none of the images of {table.name} lies in images*/: unpack the archives"
        )
    splits = _splits(folder)
    soft = soft_labels(folder / SOFT)
    images = tuple(
        _image(row, files[row["Image Index"]], splits[row["Image Index"]], soft)
        for row in there
        if row["Image Index"] in splits
    )
    notes = ["official NIH lists; val is a seeded part of the patients of the official train_val list"]
    if len(listed) > len(images):
        notes.append(f"{len(listed) - len(images)} of {len(listed)} listed images are not there")
    by_name = {image.path.stem: image for image in images}
    boxes = tuple(listed_boxes(folder / BOXES, by_name)) if (folder / BOXES).is_file() else ()
    return ChestSet("NIH ChestX-ray14", images, boxes, main=SOURCE, natural=(SOURCE,), notes=tuple(notes))


def _pictures(folder: Path) -> Iterator[Path]:
    for pattern in ("images/*.png", "images_[0-9]*/images/*.png", "images_[0-9]*/*.png"):
        yield from folder.glob(pattern)


def _splits(folder: Path) -> dict[str, str]:
    """File name → train, val or test, of the whole lists: the same however much of them is unpacked."""
    listed = {name: _list(folder, names) for name, names in LISTS.items()}
    patients = sorted({_patient_of(name) for name in listed["train_val"]})
    order = np.random.default_rng(SEED).permutation(len(patients))
    chosen = {patients[index] for index in order[: round(VALIDATION_SHARE * len(patients))]}
    splits = {name: "val" if _patient_of(name) in chosen else "train" for name in listed["train_val"]}
    return splits | dict.fromkeys(listed["test"], "test")


def _list(folder: Path, names: tuple[str, ...]) -> set[str]:
    for name in names:
        if (folder / name).is_file():
            return set((folder / name).read_text().split())
    raise DataMissing(f"{folder / names[0]} is missing: it belongs to the NIH download")


def _image(
    row: Mapping[str, str], path: Path, split: str, soft: Mapping[str, tuple[float, ...]]
) -> ChestImage:
    found = set(row["Finding Labels"].split("|"))
    return ChestImage(
        path=path,
        labels=tuple(int(label in found) for label in LABELS),
        soft=soft.get(path.name),
        patient=_patient_of(path.name),
        split=split,
        source=SOURCE,
        repository=REPOSITORY,
        age=years(row["Patient Age"]),
        sex=row.get("Patient Gender") or row.get("Patient Sex") or "",
        view=row["View Position"],
    )


def _patient_of(name: str) -> str:
    """The patient of a file name such as ``00000001_000.png``; the table drops the leading zeros."""
    return name.partition("_")[0]
