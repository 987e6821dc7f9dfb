"""The classifier of ovarian frames, on any backbone; the first blocks of EfficientNet-Lite0 may be frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ai_pipeline.networks.efficientnet import NAME
from ai_training.networks.pyramids import Pyramid, fill_backbone, pyramid
from ai_training.networks.start import DEFAULT_START, StartWeights

DROP_CONNECT = 0.2
"""Share of the last block's residual branches that are left out in training."""


class LiteTrunk(nn.Module):
    """EfficientNet-Lite0 without its head: ``[N, 3, size, size]`` → feature maps ``[N, C, h, w]``.

    The stem and the first ``frozen`` blocks keep their weights and statistics (0: every layer learns).
    """

    def __init__(self, size: int, frozen: int) -> None:
        super().__init__()
        self.network = EfficientNet.from_name(NAME, image_size=size)
        self.channels = int(self.network._fc.in_features)
        self.network._fc = nn.Identity()
        self.frozen = frozen
        for part in self._kept():
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._kept():
            part.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.upper(self.lower(images))

    def lower(self, images: Tensor) -> Tensor:
        """The output of the frozen layers; the images themselves if no layer is frozen."""
        if not self.frozen:
            return images
        with torch.no_grad():
            x = self._stem(images)
            for block in self.network._blocks[: self.frozen]:
                x = block(x)
        return x

    def upper(self, x: Tensor) -> Tensor:
        """The feature maps from the output of :meth:`lower`."""
        net = self.network
        x = x if self.frozen else self._stem(x)
        for index, block in enumerate(net._blocks[self.frozen :], start=self.frozen):
            x = block(x, drop_connect_rate=DROP_CONNECT * index / len(net._blocks))
        maps: Tensor = net._swish(net._bn1(net._conv_head(x)))
        return maps

    def _stem(self, images: Tensor) -> Tensor:
        net = self.network
        made: Tensor = net._swish(net._bn0(net._conv_stem(images)))
        return made

    def _kept(self) -> list[nn.Module]:
        net = self.network
        return [net._conv_stem, net._bn0, *net._blocks[: self.frozen]] if self.frozen else []


class PyramidTrunk(nn.Module):
    """Any other backbone, such as ``convnext_atto``; all of its layers learn."""

    frozen = 0

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.network, self.channels = pyramid, pyramid.channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.upper(images)

    def lower(self, images: Tensor) -> Tensor:
        """The images themselves, as no layer is frozen."""
        return images

    def upper(self, x: Tensor) -> Tensor:
        """The feature maps of images."""
        maps: Tensor = self.network(x)[-1]
        return maps


class CystClassifier(nn.Module):
    """Trunk, mean over its feature maps, linear head: ``logits [N, labels]``, ``features [N, C, h, w]``."""

    def __init__(self, trunk: LiteTrunk | PyramidTrunk, labels: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(trunk.channels, labels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.upper(self.trunk.lower(images))

    def upper(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of ``forward``, from the output of the trunk's ``lower``."""
        features = self.trunk.upper(x)
        return self.head(self.dropout(features.mean((2, 3)))), features


class CystEnsemble(nn.Module):
    """Mean of networks that share their frozen layers, each run on the picture and its mirror image.

    Takes images ``[N, 3, size, size]``. Returns ``logits [N, labels]``; ``features [N, C, h, w]`` of the
    first network; ``places [N, labels, h, w]``, the class activation map of each label (Zhou et al., CVPR
    2016), whose mean is the logit without its bias. Maps of mirror images are flipped back first.
    """

    def __init__(self, networks: Sequence[CystClassifier]) -> None:
        super().__init__()
        self.networks = tuple(networks)
        self.parts = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.upper(self.lower(images), self.lower(images.flip(3)))

    def lower(self, images: Tensor) -> Tensor:
        """The output of the frozen layers."""
        return self.networks[0].trunk.lower(images)

    def upper(self, upright: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of ``forward``, from the outputs of :meth:`lower` for images and for their mirror
        images.
        """
        seen, count = torch.cat([upright, mirrored]), upright.shape[0]  # not len(): it may be symbolic
        found = [network.upper(seen) for network in self.networks]
        logits = torch.stack([one for one, _ in found]).mean(0)
        places = torch.stack(
            [
                nn.functional.conv2d(maps, network.head.weight[:, :, None, None])
                for network, (_, maps) in zip(self.networks, found, strict=True)
            ]
        ).mean(0)
        of_both = (found[0][1], places)
        features, places = ((one[:count] + one[count:].flip(3)) / 2 for one in of_both)
        return (logits[:count] + logits[count:]) / 2, features, places


def cyst_classifier(
    architecture: str, size: int, frozen: int, labels: int, start: StartWeights = DEFAULT_START
) -> CystClassifier:
    """A classifier on ``architecture``: :data:`NAME` with ``frozen`` blocks, or another backbone
    (:func:`ai_training.networks.pyramids.unfilled`). Raises ExperimentError, DataMissing.
    """
    if architecture != NAME:
        return CystClassifier(PyramidTrunk(pyramid(architecture, start, size, size)), labels)
    trunk = LiteTrunk(size, frozen)
    if (path := start.path(NAME)) is not None:
        fill_backbone(trunk.network, path, NAME)
    return CystClassifier(trunk, labels)
