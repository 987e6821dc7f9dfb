"""The networks of the chest studies, by name: torchvision's and timm's, and EfficientNet-Lite0.

Each takes float32 ``[N, 3, size, size]``, grey levels as (value − 127) / 128 three times, and returns logits
``[N, labels]``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ai_pipeline.errors import CannotAdapt
from ai_pipeline.networks.efficientnet import PlacedClassifier, PlacedNetwork
from ai_pipeline.networks.foreign import timm_network, torchvision_network
from ai_training.errors import ExperimentError
from ai_training.networks.backbone import pretrained_on_imagenet, set_drop_connect
from ai_training.networks.pyramids import HEADS, TIMM, TORCHVISION, fill_backbone, fill_from
from ai_training.networks.start import IMAGENET

LITE0 = "efficientnet-lite0"
PLACED_HEADS = ("head.", "place")  # beginnings of names in a PlacedNetwork


class Logits(nn.Module):
    """This project's EfficientNet-Lite0, reduced to its logits."""

    def __init__(self, network: PlacedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features, _ = self.network.maps(images)
        logits: Tensor = self.network.head(self.network.dropout(features.mean((2, 3))))
        return logits


def study_network(architecture: str, initial: str, labels: int, size: int) -> nn.Module:
    """The network named ``architecture``: ``efficientnet-lite0``, ``timm/NAME``, else torchvision's.

    ``initial``: one of ``STARTS``. Raises ExperimentError for an unknown name.
    """
    try:
        return _built(architecture, initial, labels, size)
    except CannotAdapt as error:
        raise ExperimentError(str(error)) from error


def _built(architecture: str, initial: str, labels: int, size: int) -> nn.Module:
    if architecture == LITE0:
        made = pretrained_on_imagenet if initial == IMAGENET else PlacedClassifier
        network: PlacedNetwork = made(labels, size, 0.2)
        set_drop_connect(network, 0.0)
        return Logits(network)
    if initial == IMAGENET:
        raise ExperimentError(f"{architecture}: no ImageNet weights come with a package: name a file")
    if architecture.startswith(TIMM):
        found: nn.Module = timm_network(architecture.removeprefix(TIMM), labels, 3)
        return found
    return torchvision_network(architecture.removeprefix(TORCHVISION), labels)


def fill(network: nn.Module, architecture: str, path: Path) -> None:
    """Load the parameters in ``path``; those of a head for other labels need not fit.

    Raises DataMissing, or ExperimentError, which says what does not fit.
    """
    if not isinstance(network, Logits):
        fill_from(network, path, architecture, HEADS)
        return
    try:
        fill_from(network.network, path, architecture, PLACED_HEADS)
    except ExperimentError:
        fill_backbone(network.network.backbone, path, architecture)


def folded(network: nn.Module) -> bool:
    """Whether the network's batch normalisations were folded into its convolutions and have no statistics."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    variances = [norm.running_var for norm in norms if norm.running_var is not None]
    return bool(variances) and all(bool((variance == 1).all()) for variance in variances)


def restore_normalisation(network: nn.Module, images: Tensor) -> None:
    """Give folded batch normalisations statistics of ``images`` without changing the network's output.

    A normalisation that was folded into its convolution is the identity but for its bias. Training would
    normalise by the batch, and lose the scale of each channel, which is now in the convolution's weights. So
    its mean and variance are set to those of ``images [N, 3, size, size]``, and its weight and bias so that
    they cancel the normalisation.
    """
    seen: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def keep(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        seen[norm] = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(keep) for norm in norms]
    network.eval()
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for norm, (mean, variance) in seen.items():
            assert norm.running_mean is not None and norm.running_var is not None
            slope = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.copy_(norm.bias + slope * (mean - norm.running_mean))
            norm.weight.copy_(slope * (variance + norm.eps).sqrt())
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
