"""Two segmenters trained from scratch: SegNet, which remembers the place of each maximum, and a plain U-Net.

Both take float32 ``[N, 1, rows, columns]`` and return logits ``[N, classes, rows, columns]``; rows and
columns are multiples of two to the power of the number of widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, max_unpool2d

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
