"""Layouts of published sets, recognised by the content of a folder."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ai_training.base import DataMissing
from ai_training.sets.files import lines, number, rows
from ai_training.sets.images import CHEST, FETAL, LABELS, OVARY, ImageSet, MaskFile, SetBox, SetImage
from ai_training.sets.splits import (
    HELD_BACK,
    check_splits,
    existing_images,
    in_splits,
    near_duplicates,
    random_splits,
    years,
)
from ai_training.sets.tables import (
    BOXES,
    CITED,
    MANIFEST,
    NAME,
    NIH_BOXES,
    SETS,
    SOFT,
    listed_boxes,
    read_table,
    soft_labels,
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
    listed = [*_listed_frames(folder, "train", "train"), *_listed_frames(folder, "val", "test")]
    groups = near_duplicates(tuple(frame.path for frame in listed))
    grouped = [replace(frame, patient=group) for frame, group in zip(listed, groups, strict=True)]
    tested = {frame.patient for frame in grouped if frame.split == "test"}
    images = [
        replace(frame, split=BESIDE) if frame.split == "train" and frame.patient in tested else frame
        for frame in grouped
    ]
    inside = iter(in_splits([image for image in images if image.split != BESIDE], folder))
    placed = tuple(image if image.split == BESIDE else next(inside) for image in images)
    title = "MMOTU, OTU_2d (Q. Zhao et al., arXiv 2207.06799; doi 10.6084/m9.figshare.25058690, CC BY 4.0)"
    beside = sum(image.split == BESIDE for image in placed)
    notes = ("the official val part is test", f"{beside} train frames look nearly like one of it")
    return ImageSet(title, placed, OVARIAN, notes)


def _listed_frames(folder: Path, part: str, split: str) -> Iterator[SetImage]:
    """The frames that MMOTU's table of ``part`` (train or val) names, as images of ``split``, each its own
    patient. Raises DataMissing.
    """
    pictures, masks = _by_stem(folder, "images/*"), _masks_by_stem(folder)
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
        picture, label = pictures[stem], OVARIAN[int(cls)]
        yield SetImage(
            f"images/{picture.name}",
            picture,
            stem,
            split,
            frozenset({label}),
            masks={LESION: MaskFile(masks[stem])},
        )


def _masks_by_stem(folder: Path) -> dict[str, Path]:
    """MMOTU's masks by the stem of their pictures; the two-valued one where there are two."""
    drawn = _by_stem(folder, "annotations/*", "masks/*")
    two_valued = {stem: path for stem, path in drawn.items() if stem.endswith("_binary")}
    return drawn | {stem.removesuffix("_binary"): path for stem, path in two_valued.items()}


def _by_stem(folder: Path, *patterns: str) -> dict[str, Path]:
    """The files of ``folder`` by their stems."""
    return {path.stem: path for pattern in patterns for path in folder.glob(pattern)}


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
