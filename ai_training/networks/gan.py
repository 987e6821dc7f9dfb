"""Generators and critics of chest X-rays: DCGAN and PGGAN. Grey images −1 to 1, ``[N, 1, side, side]``.

DCGAN: Radford et al., ICLR 2016. PGGAN: Karras et al., ICLR 2018: progressive growing, equalised learning
rate, pixel normalisation, standard deviation over the minibatch.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

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
