"""Chest X-rays with masks: JSRT with the masks of SCR, Montgomery County, Shenzhen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.sets.files import lines
from ai_training.sets.images import ImageSet, MaskFiles, SetImage
from ai_training.sets.layout import CHEST, SetLayout, in_splits, those_there, years

SCR = ("heart", "right lung", "left lung", "right clavicle", "left clavicle")
FOLDS = {"fold1": "train", "fold2": "test"}
"""SCR teaches with one half of the films and measures on the other."""
TUBERCULOSIS, LUNGS = "Tuberculosis", "lungs"
_AGE = re.compile(r"(\d+)\s*-?\s*([ymwd])", re.IGNORECASE)
_SEX = re.compile(r"\b(female|male|f|m)\b", re.IGNORECASE)


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
    _all_there(found)
    title = "JSRT with the masks of SCR (doi 10.2214/ajr.174.1.1740071, 10.1016/j.media.2005.02.002)"
    return ImageSet(title, in_splits(found, folder), ("Nodule",), notes)


def read_montgomery(folder: Path) -> ImageSet:
    """Read Montgomery County's films, with a mask of each lung. Raises DataMissing."""
    images = [
        _film(path, tuple(folder / f"ManualMask/{side}Mask/{path.name}" for side in ("left", "right")))
        for path in sorted(folder.glob("CXR_png/MCUCXR_*.png"))
    ]
    _all_there(images)
    return ImageSet(
        "Montgomery County (doi 10.3978/j.issn.2223-4292.2014.11.20)",
        in_splits(images, folder),
        (TUBERCULOSIS,),
    )


def read_shenzhen(folder: Path) -> ImageSet:
    """Read Shenzhen's films, with the masks of S. Stirenko (``mask/…_mask.png``) that exist. Raises
    DataMissing.
    """
    masks = {path.stem.removesuffix("_mask"): path for path in folder.glob("mask*/CHNCXR_*.png")}
    films = sorted(folder.glob("CXR_png/CHNCXR_*.png"))
    images = [_film(path, (masks[path.stem],) if path.stem in masks else ()) for path in films]
    notes = (f"{sum(not image.masks for image in images)} of {len(images)} films have no mask",)
    return ImageSet(
        "Shenzhen (doi 10.3978/j.issn.2223-4292.2014.11.20; masks arXiv 1803.01199)",
        in_splits(images, folder),
        (TUBERCULOSIS,),
        notes,
    )


LAYOUTS = (
    SetLayout("jsrt", (CHEST,), ("All247images/JPC*.IMG", "scratch/fold1/masks/heart"), read_jsrt),
    SetLayout("montgomery", (CHEST,), ("CXR_png/MCUCXR_*.png", "ManualMask/leftMask"), read_montgomery),
    SetLayout("shenzhen", (CHEST,), ("CXR_png/CHNCXR_*.png",), read_shenzhen),
)


def _film(path: Path, masks: tuple[Path, ...]) -> SetImage:
    """A film whose name ends with 1 where there is tuberculosis; sex and age are in a text beside it."""
    reading = path.parent.parent / "ClinicalReadings" / f"{path.stem}.txt"
    said = " ".join(lines(reading)[:2]) if reading.is_file() else ""
    age, sex = _AGE.search(said), _SEX.search(said)
    return SetImage(
        name=path.name,
        path=path,
        patient=path.stem,
        labels=frozenset({TUBERCULOSIS} if path.stem.endswith("_1") else ()),
        masks={LUNGS: MaskFiles(masks)} if masks else {},
        age=years(age[1] + age[2]) if age else float("nan"),
        sex=sex[1][0].upper() if sex else "",
        source=path.name.partition("_")[0].lower(),
    )


def _all_there(images: Sequence[SetImage]) -> None:
    paths = (path for image in images for mask in image.masks.values() for path in mask.paths)
    if missing := next((path for path in paths if not path.is_file()), None):
        raise DataMissing(f"{missing} is missing: a mask of each film was expected")
