"""Export networks that reduce speckle as ONNX files with their cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from ai_pipeline.despeckle.despeckler import MODEL
from ai_training.cards import new_card
from ai_training.networks.despeckle import STEP, DespecklerGraph
from ai_training.onnx_file import export

LARGEST = 1024
"""Most steps of :data:`STEP` pixels a side that an exported file is declared for."""
VERSION = "3"
"""Version of our card; 1 and 2 mixed blurs of the picture."""
USE = (
    "A further picture of a file to look at (`ai-pipeline run --despeckle`), beside the image as it came; no "
    "rule of the node asks for it. Not for measurement of texture."
)
COMPARISON = "To compare with: no pipeline runs it."


def name_of(network: str, loss: str) -> str:
    """The id of the model card for this network and loss."""
    return MODEL if network == "residual" else f"ultrasound-despeckle-{network}-{loss}"


def export_despeckler(network: nn.Module, path: Path) -> None:
    """Write the network: ``pictures [1, 1, rows, columns]`` to ``despeckled``, both 0..1; sides are multiples
    of :data:`STEP`."""
    rows, columns = Dim("steps_down", min=4, max=LARGEST), Dim("steps_across", min=4, max=LARGEST)
    shapes = {"pictures": {2: STEP * rows, 3: STEP * columns}}
    export(DespecklerGraph(network).eval(), (torch.zeros(1, 1, 96, 128),), shapes, ("despeckled",), path)


def write_card(folder: Path, card_id: str, strength: float, training: Mapping[str, Any]) -> Path:
    """Write the card beside the weights; ``ai-pipeline evaluate despeckle`` adds the figures."""
    about = {
        "task": "less speckle in ultrasound pictures",
        "architecture": card_id.removeprefix("ultrasound-despeckle-"),
        "licence": "AGPL-3.0-or-later; trained from scratch",
        "intended_use": USE if card_id == MODEL else COMPARISON,
        "limits": [
            "Taught by the fetal frames of one hospital with speckle put on them: no picture without speckle "
            "exists.",
            "Speckle is a sign too: texture of organs and of lesions is weaker in what comes out.",
            "Looked at one by one, frames of a cine may flicker.",
        ],
    }
    tables: dict[str, dict[str, Any]] = {
        "despeckler": {"strength": strength},
        "calibration": {"calibrated": False, "method": "none: pictures, no probabilities"},
        "training": {"data": ["us_fetal_head (train): frames, with speckle by two models"], **training},
    }
    made_by = "Model card of a network that reduces speckle: `ai-pipeline train despeckle`."
    version = VERSION if card_id == MODEL else "1"
    return new_card(folder, card_id, made_by, "despeckler", about, tables, version)
