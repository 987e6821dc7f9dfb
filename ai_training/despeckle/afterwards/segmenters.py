"""``ai-pipeline train segmenters``: does less speckle harm what comes after it, and why?

A published comparison found that frames without speckle were segmented worse. Its segmenter had been taught
by raw frames. Here SegNet and a U-Net learn heads from raw frames, from smoothed ones and from both, and are
looked at on test frames after every filter: what a filter takes away is lost for all of them, what was only
never seen before is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ai_training.fetal.data import head_images
from ai_training.fetal.scores import dice
from ai_training.metrics import mean_interval, patient_weights
from ai_training.networks.segmenters import SEGMENTERS
from ai_training.progress import Report, silent

ROWS, COLUMNS = 96, 144
FILE_COLUMNS = 512
"""Of the frames' files, whose pixel size the manifest gives."""
STRONG = "Gaussian blur of 4 pixels"
"""The filter that smooths most: segmenters are taught by frames after it too."""
BLURS = (1, 2, 4, 8)
"""Standard deviations in pixels of the file, for Dice against the strength of smoothing."""
TAUGHT_BY = {"raw": ("raw",), "smoothed": (STRONG,), "both": ("raw", STRONG)}
MEASURES = ("dice", "iou", "boundary", "area", "circumference")
"""Dice, intersection over union, mean distance of the outlines (mm), area over the true one, error of the
circumference of the fitted ellipse (mm)."""
Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Filter = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class SegmenterRecipe:
    """Everything that shapes a run. The published one: 50 epochs of SegNet, here 3,281 iterations of 8."""

    iterations: int = 250
    batch: int = 8
    learning_rate: float = 3e-3
    seeds: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class _Frames:
    """``pictures``: ``[N, rows, columns]`` by filter; ``heads``: bool, the same shape; ``pixel_mm``: here."""

    pictures: Mapping[str, Grey]
    heads: Bools
    patients: Sequence[str]
    pixel_mm: Sequence[float]


def blurred(spread: float) -> Filter:
    """A Gaussian blur of ``spread`` pixels."""

    def blur(picture: Floats) -> Floats:
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), spread), np.float32)

    return blur


def compare(
    data: Path, recipe: SegmenterRecipe, filters: Mapping[str, Filter], report: Report = silent
) -> dict[str, Any]:
    """Train every segmenter by every kind of frames, look at the test frames raw and after each filter.

    ``filters`` get pictures 0 to 1. Differences are to the segmenter taught by raw frames on raw frames,
    paired by frame, the mean over seeds first. Raises DataMissing.
    """
    torch.set_num_threads(1)
    blurs = {f"Gaussian blur of {spread} pixels": blurred(spread) for spread in BLURS}
    lessons = _read(data, "train", {STRONG: blurs[STRONG]}, report)
    exam = _read(data, "test", {**filters, **blurs}, report)
    weights = patient_weights(exam.patients)
    found: dict[str, Any] = {}
    for name, kind in SEGMENTERS.items():
        runs = {
            taught: [_run(kind, lessons, exam, by, recipe, seed, report) for seed in recipe.seeds]
            for taught, by in TAUGHT_BY.items()
        }
        found[name] = _figures(runs, weights)
    return {"recipe": asdict(recipe), "frames": len(exam.heads), "segmenters": found}


Scores = dict[str, npt.NDArray[np.float64]]
"""By filter: ``[frames, measures]``."""


def _figures(runs: Mapping[str, Sequence[Scores]], weights: npt.NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Mean of each measure with its interval, and of Dice the difference to raw frames taught by raw ones."""
    means = {taught: _mean_of_seeds(scores) for taught, scores in runs.items()}
    before = means["raw"]["raw"][:, 0]

    def row(values: npt.NDArray[np.float64]) -> dict[str, list[float]]:
        measured = {
            name: mean_interval(values[:, number], weights).as_list() for number, name in enumerate(MEASURES)
        }
        return {**measured, "difference": mean_interval(values[:, 0] - before, weights).as_list()}

    return {
        taught: {seen: row(values) for seen, values in seen_as.items()} for taught, seen_as in means.items()
    }


def _mean_of_seeds(runs: Sequence[Scores]) -> Scores:
    return {seen: np.mean([run[seen] for run in runs], axis=0) for seen in runs[0]}


def _run(
    kind: type[nn.Module],
    lessons: _Frames,
    exam: _Frames,
    taught_by: Sequence[str],
    recipe: SegmenterRecipe,
    seed: int,
    report: Report,
) -> Scores:
    network = _trained(kind, lessons, taught_by, recipe, seed, report)
    scores = {}
    for seen, pictures in exam.pictures.items():
        masks = np.concatenate(
            [_outlined(network, part) for part in np.array_split(pictures, 8) if len(part)]
        )
        rows = zip(masks, exam.heads, exam.pixel_mm, strict=True)
        scores[seen] = np.array([measures(mask, head, pixel) for mask, head, pixel in rows])
    return scores


def measures(found: Bools, truth: Bools, pixel_mm: float) -> tuple[float, ...]:
    """:data:`MEASURES` of a mask; nothing found is as far from the outline as its own middle."""
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
    """Of the ellipse fitted to the largest part (S. Ramanujan, 1914), in pixels; 0 where there is none."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea, default=None)
    if largest is None or len(largest) < 5:
        return 0.0
    a, b = (axis / 2 for axis in cv2.fitEllipse(largest)[1])
    return float(math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b))))


def _trained(
    kind: type[nn.Module],
    lessons: _Frames,
    taught_by: Sequence[str],
    recipe: SegmenterRecipe,
    seed: int,
    report: Report,
) -> nn.Module:
    torch.manual_seed(seed)
    network = kind(2)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.iterations
    )
    random = np.random.default_rng(seed)
    what = f"{kind.__name__}, taught by {' and '.join(taught_by)}, seed {seed}"
    for iteration in range(recipe.iterations):
        report(iteration / recipe.iterations, what)
        rows = random.choice(len(lessons.heads), recipe.batch)
        pictures = lessons.pictures[taught_by[int(random.integers(len(taught_by)))]]
        mirrored = slice(None, None, -1 if random.random() < 0.5 else 1)
        heads = np.ascontiguousarray(lessons.heads[rows][..., mirrored]).astype(np.int64)
        loss = cross_entropy(network(_input(pictures[rows][..., mirrored])), torch.from_numpy(heads))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


def _outlined(network: nn.Module, pictures: Grey) -> Bools:
    with torch.inference_mode():
        return np.asarray(network(_input(pictures)).argmax(1).numpy() > 0, np.bool_)


def _input(pictures: Grey) -> Tensor:
    return torch.from_numpy((pictures[:, None].astype(np.float32) - 127) / np.float32(128))


def _read(data: Path, split: str, filters: Mapping[str, Filter], report: Report) -> _Frames:
    images = head_images(data, split)
    pictures: dict[str, list[Grey]] = {"raw": [], **{name: [] for name in filters}}
    heads = []
    for number, image in enumerate(images):
        report(number / len(images), f"{split} frames")
        picture, head = image.read()
        shares = picture.astype(np.float32) / np.float32(255)
        pictures["raw"].append(_small(shares))
        for name, made in filters.items():
            pictures[name].append(_small(made(shares)))
        size = (COLUMNS, ROWS)
        heads.append(cv2.resize(head.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)
    return _Frames(
        {name: np.stack(seen) for name, seen in pictures.items()},
        np.stack(heads),
        [image.patient for image in images],
        [image.pixel_mm * FILE_COLUMNS / COLUMNS for image in images],
    )


def _small(shares: Floats) -> Grey:
    reduced = cv2.resize(shares, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(np.clip(reduced, 0, 1) * 255), np.uint8)


def as_text(result: Mapping[str, Any]) -> str:
    """A line for each segmenter, what taught it, and what it looked at."""
    lines = [
        f"{result['frames']} test frames at {COLUMNS} × {ROWS}, seeds {result['recipe']['seeds']}: Dice, "
        "difference to raw by raw, outlines apart mm, area, circumference mm"
    ]
    for name, runs in result["segmenters"].items():
        for taught, seen in runs.items():
            for frames, row in seen.items():
                d, diff, b, a, c = (
                    row[key] for key in ("dice", "difference", "boundary", "area", "circumference")
                )
                lines.append(
                    f"  {name:7} by {taught:9} on {frames:26} {d[0]:.3f}  {diff[0]:+.3f} [{diff[1]:+.3f}, "
                    f"{diff[2]:+.3f}]  {b[0]:.2f}  {a[0]:.3f}  {c[0]:.1f}"
                )
    return "\n".join(lines)
