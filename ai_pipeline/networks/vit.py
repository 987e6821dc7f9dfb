"""Vision transformers as Hugging Face's transformers saves them: ViT and DINOv2, as classifier or encoder.

ViT (Dosovitskiy et al., ICLR 2021) classifies by its class token; DINOv2 (Oquab et al., TMLR 2024) by the
class token beside the mean over all patches, and scales what each layer adds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from ai_pipeline.errors import CannotAdapt

DINOV2 = "dinov2"
CLASSIFIER_OUTPUTS = ("logits", "features")
ENCODER_OUTPUTS = ("embedding", "features")
_NAMES = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.(cls_token|mask_token)", r"\1"),
    (r"^embeddings\.position_embeddings", "position"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patches."),
    (r"^encoder\.layer\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.", "."),
    (r"\.attention\.output\.dense\.", ".project."),
    (r"\.intermediate\.dense\.|\.mlp\.fc1\.", ".fc1."),
    (r"\.output\.dense\.|\.mlp\.fc2\.", ".fc2."),
    (r"\.layer_scale([12])\.lambda1", r".scale\1"),
    (r"^layernorm\.", "norm."),
)
_NOT_USED = ("mask_token", "pooler.dense.weight", "pooler.dense.bias")  # of training, of another task


@dataclass(frozen=True, slots=True)
class TransformerShape:
    """``kind`` is ``vit`` or ``dinov2``; ``width`` of a token, ``hidden`` of a layer's perceptron; ``size``
    and ``patch`` in pixels a side; ``labels`` 0 for an encoder."""

    kind: str
    width: int
    depth: int
    heads: int
    hidden: int
    size: int
    patch: int
    channels: int
    labels: int
    epsilon: float
    bias: bool


class VisionTransformer(nn.Module):
    """``forward`` takes float32 ``[N, channels, size, size]``; returns what ``outputs`` names.

    ``logits [N, labels]``, or of an encoder ``embedding [N, width]`` (the class token); ``features [N, width,
    h, w]``: the tokens of the patches.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        self.outputs = CLASSIFIER_OUTPUTS if shape.labels else ENCODER_OUTPUTS
        self.side = shape.size // shape.patch
        self.patches = nn.Conv2d(shape.channels, shape.width, shape.patch, stride=shape.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.position = nn.Parameter(torch.zeros(1, 1 + self.side**2, shape.width))
        self.layers = nn.ModuleList(_TransformerLayer(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, shape.epsilon)
        if shape.labels:
            self.classifier = nn.Linear((2 if shape.kind == DINOV2 else 1) * shape.width, shape.labels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), tokens], 1) + self.position
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        first, patches = tokens[:, 0], tokens[:, 1:]
        features = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        if not self.shape.labels:
            return first, features
        pooled = torch.cat([first, patches.mean(1)], 1) if self.shape.kind == DINOV2 else first
        logits: Tensor = self.classifier(pooled)
        return logits, features


class _TransformerLayer(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm1 = nn.LayerNorm(shape.width, shape.epsilon)
        self.norm2 = nn.LayerNorm(shape.width, shape.epsilon)
        self.query = nn.Linear(shape.width, shape.width, shape.bias)
        self.key = nn.Linear(shape.width, shape.width, shape.bias)
        self.value = nn.Linear(shape.width, shape.width, shape.bias)
        self.project = nn.Linear(shape.width, shape.width)
        self.fc1 = nn.Linear(shape.width, shape.hidden)
        self.fc2 = nn.Linear(shape.hidden, shape.width)
        self.scaled = shape.kind == DINOV2
        if self.scaled:
            self.scale1 = nn.Parameter(torch.ones(shape.width))
            self.scale2 = nn.Parameter(torch.ones(shape.width))

    def forward(self, tokens: Tensor) -> Tensor:
        attended = self._attend(self.norm1(tokens))
        tokens = tokens + (attended * self.scale1 if self.scaled else attended)
        added: Tensor = self.fc2(gelu(self.fc1(self.norm2(tokens))))
        return tokens + (added * self.scale2 if self.scaled else added)

    def _attend(self, tokens: Tensor) -> Tensor:
        # Spelled out: the exporter knows no operator for attention as a whole.
        query, key, value = (
            part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        attended: Tensor = self.project((weights @ value).transpose(1, 2).flatten(2))
        return attended


def from_state(shape: TransformerShape, state: Mapping[str, Tensor]) -> VisionTransformer:
    """The network with the parameters of ``state``, named as transformers names them. Raises CannotAdapt."""
    named = {_own_name(name): value for name, value in state.items()}
    head = () if shape.labels else ("classifier.weight", "classifier.bias")
    named = {name: value for name, value in named.items() if name not in (*_NOT_USED, *head)}
    if "position" in named and shape.kind == DINOV2:
        named["position"] = _resized(named["position"], shape.size // shape.patch)
    network = VisionTransformer(shape)
    try:
        network.load_state_dict(named)
    except RuntimeError as error:
        raise CannotAdapt(
            "model.safetensors does not hold the parameters that config.json describes: take both from one "
            "folder"
        ) from error
    return network.eval()


def _own_name(name: str) -> str:
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name)
    return name


def _resized(position: Tensor, side: int) -> Tensor:
    """The places of patches for a grid of ``side``, as transformers resizes those of DINOv2."""
    before = round((position.shape[1] - 1) ** 0.5)
    if before == side:
        return position
    grid = position[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([position[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
