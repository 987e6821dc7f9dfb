"""The frozen trunk that the box head reads, in torch: for fitting and for export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ai_pipeline.chest.boxes import PARTS
from ai_pipeline.chest.changes import Change, changed
from ai_pipeline.errors import CardError, NotThisNetwork
from ai_pipeline.models.card import Card
from ai_pipeline.models.preprocess import normalise, prepare
from ai_pipeline.networks.efficientnet import PlacedClassifier
from ai_training.calibrate import probabilities
from ai_training.detect.locating.locators import Floats
from ai_training.networks.classifier import torch_network
from ai_training.sets.files import read_grey

BATCH = 8
UNCHANGED = Change()


@dataclass(frozen=True, slots=True, eq=False)
class TrunkFeatures:
    """The classifier's features of N images: ``maps [N, C, h, w]`` of the middle layers with the class
    activation, and the calibrated ``chances [N, labels of the card]``.
    """

    maps: Floats
    chances: Floats


def trunk_of(card: Card) -> PlacedClassifier:
    """The classifier of ``card`` in torch. Raises CardError if this project cannot build it."""
    try:
        network = torch_network(card)
    except NotThisNetwork as error:
        raise CardError(str(error)) from error
    if not isinstance(network, PlacedClassifier):
        raise CardError(f"{card.name}: boxes are fitted to the layers of a {PlacedClassifier.__name__}")
    return network


def read_images(
    card: Card, paths: Sequence[Path], report: Callable[[float, str], None], change: Change = UNCHANGED
) -> TrunkFeatures:
    """Run the classifier of ``card`` on images after a ``change``. Raises DataMissing if one
    cannot be read.
    """
    network, wanted = trunk_of(card), card.input
    assert wanted is not None
    maps: list[Floats] = []
    logits: list[Floats] = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            squares = [
                prepare(read_grey(p), wanted.chain, wanted.size)[0] for p in paths[start : start + BATCH]
            ]
            values = normalise(np.stack(squares), wanted.mean[0], wanted.scale[0])
            seen = np.stack([changed(one, change, wanted)[0] for one in values])
            features, middle = network.maps(torch.from_numpy(seen))
            maps.append(middle.numpy())
            logits.append(network.head(features.mean((2, 3))).numpy())
            report((start + len(squares)) / len(paths), "reading images")
    chances = probabilities(card.labels, np.concatenate(logits))
    return TrunkFeatures(np.concatenate(maps), chances.astype(np.float32))


class BoxNetwork(nn.Module):
    """Trunk and box head in one: ``images [N, 3, size, size]`` → ``parts [N, labels, 5, h, w]``."""

    def __init__(self, trunk: PlacedClassifier, weights: Floats, bias: Floats) -> None:
        super().__init__()
        self.trunk = trunk
        self.labels = weights.shape[0] // len(PARTS)
        self.layer = nn.Conv2d(weights.shape[1], weights.shape[0], 1, bias=False)
        self.layer.weight = nn.Parameter(torch.from_numpy(weights.copy())[:, :, None, None])
        self.bias = nn.Parameter(torch.from_numpy(bias.copy()))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layer(self.trunk.maps(images)[1]) + self.bias
        count, _, height, width = maps.shape
        return maps.reshape(count, self.labels, len(PARTS), height, width)
