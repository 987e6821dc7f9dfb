"""Ultrasound sets: HC18, the frames of MMOTU, BUSI and BUS-BRA."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.sets.duplicates import near_duplicates
from ai_training.sets.files import lines, number, rows
from ai_training.sets.images import ImageSet, MaskFiles, SetImage
from ai_training.sets.layout import BREAST, FETAL, OVARY, SetLayout, in_splits, those_there

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
BUSI = ("benign", "malignant", "normal")


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
        outline = MaskFiles((path.with_name(f"{path.stem}_Annotation.png"),), outlined=True)
        listed.append(SetImage(name, path, examination[1], masks={HEAD: outline}, measures=measures))
    found, notes = those_there(listed, folder)
    for image in found:
        if not (mask := image.masks[HEAD].paths[0]).is_file():
            raise DataMissing(f"{mask} is missing: the outline of {image.name} was expected there")
    title = "HC18 (T. van den Heuvel et al., doi 10.5281/zenodo.1322001, CC BY 4.0)"
    return ImageSet(title, in_splits(found, folder), (), notes)


def read_otu(folder: Path) -> ImageSet:
    """Read MMOTU's OTU_2d: ``train_cls.txt`` and ``val_cls.txt`` name each image and the number of its class.

    The official val part is test. Patients are not published: frames that look nearly alike count as one
    patient's, and train frames that look nearly like a frame of the val part are in no split. Raises
    DataMissing.
    """
    pictures, masks = _by_stem(folder.glob("images/*")), _masks(folder)
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
            masks={LESION: MaskFiles((mask,))},
        )
        for group, (picture, mask, split, label) in zip(groups, listed, strict=True)
    ]
    inside = iter(in_splits([image for image in images if image.split != BESIDE], folder))
    placed = tuple(image if image.split == BESIDE else next(inside) for image in images)
    title = "MMOTU, OTU_2d (Q. Zhao et al., arXiv 2207.06799; doi 10.6084/m9.figshare.25058690, CC BY 4.0)"
    beside = sum(image.split == BESIDE for image in placed)
    notes = ("the official val part is test", f"{beside} train frames look nearly like one of it")
    return ImageSet(title, placed, OVARIAN, notes)


def read_busi(folder: Path) -> ImageSet:
    """Read BUSI: ``benign (1).png`` with ``benign (1)_mask.png``, and ``…_mask_1.png`` for further lesions.

    Patients are not published: pictures that look nearly alike count as one patient's. Raises DataMissing.
    """
    files = [path for label in BUSI for path in sorted(folder.glob(f"{label}/{label} (*.png"))]
    pictures = [path for path in files if "_mask" not in path.stem]
    images = []
    for path, group in zip(pictures, near_duplicates(tuple(pictures)), strict=True):
        mask = tuple(file for file in files if file.stem.startswith(f"{path.stem}_mask"))
        if not mask:
            raise DataMissing(f"{path.with_name(path.stem + '_mask.png')} is missing")
        label = path.parent.name
        name = f"{label}/{path.name}"
        images.append(SetImage(name, path, group, labels=frozenset({label}), masks={LESION: MaskFiles(mask)}))
    title = "BUSI (W. Al-Dhabyani et al., Data in Brief 28, 2020, 104863, CC BY 4.0)"
    return ImageSet(title, in_splits(images, folder), BUSI)


def read_bus_bra(folder: Path) -> ImageSet:
    """Read BUS-BRA: ``bus_data.csv``, ``Images/bus_0001-l.png``, ``Masks/mask_0001-l.png``. Raises
    DataMissing.

    Its folds for cross-validation are not read.
    """
    table, listed = folder / "bus_data.csv", []
    for row in rows(table, needs=("ID", "Case", "Pathology", "BIRADS")):
        name = f"Images/{row['ID']}.png"
        mask = folder / f"Masks/{row['ID'].replace('bus', 'mask', 1)}.png"
        listed.append(
            SetImage(
                name,
                folder / name,
                row["Case"],
                labels=frozenset({row["Pathology"].lower()}),
                masks={LESION: MaskFiles((mask,))},
                measures={"birads": number(row, "BIRADS", table)},
            )
        )
    found, notes = those_there(listed, folder)
    title = "BUS-BRA (W. Gómez-Flores et al., doi 10.5281/zenodo.8231412, CC BY 4.0)"
    return ImageSet(title, in_splits(found, folder), BUSI[:2], notes)


LAYOUTS = (
    SetLayout("hc18", (FETAL,), (HC18,), read_hc18),
    SetLayout("otu-2d", (OVARY,), ("train_cls.txt", "val_cls.txt", "images"), read_otu),
    SetLayout("busi", (BREAST,), ("benign/benign (*)_mask.png", "malignant"), read_busi),
    SetLayout("bus-bra", (BREAST,), ("bus_data.csv", "Images"), read_bus_bra),
)


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    return {path.stem: path for path in paths}


def _masks(folder: Path) -> dict[str, Path]:
    """The masks by the stems of their images; of the two published masks, the one with two values."""
    found = _by_stem((*folder.glob("annotations/*"), *folder.glob("masks/*")))
    return found | {
        stem.removesuffix("_binary"): path for stem, path in found.items() if stem.endswith("_binary")
    }
