"""Export the anatomy network as an ONNX file with its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from ai_pipeline.networks.efficientnet import NAME
from ai_training.anatomy.data import CHAIN, MEAN, SCALE
from ai_training.cards import new_card
from ai_training.networks.outlines import ORGANS, SIDE, AnatomyGraph, OutlineNetwork
from ai_training.networks.start import DEFAULT_START, StartWeights
from ai_training.onnx_file import export

ID = "chest-anatomy-unet"
TOLERANCE = 0.03
"""Largest difference of the ratio between two variants of the picture."""


def export_anatomy(network: OutlineNetwork, path: Path) -> None:
    """Write the network: input ``images [N, 3, SIDE, SIDE]``, output ``organs [N, 3, SIDE, SIDE]`` 0..1."""
    example = (torch.zeros(2, 3, SIDE, SIDE),)
    export(AnatomyGraph(network).eval(), example, {"images": {0: Dim("variants", max=16)}}, ("organs",), path)


def write_card(
    folder: Path, training: Mapping[str, Any], backbone: str = NAME, start: StartWeights = DEFAULT_START
) -> Path:
    """Write the card beside the weights of a network on ``backbone``.

    ``ai-pipeline evaluate anatomy`` adds the test figures.
    """
    about = {
        "task": "outlines of heart and lungs in frontal chest X-rays, for the cardiothoracic ratio",
        "architecture": "anatomy-unet" if backbone == NAME else f"anatomy-unet on {backbone}",
        "licence": start.licence_of(backbone, "trunk"),
        "intended_use": (
            "To measure the cardiothoracic ratio of upright frontal chest X-rays of adults, by lines that a "
            "reader checks. Comparable on PA films only."
        ),
        "limits": [
            "Taught by masks of 157 chests of one set, two thirds of them with a ratio above .5.",
            "Outlines in a white or collapsed lung are a guess; such images are mostly, not always, refused.",
            "An effusion or a fat pad beside the heart is taken for heart: see docs/studies/anatomy.md.",
        ],
    }
    tables = {
        "input": {
            "size": SIDE,
            "channels": 3,
            "mean": MEAN,
            "scale": SCALE,
            "photometric": "MONOCHROME2",
            "chain": asdict(CHAIN),
        },
        "anatomy": {"organs": list(ORGANS), "tolerance": TOLERANCE},
        "calibration": {"calibrated": False, "method": "none: outlines, no probabilities"},
        "training": {**training, "start": start.described(backbone)},
    }
    made_by = "Model card of the network that outlines heart and lungs: `ai-pipeline train anatomy`."
    return new_card(folder, ID, made_by, "anatomy", about, tables)
