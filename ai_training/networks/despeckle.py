"""Networks that reduce speckle: the published autoencoder, and a small residual one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, pixel_shuffle, pixel_unshuffle

STEP = 4
"""Rows and columns of an input are multiples of this."""


class DiConvAutoencoder(nn.Module):
    """DiConvAE: four dilated convolutions, and the same mirrored; ``[N, 1, rows, columns]`` 0..1 both ways.

    Batch norm, dropout and ReLU behind each, a sigmoid at the end. Channels, dilations and the places of the
    two reductions by two are not published: these are ours.
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
    """At each pixel a mixture of the picture and of Gaussian blurs of it, and a residual; ``[N, 1, rows,
    columns]`` 0..1 both ways.

    What mixes sees the picture folded to half its size, which quarters the work of each layer. From blurs a
    short training gets far; the residual is what they cannot say.
    """

    DILATIONS = (1, 2, 4, 2)
    BLURS = (0.6, 1.0, 1.6, 2.6, 4.2)
    """Standard deviations in pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4, width, 3, padding=1), nn.ReLU(inplace=True)]
        for reach in self.DILATIONS:
            layers += [nn.Conv2d(width, width, 3, padding=reach, dilation=reach), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, 4 * (len(self.BLURS) + 2), 3, padding=1)
        for number, spread in enumerate(self.BLURS):
            reach = int(2.5 * spread + 0.5)
            line = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * spread**2))
            self.register_buffer(f"blur{number}", line / line.sum(), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        maps = pixel_shuffle(self.head(self.layers(pixel_unshuffle(pictures, 2))), 2).float()
        shares = torch.softmax(maps[:, :-1], 1)
        blurred = [pictures, *(self._blurred(pictures, number) for number in range(len(self.BLURS)))]
        return (shares * torch.cat(blurred, 1)).sum(1, keepdim=True) + 0.1 * maps[:, -1:]

    def _blurred(self, pictures: Tensor, number: int) -> Tensor:
        line: Tensor = getattr(self, f"blur{number}")
        reach = len(line) // 2
        padded = pad(pictures, (reach, reach, reach, reach), "replicate")
        return conv2d(conv2d(padded, line[None, None, None]), line[None, None, :, None]).float()


class DespecklerGraph(nn.Module):
    """What is exported: ``despeckled [N, 1, rows, columns]``, 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        made: Tensor = self.network(pictures)
        return made.clamp(0, 1)


NETWORKS = {"diconvae": DiConvAutoencoder, "residual": ResidualDespeckler}


def _step(layer: nn.Module, channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Dropout2d(dropout))
