"""Networks of torchvision and timm, filled from their checkpoints, with the facts of their cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ai_training.base import CannotAdapt
from ai_training.conversion import foreign, huggingface
from ai_training.conversion.adapted import Adapted, Chosen, FirstOf, Softmax
from ai_training.conversion.checkpoints import read_weights
from ai_training.conversion.filling import fill
from ai_training.conversion.foreign import DENSENETS
from ai_training.conversion.messages import Request

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SCALE = (0.229, 0.224, 0.225)


def adapt(path: Path, described: Request) -> Adapted:
    """The network of the checkpoint at ``path``. Raises CannotAdapt or UnreadableCheckpoint."""
    read = huggingface.adapt if described.family == "huggingface" else _named
    adapted = read(path, described)
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
    changed = {
        "network": Chosen(adapted.network, adapted.outputs, kept),
        "labels": tuple(adapted.labels[number] for number in kept),
        "left_out": tuple(label for label in adapted.labels if label in leave_out),
    }
    return adapted.model_copy(update=changed)


def _named(path: Path, described: Request) -> Adapted:
    """A network of torchvision or timm, by the name that it has there."""
    architecture, labels, state = described.architecture, described.labels, read_weights(path)
    if not architecture or not labels:
        raise CannotAdapt("say what it is and what it finds: --architecture densenet121 --labels A,B")
    channels = next((value.shape[1] for value in state.values() if value.ndim == 4), 3)
    timm = described.family == "timm"
    filled: Any
    if timm or architecture in DENSENETS:
        filled = foreign.filled_timm_network(architecture, state, len(labels), channels)
    else:
        network = foreign.torchvision_network(architecture, len(labels))
        fill(network.eval(), state, f"torchvision's {architecture}")
        filled = FirstOf(network)
    # timm's configuration says mean, spread, size and crop; of a DenseNet the file may be torchvision's.
    about = filled.network.pretrained_cfg if timm and architecture not in DENSENETS else {}
    return Adapted(
        network=Softmax(filled) if described.softmax else filled,
        outputs=filled.outputs,
        id=f"{described.family}-{architecture.replace('/', '-')}",
        architecture=architecture,
        labels=labels,
        channels=channels,
        size=described.size or int(about.get("input_size", (3, 224, 224))[-1]),
        mean=_of_channels(about.get("mean", IMAGENET_MEAN), channels),
        scale=_of_channels(about.get("std", IMAGENET_SCALE), channels),
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
