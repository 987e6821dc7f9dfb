"""Grad-CAM (Selvaraju et al., ICCV 2017) in torch, for any network that has feature maps.

After global average pooling and a linear head no gradient is needed: the map is the head's weights on the
feature maps (class activation, Zhou et al., CVPR 2016), and a test holds both equal on the shipped model.
This module is for every other network, and for the checks in :mod:`ai_training.evaluation.saliency.heatmaps`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def signed_grad_cam(network: nn.Module, images: Tensor, label: int, layer: str | None = None) -> Tensor:
    """The Grad-CAM map of ``network`` for class number ``label``: ``[N, h, w]`` in the grid of ``layer``.

    Feature maps are weighted by the mean gradient of the class's score. Evidence against the class is below 0
    (Grad-CAM as published cuts it off).

    ``images``: the network's input, ``[N, C, H, W]``, any size. ``layer``: the path of the module whose
    output ``[N, K, h, w]`` is weighted, as ``named_modules`` writes it (``"features.denseblock4"``); by
    default the one that :func:`last_feature_maps` finds. The network may return its logits ``[N, classes]``
    alone or as the first of several outputs; its parameters, modes and gradients are not changed.

    Raises ValueError if there is no such module, if it gives no feature maps, or if the class's score does
    not depend on them.
    """
    with _observed(network) as maps, torch.enable_grad():
        score = _score(network, images, label)
        name, features = (layer, _named(network, maps, layer)) if layer else _last(score, maps)
        (gradient,) = torch.autograd.grad(score, features, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the score of class {label} does not depend on {name!r}")
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * features.detach()).sum(1)


def last_feature_maps(network: nn.Module, images: Tensor) -> str:
    """The path of the last module whose output has a spatial grid: the default layer of
    :func:`signed_grad_cam`.

    It is the last module to finish whose output is ``[N, K, h, w]`` with more than one cell and on which the
    logits depend. That need not be a convolution, nor the module registered last: the last convolution of a
    DenseNet gives only 32 of its 1,024 maps, and a network may have other heads. Raises ValueError if there
    is none.
    """
    with _observed(network) as maps, torch.enable_grad():
        return _last(_score(network, images, None), maps)[0]


@contextmanager
def _observed(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Run in evaluation mode and keep every module's last feature maps by path, in order of finishing."""
    maps: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            maps.pop(name, None)  # a module that runs again goes to the end
            maps[name] = output

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, module in network.named_modules()
        if name
    ]
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True


def _score(network: nn.Module, images: Tensor, label: int | None) -> Tensor:
    """The sum over images of the logit ``label``, or of all logits, with a graph even if all is frozen."""
    # A copy of the leaf: a first module that works in place may not change a leaf that needs a gradient.
    output: Any = network(images.detach().requires_grad_().clone())
    logits: Tensor = output[0] if isinstance(output, tuple | list) else output
    if logits.ndim != 2:
        raise ValueError(f"the network's first output is {list(logits.shape)}, not [images, classes]")
    if label is None:
        return logits.sum()
    if not 0 <= label < logits.shape[1]:
        raise ValueError(f"there is no class {label} among {logits.shape[1]}")
    return logits[:, label].sum()


def _named(network: nn.Module, maps: dict[str, Tensor], layer: str) -> Tensor:
    if layer in maps:
        return maps[layer]
    if layer in dict(network.named_modules()):
        raise ValueError(f"{layer!r} gives no feature maps [N, K, h, w] with more than one cell")
    raise ValueError(f"the network has no module {layer!r}; it has maps at: {', '.join(maps) or 'none'}")


def _last(score: Tensor, maps: dict[str, Tensor]) -> tuple[str, Tensor]:
    for name, features in reversed(maps.items()):
        (gradient,) = torch.autograd.grad(score, features, allow_unused=True, retain_graph=True)
        if gradient is not None:
            return name, features
    raise ValueError("no module gives feature maps [N, K, h, w] on which the logits depend: name a layer")
