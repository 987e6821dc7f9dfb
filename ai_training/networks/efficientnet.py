"""EfficientNet-Lite0 as a classifier with localisation: two linear heads on its feature maps.

The classifying head follows global average pooling, so its class activation map (Zhou et al., CVPR 2016)
needs no gradient. These maps point badly (at 224 pixels 25 % of the radiologists' validation boxes hold the
peak; a fixed map per label reaches 31 %), because the last 7 × 7 cells each see the whole chest. The place
head therefore reads the finer maps of the middle layers beside the class activation, and is fitted to lesion
boxes after the classifier is done, without touching it (51 %).
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
import torch
from efficientnet_lite_pytorch import EfficientNet
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ai_pipeline.models.registry import Weights, read

NAME = "efficientnet-lite0"
FINE, MIDDLE = 4, 10  # the last blocks at strides 8 and 16
FINE_CHANNELS, MIDDLE_CHANNELS = 40, 112
OUTPUTS = ("logits", "features", "places")
_NORMALISED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)
"""Convolutions of the library's blocks, each with what normalises its output."""


class PlacedNetwork(nn.Module):
    """A backbone, the mean over its last feature maps, and a linear head; beside it a linear head for the
    place.

    ``forward`` takes float32 ``[N, 3, size, size]`` and returns ``logits [N, labels]``, ``features [N, C, h,
    w]`` and ``places [N, labels, size/16, size/16]``: the logarithm, up to a constant, of how likely each
    cell belongs to the lesion if the label is present. ``channels``: of the last feature maps; ``beside``:
    channels of the finer maps that the place head reads. ``size`` is a multiple of 32.
    """

    def __init__(
        self, backbone: nn.Module, channels: int, beside: int, labels: int, size: int, dropout: float
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, labels)
        nn.init.zeros_(self.head.bias)
        self.cells = size // 16
        self.place = nn.Conv2d(beside + labels, labels, 1, bias=False)
        self.place_bias = nn.Parameter(torch.zeros(labels, self.cells, self.cells))
        nn.init.zeros_(self.place.weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, middle = self.maps(images)
        logits: Tensor = self.head(self.dropout(features.mean((2, 3))))
        return logits, features, self.place(middle) + self.place_bias

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature maps, and the input of the place head: middle layers and class activation."""
        features, beside = self.layers(images)
        weights = self.head.weight[:, :, None, None]
        activation = interpolate(
            nn.functional.conv2d(features, weights),
            size=(self.cells, self.cells),
            mode="bilinear",
            align_corners=False,
        )
        return features, torch.cat([beside, activation], 1)

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature maps, and the finer maps ``[N, beside, size/16, size/16]``."""
        raise NotImplementedError

    def narrowed(self, rows: Sequence[int]) -> Self:
        """A copy for inference with only the outputs ``rows``, and with a new place head."""
        made = copy.deepcopy(self)
        made.head = nn.Linear(self.head.in_features, len(rows))
        made.head.load_state_dict({name: value[rows] for name, value in self.head.state_dict().items()})
        beside = self.place.in_channels - self.head.out_features
        made.place = nn.Conv2d(beside + len(rows), len(rows), 1, bias=False)
        nn.init.zeros_(made.place.weight)
        made.place_bias = nn.Parameter(torch.zeros(len(rows), self.cells, self.cells))
        return made.eval()


class PlacedClassifier(PlacedNetwork):
    """:class:`PlacedNetwork` on EfficientNet-Lite0."""

    def __init__(self, labels: int, size: int, dropout: float = 0.3) -> None:
        # The library pads for one fixed input size ("same" as TensorFlow counts it), hence `size` here.
        backbone = EfficientNet.from_name(NAME, image_size=size)
        channels = backbone._fc.in_features
        backbone._fc = nn.Identity()
        super().__init__(backbone, channels, MIDDLE_CHANNELS + FINE_CHANNELS, labels, size, dropout)

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        backbone = self.backbone
        x = backbone._swish(backbone._bn0(backbone._conv_stem(images)))
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(backbone._blocks):
            rate = backbone._global_params.drop_connect_rate or 0.0
            x = block(x, drop_connect_rate=rate * index / len(backbone._blocks))
            if index in (FINE, MIDDLE):
                kept[index] = x
        features: Tensor = backbone._swish(backbone._bn1(backbone._conv_head(x)))
        return features, torch.cat([kept[MIDDLE], avg_pool2d(kept[FINE], 2)], 1)


def fuse(network: nn.Module) -> None:
    """Fold each batch normalisation of an EfficientNet-Lite in ``network`` into the convolution before it.

    The parameters of the fused network have the names that the exported ONNX file uses, so the file can be
    loaded back (:func:`from_arrays`).
    """
    for part in network.modules():
        for convolution, normalisation in _NORMALISED:
            if hasattr(part, convolution) and isinstance(getattr(part, normalisation), nn.BatchNorm2d):
                # fuse_conv_bn_eval deep-copies the convolution, so its static padding stays.
                merged = fuse_conv_bn_eval(getattr(part, convolution), getattr(part, normalisation))
                setattr(part, convolution, merged)
                setattr(part, normalisation, nn.Identity())


def parameters(weights: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters of an ONNX file by name. Raises CardError when it is missing or altered."""
    graph = onnx.load_model_from_string(read(weights)).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def from_arrays(arrays: Mapping[str, npt.NDArray[np.float32]], labels: int, size: int) -> PlacedClassifier:
    """The fused network with the parameters of an exported file, by name. Raises KeyError if one is missing.

    ``labels``: their number; ``size`` of the input in pixels.
    """
    network = PlacedClassifier(labels, size).eval()
    fuse(network)
    network.load_state_dict({name: torch.from_numpy(arrays[name].copy()) for name in network.state_dict()})
    return network.eval()
