"""Synthetic chest X-rays of a rare label by DCGAN and PGGAN: made once, judged, kept."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate, leaky_relu
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler
from torch.utils.data import Dataset

from ai_pipeline.models.registry import normalise
from ai_training.base import ExperimentError, Report, silent
from ai_training.chest.experiment import ExperimentPart
from ai_training.engine import Plan, TrainingRun, Validation, move_average, seed_all
from ai_training.metrics import SEED, Interval, interval
from ai_training.networks import MEAN, SCALE, SIDE, Perception

SMALLEST = 4  # pixels a side where generation begins
SLOPE = 0.2


def doublings(side: int) -> int:
    """The number of doublings from 4 pixels to ``side``. Raises ValueError unless ``side`` is a power of two,
    8 to 1024.
    """
    times = side.bit_length() - 3
    if not 1 <= times <= 8 or SMALLEST << times != side:
        raise ValueError(f"side {side}: a power of two from 8 to 1024")
    return times


class Equalised(nn.Module):
    """A convolution whose weights are drawn from N(0, 1) and scaled by He's constant in the forward pass."""

    def __init__(self, channels: int, made: int, kernel: int, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, made, kernel, padding=kernel // 2)
        nn.init.normal_(self.convolution.weight)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]
        self.scale = gain / math.sqrt(channels * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.convolution
        return nn.functional.conv2d(x, conv.weight * self.scale, conv.bias, padding=conv.padding)


class Pair(nn.Module):
    """Two convolutions of 3 × 3, ``between`` channels after the first, each followed by a leaky ReLU."""

    def __init__(self, channels: int, between: int, made: int, *, normed: bool) -> None:
        super().__init__()
        self.one, self.other = Equalised(channels, between, 3), Equalised(between, made, 3)
        self.normed = normed

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.one, self.other):
            x = leaky_relu(layer(x), SLOPE)
            x = pixel_norm(x) if self.normed else x
        return x


def pixel_norm(x: Tensor) -> Tensor:
    """``x`` with each pixel's feature vector scaled to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def with_deviation(x: Tensor) -> Tensor:
    """``x`` with one more channel: the mean standard deviation over the minibatch, the same at
    every pixel.
    """
    deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
    return torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], 1)


class GrowingGenerator(nn.Module):
    """PGGAN's generator: ``latent [N, latent]`` → images at the side of ``stage`` (0: 4 pixels, 1: 8, …).

    ``fade`` 0 to 1: how much of the newest layers is in the image. ``widths``: channels of each stage.
    """

    def __init__(self, latent: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.first = Equalised(latent, widths[0] * SMALLEST**2, 1, gain=math.sqrt(2) / SMALLEST)
        inner = zip(widths[:1] + widths[:-1], widths, strict=True)
        self.blocks = nn.ModuleList(Pair(before, made, made, normed=True) for before, made in inner)
        self.images = nn.ModuleList(Equalised(width, 1, 1, gain=1.0) for width in widths)

    def forward(self, latent: Tensor, stage: int, fade: float = 1.0) -> Tensor:
        x = self.first(pixel_norm(latent)[:, :, None, None]).view(len(latent), -1, SMALLEST, SMALLEST)
        below = x
        for number, block in enumerate(self.blocks[: stage + 1]):
            below = x
            x = interpolate(x, scale_factor=2.0) if number else x
            x = block(x)
        made: Tensor = self.images[stage](x)
        if stage and fade < 1:
            old = interpolate(self.images[stage - 1](below), scale_factor=2.0)
            made = old.lerp(made, fade)
        return made


class GrowingCritic(nn.Module):
    """PGGAN's critic, the mirror of :class:`GrowingGenerator`: images → scores ``[N]``."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.images = nn.ModuleList(Equalised(1, width, 1) for width in widths)
        outer = zip(widths[1:], widths[:-1], strict=True)
        self.blocks = nn.ModuleList(Pair(width, width, below, normed=False) for width, below in outer)
        self.last = Equalised(widths[0] + 1, widths[0], 3)
        self.score = nn.Linear(widths[0] * SMALLEST**2, 1)

    def forward(self, images: Tensor, stage: int, fade: float = 1.0) -> Tensor:
        x = leaky_relu(self.images[stage](images), SLOPE)
        for number in range(stage, 0, -1):
            x = avg_pool2d(self.blocks[number - 1](x), 2)
            if number == stage and fade < 1:
                old = leaky_relu(self.images[stage - 1](avg_pool2d(images, 2)), SLOPE)
                x = old.lerp(x, fade)
        x = leaky_relu(self.last(with_deviation(x)), SLOPE)
        scores: Tensor = self.score(x.flatten(1))
        return scores[:, 0]


def dcgan_generator(latent: int, width: int, side: int) -> nn.Sequential:
    """DCGAN's generator: ``latent [N, latent, 1, 1]`` → images; ``width``: channels before the last layer."""
    times = doublings(side)
    widths = [width << (times - 1 - k) for k in range(times)]
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], SMALLEST, bias=False)]
    for before, made in pairwise(widths):
        layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, made, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Tanh()]
    return _drawn_small(nn.Sequential(*layers))


def dcgan_critic(width: int, side: int) -> nn.Sequential:
    """DCGAN's critic: images → scores ``[N, 1, 1, 1]``, log-odds of being real."""
    times = doublings(side)
    layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
    for number in range(times - 1):
        before, made = width << number, width << (number + 1)
        layers += [nn.Conv2d(before, made, 4, 2, 1, bias=False), nn.BatchNorm2d(made), nn.LeakyReLU(SLOPE)]
    layers.append(nn.Conv2d(width << (times - 1), 1, SMALLEST))
    return _drawn_small(nn.Sequential(*layers))


def _drawn_small(network: nn.Sequential) -> nn.Sequential:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
    return network


Steps = Annotated[int, Field(gt=0)]


class Synthesis(ExperimentPart):
    """Settings for training generators that make images with the finding ``label``.

    ``kinds``: the architectures. ``side``: size of the images in pixels. A generator is trained for
    ``iterations`` on all images of the train split, then for ``rare_iterations`` on images with the label.
    ``width``: number of channels at full size; ``widest``: channels of PGGAN at 4 to 16 pixels. ``images``:
    how many images are drawn in the end.
    """

    label: str
    kinds: tuple[Literal["dcgan", "pggan"], ...] = ("dcgan", "pggan")
    side: int = 64
    latent: Steps = 64
    width: Steps = 16
    widest: Steps = 64
    batch: Annotated[int, Field(gt=1)] = 16
    iterations: Steps = 800
    rare_iterations: Steps = 200
    images: Annotated[int, Field(gt=1)] = 300
    seed: int = 1

    @field_validator("side")
    @classmethod
    def _doubled(cls, side: int) -> int:
        doublings(side)
        return side

    def toy(self) -> "Synthesis":
        """The same recipe reduced for tests: two steps, a few images of 16 pixels."""
        small = {"side": 16, "iterations": 2, "rare_iterations": 1, "images": 4, "batch": 4, "widest": 16}
        return self.model_copy(update=small)


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
        if self.options.precision not in ("auto", "fp32"):
            raise ExperimentError("generators train in fp32")
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


SUBSETS = 200
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Judged:
    """The quality of synthetic images. ``kid``, ``fid``: of synthetic against held-out real images;
    ``floor``, ``fid_floor``: of real training images, as many as are held out. Both FIDs take equal numbers.

    ``nearer_training``: share of the synthetic images whose nearest real image is a training image rather
    than one of as many held-out images; one half if nothing was copied. ``real_nearer_training``: the same
    for other real images.
    """

    kid: Interval
    floor: Interval
    fid: float
    fid_floor: float
    nearer_training: Interval
    real_nearer_training: Interval


def judge(made: Bytes, training: Bytes, held_out: Bytes) -> Judged:
    """Judge ``made [N, side, side]`` by the real images of the training and by held-out images of other
    patients.
    """
    network = Perception()
    random = np.random.default_rng(SEED)
    held_out, training = (random.permutation(part) for part in (held_out, training))
    half = len(held_out) // 2
    asked, compared = held_out[:half], held_out[half:]
    synthetic, learned, kept, others = (
        features(network, part) for part in (made, training[: len(compared)], compared, asked)
    )
    many = min(map(len, (synthetic, learned, kept)))
    return Judged(
        kid_interval(synthetic, kept),
        kid_interval(learned, kept),
        fid(synthetic[:many], kept[:many]),
        fid(learned[:many], kept[:many]),
        nearer(synthetic, learned, kept),
        nearer(others, learned, kept),
    )


def features(network: Perception, pixels: Bytes) -> Floats:
    """Features ``[N, 1280]`` of the images ``pixels [N, side, side]``, resized to 128 × 128 pixels."""
    parts = []
    for start in range(0, len(pixels), AT_ONCE):
        sized = [cv2.resize(image, (SIDE, SIDE)) for image in pixels[start : start + AT_ONCE]]
        with torch.inference_mode():
            inputs = torch.from_numpy(normalise(np.stack(sized).astype(np.uint8), MEAN, SCALE))
            parts.append(network.pooled(inputs).numpy())
    return np.concatenate(parts)


def kid(one: Floats, other: Floats) -> float:
    """KID of features ``[N, d]`` and ``[M, d]``: the unbiased squared MMD with the kernel (x·y / d + 1)³
    (Binkowski et al., ICLR 2018); about 0 if both are alike.
    """
    within = [_without_diagonal(polynomial_kernel(part.astype(np.float64))) for part in (one, other)]
    return float(sum(within) - 2 * polynomial_kernel(one.astype(np.float64), other).mean())


def fid(one: Floats, other: Floats) -> float:
    """FID of features ``[N, d]`` and ``[M, d]``: the squared Fréchet distance of two normal distributions
    (Heusel et al., NeurIPS 2017). Few images make it too large: compare equal numbers only.
    """
    mean, other_mean = (part.mean(0, dtype=np.float64) for part in (one, other))
    # A covariance is root.T @ root; the trace of the root of their product is a sum of singular values.
    root, other_root = (
        (one - mean) / math.sqrt(len(one) - 1),
        (other - other_mean) / math.sqrt(len(other) - 1),
    )
    spread = np.square(root).sum() + np.square(other_root).sum()
    shared = np.linalg.norm(root @ other_root.T, "nuc")
    return float(np.square(mean - other_mean).sum() + spread - 2 * shared)


def kid_interval(one: Floats, other: Floats) -> Interval:
    """:func:`kid` with a 95 % interval from random halves of both sets, which spread like the whole sets."""
    random = np.random.default_rng(SEED)
    drawn = [
        kid(*(part[random.permutation(len(part))[: max(2, len(part) // 2)]] for part in (one, other)))
        for _ in range(SUBSETS)
    ]
    return interval(kid(one, other), np.array(drawn))


def nearer(asked: Floats, one: Floats, other: Floats) -> Interval:
    """Share of ``asked`` whose nearest neighbour in ``one`` is nearer than that in ``other``, of equal
    numbers.
    """
    many = min(len(one), len(other))
    to_one, to_other = (pairwise_distances(asked, part[:many]).min(1) for part in (one, other))
    hits = (to_one < to_other).astype(np.float64)
    random = np.random.default_rng(SEED)
    drawn = hits[random.integers(len(hits), size=(1000, len(hits)))].mean(1)
    return interval(float(hits.mean()), drawn)


def _without_diagonal(kernel: Floats) -> float:
    size = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (size * (size - 1)))


Called = npt.NDArray[np.bool_]
ROW, ROWS = 10, 3  # pictures of a sheet


@dataclass(frozen=True, slots=True, eq=False)
class RealImages:
    """Real images ``pixels [N, side, side]``; for each whether it is learned from, held out, and has the
    label: ``[N]``.
    """

    pixels: Bytes
    learned: Called
    held_out: Called
    labelled: Called


def synthesise(how: Synthesis, source: RealImages, out: Path, report: Report = silent) -> Mapping[str, Bytes]:
    """Make synthetic images with the label, ``[images, side, side]`` for each kind of generator.

    Writes ``synthetic-KIND.npz`` (kept if made by the same recipe), ``synthetic-KIND.png`` (a random sheet:
    real images above, then of any finding, then of the label) and ``synthetic.json`` (how good they are).
    """
    small = [cv2.resize(image, (how.side, how.side), interpolation=cv2.INTER_AREA) for image in source.pixels]
    real = np.stack(small).astype(np.uint8)
    images: dict[str, Bytes] = {}
    judged: dict[str, dict[str, Judged]] = {}
    for kind in how.kinds:
        made = _made(how, kind, real, source, out, report)
        images[kind] = made.of_label
        judged[kind] = {
            "any finding": judge(made.of_all, real[source.learned], real[source.held_out]),
            how.label: judge(
                made.of_label,
                real[source.learned & source.labelled],
                real[source.held_out & source.labelled],
            ),
        }
        _sheet(out / f"synthetic-{kind}.png", (real[source.learned], made.of_all, made.of_label))
    figures = {kind: {name: asdict(one) for name, one in of.items()} for kind, of in judged.items()}
    (out / "synthetic.json").write_text(json.dumps(figures, indent=1))
    return images


def _made(
    how: Synthesis, kind: str, real: Bytes, source: RealImages, out: Path, report: Report
) -> MadeImages:
    stored, recipe = out / f"synthetic-{kind}.npz", how.model_dump_json()
    if stored.is_file():
        with np.load(stored, allow_pickle=False) as found:
            if str(found["recipe"]) == recipe:
                return MadeImages(found["of_all"], found["of_label"])
    rare = real[source.learned & source.labelled]
    made = make_images(how, kind, real[source.learned], rare, out / f"synthetic-{kind}", report)
    np.savez(stored, allow_pickle=False, recipe=recipe, of_all=made.of_all, of_label=made.of_label)
    return made


def _sheet(path: Path, parts: tuple[Bytes, ...]) -> None:
    rows = []
    for part in parts:
        picked = np.random.default_rng(0).permutation(len(part))[: ROW * ROWS]
        filled = np.resize(picked, (ROWS, ROW))
        rows += [np.concatenate(list(part[row]), axis=1) for row in filled]
    cv2.imwrite(str(path), np.concatenate(rows))
