"""Train segmenters from scratch on small frames: raw, smoothed, or both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ai_training.despeckle.afterwards import Filter
from ai_training.engine.run import Plan, TrainingRun
from ai_training.engine.setup import input_of, seed_all
from ai_training.networks.segmenters import PUBLISHED_WIDTHS, SEGMENTERS, WIDTHS
from ai_training.progress import Report

EPOCHS = 50
STRONG = "Gaussian blur of 4 pixels"
"""The filter that smooths most: segmenters are taught by frames after it too."""
BLURS = (1, 2, 4, 8)
"""Standard deviations in pixels of the file, for Dice against the strength of smoothing."""
TAUGHT_BY = {"raw": ("raw",), "smoothed": (STRONG,), "both": ("raw", STRONG)}
Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SegmenterRecipe:
    """All settings of a run. ``size``: rows and columns that frames are reduced to; ``widths``: channels of
    the networks from the finest level on.
    """

    iterations: int = 250
    batch: int = 8
    size: tuple[int, int] = (96, 144)
    learning_rate: float = 3e-3
    seeds: tuple[int, ...] = (1,)
    widths: tuple[int, ...] = WIDTHS

    @staticmethod
    def published(frames: int) -> SegmenterRecipe:
        """The settings of the publication: SegNet at the authors' width, 50 epochs of ``frames`` frames; for
        a GPU.
        """
        batch = 8
        return SegmenterRecipe(EPOCHS * math.ceil(frames / batch), batch, (352, 512), widths=PUBLISHED_WIDTHS)


def blurs() -> dict[str, Filter]:
    """A Gaussian blur of each of :data:`BLURS`."""
    return {f"Gaussian blur of {spread} pixels": partial(_blur, spread) for spread in BLURS}


def _blur(spread: float, picture: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), spread), np.float32)


class Outlined(Protocol):
    """A frame with an outline drawn by a person."""

    @property
    def patient(self) -> str: ...

    def read(self) -> tuple[Grey, npt.NDArray[np.uint8] | npt.NDArray[np.bool_]]:
        """Read the grey picture and the class of each pixel, both ``[rows, columns]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Frames for training or testing. ``pictures``: ``[N, rows, columns]`` by filter, ``raw`` unfiltered;
    ``classes``: the same shape.
    """

    pictures: Mapping[str, Grey]
    classes: Grey
    patients: Sequence[str]

    @staticmethod
    def read(
        images: Sequence[Outlined], filters: Mapping[str, Filter], size: tuple[int, int], report: Report
    ) -> Frames:
        """Read the images, filter them at full size, then reduce them to ``size``. Raises DataMissing."""
        pictures: dict[str, list[Grey]] = {"raw": [], **{name: [] for name in filters}}
        classes = []
        for number, image in enumerate(images):
            report(number / len(images), "frames after every filter")
            picture, truth = image.read()
            shares = picture.astype(np.float32) / np.float32(255)
            pictures["raw"].append(_small(shares, size))
            for name, made in filters.items():
                pictures[name].append(_small(made(shares), size))
            seen = truth.astype(np.uint8)
            classes.append(cv2.resize(seen, size[::-1], interpolation=cv2.INTER_NEAREST))
        return Frames(
            {name: np.stack(seen) for name, seen in pictures.items()},
            np.stack(classes),
            [image.patient for image in images],
        )


def answers(
    name: str, lessons: Frames, exam: Frames, by: str, recipe: SegmenterRecipe, seed: int, report: Report
) -> dict[str, Grey]:
    """The class that the segmenter ``name`` predicts for each pixel of ``exam``, by filter: ``[N, rows,
    columns]``.

    It is trained on ``lessons``; ``by``: the key in :data:`TAUGHT_BY` of the filters of its training frames.
    """
    run = _SegmenterRun(name, lessons, TAUGHT_BY[by], recipe, seed)
    run.train(lambda share, _: report(share, f"{name}, taught by {by}, seed {seed}"))
    return {seen: _outlined(run.network.eval(), pictures) for seen, pictures in exam.pictures.items()}


class _SegmenterRun(TrainingRun):
    """One segmenter, which leaves no files."""

    MEMORY = torch.contiguous_format

    def __init__(
        self, name: str, lessons: Frames, by: Sequence[str], recipe: SegmenterRecipe, seed: int
    ) -> None:
        seed_all(seed)
        self.lessons, self.by, self.recipe, self.seed = lessons, by, recipe, seed
        network = SEGMENTERS[name](int(lessons.classes.max()) + 1, recipe.widths)
        plan = Plan(
            iterations=recipe.iterations,
            learning_rate=recipe.learning_rate,
            warm_up=0.3,
            validate_every=0,
            ema=0.0,
            clip=0.0,
            weight_decay=0.01,
        )
        super().__init__(None, name, plan, network)

    def batches(self, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        random = np.random.default_rng(self.seed)
        for _ in numbers:
            rows = random.choice(len(self.lessons.classes), self.recipe.batch)
            pictures = self.lessons.pictures[self.by[int(random.integers(len(self.by)))]]
            mirrored = slice(None, None, -1 if random.random() < 0.5 else 1)
            wanted = np.ascontiguousarray(self.lessons.classes[rows][..., mirrored]).astype(np.int64)
            yield torch.from_numpy(_input(pictures[rows][..., mirrored])), torch.from_numpy(wanted)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        with self.autocast():
            made = self.network(batch[0])
        return cross_entropy(made.float(), batch[1])


def _outlined(network: nn.Module, pictures: Grey) -> Grey:
    parts = np.array_split(pictures, math.ceil(len(pictures) / 16))
    with torch.inference_mode():
        found = [network(input_of(network, _input(part))).argmax(1) for part in parts]
    return np.concatenate([classes.to(torch.uint8).cpu().numpy() for classes in found])


def _input(pictures: Grey) -> Floats:
    values = np.ascontiguousarray(pictures[:, None]).astype(np.float32)
    return np.asarray((values - 127) / np.float32(128), np.float32)


def _small(shares: Floats, size: tuple[int, int]) -> Grey:
    small = cv2.resize(shares, size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(np.clip(small, 0, 1) * 255), np.uint8)
