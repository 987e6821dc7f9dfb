"""Export the network for fetal heads as an ONNX file with its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from ai_pipeline.fetal_head.outline import HeadLimits
from ai_pipeline.fetal_head.picture import COLUMNS, ROWS
from ai_pipeline.networks.efficientnet import NAME
from ai_training.cards import new_card
from ai_training.networks.outlines import HeadGraph, HeadNetwork
from ai_training.networks.start import DEFAULT_START, StartWeights
from ai_training.onnx_file import export

ID = "fetal-head-unet"


def export_head(network: HeadNetwork, path: Path) -> None:
    """Write the network: input ``images [N, 3, ROWS, COLUMNS]``, outputs ``head [N, ROWS, COLUMNS]`` and
    ``present [N]``, 0..1."""
    example = (torch.zeros(2, 3, ROWS, COLUMNS),)
    outputs = ("head", "present")
    export(HeadGraph(network).eval(), example, {"images": {0: Dim("variants", max=16)}}, outputs, path)


def write_card(
    folder: Path,
    limits: HeadLimits,
    training: Mapping[str, Any],
    backbone: str = NAME,
    start: StartWeights = DEFAULT_START,
) -> Path:
    """Write the card beside the weights of a network on ``backbone``.

    ``ai-pipeline evaluate fetal`` adds the test figures.
    """
    about = {
        "task": "outline of a fetal head in ultrasound, for head circumference, BPD and OFD",
        "architecture": "head-unet" if backbone == NAME else f"head-unet on {backbone}",
        "licence": start.licence_of(backbone, "trunk"),
        "intended_use": (
            "To measure the head of a fetus in a still picture of the plane for biometry, by an ellipse that "
            "a sonographer checks."
        ),
        "limits": [
            "Taught by the frames of one hospital and two kinds of scanner; whether the plane is the "
            "standard one is not judged.",
            "Abdomen and femur of a fetus were in no set at hand: how often they are taken for a head is not "
            "known.",
            "The biparietal diameter is the ellipse's short axis, from outer to outer edge of the skull.",
        ],
    }
    tables = {
        "head": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(limits).items()},
        "calibration": {
            "calibrated": False,
            "method": "none: outlines, no probabilities; limits of the gate fitted on validation pictures",
        },
        "training": {**training, "start": start.described(backbone)},
    }
    made_by = "Model card of the network that outlines fetal heads: `ai-pipeline train fetal`."
    return new_card(folder, ID, made_by, "head", about, tables)
