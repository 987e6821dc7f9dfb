"""``ai-pipeline train pretrain``: pre-train the backbone on chest X-rays without labels.

Momentum contrast (He et al., CVPR 2020; for chest X-rays Sowrirajan et al., MIDL 2021): the network learns to
give two views of one image more similar features than views of different images. All images of the train
splits are used, also of children and of other hospitals, since no label is needed; validation and test images
never are.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import Dataset

from ai_pipeline.models.preprocess import normalise, reduce
from ai_pipeline.models.registry import Chain
from ai_training.chest.batches import MEAN, SCALE
from ai_training.chest.gate_images import OTHER_CHESTS, files_of_split
from ai_training.engine.run import Plan, TrainingRun, Validation
from ai_training.engine.setup import seed_all
from ai_training.networks.backbone import pretrained_on_imagenet
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_set, reduced_images
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Settings of the pre-training. ``queue``: negatives in memory; ``temperature`` of the
    softmax over them.
    """

    size: int = 128
    batch: int = 64
    epochs: float = 5.0
    seed: int = 7
    learning_rate: float = 6e-4
    weight_decay: float = 0.02
    queue: int = 4096
    temperature: float = 0.15
    momentum: float = 0.99
    smallest_area: float = 0.45
    rotation: float = 12.0


def pretrain(
    data: Path,
    out: Path,
    how: Contrast,
    *,
    threads: int = 0,
    cache: Path | None = None,
    resume: bool = False,
    report: Report = silent,
) -> Path:
    """Train; returns ``out/pretrained.pt``, a file for ``[network] initial`` of an experiment."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    cv2.setNumThreads(1)
    run = _ContrastRun(_pixels(data, cache or out / "cache", report), out, how)
    torch.save(run.finish(report, resume=resume), out / "pretrained.pt")
    return out / "pretrained.pt"


class _Learned(nn.Module):
    """The network, and the projection that only pre-training needs."""

    def __init__(self, how: Contrast) -> None:
        super().__init__()
        self.network = pretrained_on_imagenet(len(LABELS), how.size)
        width = self.network.head.in_features
        self.projection = nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 128))

    def forward(self, images: Tensor) -> Tensor:
        features, _ = self.network.maps(images)
        return normalize(self.projection(features.mean((2, 3))))


class _Views(Dataset[tuple[Tensor, Tensor]]):
    """Batch i: two views of the same images, drawn from (seed, i) alone."""

    def __init__(self, pixels: Bytes, how: Contrast) -> None:
        self._pixels, self._how = pixels, how

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        how = self._how
        random = np.random.default_rng((how.seed, iteration))
        rows = random.choice(len(self._pixels), how.batch, replace=False)
        one, other = (np.stack([_view(self._pixels[row], how, random) for row in rows]) for _ in range(2))
        return _tensor(one), _tensor(other)


class _ContrastRun(TrainingRun):
    """Network and projection, their slow copies that make the keys, and the queue of keys."""

    PARTS = (*TrainingRun.PARTS, "slow", "queue", "found")
    CHOSEN_BY = "iteration"
    MEMORY = torch.contiguous_format

    def __init__(self, pixels: Bytes, out: Path, how: Contrast) -> None:
        seed_all(how.seed)
        self.pixels, self.how = pixels, how
        steps = max(1, int(how.epochs * len(pixels) / how.batch))
        plan = Plan(
            iterations=steps,
            learning_rate=how.learning_rate,
            warm_up=0.15,
            validate_every=50,
            ema=0.0,
            clip=0.0,
            weight_decay=how.weight_decay,
        )
        super().__init__(out, json.dumps(asdict(how)), plan, _Learned(how))
        self.slow = copy.deepcopy(self.network).requires_grad_(False)
        self.queue = normalize(torch.randn(how.queue, 128).to(self.device))
        self.found: list[float] = []

    def examples(self) -> _Views:
        return _Views(self.pixels, self.how)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        torch.manual_seed(self.how.seed * 1_000_003 + self.batch_number)
        asked, keys = batch
        with self.autocast():
            queries = self.network(asked)
            with torch.no_grad():
                found = self.slow(keys)
        queries, found = queries.float(), found.float()
        scores = torch.cat([(queries * found).sum(1, keepdim=True), queries @ self.queue.clone().T], 1)
        first = torch.zeros(len(scores), dtype=torch.long, device=self.device)
        self._enqueue(found)
        self.found.append(float((scores.argmax(1) == 0).float().mean()))
        return cross_entropy(scores / self.how.temperature, first)

    def step(self, batches: Iterator[Any]) -> float:
        loss = super().step(batches)
        with torch.no_grad():
            for ahead, behind in zip(self.network.parameters(), self.slow.parameters(), strict=True):
                behind.lerp_(ahead, 1 - self.how.momentum)
        return loss

    def validate(self) -> Validation:
        """The share of images whose other view was ranked first, of the last batches."""
        right, network = float(np.mean(self.found)), cast(_Learned, self.network).network
        self.found.clear()
        figures = {"iteration": self.done, "pairs found": right}
        return Validation(figures, f"{right:.2f} of pairs found", network.state_dict())

    def _enqueue(self, keys: Tensor) -> None:
        place = self.batch_number * len(keys)
        rows = (torch.arange(len(keys), device=self.device) + place) % len(self.queue)
        self.queue[rows] = keys


def _pixels(data: Path, cache: Path, report: Report) -> Bytes:
    chain = Chain()
    images = tuple(image for image in chest_set(data).images if image.split == "train")
    parts = [reduced_images(images, chain, cache, report)]
    if others := files_of_split(data / OTHER_CHESTS, "train"):
        parts.append(np.stack([reduce(read_grey(path), chain)[0] for path in others]))
    return np.concatenate(parts)


def _tensor(images: Bytes) -> Tensor:
    return torch.from_numpy(normalise(images, MEAN, SCALE)).contiguous(memory_format=torch.channels_last)


def _view(image: Bytes, how: Contrast, random: np.random.Generator) -> Bytes:
    """A part of ``image``, turned, re-windowed, sometimes blurred: ``[size, size]``."""
    side, part = image.shape[0], np.sqrt(random.uniform(how.smallest_area, 1.0))
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = how.size / (side * part)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    turn = np.array([[cos * random.uniform(0.9, 1.1), -sin], [sin, cos * random.uniform(0.9, 1.1)]])
    slack = (1 - part) / 2 * side
    centre = (side - 1) / 2 + random.uniform(-slack, slack, 2)
    offset = np.full(2, (how.size - 1) / 2) - turn @ centre
    moved = cv2.warpAffine(image, np.column_stack([turn, offset]), (how.size, how.size))
    gamma, gain = 2 ** random.uniform(-0.8, 0.8), 1 + random.uniform(-0.4, 0.4)
    levels = 255.0 * (np.arange(256) / 255.0) ** gamma * gain + random.uniform(-40, 40)
    moved = np.asarray(np.clip(levels, 0, 255).astype(np.uint8)[moved])
    if random.random() < 0.5:
        moved = np.asarray(cv2.GaussianBlur(moved, (0, 0), random.uniform(0.3, 1.5)), np.uint8)
    return moved
