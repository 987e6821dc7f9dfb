"""A U-Net on the finer maps of EfficientNet-Lite0: organs of a chest X-ray, the head of a fetus,
the lesion of an ovary.

The last blocks (stride 32) are left out: they hold two thirds of the weights, and outlines do not need them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import interpolate

from ai_training.cards import export
from ai_training.networks.backbones import HEADS, fill_from, imagenet_file
from ai_training.networks.efficientnet import NAME

ORGANS = ("heart", "right lung", "left lung")
"""In the order of the anatomy network's outputs; right and left are the patient's."""
SIDE = 320
"""Rows and columns of the anatomy network's input."""
SKIPS = {0: 16, 2: 24, 4: 40, 10: 112}
"""Block of EfficientNet-Lite0 → its channels, at strides 2, 4, 8 and 16."""
CONTEXT = 112
"""Channels at stride 16."""


class OutlineNetwork(nn.Module):
    """Outlines structures that may overlap. ``forward`` takes float32 ``[N, 3, rows, columns]`` (in
    EfficientNet-Lite's range; multiples of 32), and returns logits ``[N, outlines, rows, columns]``.
    """

    def __init__(self, outlines: int) -> None:
        super().__init__()
        trunk = EfficientNet.from_name(NAME, image_size=SIDE)
        self.stem, self.norm, self.act = trunk._conv_stem, trunk._bn0, trunk._swish
        self.blocks = nn.ModuleList(trunk._blocks[: max(SKIPS) + 1])
        # Dilated: each place sees the whole chest, which side is which among it.
        self.context = nn.Sequential(_block(SKIPS[10], CONTEXT, 2), _block(CONTEXT, CONTEXT, 4))
        below, blocks = CONTEXT, []
        for beside, width in ((SKIPS[4], 64), (SKIPS[2], 40), (SKIPS[0], 24)):
            blocks.append(_block(below + beside, width))
            below = width
        self.up = nn.ModuleList(blocks)
        self.head = nn.Conv2d(below, outlines, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.outline(*self.seen(images))

    def seen(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features ``[N, CONTEXT, rows / 16, columns / 16]``, and the maps at strides 2, 4 and 8."""
        x = self.act(self.norm(self.stem(images)))
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in SKIPS:
                skips.append(x)
        return self.context(skips.pop()), skips

    def outline(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """The logits from the two outputs of :meth:`seen`."""
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([_doubled(x), skip], 1))
        return _doubled(self.head(x))


def outline_network(outlines: int) -> OutlineNetwork:
    """The network with ImageNet weights in its trunk. Raises ExperimentError, DataMissing."""
    network = OutlineNetwork(outlines)
    with torch.random.fork_rng(devices=[]):  # what is built after this does not depend on the file
        trunk = EfficientNet.from_name(NAME, image_size=SIDE)
    fill_from(trunk, imagenet_file(NAME), NAME, HEADS)
    network.stem.load_state_dict(trunk._conv_stem.state_dict())
    network.norm.load_state_dict(trunk._bn0.state_dict())
    for own, theirs in zip(network.blocks, trunk._blocks, strict=False):
        own.load_state_dict(theirs.state_dict())
    return network


class Probabilities(nn.Module):
    """The exported graph: what the network returns, as probabilities 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.network(images)
        return tuple(map(torch.sigmoid, found)) if isinstance(found, tuple) else torch.sigmoid(found)


def export_outlines(
    graph: Probabilities, shape: tuple[int, int], outputs: Sequence[str], path: Path, batch: str = "variants"
) -> None:
    """Write ``graph``: input ``images [N, 3, *shape]``; ``batch``: the name of its free dimension."""
    export(graph, (torch.zeros(2, 3, *shape),), {"images": {0: Dim(batch, max=16)}}, outputs, path)


class HeadNetwork(nn.Module):
    """Outlines a fetal head and says whether there is one: ``forward`` returns logits ``[N, rows, columns]``
    and ``[N]``.
    """

    def __init__(self, outlines: OutlineNetwork | None = None) -> None:
        super().__init__()
        self.outlines = outlines or OutlineNetwork(1)
        self.present = nn.Linear(CONTEXT, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x, skips = self.outlines.seen(images)
        return self.outlines.outline(x, skips)[:, 0], self.present(x.mean((2, 3)))[:, 0]


def _doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _block(before: int, after: int, reach: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=reach, dilation=reach, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def less_dice(found: Tensor, truth: Tensor) -> Tensor:
    """One minus the Dice of each mask ``[…, rows, columns]`` 0..1: ``[…]``, 0 for equal masks."""
    common = (found * truth).sum((-2, -1))
    return 1 - (2 * common + 1) / (found.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
