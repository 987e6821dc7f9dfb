"""Ultrasound frames with and without a fetal head: the sets, their splits, and batches of augmented copies.

Pictures without a head come from other organs (``us_ovarian``, ``us_breast``, ``cxr_nih``) and from frames
with heads, cut so that no head is in them: otherwise the network could learn to tell the sets apart, not
heads. Only the set of heads is required; without the others, more heads and more such parts are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai_pipeline.fetal_head.picture import COLUMNS, ROWS, fit_to_input, values
from ai_training.errors import DataMissing
from ai_training.sets.files import read_grey
from ai_training.sets.images import ImageSet, MaskFiles, SetImage
from ai_training.sets.layout import FETAL
from ai_training.sets.published import named_set, part_of_set

HEADS, PLANES = "us_fetal_head", "us_fetal_planes"
OTHERS = ("us_ovarian", "us_breast", "cxr_nih")
PIXEL = ("pixel_mm", "pixel_mm_at_512")
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadImage:
    """A frame of :data:`HEADS` with the sonographer's outline.

    ``pixel_mm``: side of a pixel of the file in mm; ``circumference``: of the reference, mm.
    """

    name: str
    patient: str
    picture: Path
    mask: MaskFiles
    pixel_mm: float
    circumference: float

    def read(self) -> tuple[Bytes, Bools]:
        """Read the grey picture and the head's mask, both ``[rows, columns]``. Raises DataMissing."""
        picture = read_grey(self.picture)
        return picture, self.mask.read(picture.shape)


@dataclass(frozen=True, slots=True)
class OtherImage:
    """A picture without outline. ``patient``: the unit for drawing bootstrap samples."""

    name: str
    patient: str
    picture: Path
    source: str


def head_set(data: Path) -> ImageSet:
    """The set of outlined heads that ``data`` names. Raises DataMissing."""
    return named_set(data, HEADS, FETAL)


def head_images(data: Path, split: str) -> tuple[HeadImage, ...]:
    """The outlined heads of ``split`` (train, val, test). Raises DataMissing."""
    return tuple(_head(image) for image in head_set(data).images if image.split == split)


def other_images(data: Path, name: str, split: str) -> tuple[OtherImage, ...]:
    """The whole pictures of the set ``name`` in ``split``; an empty list if there is no such set."""
    found = part_of_set(data / name, split)
    return tuple(OtherImage(image.name, image.patient, image.path, name) for image in found)


def learned_from(data: Path) -> list[str]:
    """The sets in ``data`` and what each teaches, as lines for the card. Raises DataMissing."""
    others = [name for name in OTHERS if other_images(data, name, "train")]
    return [
        f"{head_set(data).title} (train): outlines of heads; parts of its frames beside the head as no head",
        *([f"{PLANES} (train): heads without outline"] if other_images(data, PLANES, "train") else []),
        *([f"{', '.join(others)} (train): no heads"] if others else []),
    ]


def _head(image: SetImage) -> HeadImage:
    try:
        [mask] = image.masks.values()
        pixel = next(image.measures[name] for name in PIXEL if name in image.measures)
        return HeadImage(
            image.name, image.patient, image.path, mask, pixel, image.measures["head_circumference_mm"]
        )
    except (ValueError, StopIteration, KeyError) as error:
        wanted = f"mask, {' or '.join(PIXEL)} and head_circumference_mm"
        raise DataMissing(f"{image.path}: {wanted} were expected") from error


def without_head(picture: Bytes, head: Bools, random: np.random.Generator) -> Bytes:
    """A part of ``picture``, a fifth to a half as wide, of which at most a fiftieth is head.

    The first such part that is not mostly black, else the least black one; a black picture if the head is
    everywhere.
    """
    rows, columns = picture.shape
    best, least = np.zeros((ROWS, COLUMNS), np.uint8), 1.0
    for _ in range(60):
        width = int(columns * random.uniform(0.2, 0.5))
        height = min(int(width * random.uniform(0.5, 0.9)), rows)
        top, left = random.integers(0, rows - height + 1), random.integers(0, columns - width + 1)
        part = slice(top, top + height), slice(left, left + width)
        if head[part].mean() > 0.02:
            continue
        black = float((picture[part] < 8).mean())
        if black < least:
            best, least = picture[part], black
        if black < 0.6:
            break
    return best


@dataclass(frozen=True, slots=True)
class HeadAugment:
    """How far an augmented copy may differ. ``rotation`` in degrees; the rest as shares of the picture or of
    its greys.

    ``blurred``, ``written``: the share of copies with less sharpness, and with letters and lines drawn on
    them.
    """

    rotation: float = 25.0
    smaller: float = 0.45
    larger: float = 0.25
    stretch: float = 0.06
    shift: float = 0.12
    gamma: float = 0.5
    contrast: float = 0.3
    noise: float = 10.0
    blurred: float = 0.3
    written: float = 0.3


@dataclass(frozen=True, slots=True)
class HeadMix:
    """The composition of a batch: outlined heads, standard planes of another source, pictures
    without a head.
    """

    heads: int = 5
    planes: int = 1
    others: int = 2


class HeadBatches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch i of a run: inputs ``[B, 3, ROWS, COLUMNS]``, heads ``[B, ROWS, COLUMNS]`` 0..1, whether there is
    a head ``[B]``, and whether its outline is known ``[B]``.

    Every batch draws its random numbers from (seed, i) alone.
    """

    def __init__(self, data: Path, mix: HeadMix, how: HeadAugment, seed: int) -> None:
        self._heads = [image.read() for image in head_images(data, "train")]
        self._planes = other_images(data, PLANES, "train")
        others = (other_images(data, name, "train") for name in OTHERS)
        self._others: Sequence[Sequence[OtherImage]] = [images for images in others if images]
        self._mix, self._how, self._seed = mix, how, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        random = np.random.default_rng((self._seed, iteration))
        drawn = self._draw(random)
        copies = [augment(picture, head, self._how, random) for picture, head, _, _ in drawn]
        inputs = torch.from_numpy(values(np.stack([picture for picture, _ in copies])))
        heads = torch.from_numpy(np.stack([head for _, head in copies]))
        present, known = (torch.tensor([float(one[index]) for one in drawn]) for index in (2, 3))
        return inputs, heads, present, known

    def _draw(self, random: np.random.Generator) -> list[tuple[Bytes, Bools, bool, bool]]:
        drawn = []
        planes = self._mix.planes if self._planes else 0
        for row in random.choice(len(self._heads), self._mix.heads + self._mix.planes - planes).tolist():
            drawn.append((*self._heads[row], True, True))
        for row in random.choice(len(self._planes) or 1, planes).tolist():
            drawn.append((*_blank(read_grey(self._planes[row].picture)), True, False))
        for _ in range(self._mix.others):
            drawn.append((*_blank(self._other(random)), False, True))
        return drawn

    def _other(self, random: np.random.Generator) -> Bytes:
        """Half of them another organ, if there is any, else a part of a frame beside the head."""
        if random.random() < 0.5 and self._others:
            images = self._others[int(random.integers(len(self._others)))]
            return read_grey(images[int(random.integers(len(images)))].picture)
        return without_head(*self._heads[int(random.integers(len(self._heads)))], random)


def plain(image: HeadImage) -> tuple[Floats, Bools]:
    """The network's input ``[3, ROWS, COLUMNS]``, and the head in the source ``[rows, columns]``."""
    picture, head = image.read()
    return values(fit_to_input(picture)[0][None])[0], head


def augment(
    picture: Bytes, head: Bools, how: HeadAugment, random: np.random.Generator
) -> tuple[Bytes, Floats]:
    """A randomly moved and mirrored copy with changed grey levels, ``[ROWS, COLUMNS]``, and its head 0..1."""
    matrix, scale = _motion(picture.shape, how, random)
    if random.random() < how.written:
        picture = _written(picture, random)
    if scale < 1:  # what reducing by area would do
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.4 / scale), np.uint8)
    moved = cv2.warpAffine(picture, matrix, (COLUMNS, ROWS))
    there = cv2.warpAffine(head.astype(np.float32), matrix, (COLUMNS, ROWS))
    return _exposed(np.asarray(moved, np.uint8), how, random), np.asarray(there, np.float32)


def _motion(
    shape: tuple[int, ...], how: HeadAugment, random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], float]:
    """Source pixels → input pixels (between pixel centres), and by how much it enlarges."""
    rows, columns = shape
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = min(ROWS / rows, COLUMNS / columns) * np.exp(random.uniform(-how.smaller, how.larger))
    wide, high = zoom * np.exp(random.uniform(-how.stretch, how.stretch, 2))
    turn = np.array(
        [[np.cos(angle) * wide, -np.sin(angle) * high], [np.sin(angle) * wide, np.cos(angle) * high]]
    )
    turn *= np.where(random.random(2) < 0.5, -1.0, 1.0)[None]  # a fetus lies either way
    size = np.array([COLUMNS, ROWS])
    centre = size / 2 + random.uniform(-how.shift, how.shift, 2) * size
    offset = centre - turn @ (np.array([columns, rows]) / 2)
    offset += turn @ np.full(2, 0.5) - 0.5
    return np.column_stack([turn, offset]), float(zoom)


def _written(picture: Bytes, random: np.random.Generator) -> Bytes:
    """Letters and a line on a copy, as scanners and sonographers leave them."""
    picture = picture.copy()
    rows, columns = picture.shape
    for _ in range(int(random.integers(1, 5))):
        text = "".join(random.choice(list("ABDEFHIMPRTX0123456789. "), int(random.integers(2, 12))))
        at = int(random.integers(columns)), int(random.integers(rows))
        face = int(random.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
        size = columns / 512 * random.uniform(0.3, 0.7)
        cv2.putText(picture, text, at, face, size, int(random.integers(120, 256)), 1, cv2.LINE_AA)
    ends = random.integers(0, (columns, rows), (2, 2))
    if random.random() < 0.3:
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), int(random.integers(120, 256)), 1)
    return picture


def _exposed(picture: Bytes, how: HeadAugment, random: np.random.Generator) -> Bytes:
    """Another gain, sharpness and noise."""
    grey = (picture / np.float32(255)) ** np.float32(np.exp(random.uniform(-how.gamma, how.gamma)))
    grey = grey * np.float32(np.exp(random.uniform(-how.contrast, how.contrast)))
    if random.random() < how.blurred:
        grey = cv2.GaussianBlur(grey, (0, 0), random.uniform(0.4, 1.5))
    speckle = random.normal(0, random.uniform(0, how.noise) / 255, grey.shape).astype(np.float32)
    return np.asarray(np.clip(grey + speckle * np.sqrt(grey), 0, 1) * 255, np.uint8)


def _blank(picture: Bytes) -> tuple[Bytes, Bools]:
    return picture, np.zeros(picture.shape, np.bool_)
