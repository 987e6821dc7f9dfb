"""The description of a foreign checkpoint, and the network with the card entries that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Family = Literal["xrv", "torchvision", "timm", "ultralytics", "huggingface", "eva-x", "medical-mae"]


@dataclass(frozen=True, slots=True)
class NetworkDescription:
    """A person's description of a checkpoint. Empty or None: taken from the file or from its family of
    networks.

    ``size``: side of the input in pixels; ``softmax``: the outputs exclude one another; ``leave_out``: labels
    for which the model gets no output; ``encoder``: only the embedding is wanted.
    """

    family: Family
    architecture: str = ""
    labels: tuple[str, ...] = ()
    size: int | None = None
    softmax: bool = False
    leave_out: tuple[str, ...] = ()
    encoder: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """A network that returns the outputs named in ``outputs``, and the rest of its card.

    ``mean`` and ``scale`` are for values 0..255, one number or one per channel; the other fields as in
    :class:`ai_pipeline.models.card.Input` and :class:`ai_pipeline.models.card.Outputs`. ``left_out``: labels
    of the checkpoint for which the network has no output.
    """

    network: nn.Module
    outputs: tuple[str, ...]
    id: str
    architecture: str
    labels: tuple[str, ...]
    channels: int
    size: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    preprocess: Literal["xrv", "imagenet"]
    crop: float = 1.0
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    kind: Literal["logits", "probabilities"] = "logits"
    operating_points: tuple[float, ...] = ()
    licence: str = ""
    left_out: tuple[str, ...] = ()
