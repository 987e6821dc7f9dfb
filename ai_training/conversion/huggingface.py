"""Read a folder in Hugging Face's layout, without pickles: config.json, model.safetensors,
preprocessor_config.json.

config.json describes the network and its labels, preprocessor_config.json how an image becomes the input;
timm's folders have both in config.json. Known networks: ViT and DINOv2 of transformers, and all of timm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from ai_training.base import CannotAdapt
from ai_training.conversion import foreign, vit
from ai_training.conversion.adapted import Adapted, Softmax
from ai_training.conversion.checkpoints import read_weights
from ai_training.conversion.messages import Request

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
TRANSFORMERS = ("vit", "dinov2")
LONGEST_NAME = 64  # characters: what a code meaning may have (PS3.5, LO)
_EXCLUSIVE = "single_label_classification"
_RESAMPLE: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers

Count = Annotated[int, Field(ge=1, le=8192)]
Three = Annotated[tuple[float, ...], Field(min_length=1, max_length=16)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class _TransformersConfig(_Table):
    model_type: str
    hidden_size: Count
    num_hidden_layers: Annotated[int, Field(ge=1, le=64)]
    num_attention_heads: Count
    intermediate_size: Count | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4
    image_size: Annotated[int, Field(ge=16, le=4096)]
    patch_size: Annotated[int, Field(ge=4, le=64)]
    num_channels: Annotated[int, Field(ge=1, le=16)] = 3
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-12
    qkv_bias: bool = True
    hidden_act: Literal["gelu"] = "gelu"
    use_swiglu_ffn: Literal[False] = False


class _Sides(_Table):
    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None


class _Preprocessor(_Table):
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


class _TimmInput(_Table):
    input_size: tuple[int, int, int]
    mean: Three
    std: Three
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


class _TimmConfig(_Table):
    architecture: str
    num_classes: Count
    pretrained_cfg: _TimmInput


_Kind = TypeVar("_Kind", bound=_Table)


def adapt(folder: Path, described: Request) -> Adapted:
    """The network of ``folder``. Raises CannotAdapt or UnreadableCheckpoint."""
    config = _json(folder / CONFIG)
    if "architecture" in config and not described.encoder:
        return _timm(folder, config, described)
    kind = config.get("model_type")
    if kind not in TRANSFORMERS:
        raise CannotAdapt(
            f"{CONFIG} says model_type {str(kind)[:40]!r}: taken are {', '.join(TRANSFORMERS)} of "
            "transformers and the "
            "networks of timm; export another one to ONNX and write a card for it (docs/reference/cards.md)"
        )
    return _transformers(folder, config, described)


def _transformers(folder: Path, config: dict[str, Any], described: Request) -> Adapted:
    facts = _checked(_TransformersConfig, config, CONFIG)
    taken = _input(_checked(_Preprocessor, _json(folder / PREPROCESSOR), PREPROCESSOR))
    labels = () if described.encoder else described.labels or _labels(config)
    exclusive = not described.encoder and (described.softmax or _exclusive(config))
    if described.size and facts.model_type == vit.DINOV2:
        taken["size"] = described.size
    shape = vit.TransformerShape(
        kind=facts.model_type,
        width=facts.hidden_size,
        depth=facts.num_hidden_layers,
        heads=facts.num_attention_heads,
        hidden=facts.intermediate_size or round(facts.hidden_size * facts.mlp_ratio),
        size=taken["size"],
        patch=facts.patch_size,
        channels=facts.num_channels,
        labels=len(labels),
        epsilon=facts.layer_norm_eps,
        bias=facts.qkv_bias,
    )
    if shape.width % shape.heads or shape.size % shape.patch:
        raise CannotAdapt(f"{CONFIG}: hidden_size must hold whole heads, and the input's side whole patches")
    network = vit.from_state(shape, read_weights(folder / WEIGHTS))
    return _adapted(
        network,
        network.outputs,
        f"huggingface-{facts.model_type}",
        facts.model_type,
        labels,
        exclusive,
        {"channels": shape.channels, **taken},
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
    taken: dict[str, Any] = {
        "channels": channels,
        "size": size,
        "mean": _of_bytes(about.mean),
        "scale": _of_bytes(about.std),
        "crop": about.crop_pct,
        "squash": about.crop_mode == "squash",
        "interpolation": about.interpolation,
    }
    name = facts.architecture.replace("/", "-")
    return _adapted(
        network, network.outputs, f"huggingface-{name}", facts.architecture, labels, exclusive, taken
    )


def _adapted(
    network: nn.Module,
    outputs: tuple[str, ...],
    model_id: str,
    architecture: str,
    labels: Sequence[str],
    exclusive: bool,
    taken: dict[str, Any],
) -> Adapted:
    return Adapted(
        network=Softmax(network) if exclusive else network,
        outputs=outputs,
        id=model_id,
        architecture=architecture,
        labels=tuple(labels),
        kind="probabilities" if exclusive else "logits",
        **taken,
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
        "interpolation": _RESAMPLE[given.resample],
    }


def _share(size: int, edge: int) -> float:
    """The share by which a card says ``edge``: ``floor(size / share)``, whatever the division rounds to."""
    share = size / edge
    return share if math.floor(size / share) == edge else size / (edge + 0.5)


def _of_bytes(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(255.0 * value for value in values)


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


def _checked(kind: type[_Kind], values: dict[str, Any], name: str) -> _Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) for one in error.errors()[:6])
        raise CannotAdapt(f"{name} does not say, or says what is not taken here: {wrong}") from error
