"""The networks of the chest classifier, by backbone, and the weights that they start from."""

from __future__ import annotations

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from ai_pipeline.networks.efficientnet import NAME, PlacedClassifier, PlacedNetwork
from ai_training.networks.pyramids import Pyramid, fill_backbone, unfilled
from ai_training.networks.start import IMAGENET, StartWeights

BESIDE = (8, 16)
"""Strides of the maps that the place head reads, where a backbone has them."""


class PyramidClassifier(PlacedNetwork):
    """:class:`PlacedNetwork` on any backbone."""

    def __init__(self, backbone: Pyramid, labels: int, size: int, dropout: float) -> None:
        last = len(backbone.strides) - 1
        beside = [index for index, stride in enumerate(backbone.strides) if stride in BESIDE] or [last]
        channels = sum(backbone.channels[index] for index in beside)
        super().__init__(backbone, backbone.channels[-1], channels, labels, size, dropout)
        self.beside = beside

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(images)
        return maps[-1], torch.cat([_on_grid(maps[index], self.cells) for index in self.beside], 1)


def _on_grid(maps: Tensor, cells: int) -> Tensor:
    """``maps`` of any stride as ``[N, C, cells, cells]``."""
    side = maps.shape[2]
    if side % cells == 0:
        return avg_pool2d(maps, side // cells)
    return interpolate(maps, size=(cells, cells), mode="bilinear", align_corners=False)


def unfilled_classifier(backbone: str, labels: int, size: int, dropout: float = 0.3) -> PlacedNetwork:
    """A chest classifier on ``backbone`` with random weights. Raises ExperimentError."""
    if backbone == NAME:
        return PlacedClassifier(labels, size, dropout)
    return PyramidClassifier(unfilled(backbone, size, size), labels, size, dropout)


def classifier(
    backbone: str, start: StartWeights, labels: int, size: int, dropout: float = 0.3
) -> PlacedNetwork:
    """:func:`unfilled_classifier`, filled with the weights that its backbone starts from.

    Raises ExperimentError, DataMissing.
    """
    network = unfilled_classifier(backbone, labels, size, dropout)
    if (path := start.path(backbone)) is not None:
        fill_backbone(network.backbone, path, backbone)
    return network


def pretrained_on_imagenet(labels: int, size: int, dropout: float = 0.3) -> PlacedNetwork:
    """A classifier on EfficientNet-Lite0 with its package's ImageNet weights (Apache-2.0)."""
    return classifier(NAME, StartWeights(IMAGENET), labels, size, dropout)


def set_drop_connect(network: PlacedNetwork, rate: float) -> None:
    """Drop residual branches of EfficientNet-Lite0 at random in training: a share ``rate`` (0 to 1) of the
    last block's, less in earlier blocks. Other backbones are not changed.
    """
    if isinstance(network, PlacedClassifier):
        backbone = network.backbone
        backbone._global_params = backbone._global_params._replace(drop_connect_rate=rate)


class FeatureMaps(nn.Module):
    """An EfficientNet-Lite (``efficientnet-lite2``) without its head: it returns the last feature maps of
    images.

    ``checkpoint``: ImageNet weights; ``side`` of the input in pixels.
    """

    def __init__(self, name: str, checkpoint: Path, side: int) -> None:
        super().__init__()
        self.backbone = EfficientNet.from_name(name, image_size=side)
        self.backbone._fc = nn.Identity()
        fill_backbone(self.backbone, checkpoint, name)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone.extract_features(images)
        return features
