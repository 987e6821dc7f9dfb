"""Vision transformers of Hugging Face's transformers, loaded into timm's: ViT and DINOv2, as classifier or
encoder.

ViT (Dosovitskiy et al., ICLR 2021) classifies by its class token; DINOv2 (Oquab et al., TMLR 2024) by the
class token together with the mean over all patches, and it scales the output of each layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ai_training.base import CannotAdapt
from ai_training.conversion import foreign

DINOV2 = "dinov2"
CLASSIFIER_OUTPUTS = ("logits", "features")
ENCODER_OUTPUTS = ("embedding", "features")
_NAMES = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
"""What transformers calls a parameter, and what timm calls it."""
_NOT_USED = (
    "embeddings.mask_token",
    "pooler.dense.weight",
    "pooler.dense.bias",
)  # of training, of another task


@dataclass(frozen=True, slots=True)
class TransformerShape:
    """The shape of a transformer. ``kind`` is ``vit`` or ``dinov2``; ``width`` of a token, ``hidden`` of a
    layer's perceptron; ``size`` and ``patch``: sides in pixels; ``labels`` 0 for an encoder.
    """

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
    """A vision transformer. ``forward`` takes float32 ``[N, channels, size, size]`` and returns the tensors
    that ``outputs`` names: ``logits [N, labels]``, or for an encoder ``embedding [N, width]`` (the class
    token); and ``features [N, width, h, w]``: the tokens of the patches.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        self.outputs = CLASSIFIER_OUTPUTS if shape.labels else ENCODER_OUTPUTS
        self.side = shape.size // shape.patch
        self.trunk = foreign.exportable_timm().vision_transformer.VisionTransformer(
            img_size=shape.size,
            patch_size=shape.patch,
            in_chans=shape.channels,
            num_classes=0,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=(shape.hidden + 0.5) / shape.width,  # timm rounds the product down
            qkv_bias=shape.bias,
            init_values=1.0 if shape.kind == DINOV2 else None,
            norm_layer=partial(nn.LayerNorm, eps=shape.epsilon),
        )
        if shape.labels:
            self.classifier = nn.Linear((2 if shape.kind == DINOV2 else 1) * shape.width, shape.labels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.trunk.forward_features(images)
        first, patches = tokens[:, 0], tokens[:, 1:]
        features = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        if not self.shape.labels:
            return first, features
        pooled = torch.cat([first, patches.mean(1)], 1) if self.shape.kind == DINOV2 else first
        logits: Tensor = self.classifier(pooled)
        return logits, features


def from_state(shape: TransformerShape, state: Mapping[str, Tensor]) -> VisionTransformer:
    """The network with the parameters of ``state``, named as transformers names them. Raises CannotAdapt."""
    network = VisionTransformer(shape)
    named = {_timm_name(name): value for name, value in state.items()}
    head = {name: named.pop(name) for name in ("classifier.weight", "classifier.bias") if name in named}
    try:
        trunk = _with_joined_attention(named, shape.depth)
        if shape.kind == DINOV2:
            trunk["pos_embed"] = _resized(trunk["pos_embed"], network.side)
        network.trunk.load_state_dict({name: trunk[name] for name in trunk if name not in _NOT_USED})
        if shape.labels:
            network.classifier.load_state_dict({name.split(".")[1]: value for name, value in head.items()})
    except (KeyError, RuntimeError) as error:
        raise CannotAdapt(
            "model.safetensors does not hold the parameters that config.json describes: take both from one "
            "folder"
        ) from error
    return network.eval()


def _timm_name(name: str) -> str:
    for theirs, timms in _NAMES:
        name = re.sub(theirs, timms, name)
    return name


def _with_joined_attention(named: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """``named`` with one matrix for query, key and value of each layer, as timm has it."""
    joined = {name: value for name, value in named.items() if not re.search(r"\.(query|key|value)\.", name)}
    for layer in range(depth):
        for part in ("weight", "bias"):
            names = [f"blocks.{layer}.attn.{of}.{part}" for of in ("query", "key", "value")]
            if names[0] in named:
                joined[f"blocks.{layer}.attn.qkv.{part}"] = torch.cat([named[name] for name in names])
    return joined


def _resized(places: Tensor, side: int) -> Tensor:
    """The places of patches for a grid of ``side``, as transformers resizes those of DINOv2."""
    from timm.layers import resample_abs_pos_embed

    resized: Tensor = resample_abs_pos_embed(places, [side, side], antialias=False)
    return resized
