"""Backbones of timm, torchvision and EfficientNet-Lite that return their feature maps, the finest first.

Each takes the input of all trainings here: float32 ``[N, 3, rows, columns]``, grey levels or colours as
(value − 127) / 128. For a backbone of timm or torchvision they are converted to the range of its own weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from ai_pipeline.errors import CannotAdapt, ModelError
from ai_pipeline.networks import foreign
from ai_pipeline.networks.checkpoints import read_weights
from ai_pipeline.networks.filling import fill
from ai_training.errors import DataMissing, ExperimentError
from ai_training.networks.start import LITES, StartWeights

TIMM, TORCHVISION = "timm/", "torchvision/"
HEADS = ("classifier", "fc.", "_fc.", "head", "heads", "AuxLogits.", "aux1.", "aux2.", "aux_logits")
"""Beginnings of the names that these give to what follows the feature maps."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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
            self._indices: list[int] | None = None
            self._indices = self._last_of_each_stride(rows, columns)
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

    def _last_of_each_stride(self, rows: int, columns: int) -> list[int]:
        self.network.eval()
        with torch.inference_mode():
            _, maps = self.network.forward_intermediates(torch.zeros(1, 3, rows, columns))
        return sorted({one.shape[2]: index for index, one in enumerate(maps)}.values())


class TorchvisionPyramid(Pyramid):
    """A classifier of torchvision: the last map of each stride in its graph, or the patches of
    a transformer.
    """

    def __init__(self, name: str, rows: int, columns: int) -> None:
        super().__init__()
        self.levels = _Levels(*IMAGENET)
        network = foreign.torchvision_network(name, 1, rows if rows == columns else None)
        self.patched = hasattr(network, "_process_input")
        if self.patched and rows != columns:
            raise CannotAdapt(f"torchvision's {name} takes squares only: take timm's")
        self.network: Any = network if self.patched else foreign.torchvision_maps(network, rows, columns)
        self._measure(rows, columns)

    def forward(self, images: Tensor) -> list[Tensor]:
        leveled, net = self.levels(images), self.network
        if not self.patched:
            return list(net(leveled).values())
        patches = net._process_input(leveled)
        first = net.class_token.expand(patches.shape[0], -1, -1)
        tokens = net.encoder(torch.cat([first, patches], 1))[:, 1:]
        side = images.shape[2] // net.patch_size
        return [tokens.transpose(1, 2).unflatten(2, (side, side))]


def unfilled(name: str, rows: int, columns: int) -> Pyramid:
    """The backbone ``name`` for pictures of ``rows`` × ``columns``, with random weights.

    ``name``: ``efficientnet-lite0`` to ``efficientnet-lite2``, ``timm/NAME`` or ``torchvision/NAME``. Any
    other name is looked up in torchvision, then in timm. Raises ExperimentError.
    """
    try:
        if name in LITES:
            return LitePyramid(name, rows, columns)
        if name.startswith(TIMM):
            return TimmPyramid(name.removeprefix(TIMM), rows, columns)
        if name.startswith(TORCHVISION) or foreign.is_of_torchvision(name):
            return TorchvisionPyramid(name.removeprefix(TORCHVISION), rows, columns)
        return TimmPyramid(name, rows, columns)
    except CannotAdapt as error:
        raise ExperimentError(f"--backbone {name}: {error}") from error


def pyramid(name: str, start: StartWeights, rows: int, columns: int) -> Pyramid:
    """:func:`unfilled`, filled with the weights to start from. Raises ExperimentError, DataMissing."""
    made = unfilled(name, rows, columns)
    if (path := start.path(name)) is not None:
        fill_backbone(made, path, name)
    return made


def fill_backbone(backbone: nn.Module, path: Path, name: str) -> None:
    """Fill a :class:`Pyramid` or an EfficientNet-Lite with weights from a file; a head in the file is
    ignored.

    Raises DataMissing, or ExperimentError, which says what does not fit.
    """
    network: Any = backbone.network if isinstance(backbone, Pyramid) else backbone
    fill_from(network, path, name, HEADS)


def fill_from(network: Any, path: Path, name: str, heads: Sequence[str]) -> tuple[str, ...]:
    """Fill the network ``name`` from ``path``, except ``heads`` (:func:`ai_pipeline.networks.filling.fill`).

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
