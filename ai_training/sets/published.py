"""Image sets by their layouts, which are recognised by the content of a folder.

A new layout is a :class:`SetLayout` in :data:`LAYOUTS`, and a line in docs/reference/data-sets.md. A site's
own table: ``manifest.csv``, or any CSV file that ``--data`` names: ``file`` (or ``image``, ``path``; relative
to the table), ``patient_id`` (or ``patient``, ``group``), 0/1 columns with the names of the labels (-1:
unknown) or one column ``labels`` (``Mass|Nodule``) or ``label``; optional ``split``, ``mask``, ``age``
(years), ``sex``, ``view`` (PA, AP), ``source`` and ``source_repo``; further numbers are measures."""

import csv
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from ai_training.base import DataMissing
from ai_training.sets.images import (
    LABELS,
    ImageSet,
    MaskFile,
    SetBox,
    SetImage,
    lines,
    number,
    read_grey,
    rows,
)

CHEST, FETAL, OVARY = "chest X-rays", "fetal heads", "ovaries"
HELD_BACK = {"val": 0.125, "train": 0.875}
"""Of the patients of an official train part, where no part is for choices."""
SEED = 1
PARTS = {"training": "train", "valid": "val", "validate": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True, slots=True)
class SetLayout:
    """A layout of files. ``kinds``: what the pictures show. ``needs``: patterns of files that must all be
    there for the layout to be recognised. ``read`` raises DataMissing.
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    read: Callable[[Path], ImageSet]

    def lies_in(self, folder: Path) -> bool:
        """Whether ``folder`` has this layout."""
        return all(any(folder.glob(pattern)) for pattern in self.needs)


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
        splits = dealt((image.patient for image in images), {"train": 0.7, "val": 0.15, "test": 0.15})
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
    # ChestX-ray14 holds a few ages above 400.
    return age if 0 <= age <= 150 else float("nan")


HASHED, APART = 16, 44
"""Two pictures are alike when their difference hashes, 16 × 16 bits, are at most so many bits apart."""


@cache
def near_duplicates(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """The group of each picture: similar pictures share a group, also if linked by a third. Raises
    DataMissing.
    """
    if not paths:
        return ()
    small = [cv2.resize(read_grey(p), (HASHED + 1, HASHED), interpolation=cv2.INTER_AREA) for p in paths]
    bits = np.stack([(one[:, 1:] > one[:, :-1]).ravel() for one in small]).astype(np.float32) * 2 - 1
    apart = (HASHED**2 - bits @ bits.T) / 2
    _, groups = connected_components(apart <= APART, directed=False)
    return tuple(f"g{group}" for group in groups)


MANIFEST, MASK = "manifest.csv", "mask"
FILES, PATIENTS = ("file", "image", "path"), ("patient_id", "patient", "group")
TITLES = {
    "cxr_anatomy": "cxr_anatomy (N. Dong et al., DLMIA 2018, Wingspan set, MIT)",
    "us_fetal_head": "us_fetal_head (HC18, T. van den Heuvel et al., doi 10.5281/zenodo.1322001, CC BY 4.0)",
    "us_ovarian": (
        "us_ovarian (MMOTU, subset OTU_2d, Q. Zhao et al., arXiv 2207.06799; "
        "doi 10.6084/m9.figshare.25058690, CC BY 4.0)"
    ),
}
"""Of the public sets of this project, by their folders."""


def read_table(where: Path) -> ImageSet:
    """Read the images of a table, or of ``manifest.csv`` in a folder. Raises DataMissing."""
    manifest = where if where.is_file() else where / MANIFEST
    listed = rows(manifest)
    if not listed:
        raise DataMissing(f"{manifest} lists no image")
    if not any(name in listed[0] for name in FILES):
        raise DataMissing(f"{manifest} has no column {FILES[0]}")
    columns = [label for label in LABELS if label in listed[0]]
    images = tuple(_image(manifest, row, columns) for row in listed)
    check_splits(manifest, images)
    named = sorted(set().union(*(image.labels for image in images)))
    known = dict.fromkeys([*(LABELS if "labels" in listed[0] else columns), *named])
    return ImageSet(TITLES.get(where.name, manifest.stem), images, tuple(known))


def _image(manifest: Path, row: dict[str, str], columns: list[str]) -> SetImage:
    file = _first(row, FILES)
    named = frozenset((row.get("labels") or row.get("label") or "").split("|")) - {""}
    marks = {label: number(row, label, manifest) for label in columns if row[label]}
    return SetImage(
        name=file,
        path=manifest.parent / file,
        patient=_first(row, PATIENTS) or file,
        split=part_of(row.get("split")),
        labels=(named - marks.keys()) | {label for label, mark in marks.items() if mark > 0},
        unsure=frozenset(label for label, mark in marks.items() if mark < 0),
        masks={MASK: MaskFile(manifest.parent / row[MASK])} if row.get(MASK) else {},
        age=years(row.get("age") or ""),
        sex=row.get("sex") or "",
        view=row.get("view") or "",
        source=row.get("source") or manifest.stem,
        repository=row.get("source_repo") or "",
        measures={
            name: number(row, name, manifest)
            for name in ("pixel_mm_at_512", "head_circumference_mm", "ctr", "yellow_overlay_px")
            if row.get(name)
        },
    )


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((row[name] for name in names if row.get(name)), "")


SETS = ("cxr_nih", "cxr_nih_more")
NAME = " and ".join(SETS)
SOFT, BOXES = "chexnet_preds.csv.gz", "boxes.csv"
CITED = (
    "X. Wang et al., IEEE CVPR 2017, pp. 3462-3471, doi 10.1109/CVPR.2017.369; NIH Clinical Center, "
    "attribution required"
)


def read_public(data: Path) -> ImageSet:
    """Read both sets as one, with boxes and a teacher's probabilities. Raises DataMissing."""
    soft, table = soft_labels(data / SETS[0] / SOFT), data / SETS[0] / BOXES
    boxes = defaultdict[str, list[SetBox]](list)
    for row in rows(table) if table.is_file() else []:
        left, top, width, height = (number(row, column, table) for column in ("x", "y", "w", "h"))
        corners = left, top, left + width, top + height
        boxes[row["file"]].append(SetBox(row["label"], corners, 512.0))
    images = [
        replace(
            image,
            source=f"{name}/{Path(image.name).parent.name}",
            soft=soft.get(row["nih_name"]),
            boxes=tuple(boxes[image.name]) if name == SETS[0] else (),
        )
        for name in SETS
        for row, image in zip(rows(data / name / MANIFEST), read_table(data / name).images, strict=True)
    ]
    return ImageSet(
        f"{NAME} ({CITED}; soft labels of jrzech/reproduce-chexnet, BSD-3-Clause)",
        tuple(images),
        LABELS,
        main="cxr_nih/images",
        natural=("cxr_nih_more/images_128",),
        left_out={
            (
                "cxr_nih_more/images",
                "Pneumonia",
            ): "the source repository alone tells it with an AUC of .95: its pneumonias come from one "
            "repository"
        },
    )


def soft_labels(path: Path) -> dict[str, tuple[float, ...]]:
    """A teacher's probabilities by NIH file name; empty when there is no such file."""
    if not path.exists():
        return {}
    with gzip.open(path, "rt", newline="") as file:
        return {
            row["nih_name"]: tuple(float(row[f"prob_{label}"]) for label in LABELS)
            for row in csv.DictReader(file)
        }


OURS = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening", "Diffuse Nodule": "Nodule"}
"""The lists' names of findings that the classifier calls otherwise."""


def listed_boxes(path: Path) -> Iterator[tuple[str, SetBox]]:
    """The boxes of a list (``BBox_List_2017.csv``, or JSON of ChestX-Det), each with its image's file name.

    Labels that the classifier does not know and empty boxes are left out. Raises DataMissing if the list is
    missing or cannot be read.
    """
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    text = path.read_bytes()
    try:
        if path.suffix.lower() == ".json":
            drawn = [
                (entry["file_name"], label, tuple(map(float, corners)))
                for entry in json.loads(text)
                for label, corners in zip(entry["syms"], entry["boxes"], strict=True)
            ]
        else:
            header, *listed = csv.reader(text.decode("utf-8-sig").splitlines())
            if header[0] != "Image Index":
                raise ValueError("its first column is not 'Image Index'")
            sized = [(name, label, tuple(map(float, place[:4]))) for name, label, *place in listed]
            drawn = [(name, label, (*at[:2], at[0] + at[2], at[1] + at[3])) for name, label, at in sized]
        for name, label, (left, top, right, bottom) in drawn:
            called = OURS.get(label, label)
            if called in LABELS and left < right and top < bottom:
                yield name, SetBox(called, (left, top, right, bottom), 1024.0)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataMissing(f"{path} is no list of boxes that can be read: {error!r}") from error


NIH_BOXES = "BBox_List_2017.csv"
SOURCE, REPOSITORY = "nih", "NIH Clinical Center"


def read_nih(folder: Path) -> ImageSet:
    """Read the images that exist. Raises DataMissing if a list or all images are missing."""
    patterns = ("images/*.png", "images_[0-9]*/images/*.png", "images_[0-9]*/*.png")
    files = {path.name: path for pattern in patterns for path in folder.glob(pattern)}
    table = next(
        folder / name
        for name in ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
        if (folder / name).is_file()
    )
    taught, tested = (
        lines(next((folder / name for name in names if (folder / name).is_file()), folder / names[0]))
        for names in (
            ("train_val_list.txt", "train_val_list_NIH.txt"),
            ("test_list.txt", "test_list_NIH.txt"),
        )
    )
    of_patient = dealt(map(_patient_of, taught), HELD_BACK)
    splits = {name: of_patient[_patient_of(name)] for name in taught} | dict.fromkeys(tested, "test")
    soft, boxes = soft_labels(folder / SOFT), defaultdict[str, list[SetBox]](list)
    for name, box in listed_boxes(folder / NIH_BOXES) if (folder / NIH_BOXES).is_file() else ():
        boxes[name].append(box)
    listed = [
        SetImage(
            name=name,
            path=files.get(name, folder / "images" / name),
            patient=_patient_of(name),
            split=splits[name],
            labels=frozenset(row["Finding Labels"].split("|")),
            boxes=tuple(boxes[name]),
            age=years(row["Patient Age"]),
            sex=row.get("Patient Gender") or row.get("Patient Sex") or "",
            view=row["View Position"],
            source=SOURCE,
            repository=REPOSITORY,
            soft=soft.get(name),
        )
        for row in rows(table, needs=("Image Index", "Finding Labels", "Patient Age", "View Position"))
        if (name := row["Image Index"]) in splits
    ]
    found, notes = those_there(listed, folder)
    check_splits(folder, found)
    notes += ("official NIH lists; val is a seeded part of the patients of the official train_val list",)
    return ImageSet(f"NIH ChestX-ray14 ({CITED})", found, LABELS, notes, main=SOURCE, natural=(SOURCE,))


def _patient_of(name: str) -> str:
    """The patient of a file name such as ``00000001_000.png``; the table drops the leading zeros."""
    return name.partition("_")[0]


HEAD, LESION = "head", "lesion"
HC18 = "training_set_pixel_size_and_HC.csv"
PIXEL, CIRCUMFERENCE = "pixel size(mm)", "head circumference (mm)"
OVARIAN = (
    "Chocolate_Cyst",
    "Serous_Cystadenoma",
    "Teratoma",
    "Theca_Cell_Tumor",
    "Simple_Cyst",
    "Ovary_Normal",
    "Mucinous_Cystadenoma",
    "High-grade_Serous_Cystadenoma",
)
"""The classes of MMOTU by their numbers."""
BESIDE = "beside"
"""The split of what looks nearly like a frame of the official test part: it is in none."""


def read_hc18(folder: Path) -> ImageSet:
    """Read HC18: outlined heads of ``training_set``; the test set has no outlines. Raises DataMissing.

    ``010_HC.png``, ``010_2HC.png``, ``010_3HC.png`` are of one examination.
    """
    table, listed = folder / HC18, []
    for row in rows(table, needs=("filename", PIXEL, CIRCUMFERENCE)):
        name = row["filename"].strip()
        examination = re.match(r"(\d+)_\d*HC\.png", name)
        if examination is None:
            raise DataMissing(f"{table}: {name!r} was expected to be like 010_HC.png or 010_2HC.png")
        inside = folder / "training_set" / name
        path = inside if inside.is_file() else folder / name
        measures = {
            "pixel_mm": number(row, PIXEL, table),
            "head_circumference_mm": number(row, CIRCUMFERENCE, table),
        }
        outline = MaskFile(path.with_name(f"{path.stem}_Annotation.png"), outlined=True)
        listed.append(SetImage(name, path, examination[1], masks={HEAD: outline}, measures=measures))
    found, notes = those_there(listed, folder)
    for image in found:
        if not (mask := image.masks[HEAD].path).is_file():
            raise DataMissing(f"{mask} is missing: the outline of {image.name} was expected there")
    title = "HC18 (T. van den Heuvel et al., doi 10.5281/zenodo.1322001, CC BY 4.0)"
    return ImageSet(title, in_splits(found, folder), (), notes)


def read_otu(folder: Path) -> ImageSet:
    """Read MMOTU's OTU_2d: ``train_cls.txt`` and ``val_cls.txt`` name each image and the number of its class.

    The official val part is test. Patients are not published: frames that look nearly alike count as one
    patient's, and train frames that look nearly like a frame of the val part are in no split. Raises
    DataMissing.
    """
    pictures, drawn = (
        {path.stem: path for pattern in patterns for path in folder.glob(pattern)}
        for patterns in (("images/*",), ("annotations/*", "masks/*"))
    )
    two_valued = {stem: path for stem, path in drawn.items() if stem.endswith("_binary")}
    masks = drawn | {stem.removesuffix("_binary"): path for stem, path in two_valued.items()}
    listed = []
    for part, split in (("train", "train"), ("val", "test")):
        table = folder / f"{part}_cls.txt"
        for line in lines(table):
            name, _, cls = line.rpartition(" ")
            if not cls.isdecimal() or int(cls) >= len(OVARIAN):
                raise DataMissing(f"{table}: {line!r} was expected to be a file and a class from 0 to 7")
            stem = Path(name.strip()).stem
            if stem not in pictures:
                raise DataMissing(f"{folder / 'images' / name.strip()} is missing: {table.name} names it")
            if stem not in masks:
                raise DataMissing(f"{folder}: {stem}.PNG or {stem}_binary.PNG is missing in annotations")
            listed.append((pictures[stem], masks[stem], split, OVARIAN[int(cls)]))
    groups = near_duplicates(tuple(picture for picture, *_ in listed))
    tested = {group for group, (_, _, split, _) in zip(groups, listed, strict=True) if split == "test"}
    images = [
        SetImage(
            f"images/{picture.name}",
            picture,
            group,
            BESIDE if split == "train" and group in tested else split,
            frozenset({label}),
            masks={LESION: MaskFile(mask)},
        )
        for group, (picture, mask, split, label) in zip(groups, listed, strict=True)
    ]
    inside = iter(in_splits([image for image in images if image.split != BESIDE], folder))
    placed = tuple(image if image.split == BESIDE else next(inside) for image in images)
    title = "MMOTU, OTU_2d (Q. Zhao et al., arXiv 2207.06799; doi 10.6084/m9.figshare.25058690, CC BY 4.0)"
    beside = sum(image.split == BESIDE for image in placed)
    notes = ("the official val part is test", f"{beside} train frames look nearly like one of it")
    return ImageSet(title, placed, OVARIAN, notes)


LAYOUTS = (
    SetLayout("public", (CHEST,), tuple(f"{name}/{MANIFEST}" for name in SETS), read_public),
    SetLayout("nih", (CHEST,), ("Data_Entry_2017*.csv",), read_nih),
    SetLayout("hc18", (FETAL,), (HC18,), read_hc18),
    SetLayout("otu-2d", (OVARY,), ("train_cls.txt", "val_cls.txt", "images"), read_otu),
    SetLayout("table", (CHEST, FETAL, OVARY), (MANIFEST,), read_table),
)


def read_set(where: Path, kind: str) -> ImageSet:
    """The set of ``kind`` in the folder ``where``, in its only sub-folder of a known layout, or in the table
    ``where``.

    Raises DataMissing.
    """
    if where.is_file():
        return read_table(where)
    known = [layout for layout in LAYOUTS if kind in layout.kinds]
    for folders in ((where,), sorted(path for path in where.glob("*") if path.is_dir())):
        found = [(layout, folder) for folder in folders for layout in known if layout.lies_in(folder)]
        if len({folder for _, folder in found}) == 1:
            layout, folder = found[0]
            return layout.read(folder)
    looked = "; ".join(f"{layout.name}: {', '.join(layout.needs)}" for layout in known)
    raise DataMissing(
        f"{where} holds no {kind} in a layout of docs/reference/data-sets.md. Looked for {looked}"
    )


def named_set(data: Path, name: str, kind: str) -> ImageSet:
    """The set in the folder ``name`` of ``data``, or in ``data`` itself. Raises DataMissing."""
    return read_set(data / name, kind) if (data / name).is_dir() else read_set(data, kind)


def part_of_set(folder: Path, split: str) -> tuple[SetImage, ...]:
    """The pictures of ``split`` in ``folder``, whatever they show; none if the folder is missing or has no
    known layout. Raises DataMissing if it cannot be read.
    """
    layout = next((one for one in LAYOUTS if one.lies_in(folder)), None)
    return tuple(image for image in layout.read(folder).images if image.split == split) if layout else ()
