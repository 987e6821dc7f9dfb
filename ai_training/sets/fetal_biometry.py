"""Fetal heads with brain, cavum septi pellucidi and lateral ventricles outlined, in four groups of planes.

M. Alzubaidi et al., Large-scale annotation dataset for fetal head biometry, doi 10.5281/zenodo.8265464 (CC BY
4.0): 3,832 frames of 959 × 661 pixels. Its four archives, and in each the archive of masks
(``…-Segmentation`` or ``…-PASCAL``), are unpacked into folders of their own names. A ``labelmap.txt`` beside
the masks says which colour is which class: it is not the same in all four.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_training.errors import DataMissing
from ai_training.sets.layout import SHARES, dealt

PLANES = {
    "Trans-thalamic": "Trans-thalamic",
    "Trans-ventricular": "Trans-ventricular",
    "Trans-cerebellum": "Trans-cerebellum",
    "Diverse Fetal Head Images": "diverse",
}
"""The folder of each group, and its name."""
CLASSES = ("background", "brain", "CSP", "LV")
"""By value in :meth:`BiometryImage.read`: cavum septi pellucidi, lateral ventricles."""
MASKS = "SegmentationClass"
HEAD_OF_HC18 = re.compile(r"(\d+)_\d*HC")
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class BiometryImage:
    """One frame. ``patient``: taken from its file name; frames of HC18 are in the group ``diverse``."""

    name: str
    plane: str
    patient: str
    picture: Path
    mask: Path

    def read(self) -> tuple[Bytes, Bytes]:
        """Read the grey picture and the class of each pixel, both ``[rows, columns]``.

        Raises DataMissing if a file is no picture, the two differ in size, or a colour has no class.
        """
        picture = cv2.imread(str(self.picture), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(self.mask), cv2.IMREAD_COLOR_RGB)
        if picture is None or mask is None or picture.shape != mask.shape[:2]:
            raise DataMissing(f"{self.picture} and {self.mask} are not two pictures of one size")
        classes = np.full(picture.shape, 255, np.uint8)
        for colour, value in _colours(self.mask.parent.parent / "labelmap.txt").items():
            classes[(mask == colour).all(axis=2)] = value
        if (unknown := mask[classes == 255]).size:
            raise DataMissing(f"{self.mask} has the colour {tuple(unknown[0].tolist())}, which is no class")
        return np.asarray(picture, np.uint8), classes


def biometry_images(data: Path, split: str) -> tuple[BiometryImage, ...]:
    """The frames of ``split`` (train, val, test) with a mask, by group, then name. Raises DataMissing."""
    found = [image for folder, plane in PLANES.items() for image in _frames(data / folder, plane)]
    if not found:
        raise DataMissing(
            f"{data} has no frames with masks: --data must name the folder into which the archives of doi "
            f"10.5281/zenodo.8265464 were unpacked, and in each folder its archive of masks ({MASKS})"
        )
    splits = dealt((image.patient for image in found), SHARES)
    return tuple(image for image in found if splits[image.patient] == split)


def _frames(folder: Path, plane: str) -> list[BiometryImage]:
    """The frames of one group that have a mask: the mask bears the frame's name, in a folder of masks."""
    masks = {path.name: path for path in sorted(folder.rglob(f"{MASKS}/*.png"))}
    elsewhere = [path for path in sorted(folder.rglob("*.png")) if not path.parent.name.startswith("Segm")]
    frames = {path.name: path for path in elsewhere if path.name in masks}
    return [
        BiometryImage(name, plane, _patient(name), frame, masks[name])
        for name, frame in sorted(frames.items())
    ]


def _patient(name: str) -> str:
    """``Patient00168_Plane3_1_of_3.png`` is of Patient00168, ``010_2HC.png`` of examination 010 of HC18."""
    head = HEAD_OF_HC18.match(name)
    return f"HC18 {head[1]}" if head else name.split("_", maxsplit=1)[0]


@cache
def _colours(labels: Path) -> Mapping[tuple[int, int, int], int]:
    """Red, green, blue → class, of lines such as ``Brain:255,0,0::`` (the format of CVAT)."""
    if not labels.is_file():
        raise DataMissing(f"{labels} is missing: it says which colour is which class")
    known = {name.casefold(): value for value, name in enumerate(CLASSES)}
    found: dict[tuple[int, int, int], int] = {}
    for line in labels.read_text(encoding="utf-8-sig").splitlines():
        if match := re.match(r"\s*([^:#]+):(\d+),(\d+),(\d+)", line):
            name = match[1].strip().casefold()
            if name not in known:
                raise DataMissing(f"{labels} names {match[1].strip()!r}: only {', '.join(CLASSES)} are known")
            found[int(match[2]), int(match[3]), int(match[4])] = known[name]
    return found
