"""The classifier: a small trunk with a mask of the lesion, and the ensemble that ships."""

from collections.abc import Sequence
from typing import Self, cast

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ai_training.backbones import TimmBackbone
from ai_training.networks import NAME

EVERY = 100
"""Frozen blocks that are all of a network."""


class LiteTrunk(nn.Module):
    """The backbone EfficientNet-Lite0 without its classifier: ``[N, 3, size, size]`` → feature maps ``[N, C,
    h, w]``. The first layer and the first ``frozen`` blocks do not learn, with :data:`EVERY` nothing does.
    """

    def __init__(self, size: int, frozen: int) -> None:
        """``size``: side of the input in pixels."""
        super().__init__()
        self.network = EfficientNet.from_name(NAME, image_size=size)
        self.channels = int(self.network._fc.in_features)
        self.network._fc = nn.Identity()
        self.frozen = frozen
        self._kept = [self.network._conv_stem, self.network._bn0, *self.network._blocks[:frozen]]
        self._kept += [self.network._conv_head, self.network._bn1] if frozen >= EVERY else []
        for part in self._kept:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen layers stay in evaluation mode."""
        super().train(mode)
        for part in self._kept:
            part.eval()
        return self

    def frozen_layers(self, images: Tensor) -> Tensor:
        """The feature maps after the frozen blocks of the network, which are not trained."""
        net = self.network
        with torch.no_grad():
            x = net._swish(net._bn0(net._conv_stem(images)))
            for block in net._blocks[: self.frozen]:
                x = block(x)
        return cast(Tensor, x)

    def trained_layers(self, x: Tensor) -> Tensor:
        """The last feature maps, from the output ``x`` of :meth:`frozen_layers`."""
        net = self.network
        for index, block in enumerate(net._blocks[self.frozen :], start=self.frozen):
            x = block(x, drop_connect_rate=0.2 * index / len(net._blocks))
        return cast(Tensor, net._swish(net._bn1(net._conv_head(x))))


class TimmTrunk(nn.Module):
    """A network of timm as trunk, of which all (``frozen``) or nothing keeps its weights."""

    def __init__(self, name: str, size: int, *, frozen: bool) -> None:
        """``name``: timm's; ``size``: side of the input in pixels. Raises CannotAdapt."""
        super().__init__()
        self.network = TimmBackbone(name, size)
        self.channels = self.network.channels[-1]
        self.frozen = frozen
        self.network.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen network stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def frozen_layers(self, images: Tensor) -> Tensor:
        """The feature maps if all is frozen, else the grey picture: its three channels are the same."""
        if not self.frozen:
            return images[:, :1]
        with torch.no_grad():
            return cast(Tensor, self.network(images)[-1])

    def trained_layers(self, x: Tensor) -> Tensor:
        """The feature maps, from the output ``x`` of :meth:`frozen_layers`."""
        return x if self.frozen else cast(Tensor, self.network(x.expand(-1, 3, -1, -1))[-1])


class CystClassifier(nn.Module):
    """The classifier of ovarian frames: backbone, mean over its feature maps, linear layer. It returns
    ``logits [N, labels]`` and ``features [N, C, h, w]``.
    """

    def __init__(self, trunk: LiteTrunk | TimmTrunk, labels: int, dropout: float = 0.3) -> None:
        """``labels``: the number of classes."""
        super().__init__()
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(trunk.channels, labels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features of ``images``."""
        return self.trained_layers(self.trunk.frozen_layers(images))

    def trained_layers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output of ``forward``, from the output ``x`` of the frozen layers."""
        features = self.trunk.trained_layers(x)
        return self.head(self.dropout(features.mean((2, 3)))), features


class CystEnsemble(nn.Module):
    """Mean of networks that share their frozen layers, each run on the picture and its mirror image.

    Takes images ``[N, 3, size, size]``. Returns ``logits [N, labels]``; ``features [N, C, h, w]`` of the
    first network; ``places [N, labels, h, w]``, the class activation map of each label (Zhou et al., CVPR
    2016), whose mean is the logit without its bias. Maps of mirror images are flipped back first.
    """

    def __init__(self, networks: Sequence[CystClassifier]) -> None:
        """Join the trained ``networks``."""
        super().__init__()
        self.networks = tuple(networks)
        self.parts = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, features and places of ``images``."""
        return self.trained_layers(self.frozen_layers(images), self.frozen_layers(images.flip(3)))

    def frozen_layers(self, images: Tensor) -> Tensor:
        """The output of the frozen layers, which all networks share."""
        return self.networks[0].trunk.frozen_layers(images)

    def trained_layers(self, upright: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of ``forward``, from the outputs of :meth:`frozen_layers` for images (``upright``) and
        for their mirror images.
        """
        seen, count = torch.cat([upright, mirrored]), upright.shape[0]  # not len(): it may be symbolic
        found = [network.trained_layers(seen) for network in self.networks]
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
