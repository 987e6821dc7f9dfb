"""Batches of augmented images. Every batch draws its random numbers from (seed, iteration) alone.

So a batch is the same whether one process or eight workers prepare it, and whether a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai_pipeline.models.preprocess import normalise
from ai_training.chest.experiment import Augmentation, Experiment
from ai_training.sets.chest import label_matrix, soft_matrix
from ai_training.sets.images import ChestImage

MEAN, SCALE = 127.0, 128.0  # EfficientNet-Lite's own normalisation of 0..255
HEADER = ("age", "female", "AP view")
KNOWN = ("hard", "soft", "odds", "taught", "header")
CERTAIN = 1e-3  # probabilities nearer to 0 or 1 than this count as this: their log-odds mean nothing
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


Place = tuple[int, float, float, float, float]
"""A box: its label's index, then left, top, right, bottom as shares of the side of the reduced image."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The training targets of N images.

    ``hard [N, labels]`` 0 or 1, NaN if unknown. ``soft [N, labels]``: a teacher's probabilities; ``odds [N,
    labels]``: their log-odds, with mean 0 and spread 1 over the images of the train split; ``taught [N, 1]``:
    1 if the teacher's probabilities are known. ``header [N, 3]``: age (−50, in units of 20 years), female, AP
    view. ``boxes``: of each image.
    """

    hard: Floats
    soft: Floats
    odds: Floats
    taught: Floats
    header: Floats
    boxes: tuple[tuple[Place, ...], ...]

    @staticmethod
    def from_images(images: Sequence[ChestImage], boxes: Sequence[tuple[Place, ...]]) -> Targets:
        """The targets in the manifests of ``images``; ``boxes``: the boxes of each image."""
        soft: Floats = soft_matrix(images)
        taught = np.asarray(~np.isnan(soft).any(1, keepdims=True))
        learned = taught[:, 0] & np.array([image.split == "train" for image in images])
        header = [
            (0.0 if np.isnan(i.age) else (min(i.age, 95.0) - 50) / 20, i.sex == "F", i.view == "AP")
            for i in images
        ]
        return Targets(
            label_matrix(images, unknown=np.nan),
            np.asarray(np.where(taught, soft, 0.0), np.float32),
            np.asarray(np.where(taught, _standard_odds(soft, learned), 0.0), np.float32),
            taught.astype(np.float32),
            np.array(header, np.float32),
            tuple(boxes),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``images`` float32 ``[B, 3, size, size]``, targets as in :class:`Targets`.

    ``placed``: the rows of ``images`` that have a box; ``placed_label``: its label; ``place [K, c, c]``: its
    area as a distribution over c × c cells.
    """

    images: Tensor
    hard: Tensor
    soft: Tensor
    odds: Tensor
    taught: Tensor
    header: Tensor
    placed: Tensor
    placed_label: Tensor
    place: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``, images channels-last."""
        images, *rest = (getattr(self, field.name).to(device, non_blocking=True) for field in fields(self))
        return Batch(images.contiguous(memory_format=torch.channels_last), *rest)


class ChestBatches(Dataset[Batch]):
    """Batch number i of a run: images drawn at random, augmented and mixed."""

    def __init__(
        self, experiment: Experiment, pixels: Bytes, targets: Targets, rows: npt.NDArray[np.intp]
    ) -> None:
        self._experiment, self._pixels, self._targets, self._rows = experiment, pixels, targets, rows
        made = experiment.images
        weight = np.where((targets.hard[rows] > 0).any(1), made.finding_weight, 1.0)
        weight = weight * np.where(targets.taught[rows, 0] > 0, made.taught_weight, 1.0)
        self._odds = weight / weight.sum()

    def __getitem__(self, iteration: int) -> Batch:
        made, targets = self._experiment, self._targets
        random = np.random.default_rng((made.seed, iteration))
        rows = random.choice(self._rows, made.schedule.batch, p=self._odds)
        copies = [augment(self._pixels[row], made.size, made.augment, random) for row in rows]
        images = normalise(np.stack([image for image, _ in copies]), MEAN, SCALE)
        placed = _placed(
            [targets.boxes[row] for row in rows], [matrix for _, matrix in copies], self._pixels, made.size
        )
        parts = [images, *(getattr(targets, name)[rows] for name in KNOWN)]
        if made.augment.mixup:
            parts = _mixed(parts, made.augment.mixup, random)
        tensors = [torch.from_numpy(np.ascontiguousarray(part)) for part in parts]
        return Batch(*(*tensors, *placed))


def augment(image: Bytes, size: int, how: Augmentation, random: np.random.Generator) -> tuple[Bytes, Floats]:
    """A randomly moved, turned and re-windowed copy ``[size, size]``, and the 2 × 3 map of pixel centres."""
    side = image.shape[0]
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = size / side * (1 + random.uniform(-how.scale, how.scale))
    wide, high = zoom * (1 + random.uniform(-how.stretch, how.stretch, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos * wide, -sin * high], [sin * wide, cos * high]])
    centre = np.full(2, (size - 1) / 2) + random.uniform(-how.shift, how.shift, 2) * size
    offset = centre - turn @ np.full(2, (side - 1) / 2)
    matrix = np.column_stack([turn, offset])
    moved = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC)
    gain = 1 + random.uniform(-how.contrast, how.contrast)
    gamma = 2 ** random.uniform(-how.contrast * 2, how.contrast * 2)
    bias = random.uniform(-how.contrast, how.contrast) * 100
    levels = 255.0 * (np.arange(256) / 255.0) ** gamma * gain + bias
    return np.clip(levels, 0, 255).astype(np.uint8)[moved], matrix.astype(np.float32)


def _mixed(parts: list[Floats], strength: float, random: np.random.Generator) -> list[Floats]:
    """Mixup (Zhang et al., ICLR 2018) of images and of all that is known about them."""
    share = max(drawn := float(random.beta(strength, strength)), 1 - drawn)
    order = random.permutation(len(parts[0]))
    images, hard, soft, odds, taught, header = parts

    def both(part: Floats) -> Floats:
        return np.asarray(share * part + (1 - share) * part[order], np.float32)

    def known(part: Floats) -> Floats:
        return np.asarray(both(taught * part) / np.maximum(both(taught), 1e-6), np.float32)

    return [both(images), both(hard), known(soft), known(odds), both(taught), both(header)]


def _standard_odds(soft: Floats, learned: npt.NDArray[np.bool_]) -> Floats:
    probability = np.clip(soft, CERTAIN, 1 - CERTAIN)
    odds = np.asarray(np.log(probability / (1 - probability)), np.float32)
    if not learned.any():
        return odds
    return np.asarray((odds - odds[learned].mean(0)) / (odds[learned].std(0) + CERTAIN), np.float32)


def _placed(
    boxes: Sequence[tuple[Place, ...]], matrices: Sequence[Floats], pixels: Bytes, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    cells = size // 16
    found: list[tuple[int, int, Floats]] = []
    for row, (known, matrix) in enumerate(zip(boxes, matrices, strict=True)):
        for label, *corners in known:
            area = _area(np.array(corners, np.float32) * pixels.shape[1], matrix, size, cells)
            if area.sum() > 0:
                found.append((row, label, area / area.sum()))
    place = np.stack([area for _, _, area in found]) if found else np.zeros((0, cells, cells), np.float32)
    return (
        torch.tensor([row for row, _, _ in found], dtype=torch.long),
        torch.tensor([label for _, label, _ in found], dtype=torch.long),
        torch.from_numpy(place),
    )


def _area(corners: Floats, matrix: Floats, size: int, cells: int) -> Floats:
    """The moved box (its upright hull) as coverage of ``cells`` × ``cells``."""
    left, top, right, bottom = corners - 0.5  # from corners of pixels to their centres
    points = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]]) @ matrix.T
    low = np.clip(points.min(0) + 0.5, 0, size).astype(int)
    high = np.clip(np.ceil(points.max(0) + 0.5), 0, size).astype(int)
    mask = np.zeros((size, size), np.float32)
    mask[low[1] : high[1], low[0] : high[0]] = 1.0
    return np.asarray(cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)
