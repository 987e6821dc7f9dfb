"""Pictures for the mark detector: synthetic overlays, and the coloured marks of real frames.

Every batch is a function of (seed, iteration) alone, so a run that is resumed sees the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai_pipeline.burnin.annotation.pixels import Box, Picture, index_of
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.overlays import TRAIN, BurnIn, CleanFrame, StyleFamily, burn_in, clean_frames
from ai_training.ultrasound.overlays.looking_clean import chroma

IGNORED, ANY_MARK = 255, 254
"""Targets beside the classes: not to be learnt from, and "some mark, whichever"."""
FAINT = 8
"""A change of fewer grey levels in every channel (soft edges, scaling) is neither mark nor background."""
REAL_SOURCE = "us_ovarian"
LEAST_COLOURED, MOST_FLOW = 60, 300
"""Coloured pixels that a frame has at least, and red or blue ones of colour Doppler at most."""
CHROMA = 60
"""Difference of the channels from which a pixel of these frames is drawn (grey levels)."""

Targets = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Mix:
    """The composition of a batch: ``pictures`` pictures with ``crops`` squares of ``side`` pixels each; a
    share ``real`` of the pictures is real.
    """

    pictures: int = 4
    crops: int = 3
    side: int = 192
    real: float = 0.15


@dataclass(frozen=True, slots=True)
class RealFrame:
    """A frame with real coloured marks, and a part of it that is known to be clean (or None)."""

    path: Path
    clean: Box | None

    def sample(self) -> tuple[Picture, Targets]:
        """The frame as RGB, and the known pixels: coloured ones are marks, the clean part is not, others are
        unknown.
        """
        picture = read_rgb(self.path)
        targets: Targets = np.full(picture.shape[:2], IGNORED, np.uint8)
        if self.clean is not None:
            targets[index_of(self.clean)] = 0
        targets[chroma(picture) > CHROMA] = ANY_MARK
        return picture, targets


class MarkBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i of a run: float32 ``[N, 3, side, side]``, targets ``[N, side, side]``."""

    def __init__(self, data: Path, mix: Mix, seed: int) -> None:
        self._data, self._mix, self._seed = data, mix, seed
        self._frames = clean_frames("train")
        self._real = real_frames(data)

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        cv2.setNumThreads(1)
        random = np.random.default_rng((self._seed, iteration))
        frames, targets = [], []
        for number in range(self._mix.pictures):
            picture, target = self._picture(random, (self._seed, iteration, number))
            for _ in range(self._mix.crops):
                frame, known = crop(picture, target, self._mix.side, random)
                frames.append(frame)
                targets.append(known)
        stacked = np.stack(frames).transpose(0, 3, 1, 2).astype(np.float32)
        return torch.from_numpy(stacked), torch.from_numpy(np.stack(targets).astype(np.int64))

    def _picture(self, random: np.random.Generator, seed: tuple[int, ...]) -> tuple[Picture, Targets]:
        if self._real and random.random() < self._mix.real:
            return self._real[int(random.integers(len(self._real)))].sample()
        part = self._frames[int(random.integers(len(self._frames)))].read(self._data)
        burned = burn_in(part, TRAIN, seed)
        return burned.image, targets_of(burned)


def targets_of(burned: BurnIn) -> Targets:
    """The class of each pixel; ignored where the mark has hardly changed the picture."""
    change = np.abs(burned.drawn.astype(np.int16) - burned.plain).max(axis=2)
    return np.where((change > 0) & (change < FAINT), IGNORED, burned.classes).astype(np.uint8)


def crop(
    picture: Picture, targets: Targets, side: int, random: np.random.Generator
) -> tuple[Picture, Targets]:
    """A random square, every second time with a marked pixel in it; black where it reaches beyond the
    picture.
    """
    rows, columns = targets.shape
    short = max(0, side - rows), max(0, side - columns)
    picture = np.pad(picture, ((0, short[0]), (0, short[1]), (0, 0)))
    targets = np.pad(targets, ((0, short[0]), (0, short[1])))
    rows, columns = targets.shape
    top, left = int(random.integers(rows - side + 1)), int(random.integers(columns - side + 1))
    marked = np.flatnonzero((targets > 0) & (targets != IGNORED))
    if marked.size and random.random() < 0.5:
        row, column = np.unravel_index(int(random.choice(marked)), targets.shape)
        top = int(np.clip(int(row) - random.integers(side), 0, rows - side))
        left = int(np.clip(int(column) - random.integers(side), 0, columns - side))
    cut = slice(top, top + side), slice(left, left + side)
    return picture[cut], targets[cut]


def real_frames(data: Path) -> tuple[RealFrame, ...]:
    """The train frames of ``us_ovarian`` with coloured marks and no colour flow. Raises DataMissing."""
    folder = data / REAL_SOURCE
    clean = {frame.file: frame.box for frame in clean_frames("train") if frame.source == REAL_SOURCE}
    return tuple(
        RealFrame(folder / row["file"], clean.get(row["file"]))
        for row in rows(folder / "manifest.csv")
        if row["split"] == "train"
        and int(row["yellow_overlay_px"]) >= LEAST_COLOURED
        and int(row["doppler_colour_px"]) <= MOST_FLOW
    )


def burned_frames(
    data: Path, frames: Sequence[CleanFrame], count: int, seed: int, family: StyleFamily
) -> Iterator[tuple[CleanFrame, BurnIn]]:
    """``count`` synthetic pictures for measuring: the frames in turn, each with its own random overlay."""
    order = np.random.default_rng(seed).permutation(len(frames))
    for index in range(count):
        frame = frames[order[index % len(frames)]]
        yield frame, burn_in(frame.read(data), family, (seed, index))
