"""Image sets by their layouts: recognised by the content of a folder, or chosen by name.

A new layout is a :class:`~ai_training.sets.layout.SetLayout` in :data:`LAYOUTS`, and a line in
docs/reference/data-sets.md. A site's own table: ``manifest.csv``, or any CSV file that ``--data`` names:
``file`` (or ``image``, ``path``; relative to the table), ``patient_id`` (or ``patient``, ``group``), 0/1
columns with the names of the labels (-1: unknown) or one column ``labels`` (``Mass|Nodule``) or ``label``;
optional ``split``, ``mask``, ``age`` (years), ``sex``, ``view`` (PA, AP), ``source`` and ``source_repo``;
further numbers are measures. A folder of pictures in sub-folders, whose names are the labels, is read with
``--layout folder``."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from ai_training.base import DataMissing
from ai_training.metrics import overlap
from ai_training.sets.images import (
    LABELS,
    ImageSet,
    MaskFiles,
    SetBox,
    SetImage,
    dicom_facts,
    lines,
    number,
    rows,
)
from ai_training.sets.layout import (
    BREAST,
    CHEST,
    FETAL,
    HELD_BACK,
    OVARY,
    SetLayout,
    check_splits,
    dealt,
    in_splits,
    near_duplicates,
    ours,
    part_of,
    those_there,
    years,
)

MANIFEST, MASK = "manifest.csv", "mask"
FILES, PATIENTS = ("file", "image", "path"), ("patient_id", "patient", "group")
MEASURES = ("pixel_mm_at_512", "head_circumference_mm", "ctr", "yellow_overlay_px")
TITLES = {
    "cxr_anatomy": "cxr_anatomy (N. Dong et al., DLMIA 2018, Wingspan set, MIT)",
    "us_fetal_head": "us_fetal_head (HC18, T. van den Heuvel et al., doi 10.5281/zenodo.1322001, CC BY 4.0)",
    "us_ovarian": (
        "us_ovarian (MMOTU, subset OTU_2d, Q. Zhao et al., arXiv 2207.06799; "
        "doi 10.6084/m9.figshare.25058690, CC BY 4.0)"
    ),
}
"""Of the public sets of this project, by their folders."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".dcm", ".dicom")


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


def read_folder(where: Path) -> ImageSet:
    """Read pictures in sub-folders, one for each label; each picture counts as a patient.
    Raises DataMissing.
    """
    images = [
        SetImage(f"{path.parent.name}/{path.name}", path, str(path), labels=frozenset({path.parent.name}))
        for path in sorted(where.glob("*/*"))
        if path.suffix.lower() in PICTURES
    ]
    if not images:
        raise DataMissing(f"{where} holds no pictures in folders named as labels (LABEL/*.png)")
    labels = tuple(sorted(set().union(*(image.labels for image in images))))
    notes = ("patients and ages are not known: each picture counts as an adult of its own",)
    return ImageSet(where.name, in_splits(images, where), labels, notes, adults=True)


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
        masks={MASK: MaskFiles((manifest.parent / row[MASK],))} if row.get(MASK) else {},
        age=years(row.get("age") or ""),
        sex=row.get("sex") or "",
        view=row.get("view") or "",
        source=row.get("source") or manifest.stem,
        repository=row.get("source_repo") or "",
        measures={name: number(row, name, manifest) for name in MEASURES if row.get(name)},
    )


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((row[name] for name in names if row.get(name)), "")


SETS = ("cxr_nih", "cxr_nih_more")
NAME = " and ".join(SETS)
SOFT, BOXES = "chexnet_preds.csv.gz", "boxes.csv"
DRAWN_SIDE = 512.0  # pixels of the images that the boxes were drawn on
CITED = (
    "X. Wang et al., IEEE CVPR 2017, pp. 3462-3471, doi 10.1109/CVPR.2017.369; NIH Clinical Center, "
    "attribution required"
)
TOLD = "the source repository alone tells it with an AUC of .95: its pneumonias come from one repository"


def read_public(data: Path) -> ImageSet:
    """Read both sets as one, with boxes and a teacher's probabilities. Raises DataMissing."""
    soft, table = soft_labels(data / SETS[0] / SOFT), data / SETS[0] / BOXES
    boxes = defaultdict[str, list[SetBox]](list)
    for row in rows(table) if table.is_file() else []:
        left, top, width, height = (number(row, column, table) for column in ("x", "y", "w", "h"))
        corners = left, top, left + width, top + height
        boxes[row["file"]].append(SetBox(row["label"], corners, DRAWN_SIDE))
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
        left_out={("cxr_nih_more/images", "Pneumonia"): TOLD},
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


SIDE = 1024.0  # pixels of the images that both lists were drawn on
Row = tuple[str, str, Sequence[Any]]
"""File name, label as the list has it, corners (left, top, right, bottom) in pixels."""


def listed_boxes(path: Path) -> Iterator[tuple[str, SetBox]]:
    """The boxes of a list, each with the name of its image file.

    Labels that the classifier does not know and empty boxes are left out. Raises DataMissing if the list is
    missing or cannot be read.
    """
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    try:
        for file, label, corners in _drawn_rows(path):
            left, top, right, bottom = (float(edge) for edge in corners)
            if ours(label) in LABELS and left < right and top < bottom:
                yield file, SetBox(ours(label), (left, top, right, bottom), SIDE)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataMissing(f"{path} is no list of boxes that can be read: {error!r}") from error


def _drawn_rows(path: Path) -> Iterator[Row]:
    if path.suffix.lower() == ".json":
        for entry in json.loads(path.read_text(encoding="utf-8")):
            for label, corners in zip(entry["syms"], entry["boxes"], strict=True):
                yield entry["file_name"], label, corners
        return
    with path.open(newline="", encoding="utf-8-sig") as file:
        listed = csv.reader(file)
        if next(listed, [""])[0] != "Image Index":
            raise ValueError("its first column is not 'Image Index'")
        for name, label, *place in listed:
            left, top, width, height = map(float, place[:4])
            yield name, label, (left, top, left + width, top + height)


ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {
    "train_val": ("train_val_list.txt", "train_val_list_NIH.txt"),
    "test": ("test_list.txt", "test_list_NIH.txt"),
}
NIH_BOXES = "BBox_List_2017.csv"
SOURCE, REPOSITORY = "nih", "NIH Clinical Center"
NEEDED = ("Image Index", "Finding Labels", "Patient Age", "View Position")


def read_nih(folder: Path) -> ImageSet:
    """Read the images that exist. Raises DataMissing if a list or all images are missing."""
    patterns = ("images/*.png", "images_[0-9]*/images/*.png", "images_[0-9]*/*.png")
    files = {path.name: path for pattern in patterns for path in folder.glob(pattern)}
    table = next(folder / name for name in ENTRIES if (folder / name).is_file())
    listed = rows(table, needs=NEEDED)
    there = [row for row in listed if row["Image Index"] in files]
    if not there:
        raise DataMissing(
            f"{folder}: none of the images of {table.name} lies in images*/: unpack the archives"
        )
    lists = {
        name: next((folder / file for file in files if (folder / file).is_file()), folder / files[0])
        for name, files in LISTS.items()
    }
    if missing := [path for path in lists.values() if not path.is_file()]:
        raise DataMissing(f"{missing[0]} is missing: it belongs to the NIH download")
    taught, tested = (lines(lists[name]) for name in ("train_val", "test"))
    of_patient = dealt(map(_patient_of, taught), HELD_BACK)
    splits = {name: of_patient[_patient_of(name)] for name in taught} | dict.fromkeys(tested, "test")
    soft, boxes = soft_labels(folder / SOFT), defaultdict[str, list[SetBox]](list)
    if (folder / NIH_BOXES).is_file():
        for name, box in listed_boxes(folder / NIH_BOXES):
            boxes[name].append(box)
    images = tuple(
        SetImage(
            name=name,
            path=files[name],
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
        for row in there
        if (name := row["Image Index"]) in splits
    )
    check_splits(folder, images)
    notes = ["official NIH lists; val is a seeded part of the patients of the official train_val list"]
    if len(listed) > len(images):
        notes.append(f"{len(listed) - len(images)} of {len(listed)} listed images are not there")
    return ImageSet(
        f"NIH ChestX-ray14 ({CITED})", images, LABELS, tuple(notes), main=SOURCE, natural=(SOURCE,)
    )


def _patient_of(name: str) -> str:
    """The patient of a file name such as ``00000001_000.png``; the table drops the leading zeros."""
    return name.partition("_")[0]


VINDR = "annotations/image_labels_train.csv"
IMAGE, READER, FINDING = "image_id", "rad_id", "class_name"
CORNERS = ("x_min", "y_min", "x_max", "y_max")
NOTHING = "No finding"
SAME = 0.5  # boxes of two readers with so large an overlap are one
RSNA = "stage_2_train_labels.csv"
RSNA_BOX = ("x", "y", "width", "height")
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
PNEUMONIA = "Pneumonia"
Rows = Sequence[dict[str, str]]
Drawn = tuple[str, tuple[float, ...]]
"""A label of ours, and its corners in pixels of the picture."""


def read_vindr(folder: Path) -> ImageSet:
    """Read VinDr-CXR of PhysioNet: a row of labels for each image and reader, a table of boxes; test by
    consensus.

    Raises DataMissing.
    """
    listed: list[SetImage] = []
    boxes: dict[str, list[Drawn]] = {}
    names: dict[str, None] = {}
    for split in ("train", "test"):
        labels, places = (
            folder / f"annotations/{kind}_{split}.csv" for kind in ("image_labels", "annotations")
        )
        for image, readings in _by(IMAGE, rows(labels, needs=(IMAGE,))).items():
            columns = [name for name in readings[0] if name not in {IMAGE, READER, NOTHING}]
            names |= dict.fromkeys(map(ours, columns))
            votes = Counter(
                ours(name) for row in readings for name in columns if number(row, name, labels) > 0
            )
            most = frozenset(label for label, seen in votes.items() if seen > len(readings) / 2)
            path, fewer = folder / split / f"{image}.dicom", frozenset(votes) - most
            listed.append(SetImage(image, path, "", split, most, fewer, source="vindr-cxr"))
        drawn = rows(places, needs=(IMAGE, FINDING, *CORNERS))
        boxes |= {image: _drawn(marks, places) for image, marks in _by(IMAGE, drawn).items()}
    found, notes = those_there(listed, folder)
    images = in_splits([_with_header(image, boxes) for image in found], folder)
    notes += ("a finding of a minority of the readers is neither present nor absent",)
    notes += ("who has no age in the header counts as an adult",)
    title = "VinDr-CXR (H. Q. Nguyen et al., doi 10.13026/3akn-b287; PhysioNet credentialed licence)"
    return ImageSet(title, images, tuple(names), notes, adults=True)


def read_rsna(folder: Path) -> ImageSet:
    """Read RSNA's pneumonia challenge: a row for each box, and a row without numbers for an image without a
    box.

    The images are from ChestX-ray14; a further file of RSNA says which are of the same patient. Raises
    DataMissing.
    """
    table, patients = folder / RSNA, _patients(folder / MAPPING)
    listed: list[SetImage] = []
    boxes: dict[str, list[Drawn]] = {}
    for image, found in _by("patientId", rows(table, needs=("patientId", *RSNA_BOX, "Target"))).items():
        for row in found:
            if number(row, "Target", table) > 0:
                left, top, wide, high = (number(row, column, table) for column in RSNA_BOX)
                boxes.setdefault(image, []).append((PNEUMONIA, (left, top, left + wide, top + high)))
        there = frozenset({PNEUMONIA}) if image in boxes else frozenset[str]()
        path = folder / "stage_2_train_images" / f"{image}.dcm"
        listed.append(SetImage(image, path, patients.get(image, image), labels=there, source="rsna"))
    found_images, notes = those_there(listed, folder)
    if not patients:
        notes += (f"without {MAPPING} each image counts as a patient: some are of one person",)
    images = in_splits([_with_header(image, boxes) for image in found_images], folder)
    title = "RSNA pneumonia challenge 2018 (G. Shih et al., doi 10.1148/ryai.2019180041; images of NIH)"
    return ImageSet(title, images, (PNEUMONIA,), notes)


def _by(column: str, listed: Iterable[dict[str, str]]) -> dict[str, Rows]:
    found = defaultdict[str, list[dict[str, str]]](list)
    for row in listed:
        found[row[column]].append(row)
    return dict(found)


def _drawn(found: Rows, table: Path) -> list[Drawn]:
    """The boxes of one image; of several boxes of a finding in one place, the first."""
    kept: list[Drawn] = []
    for row in found:
        if row[FINDING] == NOTHING or not row[CORNERS[0]]:
            continue
        label, corners = ours(row[FINDING]), tuple(number(row, name, table) for name in CORNERS)
        if all(label != other or overlap(corners, there) < SAME for other, there in kept):
            kept.append((label, corners))
    return kept


def _with_header(image: SetImage, boxes: Mapping[str, Sequence[Drawn]]) -> SetImage:
    """``image`` with what its DICOM header says, and with the boxes of what is there."""
    facts = dicom_facts(image.path)
    return replace(
        image,
        patient=image.patient or facts.patient or image.name,
        age=years(facts.age),
        sex=facts.sex,
        view=facts.view,
        boxes=tuple(
            SetBox.in_picture(label, corners, facts.rows, facts.columns)
            for label, corners in boxes.get(image.name, ())
            if label in image.labels
        ),
    )


def _patients(mapping: Path) -> dict[str, str]:
    """Image of the challenge → patient of ChestX-ray14; empty without the file."""
    if not mapping.is_file():
        return {}
    try:
        listed = json.loads(mapping.read_text(encoding="utf-8"))
        return {entry["subset_img_id"]: entry["img_id"].partition("_")[0] for entry in listed}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "a list with subset_img_id and img_id was expected"
        raise DataMissing(f"{mapping} cannot be read: {expected}") from error


FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
OURS = tuple(map(ours, FINDINGS))
FRONTAL = ("AP", "PA")
_PATH = re.compile(r"(?:.*/)?((train|valid|test)/(patient\d+)/.+)")


def read_chexpert(folder: Path) -> ImageSet:
    """Read CheXpert. Its ``valid`` is the test part, or val if there is also a ``test.csv``.

    Raises DataMissing.
    """
    tables = [folder / f"{name}.csv" for name in ("train", "valid", "test")]
    tables = [table for table in tables if table.is_file()]
    tested = tables[-1].stem
    listed = [image for table in tables for image in _films(table, folder, tested)]
    found, notes = those_there(listed, folder)
    notes += (f"the official {tested} part is test",)
    title = "CheXpert (J. Irvin et al., AAAI 2019, arXiv 1901.07031; research use agreement of Stanford)"
    return ImageSet(title, in_splits(found, folder), OURS, notes)


def read_mimic(folder: Path) -> ImageSet:
    """Read MIMIC-CXR-JPG, with its own splits. Raises DataMissing."""
    names = ("split", "chexpert", "metadata")
    tables = {name: sorted(folder.glob(f"mimic-cxr-*-{name}.csv*")) for name in names}
    if missing := [name for name in names if not tables[name]]:
        raise DataMissing(f"{folder}: mimic-cxr-2.0.0-{missing[0]}.csv.gz is missing")
    split, labels, metadata = (tables[name][0] for name in names)
    findings = {row["study_id"]: row for row in rows(labels, needs=("study_id", *FINDINGS))}
    views = {
        row["dicom_id"]: row["ViewPosition"] for row in rows(metadata, needs=("dicom_id", "ViewPosition"))
    }
    listed, unlabelled = [], 0
    for row in rows(split, needs=("dicom_id", "study_id", "subject_id", "split")):
        if views.get(row["dicom_id"]) not in FRONTAL:
            continue
        if row["study_id"] not in findings:
            unlabelled += 1
            continue
        subject = row["subject_id"]
        name = f"files/p{subject[:2]}/p{subject}/s{row['study_id']}/{row['dicom_id']}.jpg"
        there, unsure = _labels(findings[row["study_id"]])
        listed.append(
            SetImage(
                name,
                folder / name,
                subject,
                part_of(row["split"]),
                there,
                unsure,
                view=views[row["dicom_id"]],
                source="mimic-cxr",
            )
        )
    found, notes = those_there(listed, folder)
    check_splits(folder, found)
    notes += ("no ages: all patients count as adults", f"{unlabelled} films without labels are left out")
    title = "MIMIC-CXR-JPG (A. Johnson et al., doi 10.13026/jsn5-t979; PhysioNet credentialed licence)"
    return ImageSet(title, found, OURS, notes, adults=True)


def _films(table: Path, folder: Path, tested: str) -> list[SetImage]:
    split = "test" if table.stem == tested else part_of(table.stem)
    films = []
    for row in rows(table, needs=("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)):
        place = _PATH.fullmatch(row["Path"])
        if place is None:
            raise DataMissing(f"{table}: {row['Path']!r} was expected to be train/patientNUMBER/study…/file")
        if row["Frontal/Lateral"] != "Frontal":
            continue
        there, unsure = _labels(row)
        films.append(
            SetImage(
                place[1],
                folder / place[1],
                place[3],
                split,
                there,
                unsure,
                age=years(row["Age"]),
                sex=row["Sex"][:1].replace("U", ""),
                view=row["AP/PA"],
                source="chexpert",
            )
        )
    return films


def _labels(row: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """The present findings, and the uncertain findings."""
    marks = {name: float(row[name] or 0) for name in FINDINGS}
    there, unsure = (frozenset(ours(n) for n, mark in marks.items() if mark == wanted) for wanted in (1, -1))
    return there, unsure


SCR = ("heart", "right lung", "left lung", "right clavicle", "left clavicle")
FOLDS = {"fold1": "train", "fold2": "test"}
"""SCR teaches with one half of the films and measures on the other."""


def read_jsrt(folder: Path) -> ImageSet:
    """Read JSRT (``All247images/JPCLN001.IMG``; CLN: with a nodule) with the masks of SCR. Raises
    DataMissing.
    """
    listed = []
    for fold, split in FOLDS.items():
        for heart in sorted(folder.glob(f"scratch/{fold}/masks/heart/*.gif")):
            masks = {name: MaskFiles((heart.parents[1] / name / heart.name,)) for name in SCR}
            path = folder / "All247images" / f"{heart.stem}.IMG"
            labels = frozenset({"Nodule"} if heart.stem.startswith("JPCLN") else ())
            listed.append(SetImage(path.name, path, heart.stem, split, labels, masks=masks, source="jsrt"))
    found, notes = those_there(listed, folder)
    paths = (path for image in found for mask in image.masks.values() for path in mask.paths)
    if missing := next((path for path in paths if not path.is_file()), None):
        raise DataMissing(f"{missing} is missing: a mask of each film was expected")
    title = "JSRT with the masks of SCR (doi 10.2214/ajr.174.1.1740071, 10.1016/j.media.2005.02.002)"
    return ImageSet(title, in_splits(found, folder), ("Nodule",), notes)


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


ANY = (CHEST, FETAL, OVARY, BREAST)
TABLE = SetLayout("table", ANY, (MANIFEST,), read_table)
LAYOUTS = (
    SetLayout("public", (CHEST,), tuple(f"{name}/{MANIFEST}" for name in SETS), read_public),
    SetLayout("nih", (CHEST,), ("Data_Entry_2017*.csv",), read_nih),
    SetLayout("vindr-cxr", (CHEST,), (VINDR,), read_vindr),
    SetLayout("rsna", (CHEST,), (RSNA,), read_rsna),
    SetLayout("chexpert", (CHEST,), ("train.csv", "valid.csv"), read_chexpert),
    SetLayout("mimic-cxr", (CHEST,), ("mimic-cxr-*-split.csv*", "mimic-cxr-*-chexpert.csv*"), read_mimic),
    SetLayout("jsrt", (CHEST,), ("All247images/JPC*.IMG", "scratch/fold1/masks/heart"), read_jsrt),
    SetLayout("hc18", (FETAL,), (HC18,), read_hc18),
    SetLayout("otu-2d", (OVARY,), ("train_cls.txt", "val_cls.txt", "images"), read_otu),
    TABLE,
    SetLayout("folder", ANY, (), read_folder),
)
_NAMED: ContextVar[str] = ContextVar("layout of --data", default="")


@contextmanager
def named(layout: str) -> Iterator[None]:
    """A context in which ``--data`` is read in the layout of this name. Raises DataMissing for an unknown
    name.
    """
    if layout not in (names := [one.name for one in LAYOUTS]):
        raise DataMissing(f"no layout is named {layout!r}: {', '.join(names)}")
    token = _NAMED.set(layout)
    try:
        yield
    finally:
        _NAMED.reset(token)


def read_data(data: Path, kind: str) -> ImageSet:
    """The set of ``kind`` that ``--data`` names. Raises DataMissing."""
    if name := _NAMED.get():
        layout = next(one for one in LAYOUTS if one.name == name)
        if kind not in layout.kinds:
            raise DataMissing(f"layout {name} is of {', '.join(layout.kinds)}, not of {kind}")
        if layout.needs and not layout.lies_in(data) and not (data.is_file() and layout is TABLE):
            raise DataMissing(f"{data} is not laid out as {name}: looked for {', '.join(layout.needs)}")
        return layout.read(data)
    return read_set(data, kind)


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
    looked = "; ".join(f"{layout.name}: {', '.join(layout.needs)}" for layout in known if layout.needs)
    raise DataMissing(
        f"{where} holds no {kind} in a layout of docs/reference/data-sets.md. Looked for {looked}"
    )


def named_set(data: Path, name: str, kind: str) -> ImageSet:
    """The set in the folder ``name`` of ``data``, or in ``data`` itself. Raises DataMissing."""
    return read_set(data / name, kind) if (data / name).is_dir() else read_data(data, kind)


def part_of_set(folder: Path, split: str) -> tuple[SetImage, ...]:
    """The pictures of ``split`` in ``folder``, whatever they show; none if the folder is missing or has no
    known layout. Raises DataMissing if it cannot be read.
    """
    layout = next((one for one in LAYOUTS if one.lies_in(folder)), None)
    return tuple(image for image in layout.read(folder).images if image.split == split) if layout else ()
