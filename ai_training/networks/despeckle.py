"""Networks that reduce speckle: the published autoencoder, and a residual U-Net."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

STEP = 8
"""Rows and columns of an input are multiples of this."""
BLACK = 1 / 255
"""Added before logarithms: the smallest step of a picture."""


class DiConvAutoencoder(nn.Module):
    """DiConvAE: four dilated convolutions, and the same mirrored; input and output ``[N, 1, rows, columns]``
    0..1.

    Batch norm, dropout and ReLU follow each, a sigmoid the last. Channels, dilations and the places of the
    two reductions by two are not published: these are our choice.
    """

    CHANNELS = (32, 32, 64, 64)
    DILATIONS = (1, 2, 2, 4)
    STRIDES = (1, 2, 1, 2)

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        before = (1, *self.CHANNELS[:-1])
        layers = tuple(zip(before, self.CHANNELS, self.DILATIONS, self.STRIDES, strict=True))
        encoder = [
            _step(nn.Conv2d(first, second, 3, stride, reach, reach, bias=False), second, dropout)
            for first, second, reach, stride in layers
        ]
        decoder = [
            _step(
                nn.ConvTranspose2d(second, max(first, 16), 3, stride, reach, stride - 1, 1, False, reach),
                max(first, 16),
                dropout,
            )
            for first, second, reach, stride in reversed(layers)
        ]
        self.layers = nn.Sequential(*encoder, *decoder, nn.Conv2d(16, 1, 3, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(pictures))


class ResidualDespeckler(nn.Module):
    """Predicts the correction that is added to a picture; input and output ``[N, 1, rows, columns]`` 0..1. It
    is not told the strength of the noise.

    A U-Net of residual blocks (B. Lim et al., CVPRW 2017) on the picture and its logarithm, in which speckle
    is a sum. Both are folded to half their size, which quarters the work of each layer (K. Zhang et al.,
    FFDNet, TIP 2018). Before training the output equals the input.
    """

    WIDTHS = (32, 48, 64)
    BLOCKS = 2
    """Convolutions of each level, on the way down and again on the way up."""

    def __init__(self) -> None:
        super().__init__()
        pairs = tuple(pairwise(self.WIDTHS))
        self.first = nn.Conv2d(8, self.WIDTHS[0], 3, padding=1)
        self.before = nn.ModuleList(self._blocks(width) for width in self.WIDTHS)
        self.smaller = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.larger = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in pairs)
        self.after = nn.ModuleList(self._blocks(width) for width in self.WIDTHS[:-1])
        self.last = nn.Conv2d(self.WIDTHS[0], 4, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor) -> Tensor:
        logarithm = 1 + torch.log(pictures.clamp(min=0) + BLACK) / -math.log(BLACK)
        values = self.first(pixel_unshuffle(torch.cat([pictures, logarithm], 1), 2))
        kept = []
        for blocks, smaller in zip(self.before, self.smaller, strict=False):
            kept.append(blocks(values))
            values = smaller(kept[-1])
        values = self.before[-1](values)
        for blocks, larger, fine in reversed(list(zip(self.after, self.larger, kept, strict=True))):
            values = blocks(larger(values) + fine)
        return pictures + pixel_shuffle(self.last(values).float(), 2)

    def _blocks(self, width: int) -> nn.Sequential:
        return nn.Sequential(*(_Block(width) for _ in range(self.BLOCKS)))


class _Block(nn.Module):
    """Two convolutions beside the values as they came."""

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)
        self.layers = nn.Sequential(*steps, nn.Conv2d(width, width, 3, padding=1))

    def forward(self, values: Tensor) -> Tensor:
        added: Tensor = self.layers(values)
        return values + added


class DespecklerGraph(nn.Module):
    """The exported graph: ``despeckled [N, 1, rows, columns]``, 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        made: Tensor = self.network(pictures)
        return made.clamp(0, 1)


NETWORKS = {"diconvae": DiConvAutoencoder, "residual": ResidualDespeckler}


def _step(layer: nn.Module, channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Dropout2d(dropout))
