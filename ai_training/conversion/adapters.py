"""Networks of torchvision and timm, and folders in Hugging Face's layout, as networks with the facts of their
cards.

Of a folder config.json describes the network and its labels, preprocessor_config.json how an image becomes
the input; timm's folders have both in config.json. Known networks: all of timm, and of transformers ViT and
DINOv2, which are loaded into timm's. ViT (Dosovitskiy et al., ICLR 2021) classifies by its class token;
DINOv2 (Oquab et al., TMLR 2024) by the class token together with the mean over all patches, and it scales the
output of each layer. The weights are in model.safetensors.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from ai_training.base import CannotAdapt
from ai_training.conversion import foreign
from ai_training.conversion.checkpoints import fill, read_weights
from ai_training.conversion.foreign import DENSENETS, Adapted, Answers
from ai_training.conversion.messages import WEIGHTS, Request

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TRANSFORMERS = ("vit", "dinov2")
LONGEST_NAME = 64  # characters: what a code meaning may have (PS3.5, LO)
_EXCLUSIVE = "single_label_classification"
Three = Annotated[tuple[float, ...], Field(min_length=1, max_length=16)]


class _Sides(BaseModel):
    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None


class _Preprocessor(BaseModel):
    size: int | _Sides
    crop_size: int | _Sides | None = None
    resample: Literal[2, 3] = 2
    do_resize: Literal[True] = True
    do_center_crop: bool = False
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / 255
    do_normalize: bool = True
    image_mean: Three = (0.5, 0.5, 0.5)
    image_std: Three = (0.5, 0.5, 0.5)


class _TimmInput(BaseModel):
    input_size: tuple[int, int, int]
    mean: Three
    std: Three
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


class _TimmConfig(BaseModel):
    architecture: str
    num_classes: Annotated[int, Field(ge=1, le=8192)]
    pretrained_cfg: _TimmInput


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


Kind = TypeVar("Kind", bound=BaseModel)


def adapt(path: Path, described: Request) -> Adapted:
    """The network of the checkpoint or folder at ``path``, without outputs for the labels that are left out.

    Raises CannotAdapt or UnreadableCheckpoint.
    """
    if described.family != "huggingface":
        found = _named(path, described)
    else:
        config = _json(path / CONFIG)
        read = _timm if "architecture" in config and not described.encoder else _transformers
        found = read(path, config, described)
    kept = [number for number, label in enumerate(found.labels) if label not in described.leave_out]
    if found.labels and not kept:
        raise CannotAdapt("every label is left out: name at least one that the model is to find")
    network = Answers(
        found.network,
        found.outputs,
        softmax=found.kind == "probabilities",
        kept=kept if described.leave_out else None,
    )
    changed = {
        "network": network.eval(),  # the wrapper too: export takes the mode of the outermost module
        "labels": tuple(found.labels[number] for number in kept),
        "left_out": tuple(label for label in found.labels if label in described.leave_out),
    }
    return found.model_copy(update=changed)


def _named(path: Path, described: Request) -> Adapted:
    """A network of torchvision or timm, by the name that it has there."""
    architecture, labels, state = described.architecture, described.labels, read_weights(path)
    if not architecture or not labels:
        raise CannotAdapt("say what it is and what it finds: --architecture densenet121 --labels A,B")
    channels = next((value.shape[1] for value in state.values() if value.ndim == 4), 3)
    timm = described.family == "timm"
    about: dict[str, Any] = {}
    if timm or architecture in DENSENETS:
        network: Any = foreign.filled_timm_network(architecture, state, len(labels), channels)
        # timm's configuration says mean, spread, size and crop; of a DenseNet the file may be torchvision's.
        about = {} if architecture in DENSENETS else network.network.pretrained_cfg
    else:
        network = foreign.torchvision_network(architecture, len(labels))
        fill(network.eval(), state, f"torchvision's {architecture}")
    return Adapted(
        network=network,
        outputs=getattr(network, "outputs", ("logits",)),
        id=f"{described.family}-{architecture.replace('/', '-')}",
        architecture=architecture,
        labels=labels,
        channels=channels,
        size=described.size or int(about.get("input_size", (3, 224, 224))[-1]),
        mean=_of_channels(about.get("mean", (0.485, 0.456, 0.406)), channels),
        scale=_of_channels(about.get("std", (0.229, 0.224, 0.225)), channels),
        crop=float(about.get("crop_pct", 0.875)) if timm else 0.875,
        squash=about.get("crop_mode", "center") == "squash",
        interpolation="bicubic" if timm and about.get("interpolation") == "bicubic" else "bilinear",
        kind="probabilities" if described.softmax else "logits",
    )


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values 0..1, one for each channel, scaled to 0..255; their mean where the network reads grey."""
    if channels == len(values):
        return tuple(255.0 * value for value in values)
    return (255.0 * sum(values) / len(values),)


def _transformers(folder: Path, config: dict[str, Any], described: Request) -> Adapted:
    if (kind := config.get("model_type")) not in TRANSFORMERS:
        raise CannotAdapt(
            f"{CONFIG} says model_type {str(kind)[:40]!r}: taken are {', '.join(TRANSFORMERS)} of "
            "transformers and the networks of timm; export another one to ONNX and write a card for it "
            "(docs/reference/cards.md)"
        )
    facts = _checked(TransformerConfig, config, CONFIG)
    taken = _input(_checked(_Preprocessor, _json(folder / PREPROCESSOR), PREPROCESSOR))
    labels = () if described.encoder else described.labels or _labels(config)
    exclusive = not described.encoder and (described.softmax or _exclusive(config))
    if described.size and kind == DINOV2:
        taken["size"] = described.size
    if facts.hidden_size % facts.num_attention_heads or taken["size"] % facts.patch_size:
        raise CannotAdapt(f"{CONFIG}: hidden_size must hold whole heads, and the input's side whole patches")
    network = from_state(facts, taken["size"], len(labels), read_weights(folder / WEIGHTS))
    return Adapted(
        network=network,
        outputs=network.outputs,
        id=f"huggingface-{kind}",
        architecture=facts.model_type,
        labels=labels,
        kind="probabilities" if exclusive else "logits",
        channels=facts.num_channels,
        **taken,
    )


def _timm(folder: Path, config: dict[str, Any], described: Request) -> Adapted:
    facts = _checked(_TimmConfig, config, CONFIG)
    about = facts.pretrained_cfg
    labels = described.labels or _labels(config, facts.num_classes)
    exclusive = described.softmax or _exclusive(config)
    channels, size, _ = about.input_size
    network = foreign.filled_timm_network(
        facts.architecture, read_weights(folder / WEIGHTS), len(labels), channels
    )
    return Adapted(
        network=network,
        outputs=network.outputs,
        id=f"huggingface-{facts.architecture.replace('/', '-')}",
        architecture=facts.architecture,
        labels=labels,
        kind="probabilities" if exclusive else "logits",
        channels=channels,
        size=size,
        mean=tuple(255.0 * value for value in about.mean),
        scale=tuple(255.0 * value for value in about.std),
        crop=about.crop_pct,
        squash=about.crop_mode == "squash",
        interpolation=about.interpolation,
    )


def _labels(config: dict[str, Any], expected: int | None = None) -> tuple[str, ...]:
    """The names of the outputs in their order. Raises CannotAdapt where there are none to go by."""
    given = config.get("id2label") or config.get("label_names")
    if isinstance(given, dict):
        given = [given.get(str(number)) for number in range(len(given))]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name for name in given):
        raise CannotAdapt(f"{CONFIG} does not name the outputs: write them in their order as id2label")
    if len(set(given)) < len(given) or max(map(len, given)) > LONGEST_NAME:
        raise CannotAdapt(
            f"{CONFIG}: names of outputs must differ, and have {LONGEST_NAME} characters at most"
        )
    if expected not in {None, len(given)}:
        raise CannotAdapt(f"{CONFIG} names {len(given)} outputs of {expected}: name each of them")
    return tuple(given)


def _exclusive(config: dict[str, Any]) -> bool:
    kind = config.get("problem_type")
    if kind not in {_EXCLUSIVE, "multi_label_classification"}:
        raise CannotAdapt(
            f'{CONFIG} does not say whether findings exclude one another: write "problem_type": '
            f'"multi_label_classification" or "{_EXCLUSIVE}" into it'
        )
    return bool(kind == _EXCLUSIVE)


def _input(given: _Preprocessor) -> dict[str, Any]:
    """Size, crop and scale as in a card. Raises CannotAdapt for what no card can say."""
    size = _Sides(height=given.size, width=given.size) if isinstance(given.size, int) else given.size
    crop = given.crop_size if given.do_center_crop else None
    cropped = _Sides(height=crop, width=crop) if isinstance(crop, int) else crop
    whole = size.shortest_edge is None
    final = size.height if cropped is None else cropped.height
    square = final is not None and final == (size.width if cropped is None else cropped.width)
    edge = (size.height if size.height == size.width else None) if whole else size.shortest_edge
    if not square or final is None or edge is None or edge < final:
        raise CannotAdapt(
            f"{PREPROCESSOR}: an image must become a square, by size with equal height and width, or by "
            "size.shortest_edge with do_center_crop and crop_size"
        )
    factor = given.rescale_factor if given.do_rescale else 1.0
    mean = given.image_mean if given.do_normalize else (0.0,)
    spread = given.image_std if given.do_normalize else (1.0,)
    return {
        "size": final,
        "mean": tuple(value / factor for value in mean),
        "scale": tuple(value / factor for value in spread),
        "crop": _share(final, edge),
        "squash": whole,
        "interpolation": {2: "bilinear", 3: "bicubic"}[given.resample],
    }


def _share(size: int, edge: int) -> float:
    """The share by which a card says ``edge``: ``floor(size / share)``, whatever the division rounds to."""
    share = size / edge
    return share if math.floor(size / share) == edge else size / (edge + 0.5)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CannotAdapt(f"{path.name} is missing: take the whole folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CannotAdapt(f"{path.name} is not JSON") from error
    if not isinstance(found, dict):
        raise CannotAdapt(f"{path.name} holds no table of settings")
    return found


def _checked(kind: type[Kind], values: dict[str, Any], name: str) -> Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) for one in error.errors()[:6])
        raise CannotAdapt(f"{name} does not say, or says what is not taken here: {wrong}") from error
