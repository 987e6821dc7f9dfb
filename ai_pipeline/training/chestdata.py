"""The public chest X-ray images as one table: files, labels, soft labels, patients, splits, sources.

Folder layout under ``data`` (see docs/training.md): ``cxr_nih/`` and ``cxr_nih_more/``, each with a
``manifest.csv``; soft labels in ``cxr_nih/chexnet_preds.csv.gz``; boxes in ``cxr_nih/boxes.csv``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.preprocess import reduce
from ai_pipeline.registry import Chain

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
SETS = ("cxr_nih", "cxr_nih_more")
YOUNGEST = 16  # years; the model is for adults


class DataMissing(OSError):
    """The folder does not hold the public image sets that training and evaluation need."""


@dataclass(frozen=True, slots=True)
class ChestImage:
    """One row: where the file is and what is known about it. ``soft`` is a teacher's probabilities."""

    path: Path
    labels: tuple[int, ...]
    soft: tuple[float, ...] | None
    patient: str
    split: str
    source: str
    repository: str
    age: float
    sex: str
    view: str


@dataclass(frozen=True, slots=True)
class TruthBox:
    """A radiologist's box in corner coordinates of the file (PNG or JPEG as published in the set)."""

    file: str
    label: str
    left: float
    top: float
    right: float
    bottom: float
    split: str


def chest_images(data: Path) -> tuple[ChestImage, ...]:
    """All frontal chest images of NIH origin under ``data``, in manifest order, children included.

    Raises DataMissing when a manifest is not there.
    """
    soft = _soft_labels(data / SETS[0] / "chexnet_preds.csv.gz")
    return tuple(
        _image(data / name, row, soft.get(row["nih_name"])) for name in SETS for row in _rows(data / name)
    )


def truth_boxes(data: Path) -> tuple[TruthBox, ...]:
    """The lesion boxes of ``cxr_nih``."""
    with (data / "cxr_nih" / "boxes.csv").open(newline="") as file:
        return tuple(
            TruthBox(
                row["file"],
                row["label"],
                float(row["x"]),
                float(row["y"]),
                float(row["x"]) + float(row["w"]),
                float(row["y"]) + float(row["h"]),
                row["split"],
            )
            for row in csv.DictReader(file)
        )


def read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """A PNG or JPEG as grey uint8. Raises DataMissing when it cannot be read."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DataMissing(f"{path} is not an image that can be read")
    return np.asarray(image, np.uint8)


def reduced_images(
    images: Sequence[ChestImage],
    chain: Chain,
    cache: Path,
    report: Callable[[float, str], None] = lambda _share, _what: None,
) -> npt.NDArray[np.uint8]:
    """All ``images`` through the chain, ``[N, side, side]`` uint8, kept in the folder ``cache``.

    The file is named after the chain and the list of files, so a change of either makes a new one.
    """
    names = "\n".join(f"{image.path.parent.name}/{image.path.name}" for image in images)
    digest = hashlib.sha256(f"{chain}\n{names}".encode()).hexdigest()[:16]
    kept = cache / f"reduced-{digest}.npy"
    if kept.exists():
        return np.asarray(np.load(kept, mmap_mode="r"))
    reduced = np.empty((len(images), chain.side, chain.side), np.uint8)
    for index, image in enumerate(images):
        reduced[index] = reduce(read_grey(image.path), chain)[0]
        report((index + 1) / len(images), "reading images")
    cache.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial.npy")
    np.save(partial, reduced)
    partial.replace(kept)
    return reduced


def label_matrix(images: Sequence[ChestImage]) -> npt.NDArray[np.float32]:
    """``[N, 14]`` of 0 and 1."""
    return np.array([image.labels for image in images], np.float32)


def soft_matrix(images: Sequence[ChestImage]) -> npt.NDArray[np.float32]:
    """``[N, 14]`` of the teacher's probabilities, NaN where it saw the image in its own training or never."""
    unknown = (np.nan,) * len(LABELS)
    return np.array([image.soft or unknown for image in images], np.float32)


def _image(folder: Path, row: dict[str, str], soft: tuple[float, ...] | None) -> ChestImage:
    return ChestImage(
        path=folder / row["file"],
        labels=tuple(int(row[label]) for label in LABELS),
        soft=soft,
        patient=row["patient_id"],
        split=row["split"],
        source=f"{folder.name}/{Path(row['file']).parent.name}",
        repository=row["source_repo"],
        age=float(row["age"]),
        sex=row["sex"],
        view=row["view"],
    )


def _rows(folder: Path) -> list[dict[str, str]]:
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        raise DataMissing(
            f"{manifest} is missing: --data must name a folder laid out as docs/training.md says"
        )
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def _soft_labels(path: Path) -> dict[str, tuple[float, ...]]:
    if not path.exists():
        return {}
    with gzip.open(path, "rt", newline="") as file:
        return {
            row["nih_name"]: tuple(float(row[f"prob_{label}"]) for label in LABELS)
            for row in csv.DictReader(file)
        }
