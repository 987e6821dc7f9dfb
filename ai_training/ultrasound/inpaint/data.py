"""Training holes for inpainting: synthetic marks on clean frames, with masks like a detector's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai_pipeline.burnin.annotation.pixels import Mask, Picture, dilated, index_of
from ai_pipeline.burnin.fill.inpainters import Classical
from ai_training.ultrasound.overlays import TRAIN, BurnIn, MarkClass, burn_in, clean_frames

BOXED = 0.25
"""Share of pictures whose texts are masked as whole boxes, as a text detector does."""
FULL = 0.7
"""More of a crop masked than this: there is nothing to continue from, another one is taken."""


@dataclass(frozen=True, slots=True)
class HoleMix:
    """The size of a batch: ``pictures`` pictures with ``crops`` squares of ``side`` pixels (a multiple of 32)
    each.
    """

    pictures: int = 2
    crops: int = 4
    side: int = 128


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """One square: the picture with the hole filled classically, the mask, and the true picture (all RGB
    uint8).
    """

    start: Picture
    mask: Mask
    truth: Picture


class HoleBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch i of a run: start and truth in -1..1, ``[N, 3, side, side]``, and the hole."""

    def __init__(self, data: Path, mix: HoleMix, seed: int) -> None:
        self._data, self._mix, self._seed = data, mix, seed
        self._frames = clean_frames("train")

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        cv2.setNumThreads(1)
        random = np.random.default_rng((self._seed, iteration))
        holes: list[Hole] = []
        number = 0
        while len(holes) < self._mix.pictures * self._mix.crops:
            part = self._frames[int(random.integers(len(self._frames)))].read(self._data)
            burned = burn_in(part, TRAIN, (self._seed, iteration, number))
            holes += cut_holes(burned, self._mix.crops, self._mix.side, random)
            number += 1
        return as_tensors(holes[: self._mix.pictures * self._mix.crops])


def as_tensors(holes: list[Hole]) -> tuple[Tensor, Tensor, Tensor]:
    """The start, the hole (1 inside) and the truth of a batch, as tensors."""
    start, truth = (
        torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for pictures in ([hole.start for hole in holes], [hole.truth for hole in holes])
    )
    return start, torch.from_numpy(np.stack([hole.mask for hole in holes]))[:, None].float(), truth


def cut_holes(burned: BurnIn, count: int, side: int, random: np.random.Generator) -> list[Hole]:
    """Up to ``count`` squares around marked pixels; no square if the picture is too small or has no marks."""
    rows, columns = burned.owners.shape
    marked = np.flatnonzero(burned.owners)
    if min(rows, columns) < side or not marked.size:
        return []
    mask = detected_mask(burned, random)
    holes: list[Hole] = []
    for place in random.choice(marked, count):
        row, column = np.unravel_index(int(place), (rows, columns))
        top = int(np.clip(int(row) - random.integers(side // 4, 3 * side // 4), 0, rows - side))
        left = int(np.clip(int(column) - random.integers(side // 4, 3 * side // 4), 0, columns - side))
        cut = slice(top, top + side), slice(left, left + side)
        if 0 < float(mask[cut].mean()) <= FULL:
            start = Classical("navier-stokes").fill(burned.image[cut], mask[cut])
            holes.append(Hole(start, mask[cut], burned.clean[cut]))
    return holes


def detected_mask(burned: BurnIn, random: np.random.Generator) -> Mask:
    """The mask as a detector would give it: grown by 1 to 4 pixels, some texts as whole boxes."""
    grown = burned.owners > 0
    if random.random() < BOXED:
        for thing in burned.objects:
            if thing.kind is MarkClass.TEXT and thing.box[3] - thing.box[1] < 0.15 * min(grown.shape):
                grown[index_of(thing.box)] = True
    return dilated(grown, 2 * int(random.integers(1, 5)) + 1)
