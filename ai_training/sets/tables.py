"""A site's own table, and the lists of labels and boxes beside public sets."""

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ai_training.base import DataMissing
from ai_training.sets.files import lined_rows, number, read_limited, rows
from ai_training.sets.images import (
    LABELS,
    ImageSet,
    MaskFile,
    SetBox,
    SetImage,
    known_label,
    says_nothing,
)
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
    """Read the images of a table, or of ``manifest.csv`` in a folder. Raises DataMissing, which names line
    and column of what is wrong, and no patient.
    """
    manifest = where if where.is_file() else where / MANIFEST
    named, listed = lined_rows(manifest)
    if not listed:
        raise DataMissing(f"{manifest} lists no image")
    own = {name: _OWN_COLUMNS.get(_squeezed(name), name) for name in named}
    columns = [own[name] for name in named]
    _check_columns(manifest, columns)
    listed = [(line, {own[name]: value for name, value in row.items()}) for line, row in listed]
    labels = _label_columns(columns, [row for _, row in listed])
    images = tuple(_image(f"{manifest}, line {line}", manifest, row, labels) for line, row in listed)
    lines = [line for line, _ in listed]
    _check_files(manifest, lines, images)
    _check_patients(manifest, lines, images)
    check_splits(manifest, images)
    words = sorted(set().union(*(image.labels for image in images)))
    known = dict.fromkeys([*(LABELS if "labels" in columns else labels.values()), *words])
    nobody = all(image.patient == image.name for image in images)
    notes = (f"no column {PATIENTS[0]}: each image counts as a patient of its own",) if nobody else ()
    return ImageSet(TITLES.get(where.name, manifest.stem), images, tuple(known), notes)


def _check_columns(manifest: Path, columns: list[str]) -> None:
    """Raise DataMissing if the table has no column of files, or two of one meaning."""
    if not set(FILES) & set(columns):
        separated = next((mark for mark in (";", "\t") if mark in columns[0]), None)
        hint = f": its values are separated by {separated!r}, commas were expected" if separated else ""
        raise DataMissing(f"{manifest} has no column {FILES[0]}{hint}")
    meant: dict[str, str] = {}
    for name in filter(None, columns):
        meaning = known_label(name) or name
        if meaning in meant:
            raise DataMissing(
                f"{manifest}: the columns {meant[meaning]} and {name} mean the same: leave one out"
            )
        meant[meaning] = name


_OTHER_COLUMNS = (*FILES, *PATIENTS, *MEASURES, "labels", "label", "split", MASK, "age", "sex", "view")
"""Columns that are no labels."""


def _squeezed(name: str) -> str:
    """The name of a column in small letters without spaces, hyphens and underscores."""
    return re.sub("[ _-]", "", name.casefold())


_OWN_COLUMNS = {_squeezed(name): name for name in (*_OTHER_COLUMNS, "source", "source_repo")}
"""Names that mean a column of ours, however they are written (``PatientID``, ``Split``)."""
_MARKS = frozenset({"", "0", "1", "-1", "0.0", "1.0", "-1.0", "nan", "yes", "no", "true", "false"})


def _label_columns(columns: list[str], listed: list[dict[str, str]]) -> dict[str, str]:
    """The columns that are labels, with the label that each is: those that are known, and all that hold
    nothing but marks, under their own names.
    """
    others = (name for name in columns if name and name not in _OTHER_COLUMNS)
    return {
        name: known_label(name) or name
        for name in others
        if known_label(name) or _MARKS.issuperset(row[name].casefold() for row in listed)
    }


def _image(place: str, manifest: Path, row: dict[str, str], columns: Mapping[str, str]) -> SetImage:
    """Convert a ``row`` of a manifest to an image. ``place``: the table and its line, for errors.
    ``columns``: those that are labels, with their labels. Raises DataMissing.
    """
    file = _first(row, FILES)
    if not file:
        raise DataMissing(f"{place}: the column {FILES[0]} is blank")
    if _CONTROL.search(file):
        raise DataMissing(f"{place}, column {FILES[0]}: a control character or a line break is in the name")
    words = [part.strip(" '\"[]") for part in re.split("[|;,\n]", _first(row, ("labels", "label")))]
    named = frozenset(known_label(word) or word for word in words if word)
    marks = {label: _mark(place, name, row[name], known=label in LABELS) for name, label in columns.items()}
    present = frozenset(label for label, mark in marks.items() if mark > 0)
    unsure = frozenset(label for label, mark in marks.items() if not mark >= 0)
    found = (named - marks.keys()) | present
    if any(map(says_nothing, found)) and any(label in LABELS for label in found):
        raise DataMissing(f"{place}: it has no finding, and a finding")
    measures = {name: number(row, name, manifest) for name in MEASURES if row.get(name)}
    masks = {MASK: MaskFile(manifest.parent / row[MASK])} if row.get(MASK) else {}
    return SetImage(
        name=file,
        path=manifest.parent / file,
        patient=_patient(place, row) or file,
        split=_split(place, row),
        labels=found,
        unsure=unsure,
        masks=masks,
        age=years(_first(row, ("age",))),
        sex=_first(row, ("sex",)),
        view=_first(row, ("view",)),
        source=_first(row, ("source",)) or manifest.stem,
        repository=_first(row, ("source_repo",)),
        measures=measures,
    )


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_ID = frozenset({"nan", "none", "null", "na", "n/a", "<na>", "#n/a"})
"""What programs write where a table has no ID: it is no patient."""
_SHORTENED = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)


def _patient(place: str, row: Mapping[str, str]) -> str:
    """The patient's ID in a row, "" without one. Raises DataMissing for one that a spreadsheet has rounded:
    several patients have it then.
    """
    patient = _first(row, PATIENTS)
    if _SHORTENED.fullmatch(patient):
        raise DataMissing(
            f"{place}, column {PATIENTS[0]}: a spreadsheet has rounded the ID (as 1.2E+10): save it as text"
        )
    return "" if patient.casefold() in _NO_ID else patient


def _mark(place: str, column: str, text: str, *, known: bool) -> float:
    """The mark of a label: 1 present, 0 absent (also blank), -1 neither, NaN not known. Of a column that is
    no label here (not ``known``) words count too. Raises DataMissing; the text is not in it, since it may be
    of another column.
    """
    try:
        mark = float(text or 0)
    except ValueError:
        mark = math.inf if known else float(text.casefold() in {"yes", "true"})
    if mark in {0, 1, -1} or math.isnan(mark):
        return mark
    expected = "1 (present), 0 or blank (absent), -1 (neither) or NaN (not known)"
    raise DataMissing(f"{place}, column {column}: {expected} was expected")


def _split(place: str, row: Mapping[str, str]) -> str:
    """The split of a row, "" without one. Raises DataMissing if it is none of the three."""
    split = part_of(row.get("split"))
    if split not in {"", "train", "val", "test"}:
        raise DataMissing(f"{place}, column split: train, val or test was expected")
    return split


def _check_files(manifest: Path, places: Sequence[int], images: Sequence[SetImage]) -> None:
    """Raise DataMissing if a file is listed twice, if some patients or splits are not named where others are.
    ``places``: the line of each image.
    """
    first: dict[str, int] = {}
    for row, image in enumerate(images):
        other = first.setdefault(os.path.normpath(image.path), row)
        if other == row:
            continue
        lines = f"{manifest}, lines {places[other]} and {places[row]}"
        if images[other].patient != image.patient:
            raise DataMissing(f"{lines}: one file under two patients")
        raise DataMissing(f"{lines}: the same file")
    for column, blank in (
        ("patient_id", [image.patient == image.name for image in images]),
        ("split", [not image.split for image in images]),
    ):
        if any(blank) and not all(blank):
            line = places[blank.index(True)]
            raise DataMissing(f"{manifest}, line {line}: the column {column} is blank, in others it is not")


def _check_patients(manifest: Path, places: Sequence[int], images: Sequence[SetImage]) -> None:
    """Raise DataMissing if two IDs differ only in capitals, leading zeros or a decimal point: they are of one
    person, who would be two, perhaps in two splits. ``places``: the line of each image.
    """
    first: dict[str, int] = {}
    for row, image in enumerate(images):
        whole = re.fullmatch(r"0*(\d+)(\.0+)?", image.patient)
        other = first.setdefault(whole[1] if whole else image.patient.casefold(), row)
        if image.patient not in (image.name, images[other].patient):
            raise DataMissing(
                f"{manifest}, lines {places[other]} and {places[row]}, column {PATIENTS[0]}: the IDs differ "
                "only in capitals, leading zeros or a decimal point: write each patient's in one way"
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
    """Read a teacher model's probabilities by NIH file name; empty when there is no such file. Raises
    DataMissing for one that cannot be read.
    """
    if not path.exists():
        return {}
    columns = [f"prob_{label}" for label in LABELS]
    return {
        row["nih_name"]: tuple(number(row, column, path) for column in columns)
        for row in rows(path, needs=("nih_name", *columns))
    }


def listed_boxes(path: Path) -> Iterator[tuple[str, SetBox]]:
    """Yield the boxes of a list (``BBox_List_2017.csv``, or JSON of ChestX-Det), each with its image's file
    name before it. Labels that the classifier does not know and empty boxes are left out. Raises DataMissing
    if the list is missing or cannot be read.
    """
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    text = read_limited(path)
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
            # ChestX-Det: a diffuse nodule is one of several
            called = "Nodule" if label == "Diffuse Nodule" else known_label(label)
            if called and left < right and top < bottom:
                yield name, SetBox(called, (left, top, right, bottom), 1024.0)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataMissing(f"{path} is no list of boxes that can be read: {error!r}") from error


NIH_BOXES = "BBox_List_2017.csv"
