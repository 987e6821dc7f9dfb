"""The network that a foreign checkpoint becomes, with the facts of its card; networks that wrap another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import conv2d

from ai_training.conversion.messages import NetworkFacts


class Adapted(NetworkFacts):
    """A network that returns the outputs named in ``outputs``, and what its card says of it."""

    network: Any


class Chosen(nn.Module):
    """``network`` with only the labels numbered ``kept``; ``outputs`` names what it returns."""

    def __init__(self, network: nn.Module, outputs: tuple[str, ...], kept: Sequence[int]) -> None:
        super().__init__()
        self.network, self.outputs, self.kept = network, outputs, list(kept)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answers = zip(self.outputs, self.network(images), strict=True)
        return tuple(value if name == "features" else value[:, self.kept] for name, value in answers)


class Softmax(nn.Module):
    """``network`` with its first output, the logits, turned into probabilities that exclude one another."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        first, *others = self.network(images)
        return (first.softmax(1), *others)


class FirstOf(nn.Module):
    """``network``, whose one output is a tuple like those of the others here."""

    outputs = ("logits",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images),)


class WithMaps(nn.Module):
    """A timm network that also returns its last feature maps and the class activation."""

    def __init__(self, network: Any, *, features: bool, places: bool) -> None:
        super().__init__()
        self.network = network
        self.features, self.places = features, places

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.network.forward_features(images)
        outputs = [self.network.forward_head(features)]
        if self.features:
            outputs.append(features)
        if self.places:
            outputs.append(conv2d(features, self.network.get_classifier().weight[:, :, None, None]))
        return tuple(outputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs of ``forward``."""
        return ("logits", *(("features",) if self.features else ()), *(("places",) if self.places else ()))
