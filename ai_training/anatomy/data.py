"""Chest X-rays with heart and lung masks: the set, its splits, and batches of augmented copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai_pipeline.models.card import Chain
from ai_pipeline.models.preprocess import enlarge, normalise, reduce
from ai_training.errors import DataMissing
from ai_training.networks.outlines import ORGANS, SIDE
from ai_training.sets.files import read_grey
from ai_training.sets.images import ImageSet, MaskFiles, SetImage
from ai_training.sets.layout import CHEST
from ai_training.sets.published import named_set
from ai_training.sets.table import MASK

SET = "cxr_anatomy"
CHAIN = Chain(side=SIDE, low=1.0, high=99.0, blur=0.0, jpeg_quality=95)
MEAN, SCALE = 127.0, 128.0  # EfficientNet-Lite's own normalisation of 0..255
EXCHANGED = {"w053": (2, 1, 0)}
"""Patient → the bits of heart, right and left lung, where the published mask has them in another order."""
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AnatomyImage:
    """A chest X-ray with a mask of each of :data:`ORGANS`. ``ctr``: its published cardiothoracic ratio, NaN
    if none is published.
    """

    name: str
    picture: Path
    masks: tuple[MaskFiles, ...]
    ctr: float

    def read(self) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """Read the grey picture ``[rows, columns]`` and its organs ``[3, rows, columns]``. Raises
        DataMissing.
        """
        picture = read_grey(self.picture)
        return picture, np.stack([mask.read(picture.shape) for mask in self.masks])


def anatomy_set(data: Path) -> ImageSet:
    """The set with masks of heart and lungs that ``data`` names. Raises DataMissing."""
    return named_set(data, SET, CHEST)


def anatomy_images(data: Path, split: str) -> tuple[AnatomyImage, ...]:
    """The images of ``split`` (train, val, test). Raises DataMissing, also if an organ has no mask."""
    return tuple(
        AnatomyImage(image.patient, image.path, _masks(image), image.measures.get("ctr", math.nan))
        for image in anatomy_set(data).images
        if image.split == split
    )


def _masks(image: SetImage) -> tuple[MaskFiles, ...]:
    """One of each organ: a file of its own, or a bit of a file for all."""
    if MASK in image.masks:
        order = EXCHANGED.get(image.patient, range(len(ORGANS)))
        return tuple(MaskFiles(image.masks[MASK].paths, bits=1 << organ) for organ in order)
    if missing := [organ for organ in ORGANS if organ not in image.masks]:
        raise DataMissing(
            f"{image.path} has no mask of {', '.join(missing)}: all organs are learned together"
        )
    return tuple(image.masks[organ] for organ in ORGANS)


@dataclass(frozen=True, slots=True)
class Augment:
    """How far an augmented copy may differ. ``rotation`` in degrees; the rest as shares of the picture or of
    its greys.

    ``inverted``, ``framed``, ``blurred``, ``shaded``: the share of copies with inverted greys, with black
    borders as a collimator leaves them, with less sharpness, with a shadow across the picture.
    """

    rotation: float = 12.0
    scale: float = 0.3
    stretch: float = 0.12
    shift: float = 0.14
    gamma: float = 0.7
    contrast: float = 0.3
    noise: float = 8.0
    inverted: float = 0.08
    framed: float = 0.25
    blurred: float = 0.3
    shaded: float = 0.4


class AnatomyBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i of a run: images ``[B, 3, SIDE, SIDE]`` and organs ``[B, 3, SIDE, SIDE]``, 0..1 with soft
    edges.

    Every batch draws its random numbers from (seed, i) alone.
    """

    def __init__(self, images: Sequence[AnatomyImage], how: Augment, batch: int, seed: int) -> None:
        self._pairs = [image.read() for image in images]
        self._how, self._batch, self._seed = how, batch, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self._seed, iteration))
        rows = random.choice(len(self._pairs), self._batch, replace=len(self._pairs) < self._batch)
        pairs = [self._pairs[row] for row in rows.tolist()]
        copies = [augment(picture, organs, self._how, random) for picture, organs in pairs]
        images = normalise(np.stack([picture for picture, _ in copies]), MEAN, SCALE)
        return torch.from_numpy(images), torch.from_numpy(np.stack([organs for _, organs in copies]))


def plain(image: AnatomyImage) -> tuple[Floats, Floats]:
    """The network's input ``[3, SIDE, SIDE]`` and the organs ``[3, SIDE, SIDE]`` 0..1, without
    augmentation.
    """
    picture, organs = image.read()
    reduced, affine = reduce(picture, CHAIN)
    matrix = np.array([[affine.a, 0, affine.c], [0, affine.e, affine.f]])
    return normalise(enlarge(reduced, SIDE)[None], MEAN, SCALE)[0], _moved(organs, matrix)


def augment(
    picture: Bytes, organs: npt.NDArray[np.bool_], how: Augment, random: np.random.Generator
) -> tuple[Bytes, Floats]:
    """A randomly moved copy with changed grey levels, and its organs in the same place."""
    matrix = _motion(picture.shape, how, random)
    border = float(random.choice([0.0, float(np.median(picture))]))
    moved = cv2.warpAffine(picture, _centred(matrix), (SIDE, SIDE), borderValue=border)
    return _exposed(np.asarray(moved, np.uint8), how, random), _moved(organs, matrix)


def _motion(shape: tuple[int, ...], how: Augment, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Source pixels → input pixels: turned, scaled and shifted about the middle."""
    rows, columns = shape
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = SIDE / max(rows, columns) * np.exp(random.uniform(-how.scale, how.scale))
    wide, high = zoom * np.exp(random.uniform(-how.stretch, how.stretch, 2))
    turn = np.array(
        [[np.cos(angle) * wide, -np.sin(angle) * high], [np.sin(angle) * wide, np.cos(angle) * high]]
    )
    centre = np.full(2, SIDE / 2) + random.uniform(-how.shift, how.shift, 2) * SIDE
    offset = centre - turn @ (np.array([columns, rows]) / 2)
    return np.column_stack([turn, offset])


def _moved(organs: npt.NDArray[np.bool_], matrix: npt.NDArray[np.float64]) -> Floats:
    """``organs`` through ``matrix`` (corner coordinates), with the soft edges of a reduced mask."""
    layers = [cv2.warpAffine(layer.astype(np.float32), _centred(matrix), (SIDE, SIDE)) for layer in organs]
    return np.stack(layers)


def _centred(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``matrix`` between pixel corners as OpenCV wants it: between pixel centres."""
    centres = matrix.copy()
    centres[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    return centres


def _exposed(picture: Bytes, how: Augment, random: np.random.Generator) -> Bytes:
    """Other exposure, sharpness, borders and noise; stretched at the end as every input is."""
    low, high = np.percentile(picture, (1, 99))
    grey = np.clip((picture - np.float32(low)) / np.float32(max(high - low, 1)), 0, 1)
    if random.random() < how.framed:
        top, bottom, left, right = (random.uniform(0, 0.12, 4) * SIDE).astype(int)
        kept = np.zeros_like(grey)
        kept[top : SIDE - bottom, left : SIDE - right] = 1
        grey = grey * kept
    if random.random() < how.shaded:
        down, across = np.meshgrid(*(np.linspace(-1, 1, SIDE, dtype=np.float32),) * 2, indexing="ij")
        slope = random.uniform(-0.35, 0.35, 2).astype(np.float32)
        grey = grey * (1 + slope[0] * down + slope[1] * across)
    grey = np.clip(grey, 0, 1) ** np.float32(np.exp(random.uniform(-how.gamma, how.gamma)))
    gain = np.exp(random.uniform(-how.contrast, how.contrast))
    middle = grey.mean()
    grey = (grey - middle) * np.float32(gain) + middle + np.float32(random.uniform(-0.1, 0.1))
    if random.random() < how.blurred:
        grey = cv2.GaussianBlur(grey, (0, 0), random.uniform(0.4, 2.0))
    noise = random.normal(0, random.uniform(0, how.noise) / 255, grey.shape).astype(np.float32)
    grey = np.clip(grey + noise, 0, 1)
    if random.random() < how.inverted:
        grey = 1 - grey
    reduced, _ = reduce(np.asarray(grey * 255, np.uint8), CHAIN)
    return reduced
