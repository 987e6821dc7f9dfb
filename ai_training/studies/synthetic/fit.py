"""Train the generators: first on all images of the train split, then on images with the rare label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler
from torch.utils.data import Dataset

from ai_training.engine.run import Plan, TrainingRun, Validation, move_average
from ai_training.engine.setup import seed_all
from ai_training.errors import ExperimentError
from ai_training.networks.gan import (
    GrowingCritic,
    GrowingGenerator,
    dcgan_critic,
    dcgan_generator,
    doublings,
)
from ai_training.progress import Report, silent
from ai_training.studies.synthetic.recipe import Synthesis

PENALTY, DRIFT = 10.0, 1e-3  # of WGAN-GP (Gulrajani et al., NeurIPS 2017) and PGGAN
AVERAGE = 0.99  # of the generator's weights
AT_ONCE = 64
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class MadeImages:
    """Synthetic images ``[images, side, side]`` after the first phase (any finding) and after the second (the
    label).
    """

    of_all: Bytes
    of_label: Bytes


def make_images(
    how: Synthesis, kind: str, pixels: Bytes, rare: Bytes, out: Path | None = None, report: Report = silent
) -> MadeImages:
    """Train a generator of ``kind`` and draw images from it.

    ``pixels [N, side, side]``: the train split; ``rare [n, side, side]``: its images with the label. ``out``
    receives checkpoints; an interrupted run continues from them. Raises ExperimentError.
    """
    maker = MAKERS[kind](how, pixels, rare, out)
    if maker.begun:
        maker.load()
    maker.train(report)
    return MadeImages(*(np.asarray(images.cpu().numpy(), np.uint8) for images in maker.drawn))


class _RealBatches(Dataset[Tensor]):
    """Batch i of both phases, drawn from (seed, phase, step) alone: ``[B, 1, side, side]``, −1 to 1."""

    def __init__(self, how: Synthesis, phases: Sequence[Bytes]) -> None:
        self._how, self._phases = how, phases

    def __getitem__(self, iteration: int) -> Tensor:
        how = self._how
        phase = int(iteration >= how.iterations)
        random = np.random.default_rng((how.seed, phase, iteration - phase * how.iterations))
        pixels = self._phases[phase]
        batch = pixels[np.sort(random.choice(len(pixels), min(how.batch, len(pixels)), replace=False))]
        return torch.from_numpy(batch.astype(np.float32) / 127.5 - 1)[:, None]


class Maker(TrainingRun):
    """The training of a generator against its critic, in float32; images are drawn at the end
    of each phase.
    """

    PARTS = ("network", "critic", "average", "optimiser", "against", "drawn")
    CHOSEN_BY = "iteration"
    KIND = "synthesis"
    MEMORY = torch.contiguous_format
    RATE: ClassVar[float]
    BETAS: ClassVar[tuple[float, float]]

    def __init__(self, how: Synthesis, pixels: Bytes, rare: Bytes, out: Path | None = None) -> None:
        seed_all(how.seed)
        self.how, self.phases = how, (pixels, rare)
        generator, critic = self.new_networks()
        steps = how.iterations + how.rare_iterations
        plan = Plan(
            iterations=steps,
            learning_rate=self.RATE,
            warm_up=0.0,
            validate_every=0,
            ema=AVERAGE,
            betas=self.BETAS,
        )
        super().__init__(out, how.model_dump_json(), plan, generator)
        if self.options.accumulate > 1 or self.options.precision not in ("auto", "fp32"):
            raise ExperimentError("generators train in fp32 and with one batch a step")
        self.critic = critic.to(self.device)
        self.against = self.new_optimiser(list(critic.parameters()))
        self.drawn: list[Tensor] = []

    def new_networks(self) -> tuple[nn.Module, nn.Module]:
        """New generator and critic, before their first step."""
        raise NotImplementedError

    def learn(self, images: Tensor, done: float) -> float:
        """Do a training step on real images ``[B, 1, side, side]``, −1 to 1; ``done``: share of the phase, 0
        to 1.
        """
        raise NotImplementedError

    def made(self, latent: Tensor) -> Tensor:
        """Images ``[count, 1, side, side]``, −1 to 1, that the averaged generator makes of ``latent [count,
        latent]``.
        """
        raise NotImplementedError

    def examples(self) -> _RealBatches:
        return _RealBatches(self.how, self.phases)

    def new_optimiser(self, parameters: list[nn.Parameter]) -> Optimizer:
        return Adam(parameters, self.RATE, self.BETAS)

    def new_schedule(self, optimiser: Optimizer) -> LRScheduler:
        return ConstantLR(optimiser, factor=1.0)

    def step(self, batches: Iterator[Tensor]) -> float:
        images = self.fabric.to_device(next(batches))
        loss = self.learn(images, min(1.0, self.done / self.how.iterations))
        move_average(self.average, self.network, self.done + 1, AVERAGE)
        return loss

    def validation_due(self) -> bool:
        return self.done in (self.how.iterations, self.plan.iterations)

    def validate(self) -> Validation:
        phase = int(self.done > self.how.iterations)
        self.drawn.append(self._drawn(phase))
        return Validation({"iteration": self.done}, f"phase {phase + 1}", self.average.state_dict())

    def latent(self, count: int) -> Tensor:
        """Random numbers for ``count`` images."""
        return torch.randn(count, self.how.latent).to(self.device)

    def _drawn(self, phase: int) -> Tensor:
        random = torch.Generator().manual_seed(self.how.seed * 1000 + phase)
        parts = []
        for start in range(0, self.how.images, AT_ONCE):
            count = min(AT_ONCE, self.how.images - start)
            latent = torch.randn(count, self.how.latent, generator=random).to(self.device)
            with torch.no_grad():
                parts.append(self.made(latent))
        return ((torch.cat(parts)[:, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class DcganMaker(Maker):
    """The training of DCGAN, with its non-saturating loss."""

    RATE, BETAS = 2e-4, (0.5, 0.999)

    def new_networks(self) -> tuple[nn.Module, nn.Module]:
        how = self.how
        return dcgan_generator(how.latent, how.width, how.side), dcgan_critic(how.width, how.side)

    def learn(self, images: Tensor, done: float) -> float:  # noqa: ARG002 - nothing grows
        made = self.network(self.latent(len(images))[:, :, None, None])
        real, false = self.critic(images), self.critic(made.detach())
        loss = _cross_entropy(real, 1.0) + _cross_entropy(false, 0.0)
        self.descend(self.against, loss)
        self.descend(self.optimiser, _cross_entropy(self.critic(made), 1.0))
        return float(loss.detach())

    def made(self, latent: Tensor) -> Tensor:
        made: Tensor = self.average.eval()(latent[:, :, None, None])
        return made


class GrowingMaker(Maker):
    """The training of PGGAN with WGAN-GP. In the first phase each stage fades in over the first half of its
    steps.
    """

    RATE, BETAS = 1e-3, (0.0, 0.99)

    def new_networks(self) -> tuple[nn.Module, nn.Module]:
        how = self.how
        self.last = doublings(how.side)
        widths = tuple(max(how.width, how.widest >> max(0, k - 2)) for k in range(self.last + 1))
        return GrowingGenerator(how.latent, widths), GrowingCritic(widths)

    def learn(self, images: Tensor, done: float) -> float:
        stage, fade = stage_at(done, self.last)
        real = _faded(avg_pool2d(images, 1 << (self.last - stage)), stage, fade)
        made = self.network(self.latent(len(images)), stage, fade)
        critic = self.critic
        scores = critic(real, stage, fade)
        loss = critic(made.detach(), stage, fade).mean() - scores.mean() + DRIFT * scores.square().mean()
        loss = loss + PENALTY * self._steepness(real, made.detach(), stage, fade)
        self.descend(self.against, loss)
        self.descend(self.optimiser, -critic(made, stage, fade).mean())
        return float(loss.detach())

    def made(self, latent: Tensor) -> Tensor:
        made: Tensor = self.average(latent, self.last)
        return made

    def _steepness(self, real: Tensor, made: Tensor, stage: int, fade: float) -> Tensor:
        """How far the critic's slope between real and made images is from 1, squared."""
        share = torch.rand(len(real), 1, 1, 1).to(self.device)
        between = real.lerp(made, share).requires_grad_()
        score = self.critic(between, stage, fade).sum()
        (slope,) = torch.autograd.grad(score, between, create_graph=True)
        penalty: Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty


MAKERS: Mapping[str, type[Maker]] = {"dcgan": DcganMaker, "pggan": GrowingMaker}


def stage_at(done: float, last: int) -> tuple[int, float]:
    """The number of the stage (0 to ``last``) that trains after a share ``done`` (0 to 1) of all steps.

    Also returns how far that stage is faded in, 0 to 1.
    """
    place = min(done, 1.0) * (last + 1)
    stage = min(int(place), last)
    return stage, min(1.0, 2 * (place - stage)) if stage else 1.0


def _faded(images: Tensor, stage: int, fade: float) -> Tensor:
    """Real images as sharp as what is generated while a stage fades in."""
    if not stage or fade >= 1:
        return images
    blurred = nn.functional.interpolate(avg_pool2d(images, 2), scale_factor=2.0)
    return blurred.lerp(images, fade)


def _cross_entropy(scores: Tensor, real: float) -> Tensor:
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, real))
