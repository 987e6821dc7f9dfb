"""DenseNet (Huang et al., CVPR 2017) with the parameter names that torchvision and torchxrayvision save.

The classifier is linear on the mean over the last feature maps, so its weights on those maps are the class
activation (Zhou et al., CVPR 2016): each label's mean over them, plus the bias, is the logit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

OUTPUTS = ("logits", "features", "places")
BOTTLENECK = 4  # times the growth rate


@dataclass(frozen=True, slots=True)
class Shape:
    """``growth`` channels a layer, ``layers`` in each block, ``first`` channels after the stem."""

    growth: int
    layers: tuple[int, int, int, int]
    first: int


SHAPES = {
    "densenet121": Shape(32, (6, 12, 24, 16), 64),
    "densenet161": Shape(48, (6, 12, 36, 24), 96),
    "densenet169": Shape(32, (6, 12, 32, 32), 64),
    "densenet201": Shape(32, (6, 12, 48, 32), 64),
}


class DenseNet(nn.Module):
    """``forward`` takes float32 ``[N, channels, h, w]``; returns what ``OUTPUTS`` names.

    ``logits [N, labels]``, ``features [N, C, h/32, w/32]`` and ``places [N, labels, h/32, w/32]``.
    """

    outputs = OUTPUTS

    def __init__(self, shape: Shape, labels: int, channels: int) -> None:
        super().__init__()
        stem = nn.Conv2d(channels, shape.first, 7, stride=2, padding=3, bias=False)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=stem, norm0=nn.BatchNorm2d(shape.first), relu0=nn.ReLU(), pool0=nn.MaxPool2d(3, 2, 1)
        )
        width = shape.first
        for number, layers in enumerate(shape.layers, 1):
            parts[f"denseblock{number}"] = _block(layers, width, shape.growth)
            width += layers * shape.growth
            if number < len(shape.layers):
                parts[f"transition{number}"] = _transition(width)
                width //= 2
        parts["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(parts)
        self.classifier = nn.Linear(width, labels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = relu(self.features(images))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits, features, conv2d(features, self.classifier.weight[:, :, None, None])


def from_arrays(
    architecture: str, arrays: Mapping[str, npt.NDArray[np.float32]], labels: int, channels: int
) -> DenseNet:
    """The network of so many ``labels`` and input ``channels``, with parameters by name.

    Raises KeyError or RuntimeError when they are another network's.
    """
    network = DenseNet(SHAPES[architecture], labels, channels)
    # Counting batches matters to training alone, and files from before torch 0.4.1 do not have it.
    state = {
        name: value if name.endswith("num_batches_tracked") else torch.from_numpy(np.array(arrays[name]))
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.eval()


class _Layer(nn.Sequential):
    def __init__(self, width: int, growth: int) -> None:
        inner = BOTTLENECK * growth
        super().__init__(
            OrderedDict(
                norm1=nn.BatchNorm2d(width),
                relu1=nn.ReLU(),
                conv1=nn.Conv2d(width, inner, 1, bias=False),
                norm2=nn.BatchNorm2d(inner),
                relu2=nn.ReLU(),
                conv2=nn.Conv2d(inner, growth, 3, padding=1, bias=False),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        new = images
        for part in self:
            new = part(new)
        return torch.cat([images, new], 1)


def _block(layers: int, width: int, growth: int) -> nn.Sequential:
    parts = ((f"denselayer{number + 1}", _Layer(width + number * growth, growth)) for number in range(layers))
    return nn.Sequential(OrderedDict(parts))


def _transition(width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
            conv=nn.Conv2d(width, width // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, 2),
        )
    )
