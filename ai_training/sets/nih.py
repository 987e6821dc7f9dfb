"""ChestX-ray14 as NIH publishes it: 112,120 PNG files, one table, official lists.

Images lie in ``images_001/images/*.png`` … or in one ``images/``. If only some archives were unpacked, the
notes say how many images are missing. Val is an eighth of the patients of the official train_val list, the
same ones however much is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.sets.box_lists import listed_boxes
from ai_training.sets.files import lines, rows
from ai_training.sets.images import LABELS, ImageSet, SetBox, SetImage
from ai_training.sets.layout import CHEST, HELD_BACK, SetLayout, check_splits, dealt, years
from ai_training.sets.public import CITED, SOFT, soft_labels

ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {
    "train_val": ("train_val_list.txt", "train_val_list_NIH.txt"),
    "test": ("test_list.txt", "test_list_NIH.txt"),
}
BOXES = "BBox_List_2017.csv"
SOURCE, REPOSITORY = "nih", "NIH Clinical Center"
NEEDED = ("Image Index", "Finding Labels", "Patient Age", "View Position")


def read(folder: Path) -> ImageSet:
    """Read the images that exist. Raises DataMissing if a list or all images are missing."""
    files = {path.name: path for path in _pictures(folder)}
    table = next(folder / name for name in ENTRIES if (folder / name).is_file())
    listed = rows(table, needs=NEEDED)
    there = [row for row in listed if row["Image Index"] in files]
    if not there:
        raise DataMissing(
            f"{folder}: none of the images of {table.name} lies in images*/: unpack the archives"
        )
    splits, soft, boxes = _splits(folder), soft_labels(folder / SOFT), _boxes(folder)
    images = tuple(
        _image(row, files[row["Image Index"]], splits[row["Image Index"]], soft, boxes)
        for row in there
        if row["Image Index"] in splits
    )
    check_splits(folder, images)
    notes = ["official NIH lists; val is a seeded part of the patients of the official train_val list"]
    if len(listed) > len(images):
        notes.append(f"{len(listed) - len(images)} of {len(listed)} listed images are not there")
    return ImageSet(
        f"NIH ChestX-ray14 ({CITED})", images, LABELS, tuple(notes), main=SOURCE, natural=(SOURCE,)
    )


LAYOUT = SetLayout("nih", (CHEST,), ("Data_Entry_2017*.csv",), read)


def _pictures(folder: Path) -> Iterator[Path]:
    for pattern in ("images/*.png", "images_[0-9]*/images/*.png", "images_[0-9]*/*.png"):
        yield from folder.glob(pattern)


def _splits(folder: Path) -> dict[str, str]:
    listed = {name: _list(folder, names) for name, names in LISTS.items()}
    of_patient = dealt(map(_patient_of, listed["train_val"]), HELD_BACK)
    splits = {name: of_patient[_patient_of(name)] for name in listed["train_val"]}
    return splits | dict.fromkeys(listed["test"], "test")


def _list(folder: Path, names: tuple[str, ...]) -> list[str]:
    for name in names:
        if (folder / name).is_file():
            return lines(folder / name)
    raise DataMissing(f"{folder / names[0]} is missing: it belongs to the NIH download")


def _boxes(folder: Path) -> dict[str, list[SetBox]]:
    found: dict[str, list[SetBox]] = {}
    if (folder / BOXES).is_file():
        for name, box in listed_boxes(folder / BOXES):
            found.setdefault(name, []).append(box)
    return found


def _image(
    row: Mapping[str, str],
    path: Path,
    split: str,
    soft: Mapping[str, tuple[float, ...]],
    boxes: Mapping[str, list[SetBox]],
) -> SetImage:
    return SetImage(
        name=path.name,
        path=path,
        patient=_patient_of(path.name),
        split=split,
        labels=frozenset(row["Finding Labels"].split("|")),
        boxes=tuple(boxes.get(path.name, ())),
        age=years(row["Patient Age"]),
        sex=row.get("Patient Gender") or row.get("Patient Sex") or "",
        view=row["View Position"],
        source=SOURCE,
        repository=REPOSITORY,
        soft=soft.get(path.name),
    )


def _patient_of(name: str) -> str:
    """The patient of a file name such as ``00000001_000.png``; the table drops the leading zeros."""
    return name.partition("_")[0]
