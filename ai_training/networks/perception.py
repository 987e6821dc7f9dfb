"""EfficientNet-Lite0 with ImageNet weights as a fixed feature extractor for comparing pictures, never
trained.
"""

from __future__ import annotations

from torch import Tensor, nn

from ai_training.networks.backbone import pretrained_on_imagenet

SIDE = 128
"""The library works its padding out for one size; it fits every multiple of 32 pixels."""
BLOCKS = (0, 2, 4)
"""After these blocks features are taken: 16, 24 and 40 channels at strides 2, 4 and 8."""


class Perception(nn.Module):
    """A network with ImageNet weights whose features show how alike two pictures look.

    It takes RGB ``[N, 3, h, w]`` in -1..1. The weights come with a package (Apache-2.0).
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = pretrained_on_imagenet(1, SIDE).backbone
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Perception:  # noqa: ARG002 - torch calls it
        """Stay in evaluation mode, also when a network that contains this one is set to training."""
        return super().train(False)

    def layers(self, pictures: Tensor) -> list[Tensor]:
        """The features after each of :data:`BLOCKS`."""
        x = self._stem(pictures)
        found: list[Tensor] = []
        for index, block in enumerate(self.backbone._blocks[: BLOCKS[-1] + 1]):
            x = block(x)
            if index in BLOCKS:
                found.append(x)
        return found

    def pooled(self, pictures: Tensor) -> Tensor:
        """The 1,280 features from which the classes of ImageNet are predicted."""
        x = self._stem(pictures)
        for block in self.backbone._blocks:
            x = block(x)
        x = self.backbone._swish(self.backbone._bn1(self.backbone._conv_head(x)))
        features: Tensor = x.mean((2, 3))
        return features

    def _stem(self, pictures: Tensor) -> Tensor:
        # (value - 127) / 128 of 0..255 is what the weights were trained with: -1..1 but for half a level.
        x: Tensor = self.backbone._swish(self.backbone._bn0(self.backbone._conv_stem(pictures)))
        return x
