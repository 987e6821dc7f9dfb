"""A site's own table, and the lists of labels and boxes beside public sets."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ai_training.base import DataMissing
from ai_training.sets.files import number, rows
from ai_training.sets.images import LABELS, ImageSet, MaskFile, SetBox, SetImage
from ai_training.sets.splits import check_splits, part_of, years

MANIFEST, MASK = "manifest.csv", "mask"
MEASURES = ("pixel_mm_at_512", "head_circumference_mm", "yellow_overlay_px")
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
    named = frozenset(_first(row, ("labels", "label")).split("|")) - {""}
    marks = {label: number(row, label, manifest) for label in columns if row[label]}
    present = {label for label, mark in marks.items() if mark > 0}
    measures = {name: number(row, name, manifest) for name in MEASURES if row.get(name)}
    masks = {MASK: MaskFile(manifest.parent / row[MASK])} if row.get(MASK) else {}
    return SetImage(
        name=file,
        path=manifest.parent / file,
        patient=_first(row, PATIENTS) or file,
        split=part_of(row.get("split")),
        labels=(named - marks.keys()) | present,
        unsure=frozenset(label for label, mark in marks.items() if mark < 0),
        masks=masks,
        age=years(_first(row, ("age",))),
        sex=_first(row, ("sex",)),
        view=_first(row, ("view",)),
        source=_first(row, ("source",)) or manifest.stem,
        repository=_first(row, ("source_repo",)),
        measures=measures,
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
