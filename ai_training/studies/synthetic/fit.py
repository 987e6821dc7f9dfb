"""Training of the generators: first on all images of the train split, then on those with the rare label."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from ai_training.networks.gan import (
    GrowingCritic,
    GrowingGenerator,
    dcgan_critic,
    dcgan_generator,
    doublings,
)
from ai_training.progress import Report, silent
from ai_training.runs import move_average
from ai_training.studies.synthetic.recipe import Synthesis

PENALTY, DRIFT = 10.0, 1e-3  # of WGAN-GP (Gulrajani et al., NeurIPS 2017) and PGGAN
AVERAGE = 0.99  # of the generator's weights
AT_ONCE, MILESTONE = 64, 50
Bytes = npt.NDArray[np.uint8]


class Maker(Protocol):
    """A generator in training."""

    def step(self, images: Tensor, done: float) -> float:
        """Learn from real images ``[B, 1, side, side]``, −1 to 1; ``done``: share of the phase, 0 to 1."""

    def drawn(self, count: int, random: torch.Generator) -> Tensor:
        """So many images ``[count, 1, side, side]``, −1 to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class MadeImages:
    """Synthetic images ``[images, side, side]`` after the first phase (any finding) and with the label."""

    of_all: Bytes
    of_label: Bytes


def make_images(how: Synthesis, kind: str, pixels: Bytes, rare: Bytes, report: Report = silent) -> MadeImages:
    """Train a generator of ``kind`` and draw from it.

    ``pixels [N, side, side]``: the train split; ``rare [n, side, side]``: those of it with the label.
    """
    torch.manual_seed(how.seed)
    maker: Maker = DcganMaker(how) if kind == "dcgan" else GrowingMaker(how)
    drawn: list[Bytes] = []
    for number, (real, steps) in enumerate(((pixels, how.iterations), (rare, how.rare_iterations))):
        for step, batch in enumerate(_batches(real, how, number, steps)):
            loss = maker.step(batch, (step / steps) if number == 0 else 1.0)
            end = "\n" if (step + 1) % MILESTONE == 0 or step + 1 == steps else ""
            report((number + (step + 1) / steps) / 2, f"{kind}, step {step + 1}, loss {loss:.3f}{end}")
        drawn.append(_drawn(maker, how, number))
    return MadeImages(*drawn)


class DcganMaker:
    """DCGAN with its non-saturating loss."""

    def __init__(self, how: Synthesis) -> None:
        self.how = how
        self.generator = dcgan_generator(how.latent, how.width, how.side)
        self.critic = dcgan_critic(how.width, how.side)
        self.average = copy.deepcopy(self.generator)
        self.optimisers = [_adam(network, 2e-4, 0.5, 0.999) for network in (self.generator, self.critic)]
        self.steps = 0

    def step(self, images: Tensor, done: float) -> float:  # noqa: ARG002 - nothing grows
        made = self.generator(self._latent(len(images)))
        real, false = self.critic(images), self.critic(made.detach())
        loss = _cross_entropy(real, 1.0) + _cross_entropy(false, 0.0)
        _descend(self.optimisers[1], loss)
        _descend(self.optimisers[0], _cross_entropy(self.critic(made), 1.0))
        self.steps += 1
        move_average(self.average, self.generator, self.steps, AVERAGE)
        return float(loss.detach())

    def drawn(self, count: int, random: torch.Generator) -> Tensor:
        latent = torch.randn(count, self.how.latent, 1, 1, generator=random)
        made: Tensor = self.average.eval()(latent)
        return made

    def _latent(self, count: int) -> Tensor:
        return torch.randn(count, self.how.latent, 1, 1)


class GrowingMaker:
    """PGGAN with WGAN-GP. In the first phase each stage fades in over the first half of its steps."""

    def __init__(self, how: Synthesis) -> None:
        self.how = how
        stages = doublings(how.side) + 1
        widths = tuple(max(how.width, how.widest >> max(0, k - 2)) for k in range(stages))
        self.last = stages - 1
        self.generator, self.critic = GrowingGenerator(how.latent, widths), GrowingCritic(widths)
        self.average = copy.deepcopy(self.generator)
        self.optimisers = [_adam(network, 1e-3, 0.0, 0.99) for network in (self.generator, self.critic)]
        self.steps = 0

    def step(self, images: Tensor, done: float) -> float:
        stage, fade = stage_at(done, self.last)
        real = _faded(avg_pool2d(images, 1 << (self.last - stage)), stage, fade)
        made = self.generator(torch.randn(len(images), self.how.latent), stage, fade)
        critic = self.critic
        scores = critic(real, stage, fade)
        loss = critic(made.detach(), stage, fade).mean() - scores.mean() + DRIFT * scores.square().mean()
        loss = loss + PENALTY * self._steepness(real, made.detach(), stage, fade)
        _descend(self.optimisers[1], loss)
        _descend(self.optimisers[0], -critic(made, stage, fade).mean())
        self.steps += 1
        move_average(self.average, self.generator, self.steps, AVERAGE)
        return float(loss.detach())

    def drawn(self, count: int, random: torch.Generator) -> Tensor:
        made: Tensor = self.average(torch.randn(count, self.how.latent, generator=random), self.last)
        return made

    def _steepness(self, real: Tensor, made: Tensor, stage: int, fade: float) -> Tensor:
        """How far the critic's slope between real and made images is from 1, squared."""
        between = real.lerp(made, torch.rand(len(real), 1, 1, 1)).requires_grad_()
        score = self.critic(between, stage, fade).sum()
        (slope,) = torch.autograd.grad(score, between, create_graph=True)
        penalty: Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty


def stage_at(done: float, last: int) -> tuple[int, float]:
    """Which stage trains when a share ``done`` of the steps is done, and how far it has faded in."""
    place = min(done, 1.0) * (last + 1)
    stage = min(int(place), last)
    return stage, min(1.0, 2 * (place - stage)) if stage else 1.0


def _faded(images: Tensor, stage: int, fade: float) -> Tensor:
    """Real images as sharp as what is generated while a stage fades in."""
    if not stage or fade >= 1:
        return images
    blurred = nn.functional.interpolate(avg_pool2d(images, 2), scale_factor=2.0)
    return blurred.lerp(images, fade)


def _adam(network: nn.Module, rate: float, first: float, second: float) -> torch.optim.Optimizer:
    """With the rates of the paper."""
    return torch.optim.Adam(network.parameters(), rate, (first, second))


def _cross_entropy(scores: Tensor, real: float) -> Tensor:
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, real))


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _batches(pixels: Bytes, how: Synthesis, phase: int, steps: int) -> Iterator[Tensor]:
    for step in range(steps):
        random = np.random.default_rng((how.seed, phase, step))
        batch = pixels[np.sort(random.choice(len(pixels), min(how.batch, len(pixels)), replace=False))]
        yield torch.from_numpy(batch.astype(np.float32) / 127.5 - 1)[:, None]


def _drawn(maker: Maker, how: Synthesis, phase: int) -> Bytes:
    random = torch.Generator().manual_seed(how.seed * 1000 + phase)
    with torch.inference_mode():
        starts = range(0, how.images, AT_ONCE)
        parts = [maker.drawn(min(AT_ONCE, how.images - start), random) for start in starts]
    grey = (torch.cat(parts)[:, 0].clamp(-1, 1) + 1) * 127.5
    return np.asarray(grey.round().numpy(), np.uint8)
