"""Chest X-rays in DICOM with radiologists' labels and boxes: VinDr-CXR, and RSNA's pneumonia challenge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.metrics import overlap
from ai_training.sets.files import dicom_facts, number, rows
from ai_training.sets.images import ImageSet, SetBox, SetImage
from ai_training.sets.layout import CHEST, SetLayout, in_splits, those_there, years
from ai_training.sets.names import ours

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
            listed.append(_vindr_film(folder, image, split, votes, len(readings)))
        drawn = rows(places, needs=(IMAGE, FINDING, *CORNERS))
        boxes |= {image: _drawn(found, places) for image, found in _by(IMAGE, drawn).items()}
    return _vindr(folder, listed, boxes, tuple(names))


def read_vindr_kaggle(folder: Path) -> ImageSet:
    """Read VinDr-CXR of Kaggle: a row for each box of each reader; its test images have no labels.

    Raises DataMissing.
    """
    table = folder / "train.csv"
    listed: list[SetImage] = []
    by_image = _by(IMAGE, rows(table, needs=(IMAGE, FINDING, READER, *CORNERS)))
    for image, found in by_image.items():
        seen = {(row[READER], ours(row[FINDING])) for row in found if row[FINDING] != NOTHING}
        votes = Counter(label for _, label in seen)
        listed.append(_vindr_film(folder, image, "", votes, len({row[READER] for row in found}), "train"))
    boxes = {image: _drawn(found, table) for image, found in by_image.items()}
    names = sorted(set().union(*(image.labels | image.unsure for image in listed)))
    return _vindr(folder, listed, boxes, tuple(names))


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


LAYOUTS = (
    SetLayout("vindr-cxr", (CHEST,), (VINDR,), read_vindr),
    SetLayout("vindr-kaggle", (CHEST,), ("train.csv", "train/*.dicom"), read_vindr_kaggle),
    SetLayout("rsna", (CHEST,), (RSNA,), read_rsna),
)


def _by(column: str, listed: Iterable[dict[str, str]]) -> dict[str, Rows]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in listed:
        found.setdefault(row[column], []).append(row)
    return dict(found)


def _vindr_film(
    folder: Path, image: str, split: str, votes: Mapping[str, int], readers: int, part: str = ""
) -> SetImage:
    """What most readers see is there; what fewer see is neither there nor absent."""
    most = frozenset(label for label, seen in votes.items() if seen > readers / 2)
    path = folder / (part or split) / f"{image}.dicom"
    return SetImage(image, path, "", split, most, frozenset(votes) - most, source="vindr-cxr")


def _vindr(
    folder: Path, listed: Sequence[SetImage], boxes: Mapping[str, list[Drawn]], names: tuple[str, ...]
) -> ImageSet:
    found, notes = those_there(listed, folder)
    images = in_splits([_with_header(image, boxes) for image in found], folder)
    notes += ("a finding of a minority of the readers is neither present nor absent",)
    notes += ("who has no age in the header counts as an adult",)
    title = "VinDr-CXR (H. Q. Nguyen et al., doi 10.13026/3akn-b287; PhysioNet credentialed licence)"
    return ImageSet(title, images, names, notes, adults=True)


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
