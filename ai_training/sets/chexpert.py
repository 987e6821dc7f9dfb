"""CheXpert and MIMIC-CXR-JPG: labels of the CheXpert labeller, 1, 0, -1 (uncertain) or blank.

Blank means not mentioned, which counts as absent; uncertain counts as unknown. Only frontal films are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.sets.files import rows
from ai_training.sets.images import ImageSet, SetImage
from ai_training.sets.layout import (
    CHEST,
    SetLayout,
    check_splits,
    in_splits,
    part_of,
    those_there,
    years,
)
from ai_training.sets.names import ours

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


def read(folder: Path) -> ImageSet:
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
    split, labels, metadata = (_table(folder, name) for name in ("split", "chexpert", "metadata"))
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


LAYOUT = SetLayout("chexpert", (CHEST,), ("train.csv", "valid.csv"), read)
MIMIC = SetLayout("mimic-cxr", (CHEST,), ("mimic-cxr-*-split.csv*", "mimic-cxr-*-chexpert.csv*"), read_mimic)


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


def _table(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"mimic-cxr-*-{name}.csv*"))
    if not found:
        raise DataMissing(f"{folder}: mimic-cxr-2.0.0-{name}.csv.gz is missing")
    return found[0]
