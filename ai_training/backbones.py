"""Any network of timm as the backbone of a classifier, and the weights that it starts from.

timm names, builds and normalises; every network of it that gives feature maps (``forward_intermediates``) is
taken, also one whose features are tokens. Its own input, ``(value − mean) / spread`` of 0..1, is made inside
the graph from the ``(value − 127) / 128`` of 0..255 that all networks here take, so that a card says the same
of each of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from ai_training.base import CannotAdapt, ExperimentError
from ai_training.networks import (
    HEADS,
    NAME,
    RANDOM,
    TIMM,
    PlacedClassifier,
    PlacedNetwork,
    fill_from,
    start_file,
    timm_network,
    timm_package,
)

BESIDE = (8, 16)
"""Strides of the maps that the layer for places reads, where a backbone has them."""


class Levels(nn.Module):
    """Turns (value − 127) / 128 of 0..255 into (value − mean) / spread of 0..1."""

    gain: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], spread: Sequence[float]) -> None:
        """``mean``, ``spread``: of each channel, as timm gives them."""
        super().__init__()
        middle, scale = (torch.tensor(part, dtype=torch.float32)[:, None, None] for part in (mean, spread))
        self.register_buffer("gain", 128 / 255 / scale, persistent=False)
        self.register_buffer("shift", (127 / 255 - middle) / scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The levels of ``images``."""
        return images * self.gain + self.shift


class TimmBackbone(nn.Module):
    """A network of timm without its head. ``forward`` takes float32 ``[N, 3, size, size]`` and returns one
    feature map ``[N, channels, h, w]`` for each of ``strides``, which rise.
    """

    def __init__(self, name: str, size: int) -> None:
        """Build the network ``name`` with random weights. Raises CannotAdapt if timm has none of this name,
        or it gives no feature maps of a picture of ``size`` pixels a side.
        """
        super().__init__()
        about = timm_package().models.get_pretrained_cfg(name, allow_unregistered=True)
        sized = bool(about is not None and about.fixed_input_size)
        self.network = timm_network(name, 0, 3, **({"img_size": size} if sized else {}))
        if hasattr(self.network, "pre_logits"):  # of a VGG: 100 million parameters of its head
            self.network.pre_logits = nn.Identity()
        self._normed = sized  # of a transformer the maps are normalised as its answer is
        own = self.network.pretrained_cfg
        self.levels = Levels(own["mean"], own["std"])
        images = torch.zeros(1, 3, size, size)
        try:
            with torch.inference_mode():
                _, maps = self.network.eval().forward_intermediates(images)
                # The last of each stride.
                self._indices = sorted({part.shape[2]: number for number, part in enumerate(maps)}.values())
                maps = self.eval()(images)
        except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise CannotAdapt(
                f"timm's {name} gives no feature maps of {size} pixels a side: {why}"
            ) from error
        self.channels = tuple(int(part.shape[1]) for part in maps)
        self.strides = tuple(round(size / part.shape[2]) for part in maps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The feature maps of ``images``."""
        last, maps = self.network.forward_intermediates(
            self.levels(images), indices=self._indices, norm=self._normed
        )
        # The answer of a transformer is tokens; that of a ConvNet may have one layer more than its last map.
        return [*maps[:-1], last if last.shape[2:] == maps[-1].shape[2:] and last.ndim == 4 else maps[-1]]


class TimmClassifier(PlacedNetwork):
    """The chest classifier (:class:`PlacedNetwork`) on a network of timm."""

    def __init__(self, name: str, labels: int, size: int, dropout: float) -> None:
        """``name``: timm's; ``labels``: their number; ``size``: side of the input. Raises CannotAdapt."""
        backbone = TimmBackbone(name, size)
        last = len(backbone.strides) - 1
        beside = [number for number, stride in enumerate(backbone.strides) if stride in BESIDE] or [last]
        channels = sum(backbone.channels[number] for number in beside)
        super().__init__(backbone, backbone.channels[-1], channels, labels, size, dropout)
        self._beside = beside

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature maps, and those at the strides :data:`BESIDE`."""
        maps = self.backbone(images)
        return maps[-1], torch.cat([_on_grid(maps[number], self.cells) for number in self._beside], 1)


def _on_grid(maps: Tensor, cells: int) -> Tensor:
    """Bring feature maps of any stride to ``[N, C, cells, cells]``."""
    side = maps.shape[2]
    if side % cells == 0:
        return avg_pool2d(maps, side // cells)
    return interpolate(maps, size=(cells, cells), mode="bilinear", align_corners=False)


def new_classifier(
    architecture: str, labels: int, size: int, dropout: float = 0.3, drop_connect: float = 0.2
) -> PlacedNetwork:
    """Create a chest classifier on ``architecture`` (``efficientnet-lite0``, or a name of timm) with random
    weights. ``drop_connect``: of EfficientNet-Lite0 alone (:func:`ai_training.networks.classifier`). Raises
    ExperimentError.
    """
    if architecture == NAME:
        return PlacedClassifier(labels, size, dropout, drop_connect)
    try:
        return TimmClassifier(architecture.removeprefix(TIMM), labels, size, dropout)
    except CannotAdapt as error:
        raise ExperimentError(f"--backbone {architecture}: {error}") from error


def fill_start(backbone: Any, architecture: str, initial: str, *, frozen: bool = False) -> None:
    """Fill ``backbone``, an EfficientNet-Lite0 or a :class:`TimmBackbone`, with the weights ``initial``
    (:func:`ai_training.networks.start_file`); a head in a file is ignored. Raises DataMissing, or
    ExperimentError, which says what does not fit; also for random weights that are to be ``frozen``.
    """
    path = start_file(initial, architecture)
    if path is not None:
        network = backbone.network if isinstance(backbone, TimmBackbone) else backbone
        fill_from(network, path, architecture, HEADS)
    elif frozen:
        raise ExperimentError(
            f"--frozen: random weights of {architecture} see nothing: name a file (--weights)"
        )


def card_id(organ: str, architecture: str) -> str:
    """The id of the card of a model for ``organ`` on ``architecture``: ``chest-densenet121``."""
    return f"{organ}-{re.sub('[^A-Za-z0-9._+-]+', '-', architecture.removeprefix(TIMM))}"[:64]


def default_start(architecture: str, weights: str) -> str:
    """What ``architecture`` starts from if the user says ``weights``; "": ImageNet weights if a package has
    them, else random ones.
    """
    return weights or ("imagenet" if architecture == NAME else RANDOM)
