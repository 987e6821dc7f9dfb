"""Images and labels: how they are read, the layouts of published sets, chest X-rays as one table, splits.

A layout is recognised by the content of a folder. A new one is a :class:`SetLayout` in :data:`LAYOUTS`, and a
line in docs/reference/data-sets.md. A site's own table: ``manifest.csv``, or any CSV file that ``--data``
names: ``file`` (or ``image``, ``path``; relative to the table), ``patient_id`` (or ``patient``, ``group``),
0/1 columns with the names of the labels (-1: unknown) or one column ``labels`` (``Mass|Nodule``) or
``label``; optional ``split``, ``mask``, ``age`` (years), ``sex``, ``view`` (PA, AP), ``source`` and
``source_repo``; further numbers are measures.
"""

import csv
import gzip
import hashlib
import json
import math
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from iterstrat.ml_stratifiers import IterativeStratification
from PIL import Image, UnidentifiedImageError
from scipy.sparse.csgraph import connected_components

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models.registry import Chain, reduce
from ai_training.base import DataMissing

Grey = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]
DICOM = (".dcm", ".dicom")


def rows(table: Path, split: str | None = None, needs: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file (or .csv.gz) as dictionaries by the names in its first line; with ``split``
    only rows of that split. Raises DataMissing, also if a column of ``needs`` is missing.
    """
    if not table.is_file():
        raise DataMissing(
            f"{table} is missing: --data must name a folder laid out as docs/reference/data-sets.md says"
        )
    opened = gzip.open if table.suffix == ".gz" else open
    try:
        with opened(table, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, found = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataMissing(f"{table} cannot be read: a table (CSV, UTF-8) was expected") from error
    if missing := [name for name in needs if name not in columns]:
        raise DataMissing(f"{table} has no column {', '.join(missing)}")
    return [row for row in found if split in {None, row.get("split")}]


def number(row: dict[str, str], column: str, table: Path) -> float:
    """Read the number in a ``column`` of a table's ``row``. Raises DataMissing with the table, the column and
    the wrong value.
    """
    try:
        return float(row[column])
    except (ValueError, TypeError, KeyError) as error:
        raise DataMissing(f"{table}: column {column} holds no number but {row.get(column)!r}") from error


def lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank. Raises DataMissing."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataMissing(f"{path} cannot be read: a list (text, UTF-8) was expected") from error


def read_grey(path: Path) -> Grey:
    """Read a picture as grey levels ``[rows, columns]``, 0 to 255; DICOM as its header says. Raises
    DataMissing.
    """
    picture = _read(path, cv2.IMREAD_GRAYSCALE)
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)


def read_rgb(path: Path) -> Grey:
    """Read a picture as RGB ``[rows, columns, 3]``, 0 to 255. Raises DataMissing."""
    picture = _read(path, cv2.IMREAD_COLOR)
    code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, code), np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture, from its header. Raises DataMissing."""
    try:
        if path.suffix.lower() in DICOM:
            header = open_dicom(path).header
            return header.rows, header.columns
        with Image.open(path) as opened:
            return opened.height, opened.width
    except (PixelError, OSError, UnidentifiedImageError) as error:
        raise _no_picture(path) from error


def _read(path: Path, how: int) -> Grey:
    """Read a picture with OpenCV's flag ``how``: as grey, or with the colours in the order blue,
    green, red.
    """
    if path.suffix.lower() in DICOM:
        try:
            shown = open_dicom(path).display()
        except (PixelError, OSError) as error:
            raise _no_picture(path) from error
        return shown if shown.ndim == 2 else shown[:, :, ::-1]
    image = cv2.imread(str(path), how)
    if image is None:
        raise _no_picture(path)
    return np.asarray(image, np.uint8)


def _no_picture(path: Path) -> DataMissing:
    """The error for a file that is no readable picture."""
    kinds = "a PNG, JPEG, GIF, BMP or DICOM picture was expected"
    return DataMissing(f"{path} is not an image that can be read: {kinds if path.is_file() else 'no file'}")


LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
YOUNGEST = 16  # years; the model is for adults


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask in a file. ``bits``: the bits of a pixel that count; ``outlined``: only the line of an ellipse
    is drawn, and its inside belongs to the mask, also where the picture cuts the ellipse.
    """

    path: Path
    bits: int = 255
    outlined: bool = False

    def read(self, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.bool_]:
        """Read the mask ``[rows, columns]``, at the file's size or resized to ``shape``. Raises
        DataMissing.
        """
        drawn = read_grey(self.path) & self.bits
        rows, columns = shape or drawn.shape
        if abs(drawn.shape[0] / drawn.shape[1] - rows / columns) > 0.01:
            raise DataMissing(f"{self.path} is no mask of its picture: it has another format")
        found = cv2.resize(drawn, (columns, rows), interpolation=cv2.INTER_NEAREST)
        if self.outlined:
            points = cv2.findNonZero(found)
            if points is None or len(points) < 5:
                raise DataMissing(f"{self.path} draws no ellipse")
            cv2.ellipse(found, cv2.fitEllipse(points), 255, -1)
        return np.asarray(found > 0)


@dataclass(frozen=True, slots=True)
class SetBox:
    """A box around a finding in a picture of a set. ``corners``: left, top, right, bottom, in pixels of a
    square of ``side`` with the picture in its middle.
    """

    label: str
    corners: tuple[float, float, float, float]
    side: float


@dataclass(frozen=True, slots=True)
class SetImage:
    """One picture of a set, in the form that every reader returns. ``name``: its name in the set.
    ``patient``: the patient's id (no patient is in two splits). ``split``: train, val, test, or "" if the set
    has none. ``labels``: findings that are present; ``unsure``: findings that are neither present nor absent.
    ``masks`` by the outlined structure. ``age`` in years, NaN if unknown. ``source``: the part of the set,
    ``repository``: where that part came from. ``soft``: a teacher model's probabilities of :data:`LABELS`.
    ``measures``: further numbers by name. ``marks``: the labels as numbers in the order of :data:`LABELS`, 0
    or 1, NaN if not known (:func:`chest_set`).
    """

    name: str
    path: Path
    patient: str
    split: str = ""
    labels: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    boxes: tuple[SetBox, ...] = ()
    masks: Mapping[str, MaskFile] = field(default_factory=dict)
    age: float = math.nan
    sex: str = ""
    view: str = ""
    source: str = ""
    repository: str = ""
    soft: tuple[float, ...] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    marks: tuple[float, ...] = ()

    @property
    def adult(self) -> bool:
        """Whether the patient is known to be old enough for the intended use."""
        return self.age >= YOUNGEST

    def is_in(self, split: str) -> bool:
        """Whether the image belongs to ``split``; True for every split if the set has none."""
        return self.split in {split, ""}


@dataclass(frozen=True, slots=True)
class TruthBox(SetBox):
    """A box that a radiologist drew, with its image."""

    image: SetImage


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A set of images as a reader finds it in a folder, with the facts that a fair measurement needs.
    ``title``: name and source, for model cards. ``labels``: the labels that the set covers. ``notes`` are
    printed with the figures. ``main``: the source whose figures come first. ``natural``: the sources whose
    images were not chosen by disease. ``left_out``: why a label of a source is not measured, by source and
    label.
    """

    title: str
    images: tuple[SetImage, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    main: str = ""
    natural: tuple[str, ...] = ()
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The title without its source."""
        return self.title.partition(" (")[0]

    @property
    def boxes(self) -> tuple[TruthBox, ...]:
        """The boxes of all images and of the set's labels."""
        drawn = ((box, image) for image in self.images for box in image.boxes)
        return tuple(
            TruthBox(b.label, b.corners, b.side, image) for b, image in drawn if b.label in self.labels
        )


def corners(box: TruthBox) -> tuple[float, float, float, float]:
    """The corners of a box, ``(left, top, right, bottom)``, as shares of the image's side, cut at the image's
    edges.
    """
    left, top, right, bottom = (min(max(edge / box.side, 0.0), 1.0) for edge in box.corners)
    return left, top, right, bottom


CHEST, FETAL, OVARY = "chest X-rays", "fetal heads", "ovaries"
HELD_BACK = {"val": 0.125, "train": 0.875}
"""Of the patients of an official train part, where no part is for choices."""
SEED = 1
PARTS = {"training": "train", "valid": "val", "validate": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True, slots=True)
class SetLayout:
    """A known layout of files for a set. ``kinds``: of the pictures. ``needs``: patterns of files by which
    the layout is recognised. ``read`` reads the set and raises DataMissing.
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    read: Callable[[Path], ImageSet]

    def lies_in(self, folder: Path) -> bool:
        """Whether ``folder`` has this layout."""
        return all(any(folder.glob(pattern)) for pattern in self.needs)


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
    """Convert a ``row`` of a manifest to an image. ``columns``: the columns that are labels. Raises
    DataMissing.
    """
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
            for name in ("pixel_mm_at_512", "head_circumference_mm", "yellow_overlay_px")
            if row.get(name)
        },
    )


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first value that the row has among these columns, "" without any."""
    return next((row[name] for name in names if row.get(name)), "")


SETS = ("cxr_nih", "cxr_nih_more")
NAME = " and ".join(SETS)
SOFT, BOXES = "chexnet_preds.csv.gz", "boxes.csv"
CITED = (
    "X. Wang et al., IEEE CVPR 2017, pp. 3462-3471, doi 10.1109/CVPR.2017.369; NIH Clinical Center, "
    "attribution required"
)


def read_public(data: Path) -> ImageSet:
    """Read both public chest sets in ``data`` as one, with boxes and a teacher model's probabilities. Raises
    DataMissing.
    """
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
    """Read a teacher model's probabilities by NIH file name; empty when there is no such file."""
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
    """Yield the boxes of a list (``BBox_List_2017.csv``, or JSON of ChestX-Det), each with its image's file
    name before it. Labels that the classifier does not know and empty boxes are left out. Raises DataMissing
    if the list is missing or cannot be read.
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
    """Read NIH ChestX-ray14 in its published layout; images that do not exist are left out. Raises
    DataMissing if a list or all images are missing.
    """
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
    of_patient = random_splits(map(_patient_of, taught), HELD_BACK)
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
    found, notes = existing_images(listed, folder)
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
    found, notes = existing_images(listed, folder)
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
    """Read the set of ``kind``. ``where``: its folder, a folder with exactly one sub-folder in a known
    layout, or a table file. Raises DataMissing.
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
    """Read the set of ``kind`` in the folder ``name`` of ``data``, or in ``data`` itself. Raises
    DataMissing.
    """
    return read_set(data / name, kind) if (data / name).is_dir() else read_set(data, kind)


def part_of_set(folder: Path, split: str) -> tuple[SetImage, ...]:
    """Read the pictures of ``split`` in ``folder``, whatever they show; none if the folder is missing or has
    no known layout. Raises DataMissing if it cannot be read.
    """
    layout = next((one for one in LAYOUTS if one.lies_in(folder)), None)
    return tuple(image for image in layout.read(folder).images if image.split == split) if layout else ()


def chest_set(data: Path) -> ImageSet:
    """Read the chest X-rays that ``data`` names, children included. Raises DataMissing when they cannot be
    read, or no label or no age is known.
    """
    found = read_set(data, CHEST)
    labels = tuple(label for label in LABELS if label in found.labels)
    if not labels:
        raise DataMissing(f"{data} has no column or folder of one label, such as Effusion")
    if all(math.isnan(image.age) for image in found.images):
        raise DataMissing(f"{data} says no age (column age): the model is for adults")
    images = tuple(
        replace(
            image,
            marks=tuple(
                # Unknown where the set says nothing of it, or is unsure.
                math.nan if label in image.unsure or label not in labels else float(label in image.labels)
                for label in LABELS
            ),
        )
        for image in found.images
    )
    sources = [image.source for image in images]
    main = found.main or max(sorted(set(sources)), key=sources.count)
    return replace(found, images=images, main=main, labels=labels)


def reduced_images(
    images: Sequence[SetImage],
    chain: Chain,
    cache: Path,
    report: Callable[[float, str], None] = lambda _share, _what: None,
) -> npt.NDArray[np.uint8]:
    """Reduce all ``images`` by the preprocessing ``chain`` to ``[N, side, side]`` uint8, stored in the folder
    ``cache``. The name of the stored file depends on the chain and the list of images, so a change of either
    makes a new one. Raises DataMissing if a file is missing or is no image.
    """
    try:  # folder, name and bytes, since two sets may hold the same names
        names = "\n".join(
            f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in (one.path for one in images)
        )
    except FileNotFoundError as error:
        raise DataMissing(f"{error.filename} is missing: its manifest names it") from error
    digest = hashlib.sha256(f"{chain}\n{names}".encode()).hexdigest()[:16]
    stored = cache / f"reduced-{digest}.npy"
    if stored.exists():
        return np.asarray(np.load(stored, mmap_mode="r"))
    reduced = np.empty((len(images), chain.side, chain.side), np.uint8)
    for index, image in enumerate(images):
        reduced[index] = reduce(read_grey(image.path), chain)[0]
        report((index + 1) / len(images), "reading images")
    cache.mkdir(parents=True, exist_ok=True)
    partial = stored.with_suffix(".partial.npy")
    np.save(partial, reduced)
    partial.replace(stored)
    return reduced


def label_matrix(images: Sequence[SetImage], unknown: float = 0.0) -> npt.NDArray[np.float32]:
    """The labels ``[N, 14]`` as 0 and 1; ``unknown`` where a label is not known."""
    return np.nan_to_num(np.array([image.marks for image in images], np.float32), nan=unknown)


def soft_matrix(images: Sequence[SetImage]) -> npt.NDArray[np.float32]:
    """The teacher model's probabilities ``[N, 14]``; NaN for images that it learned from or never saw."""
    unknown = (np.nan,) * len(LABELS)
    return np.array([image.soft or unknown for image in images], np.float32)


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
