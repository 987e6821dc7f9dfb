"""Pairs of a picture with added speckle and the original picture, from the frames of ``us_fetal_head``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai_pipeline.fetal_head.picture import fit_to_input
from ai_training.despeckle.speckle import SIGMAS, rayleigh, scattered
from ai_training.fetal.data import head_images
from ai_training.sets.files import read_grey

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeckleMix:
    """The contents of a batch. ``side`` of a crop in pixels; ``physical``: the share with the physical model
    of speckle, on frames reduced to a half, whose own speckle is averaged away. The rest has the published
    model, on frames reduced by a factor from ``smallest`` to 1.
    """

    crops: int = 4
    side: int = 256
    physical: float = 0.0
    smallest: float = 1.0


class SpeckleBatches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch i of a run: crops with added speckle and the original crops ``[B, 1, side, side]``; one whole
    frame with and without it, ``[1, 1, rows, columns]``, in the form for the fetal head network. 0..1; drawn
    from (seed, i) alone.
    """

    def __init__(self, data: Path, mix: SpeckleMix, seed: int) -> None:
        self._frames = [read_grey(image.picture) for image in head_images(data, "train")]
        self._mix, self._seed = mix, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        random = np.random.default_rng((self._seed, iteration))
        pairs = [self._pair(random) for _ in range(self._mix.crops)]
        speckled, below = (torch.from_numpy(np.stack(part))[:, None] for part in zip(*pairs, strict=True))
        frame = _shares(fit_to_input(self._frames[int(random.integers(len(self._frames)))])[0])
        whole = frame if random.random() < 0.5 else _published(frame, random)
        return speckled, below, torch.from_numpy(whole)[None, None], torch.from_numpy(frame)[None, None]

    def _pair(self, random: np.random.Generator) -> tuple[Floats, Floats]:
        frame = self._frames[int(random.integers(len(self._frames)))]
        physical = random.random() < self._mix.physical
        scale = 0.5 if physical else random.uniform(self._mix.smallest, 1)
        if scale < 1:
            size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
            frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
        crop = _crop(_shares(frame), self._mix.side, random)
        if physical:
            return scattered(crop, random, random.uniform(0.5, 1.2), random.uniform(0.8, 2.0)), crop
        return _published(crop, random), crop


def _published(picture: Floats, random: np.random.Generator) -> Floats:
    return rayleigh(picture, random.uniform(SIGMAS[0] / 2, SIGMAS[-1]), random)


def _shares(picture: npt.NDArray[np.uint8]) -> Floats:
    return picture.astype(np.float32) / np.float32(255)


def _crop(picture: Floats, side: int, random: np.random.Generator) -> Floats:
    """A square, mirrored at random; black below and right of smaller pictures."""
    rows, columns = picture.shape
    top, left = (int(random.integers(max(length - side, 0) + 1)) for length in (rows, columns))
    crop = np.zeros((side, side), np.float32)
    part = picture[top : top + side, left : left + side]
    crop[: part.shape[0], : part.shape[1]] = part
    return np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)
