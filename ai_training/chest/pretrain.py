"""``ai-pipeline train pretrain``: pre-training of the backbone on chest X-rays without labels.

Momentum contrast (He et al., CVPR 2020; for chest X-rays Sowrirajan et al., MIDL 2021): two views of one
image shall be more alike than views of different ones. All images of the train splits take part, children
and the other hospitals too, since no label is used; validation and test images never do.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ai_pipeline.models.preprocess import normalise, reduce
from ai_pipeline.models.registry import Chain
from ai_pipeline.networks.efficientnet import PlacedNetwork
from ai_training.chest.batches import MEAN, SCALE
from ai_training.chest.gate_images import OTHER_CHESTS, files_of_split
from ai_training.networks.backbone import pretrained_on_imagenet
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_set, reduced_images
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Contrast:
    """How to pre-train. ``queue``: negatives in memory; ``temperature`` of the softmax over them."""

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
    report: Report = silent,
) -> Path:
    """Train; returns ``out/pretrained.pt``, which ``[network] initial`` of an experiment may name."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    cv2.setNumThreads(1)
    pixels = _pixels(data, cache or out / "cache", report)
    torch.manual_seed(how.seed)
    learner = _Learner(how)
    last = int(how.epochs * len(pixels) / how.batch)
    optimiser = torch.optim.AdamW(
        learner.parameters_to_train(), how.learning_rate, weight_decay=how.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, how.learning_rate, total_steps=last, pct_start=0.15
    )
    for iteration in range(last):
        loss, right = learner.step(_views(pixels, how, iteration), iteration)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        learner.follow()
        end = "\n" if (iteration + 1) % 50 == 0 else ""
        report(
            (iteration + 1) / last,
            f"iteration {iteration + 1}, loss {loss.item():.3f}, {right:.2f} of pairs found{end}",
        )
    out.mkdir(parents=True, exist_ok=True)
    torch.save(learner.network.state_dict(), out / "pretrained.pt")
    return out / "pretrained.pt"


class _Learner:
    """Network and projection, their slow copies that make the keys, and the queue of keys."""

    def __init__(self, how: Contrast) -> None:
        self.how = how
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = pretrained_on_imagenet(len(LABELS), how.size).to(self.device)
        width = self.network.head.in_features
        self.projection = nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 128)).to(self.device)
        self.slow = copy.deepcopy(self.network), copy.deepcopy(self.projection)
        for part in self.slow:
            part.requires_grad_(False)
        self.queue = normalize(torch.randn(how.queue, 128, device=self.device))
        self.place = 0

    def parameters_to_train(self) -> list[nn.Parameter]:
        return [*self.network.backbone.parameters(), *self.projection.parameters()]

    def step(self, views: tuple[Tensor, Tensor], iteration: int) -> tuple[Tensor, float]:
        """The loss of one batch, and the share of images whose other view was ranked first."""
        torch.manual_seed(self.how.seed * 1_000_003 + iteration)
        asked, keys = (view.to(self.device) for view in views)
        self.network.train()
        queries = _embedded(self.network, self.projection, asked)
        with torch.no_grad():
            found = _embedded(*self.slow, keys)
        scores = torch.cat([(queries * found).sum(1, keepdim=True), queries @ self.queue.clone().T], 1)
        first = torch.zeros(len(scores), dtype=torch.long, device=self.device)
        loss = cross_entropy(scores / self.how.temperature, first)
        self._enqueue(found)
        return loss, float((scores.argmax(1) == 0).float().mean())

    def follow(self) -> None:
        """Move the slow copies towards the learned ones."""
        with torch.no_grad():
            for learned, slow in zip((self.network, self.projection), self.slow, strict=True):
                for ahead, behind in zip(learned.parameters(), slow.parameters(), strict=True):
                    behind.lerp_(ahead, 1 - self.how.momentum)

    def _enqueue(self, keys: Tensor) -> None:
        rows = (torch.arange(len(keys), device=self.device) + self.place) % len(self.queue)
        self.queue[rows] = keys
        self.place = (self.place + len(keys)) % len(self.queue)


def _embedded(network: PlacedNetwork, projection: nn.Module, images: Tensor) -> Tensor:
    features, _ = network.maps(images)
    return normalize(projection(features.mean((2, 3))))


def _pixels(data: Path, cache: Path, report: Report) -> Bytes:
    chain = Chain()
    images = tuple(image for image in chest_set(data).images if image.split == "train")
    parts = [reduced_images(images, chain, cache, report)]
    if others := files_of_split(data / OTHER_CHESTS, "train"):
        parts.append(np.stack([reduce(read_grey(path), chain)[0] for path in others]))
    return np.concatenate(parts)


def _views(pixels: Bytes, how: Contrast, iteration: int) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng((how.seed, iteration))
    rows = random.choice(len(pixels), how.batch, replace=False)
    one, other = (np.stack([_view(pixels[row], how, random) for row in rows]) for _ in range(2))
    return _tensor(one), _tensor(other)


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
