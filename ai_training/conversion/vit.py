"""Vision transformers of Hugging Face's transformers, loaded into timm's: ViT and DINOv2, as classifier or
encoder.

ViT (Dosovitskiy et al., ICLR 2021) classifies by its class token; DINOv2 (Oquab et al., TMLR 2024) by the
class token together with the mean over all patches, and it scales the output of each layer.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ai_training.base import CannotAdapt
from ai_training.conversion import foreign

DINOV2 = "dinov2"
Count = Annotated[int, Field(ge=1, le=8192)]
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


class TransformerConfig(BaseModel, frozen=True, extra="ignore", protected_namespaces=()):
    """What ``config.json`` of transformers says of the network."""

    model_type: Literal["vit", "dinov2"]
    hidden_size: Count
    num_hidden_layers: Annotated[int, Field(ge=1, le=64)]
    num_attention_heads: Count
    intermediate_size: Count | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4
    patch_size: Annotated[int, Field(ge=4, le=64)]
    num_channels: Annotated[int, Field(ge=1, le=16)] = 3
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-12
    qkv_bias: bool = True
    hidden_act: Literal["gelu"] = "gelu"
    use_swiglu_ffn: Literal[False] = False


class VisionTransformer(nn.Module):
    """A vision transformer. ``forward`` takes float32 ``[N, channels, size, size]`` and returns the tensors
    that ``outputs`` names: ``logits [N, labels]``, or for an encoder ``embedding [N, width]`` (the class
    token); and ``features [N, width, h, w]``: the tokens of the patches.
    """

    def __init__(self, config: TransformerConfig, size: int, labels: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.dino, self.labels = config.model_type == DINOV2, labels
        self.outputs = ("logits" if labels else "embedding", "features")
        self.side = size // config.patch_size
        self.trunk = foreign.exportable_timm().vision_transformer.VisionTransformer(
            img_size=size,
            patch_size=config.patch_size,
            in_chans=config.num_channels,
            num_classes=0,
            embed_dim=width,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            # timm rounds the product down
            mlp_ratio=((config.intermediate_size or round(width * config.mlp_ratio)) + 0.5) / width,
            qkv_bias=config.qkv_bias,
            init_values=1.0 if self.dino else None,
            norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        )
        if labels:
            self.classifier = nn.Linear((2 if self.dino else 1) * width, labels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.trunk.forward_features(images)
        first, patches = tokens[:, 0], tokens[:, 1:]
        features = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        if not self.labels:
            return first, features
        pooled = torch.cat([first, patches.mean(1)], 1) if self.dino else first
        logits: Tensor = self.classifier(pooled)
        return logits, features


def from_state(
    config: TransformerConfig, size: int, labels: int, state: Mapping[str, Tensor]
) -> VisionTransformer:
    """The network for pictures of ``size`` and so many ``labels`` (0: the encoder alone) with the parameters
    of ``state``, named as transformers names them. Raises CannotAdapt.
    """
    network = VisionTransformer(config, size, labels)
    from timm.layers import resample_abs_pos_embed  # only now can torchvision be imported

    trunk: dict[str, Tensor] = {}
    for theirs, value in state.items():
        name = theirs
        for pattern, timms in _NAMES:
            name = re.sub(pattern, timms, name)
        if name not in _NOT_USED:
            trunk[name] = value
    try:
        there = [name for name in ("weight", "bias") if labels or f"classifier.{name}" in trunk]
        head = {name: trunk.pop(f"classifier.{name}") for name in there}
        for layer in range(config.num_hidden_layers):  # timm has one matrix for query, key and value
            for part in ("weight", "bias") if config.qkv_bias else ("weight",):
                parts = [trunk.pop(f"blocks.{layer}.attn.{of}.{part}") for of in ("query", "key", "value")]
                trunk[f"blocks.{layer}.attn.qkv.{part}"] = torch.cat(parts)
        if network.dino:  # as transformers resizes the places of the patches
            side = [network.side, network.side]
            trunk["pos_embed"] = resample_abs_pos_embed(trunk["pos_embed"], side, antialias=False)
        network.trunk.load_state_dict(trunk)
        if labels:
            network.classifier.load_state_dict(head)
    except (KeyError, RuntimeError) as error:
        raise CannotAdapt(
            "model.safetensors does not hold the parameters that config.json describes: take both from one "
            "folder"
        ) from error
    return network.eval()
