"""Image sets whose files are listed in a ``manifest.csv``: the public sets of this project, and a site's own.

Columns of a manifest: ``file`` (relative to the manifest), ``patient_id``, ``age`` (years), 0/1 columns named
as the labels are or one column ``labels`` (``Mass|Nodule``); optional ``split``, ``sex``, ``view`` (PA, AP),
``source`` and ``source_repo``.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.sets.files import rows
from ai_training.sets.images import LABELS, ChestImage, ChestSet, TruthBox

SETS = ("cxr_nih", "cxr_nih_more")
SOFT = "chexnet_preds.csv.gz"
PNEUMONIA = "the source repository alone tells it with an AUC of .95: its pneumonias come from one repository"
NEEDED = ("file", "patient_id", "age")
OLDEST = 150  # years; ChestX-ray14 holds a few ages above 400


def public_sets(data: Path) -> ChestSet:
    """``cxr_nih`` and ``cxr_nih_more`` under ``data``. Raises DataMissing when a manifest is not there."""
    soft = soft_labels(data / SETS[0] / SOFT)
    images: list[ChestImage] = []
    for name in SETS:
        for row in rows(data / name / "manifest.csv"):
            images.append(_public_image(data / name, row, soft.get(row["nih_name"])))
    return ChestSet(
        name="cxr_nih and cxr_nih_more",
        images=tuple(images),
        boxes=_public_boxes(data / SETS[0], {image.path: image for image in images}),
        main="cxr_nih/images",
        natural=("cxr_nih_more/images_128",),
        left_out={("cxr_nih_more/images", "Pneumonia"): PNEUMONIA},
    )


def listed_set(manifest: Path) -> ChestSet:
    """The images of one manifest. Raises DataMissing when the file or a column that is needed is missing."""
    listed = rows(manifest)
    if not listed:
        raise DataMissing(f"{manifest} lists no image")
    columns = set(listed[0])
    missing = [name for name in NEEDED if name not in columns]
    known = LABELS if "labels" in columns else tuple(label for label in LABELS if label in columns)
    if missing or not known:
        wanted = [*missing, *([] if known else ["one label, such as Effusion"])]
        raise DataMissing(f"{manifest} has no column {', '.join(wanted)}")
    name = manifest.stem
    images = tuple(_listed_image(manifest, name, row) for row in listed)
    check_splits(manifest, images)
    sources = [image.source for image in images]
    return ChestSet(name, images, (), main=max(sorted(set(sources)), key=sources.count), labels=known)


def soft_labels(path: Path) -> dict[str, tuple[float, ...]]:
    """A teacher's probabilities by NIH file name; empty when there is no such file."""
    if not path.exists():
        return {}
    with gzip.open(path, "rt", newline="") as file:
        return {
            row["nih_name"]: tuple(float(row[f"prob_{label}"]) for label in LABELS)
            for row in csv.DictReader(file)
        }


def years(text: str) -> float:
    """An age as NIH and manifests write it (``58``, ``058Y``, ``006M``, ``011D``) in years.

    NaN when it is missing or no age of a living person (ages above 400 are in ``Data_Entry_2017.csv``).
    """
    value, unit = text.strip(), "Y"
    if value and value[-1].upper() in "YMWD":
        value, unit = value[:-1], value[-1].upper()
    try:
        age = float(value) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[unit]
    except ValueError:
        return float("nan")
    return age if 0 <= age <= OLDEST else float("nan")


def check_splits(manifest: Path, images: Sequence[ChestImage]) -> None:
    """Raises DataMissing where a patient is in more than one split."""
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.patient, set()).add(image.split)
    torn = sum(len(found) > 1 for found in splits.values())
    if torn:  # their number only: patients are not named in errors
        raise DataMissing(f"{manifest}: {torn} patients are in more than one split (see ai-pipeline split)")


def _public_image(folder: Path, row: Mapping[str, str], soft: tuple[float, ...] | None) -> ChestImage:
    return ChestImage(
        path=folder / row["file"],
        labels=tuple(int(row[label]) for label in LABELS),
        soft=soft,
        patient=row["patient_id"],
        split=row["split"],
        source=f"{folder.name}/{Path(row['file']).parent.name}",
        repository=row["source_repo"],
        age=years(row["age"]),
        sex=row["sex"],
        view=row["view"],
    )


def _public_boxes(folder: Path, images: Mapping[Path, ChestImage]) -> tuple[TruthBox, ...]:
    if not (folder / "boxes.csv").is_file():
        return ()
    return tuple(_public_box(folder, row, images) for row in rows(folder / "boxes.csv"))


def _public_box(folder: Path, row: Mapping[str, str], images: Mapping[Path, ChestImage]) -> TruthBox:
    left, top = float(row["x"]), float(row["y"])
    image = images.get(folder / row["file"])
    return TruthBox(
        file=row["file"],
        label=row["label"],
        left=left,
        top=top,
        right=left + float(row["w"]),
        bottom=top + float(row["h"]),
        split=row["split"],
        path=folder / row["file"],
        patient=row["patient_id"],
        adult=image is not None and image.adult,
    )


def _listed_image(manifest: Path, name: str, row: Mapping[str, str]) -> ChestImage:
    named = set(row["labels"].split("|")) if "labels" in row else set()
    return ChestImage(
        path=manifest.parent / row["file"],
        labels=tuple(int(row[k]) if row.get(k) else int(k in named) for k in LABELS),
        soft=None,
        patient=row["patient_id"],
        split=row.get("split", ""),
        source=row.get("source") or name,
        repository=row.get("source_repo", ""),
        age=years(row["age"]),
        sex=row.get("sex", ""),
        view=row.get("view", ""),
    )
