"""``cxr_nih`` and ``cxr_nih_more``: the public chest X-rays of this project, each with its manifest."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from pathlib import Path

from ai_training.sets import table
from ai_training.sets.files import number, rows
from ai_training.sets.images import LABELS, ImageSet, SetBox, SetImage
from ai_training.sets.layout import CHEST, SetLayout

SETS = ("cxr_nih", "cxr_nih_more")
NAME = " and ".join(SETS)
SOFT, BOXES = "chexnet_preds.csv.gz", "boxes.csv"
SIDE = 512.0  # pixels of the images that the boxes were drawn on
CITED = (
    "X. Wang et al., IEEE CVPR 2017, pp. 3462-3471, doi 10.1109/CVPR.2017.369; NIH Clinical Center, "
    "attribution required"
)
PNEUMONIA = "the source repository alone tells it with an AUC of .95: its pneumonias come from one repository"


def read(data: Path) -> ImageSet:
    """Read both sets as one, with boxes and a teacher's probabilities. Raises DataMissing."""
    soft, boxes = soft_labels(data / SETS[0] / SOFT), _boxes(data / SETS[0] / BOXES)
    images: list[SetImage] = []
    for name in SETS:
        listed = rows(data / name / table.MANIFEST)
        for row, image in zip(listed, table.read(data / name).images, strict=True):
            images.append(
                replace(
                    image,
                    source=f"{name}/{Path(image.name).parent.name}",
                    soft=soft.get(row["nih_name"]),
                    boxes=tuple(boxes.get(image.name, ())) if name == SETS[0] else (),
                )
            )
    return ImageSet(
        f"{NAME} ({CITED}; soft labels of jrzech/reproduce-chexnet, BSD-3-Clause)",
        tuple(images),
        LABELS,
        main="cxr_nih/images",
        natural=("cxr_nih_more/images_128",),
        left_out={("cxr_nih_more/images", "Pneumonia"): PNEUMONIA},
    )


LAYOUT = SetLayout("public", (CHEST,), tuple(f"{name}/{table.MANIFEST}" for name in SETS), read)


def soft_labels(path: Path) -> dict[str, tuple[float, ...]]:
    """A teacher's probabilities by NIH file name; empty when there is no such file."""
    if not path.exists():
        return {}
    with gzip.open(path, "rt", newline="") as file:
        return {
            row["nih_name"]: tuple(float(row[f"prob_{label}"]) for label in LABELS)
            for row in csv.DictReader(file)
        }


def _boxes(path: Path) -> dict[str, list[SetBox]]:
    found: dict[str, list[SetBox]] = {}
    for row in rows(path) if path.is_file() else []:
        left, top, width, height = (number(row, column, path) for column in ("x", "y", "w", "h"))
        corners = left, top, left + width, top + height
        found.setdefault(row["file"], []).append(SetBox(row["label"], corners, SIDE))
    return found
