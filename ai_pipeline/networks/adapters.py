"""Networks of other projects, filled from their checkpoints, with the facts of their cards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ai_pipeline.errors import CannotAdapt
from ai_pipeline.networks import foreign, huggingface, nih
from ai_pipeline.networks.adapted import Adapted, Chosen, FirstOf, Softmax
from ai_pipeline.networks.checkpoints import read_state
from ai_pipeline.networks.conversion import Request
from ai_pipeline.networks.filling import fill, own_names
from ai_pipeline.networks.foreign import DENSENETS
from ai_pipeline.networks.xrv import REACH, RELEASES, TARGETS, release

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SCALE = (0.229, 0.224, 0.225)


def adapt(path: Path, described: Request) -> Adapted:
    """The network of the checkpoint at ``path``. Raises CannotAdapt or UnreadableCheckpoint."""
    adapted = _ADAPTERS[described.family](path, described)
    if described.leave_out:
        adapted = _without(adapted, described.leave_out)
    adapted.network.eval()  # the wrapper too: export takes the mode of the outermost module
    return adapted


def _without(adapted: Adapted, leave_out: Sequence[str]) -> Adapted:
    """``adapted`` without outputs for the labels ``leave_out``; those that it does not have change
    nothing.
    """
    kept = [number for number, label in enumerate(adapted.labels) if label not in leave_out]
    if not kept:
        raise CannotAdapt("every label is left out: name at least one that the model is to find")
    points = adapted.operating_points
    changed = {
        "network": Chosen(adapted.network, adapted.outputs, kept),
        "labels": tuple(adapted.labels[number] for number in kept),
        "operating_points": tuple(points[number] for number in kept) if points else (),
        "left_out": tuple(label for label in adapted.labels if label in leave_out),
    }
    return adapted.model_copy(update=changed)


def _xrv(path: Path, described: Request) -> Adapted:
    key = release(described.architecture, path.name)
    if key is None:
        raise CannotAdapt(f"say which weights these are, as --architecture: one of {', '.join(RELEASES)}")
    known = RELEASES[key]
    kept = [index for index, point in enumerate(known.points) if point is not None]
    state = own_names(_skeleton("xrv", known.architecture).state_dict(), read_state(path))
    head = "classifier" if known.architecture in DENSENETS else "fc"
    if len(state.get(f"{head}.weight", ())) != len(TARGETS):
        raise CannotAdapt(f"{path.name} has no {head} of {len(TARGETS)} outputs: it is not {key}")
    for part in ("weight", "bias"):
        state[f"{head}.{part}"] = state[f"{head}.{part}"][kept].clone()
    labels = tuple(TARGETS[index] for index in kept)
    filled = _filled("xrv", known.architecture, state, len(labels), 1)
    return Adapted(
        network=filled,
        outputs=filled.outputs,
        id=f"xrv-{key}",
        architecture=known.architecture,
        labels=labels,
        channels=1,
        size=known.size,
        mean=(127.5,),
        scale=(127.5 / REACH,),
        preprocess="xrv",
        operating_points=tuple(point for point in known.points if point is not None),
        licence="Apache-2.0 (torchxrayvision); the images it was trained on have terms of their own",
    )


def _named(path: Path, described: Request) -> Adapted:
    """A network of torchvision or timm, by the name that it has there."""
    architecture, timm = described.architecture, described.family == "timm"
    if not architecture:
        raise CannotAdapt(
            "say which network the parameters belong to: --architecture densenet121, for example"
        )
    state = own_names(_skeleton(described.family, architecture).state_dict(), read_state(path))
    head, channels = _head(state), _channels(state)
    if len(described.labels) != head:
        raise CannotAdapt(f"the file has {head} outputs, --labels names {len(described.labels)}")
    filled = _filled(described.family, architecture, state, head, channels)
    # timm's configuration says mean, spread, size and crop; of a DenseNet the file may be torchvision's.
    about = filled.network.pretrained_cfg if timm and architecture not in DENSENETS else {}
    return Adapted(
        network=Softmax(filled) if described.softmax else filled,
        outputs=filled.outputs,
        id=f"{described.family}-{architecture.replace('/', '-')}",
        architecture=architecture,
        labels=described.labels,
        channels=channels,
        size=described.size or int(about.get("input_size", (3, 224, 224))[-1]),
        mean=_of_channels(about.get("mean", IMAGENET_MEAN), channels),
        scale=_of_channels(about.get("std", IMAGENET_SCALE), channels),
        preprocess="imagenet",
        crop=float(about.get("crop_pct", 0.875)) if timm else 0.875,
        squash=about.get("crop_mode", "center") == "squash",
        interpolation="bicubic" if timm and about.get("interpolation") == "bicubic" else "bilinear",
        kind="probabilities" if described.softmax else "logits",
    )


def _ultralytics(path: Path, described: Request) -> Adapted:
    """An Ultralytics checkpoint is a pickled network of its own classes: here its code runs."""
    network, licence, size = foreign.ultralytics_classifier(path)
    names = tuple(str(network.names[index]) for index in sorted(network.names))
    return Adapted(
        network=FirstOf(network.float().eval()),
        outputs=("logits",),
        id=f"ultralytics-{re.sub('[^A-Za-z0-9._+-]', '-', path.stem)}",
        architecture=str(getattr(network, "yaml", {}).get("yaml_file", path.stem)),
        labels=described.labels or names,
        channels=3,
        size=described.size or size,
        mean=(0.0,),
        scale=(255.0,),
        preprocess="imagenet",
        kind="probabilities",
        licence=licence,
    )


_ADAPTERS = {
    "xrv": _xrv,
    "torchvision": _named,
    "timm": _named,
    "ultralytics": _ultralytics,
    "huggingface": huggingface.adapt,
    "eva-x": nih.eva_x,
    "medical-mae": nih.medical_mae,
}


def _head(state: Mapping[str, Tensor]) -> int:
    """How many outputs: the rows of the last matrix."""
    matrices = [value for name, value in state.items() if value.ndim == 2 and name.endswith(".weight")]
    if not matrices:
        raise CannotAdapt("the file has no linear layer at its end")
    return len(matrices[-1])


def _channels(state: Mapping[str, Tensor]) -> int:
    """How many channels the first convolution reads."""
    kernels = [value for value in state.values() if value.ndim == 4]
    if not kernels:
        raise CannotAdapt("the file has no convolution")
    return kernels[0].shape[1]


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values 0..1, one for each channel, scaled to 0..255; their mean where the network reads grey."""
    if channels == len(values):
        return tuple(255.0 * value for value in values)
    return (255.0 * sum(values) / len(values),)


def _skeleton(family: str, architecture: str) -> Any:
    """The network without memory for its parameters, whose names and shapes are known all the same."""
    with torch.device("meta"):
        if family == "timm" or architecture in DENSENETS:
            return foreign.timm_network(architecture, 1, 3)
        return foreign.torchvision_network(architecture, 1)


def _filled(family: str, architecture: str, state: dict[str, Tensor], labels: int, channels: int) -> Any:
    """torchvision's network, or timm's behind :class:`WithMaps`; for inference."""
    if architecture in DENSENETS:
        return foreign.densenet(architecture, state, labels, channels)
    if family == "timm":
        return foreign.filled_timm_network(architecture, state, labels, channels)
    network = foreign.torchvision_network(architecture, labels)
    fill(network.eval(), state, f"torchvision's {architecture}")
    return FirstOf(network)
