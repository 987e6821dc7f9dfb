"""Export a learned inpainter as an ONNX file with its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from ai_pipeline.burnin.fill.inpainters import CONTEXT, CORE
from ai_training.cards import new_card
from ai_training.networks.inpaint import Filler
from ai_training.onnx_file import export

OUTPUTS = ("filled",)
TITLES = {
    "oci-gan": "residual blocks on a Navier-Stokes fill, trained with a patch discriminator",
    "unet": "U-Net",
    "vae": "variational autoencoder",
}


def file_id(architecture: str) -> str:
    return f"ultrasound-inpaint-{architecture}"


def export_filler(network: Filler, path: Path) -> None:
    """Write ``network``: inputs ``start`` and ``hole`` as in :class:`Filler`, any number of tiles."""
    side = CORE + 2 * CONTEXT
    batch = Dim("batch", min=1, max=4096)
    examples = torch.zeros(2, 3, side, side), torch.zeros(2, 1, side, side)
    export(network.eval(), examples, {"start": {0: batch}, "hole": {0: batch}}, OUTPUTS, path)


def write_filler_card(
    folder: Path, architecture: str, scores: Mapping[str, float], training: Mapping[str, Any]
) -> Path:
    """Write the card beside the weights."""
    about = {
        "task": "filling of masked pixels in ultrasound pictures",
        "architecture": f"{architecture}: {TITLES[architecture]}",
        "licence": (
            "AGPL-3.0-or-later; trained from scratch against features of EfficientNet-Lite0 (Apache-2.0)"
        ),
        "intended_use": "To fill the pixels of removed annotation. What it fills in was never measured.",
        "limits": ["Filled pixels are invented. Not for measurement and not for diagnosis."],
    }
    tables: dict[str, Any] = {
        "tile": {"core": CORE, "context": CONTEXT},
        "calibration": {"calibrated": False, "method": "none: it says nothing about a patient"},
        "training": {
            "data": ["us_fetal_head, us_breast, us_ovarian (train): clean parts with synthetic overlays"],
            **training,
        },
        "metrics": {"validation": {key: round(value, 4) for key, value in scores.items()}},
    }
    made_by = "Model card of a learned inpainter: `ai-pipeline train inpaint`."
    return new_card(folder, file_id(architecture), made_by, "inpainter", about, tables)
