"""ONNX file and card of a learned inpainter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
import torch
from torch.export import Dim

from ai_pipeline.burnin.fill.inpainters import CONTEXT, CORE
from ai_training.networks.inpaint import Filler
from ai_training.ultrasound.marks.export import export

OUTPUTS = ("filled",)
TITLES = {
    "oci-gan": "residual blocks on a Navier-Stokes fill, trained with a patch discriminator",
    "unet": "U-Net",
    "vae": "variational autoencoder",
}


def file_id(architecture: str) -> str:
    return f"ultrasound-inpaint-{architecture}"


def export_filler(network: Filler, path: Path) -> None:
    """Write ``network``: inputs ``start`` and ``hole`` as :class:`Filler` says, any number of tiles."""
    side = CORE + 2 * CONTEXT
    batch = Dim("batch", min=1, max=4096)
    examples = torch.zeros(2, 3, side, side), torch.zeros(2, 1, side, side)
    export(network.eval(), examples, {"start": {0: batch}, "hole": {0: batch}}, OUTPUTS, path)


def write_filler_card(
    folder: Path, architecture: str, scores: Mapping[str, float], training: Mapping[str, Any]
) -> Path:
    """Write the card beside the weights."""
    name = file_id(architecture)
    card = tomlkit.document()
    card.add(tomlkit.comment("Model card of a learned inpainter: `ai-pipeline train inpaint`."))
    card["id"] = name
    card["version"] = "1"
    card["task"] = "filling of masked pixels in ultrasound pictures"
    card["architecture"] = f"{architecture}: {TITLES[architecture]}"
    card["licence"] = (
        "AGPL-3.0-or-later; trained from scratch against features of EfficientNet-Lite0 (Apache-2.0)"
    )
    card["intended_use"] = "To fill the pixels of removed annotation. What it fills in was never measured."
    card["limits"] = ["Filled pixels are invented. Not for measurement and not for diagnosis."]
    weights = tomlkit.aot()
    digest = hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()
    weights.append(tomlkit.item({"role": "inpainter", "file": f"{name}.onnx", "sha256": digest}))
    card["weights"] = weights
    card["tile"] = {"core": CORE, "context": CONTEXT}
    card["calibration"] = {"calibrated": False, "method": "none: it says nothing about a patient"}
    card["training"] = {
        "data": ["us_fetal_head, us_breast, us_ovarian (train): clean parts with synthetic overlays"],
        **training,
    }
    card["metrics"] = {"validation": {key: round(value, 4) for key, value in scores.items()}}
    path = folder / f"{name}.toml"
    path.write_text(tomlkit.dumps(card))
    return path
