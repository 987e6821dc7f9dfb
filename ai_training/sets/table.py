"""Read a site's own table or folder of pictures.

``manifest.csv``, or any CSV file that ``--data`` names: ``file`` (or ``image``, ``path``; relative to the
table), ``patient_id`` (or ``patient``, ``group``), 0/1 columns with the names of the labels (-1: unknown) or
one column ``labels`` (``Mass|Nodule``) or ``label``; optional ``split``, ``mask``, ``age`` (years), ``sex``,
``view`` (PA, AP), ``source`` and ``source_repo``; further numbers are measures. A folder of pictures in
sub-folders, whose names are the labels, is read with ``--layout folder``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.sets.files import number, rows
from ai_training.sets.images import LABELS, ImageSet, MaskFiles, SetImage
from ai_training.sets.layout import (
    BREAST,
    CHEST,
    FETAL,
    OVARY,
    SetLayout,
    check_splits,
    in_splits,
    part_of,
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
ANY = (CHEST, FETAL, OVARY, BREAST)


def read(where: Path) -> ImageSet:
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


LAYOUT = SetLayout("table", ANY, (MANIFEST,), read)
FOLDER = SetLayout("folder", ANY, (), read_folder)


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
