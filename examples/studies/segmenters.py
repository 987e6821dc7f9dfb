#!/usr/bin/env python3
"""SegNet and a U-Net on raw, smoothed and both frames: does less speckle harm segmentation?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, max_unpool2d

from ai_training import commands
from ai_training.base import Report, silent
from ai_training.commands import Figures, verb
from ai_training.engine import Plan, TrainingRun, input_of, seed_all
from ai_training.fetal import head_images
from ai_training.metrics import dice, mean_interval, patient_weights
from ai_training.ultrasound.speckle import Despeckler, Filter, autoencoders, filters

WIDTHS = (16, 32, 64, 64)
"""Channels from the finest level on."""
PUBLISHED_WIDTHS = (64, 128, 256, 512, 512)
"""Those of SegNet as it was published: more than two cores teach."""


class SegNet(nn.Module):
    """SegNet (V. Badrinarayanan et al., TPAMI 2017): the decoder puts values back at the places of the
    encoder's maxima.
    """

    def __init__(self, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.down = nn.ModuleList(_layers(fine, coarse) for fine, coarse in pairwise((1, *widths)))
        self.up = nn.ModuleList(
            _layers(width, finer) for width, finer in zip(widths, (widths[0], *widths[:-1]), strict=True)
        )
        self.last = nn.Conv2d(widths[0], classes, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        values, places = pictures, []
        for layers in self.down:
            values, indices = max_pool2d(layers(values), 2, return_indices=True)
            places.append(indices)
        for layers, indices in zip(reversed(self.up), reversed(places), strict=True):
            values = layers(max_unpool2d(values, indices, [2, 2]))
        logits: Tensor = self.last(values)
        return logits


class PlainUNet(nn.Module):
    """U-Net (O. Ronneberger et al., MICCAI 2015) with batch norm: the decoder also gets the
    encoder's values.
    """

    def __init__(self, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.down = nn.ModuleList(_layers(fine, coarse) for fine, coarse in pairwise((1, *widths)))
        self.deepest = _layers(widths[-1], widths[-1])
        self.larger = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in pairwise((*widths, widths[-1]))
        )
        self.up = nn.ModuleList(_layers(2 * width, width) for width in widths)
        self.last = nn.Conv2d(widths[0], classes, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        values, kept = pictures, []
        for layers in self.down:
            kept.append(layers(values))
            values = max_pool2d(kept[-1], 2)
        values = self.deepest(values)
        for layers, larger, fine in reversed(list(zip(self.up, self.larger, kept, strict=True))):
            values = layers(torch.cat([larger(values), fine], 1))
        logits: Tensor = self.last(values)
        return logits


SEGMENTERS = {"SegNet": SegNet, "U-Net": PlainUNet}


def _layers(before: int, after: int) -> nn.Sequential:
    steps = [
        (nn.Conv2d(first, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))
        for first in (before, after)
    ]
    return nn.Sequential(*(layer for step in steps for layer in step))


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
    def published(frames: int) -> "SegmenterRecipe":
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
    ) -> "Frames":
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


FILE_COLUMNS = 512
"""Columns of the frames' files, whose pixel size the manifest gives."""
MEASURES = ("dice", "iou", "boundary", "area", "circumference")
"""Dice, intersection over union, mean distance of the outlines (mm), area over the true one, error of the
circumference of the fitted ellipse (mm)."""
Bools = npt.NDArray[np.bool_]
Scores = dict[str, npt.NDArray[np.float64]]
"""By filter: ``[frames, measures]``."""


def compare(
    data: Path, recipe: SegmenterRecipe, filters: Mapping[str, Filter], report: Report = silent
) -> dict[str, Any]:
    """Train every segmenter on every kind of frames, and evaluate it on the test frames raw and after each
    filter.

    ``filters`` take pictures 0 to 1. Differences are to the segmenter trained on raw frames, on raw frames,
    paired by frame, after averaging over seeds. Raises DataMissing.
    """
    torch.set_num_threads(1)
    seen_in_test = head_images(data, "test")
    lessons = Frames.read(head_images(data, "train"), {STRONG: blurs()[STRONG]}, recipe.size, report)
    exam = Frames.read(seen_in_test, {**filters, **blurs()}, recipe.size, report)
    pixels = [image.pixel_mm * FILE_COLUMNS / recipe.size[1] for image in seen_in_test]
    weights = patient_weights(exam.patients)
    found: dict[str, Any] = {}
    for name in SEGMENTERS:
        runs = {
            by: [
                _scores(answers(name, lessons, exam, by, recipe, seed, report), exam, pixels)
                for seed in recipe.seeds
            ]
            for by in TAUGHT_BY
        }
        found[name] = _figures(runs, weights)
    return {"recipe": asdict(recipe), "frames": len(exam.classes), "segmenters": found}


def _scores(masks: Mapping[str, npt.NDArray[np.uint8]], exam: Frames, pixels: Sequence[float]) -> Scores:
    truth = exam.classes > 0
    return {
        seen: np.array([measures(*row) for row in zip(found > 0, truth, pixels, strict=True)])
        for seen, found in masks.items()
    }


def _figures(runs: Mapping[str, Sequence[Scores]], weights: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Mean of each measure with its interval, and of Dice the difference to raw frames taught by raw ones."""
    means = {
        taught: {seen: np.mean([run[seen] for run in scores], axis=0) for seen in scores[0]}
        for taught, scores in runs.items()
    }
    before = means["raw"]["raw"][:, 0]

    def row(values: npt.NDArray[np.float64]) -> dict[str, list[float]]:
        measured = {
            name: mean_interval(values[:, number], weights).as_list() for number, name in enumerate(MEASURES)
        }
        return {**measured, "difference": mean_interval(values[:, 0] - before, weights).as_list()}

    return {
        taught: {seen: row(values) for seen, values in seen_as.items()} for taught, seen_as in means.items()
    }


def measures(found: Bools, truth: Bools, pixel_mm: float) -> tuple[float, ...]:
    """:data:`MEASURES` of a mask. If nothing is found, the distance is that from the middle of the head to
    its outline.
    """
    union = int((found | truth).sum())
    return (
        dice(found, truth),
        float((found & truth).sum()) / max(union, 1),
        _distance(found, truth) * pixel_mm,
        float(found.sum()) / max(int(truth.sum()), 1),
        abs(_circumference(found) - _circumference(truth)) * pixel_mm,
    )


def _distance(found: Bools, truth: Bools) -> float:
    """Mean distance in pixels from each outline to the other."""
    if not found.any():
        return float(distance_transform_edt(truth).max())
    lines = [mask & ~binary_erosion(mask) for mask in (found, truth)]
    to_other = [distance_transform_edt(~line)[other] for line, other in zip(lines, lines[::-1], strict=True)]
    return float(np.concatenate(to_other).mean())


def _circumference(mask: Bools) -> float:
    """Circumference of the ellipse of the largest part (S. Ramanujan, 1914), in pixels; 0 without one."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea, default=None)
    if largest is None or len(largest) < 5:
        return 0.0
    a, b = (axis / 2 for axis in cv2.fitEllipse(largest)[1])
    return float(math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b))))


app = typer.Typer()


@verb(app, "segmenters", trains=True)
def command(
    *,
    report: Report,
    data: commands.PublicData,
    iterations: Annotated[
        int, typer.Option(min=1, help="Steps of the optimiser of each run. 50 epochs are 3281.")
    ] = 250,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Runs of each kind.")] = 1,
) -> Figures:
    """Train SegNet and a U-Net on raw, smoothed and both frames; outline test heads after each filter."""
    tried = {name: made for name, made in filters().items() if name != "BM3D"}  # ten seconds a frame
    tried |= {**autoencoders(), "ours": Despeckler.active().picture}
    recipe = SegmenterRecipe(iterations=iterations, seeds=tuple(range(1, seeds + 1)))
    return compare(data, recipe, tried, report)


if __name__ == "__main__":
    app()
