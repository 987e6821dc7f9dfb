"""Export the mark detector as an ONNX file with its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from ai_training.cards import new_card
from ai_training.networks.marks import CLASSES, OUTPUTS, MarkFinderGraph, MarkNetwork
from ai_training.onnx_file import export
from ai_training.ultrasound.overlays.styles import FAMILIES, korean_faces, latin_faces
from ai_training.ultrasound.overlays.typesetting import font_list

ID = "ultrasound-marks-unet"
LARGEST = 512
"""Most steps of 16 pixels a side that an exported file is declared for (8,192 pixels)."""


def export_finder(network: MarkNetwork, path: Path) -> None:
    """Write the detector: input ``frames`` RGB 0..255 with free rows and columns, multiples of 16."""
    rows, columns = Dim("rows16", min=2, max=LARGEST), Dim("columns16", min=2, max=LARGEST)
    export(
        MarkFinderGraph(network).eval(),
        (torch.zeros(1, 3, 96, 128),),
        {"frames": {2: 16 * rows, 3: 16 * columns}},
        OUTPUTS,
        path,
    )


def write_finder_card(
    folder: Path, threshold: float, scores: Mapping[str, float], training: Mapping[str, Any]
) -> Path:
    """Write the detector's card beside its weights; ``ai-pipeline evaluate marks`` adds the test figures."""
    about = {
        "task": "segmentation of burned-in annotation in ultrasound pictures, by kind of mark",
        "architecture": "marks-unet",
        "licence": "AGPL-3.0-or-later; trained from scratch",
        "intended_use": (
            "To find text and drawn marks that are to be removed, together with a text detector and what "
            "DICOM says. Not a proof that nothing is left: that is read off the cleaned picture."
        ),
        "limits": [
            "Trained on synthetic overlays and on the coloured marks of one hospital's frames.",
            "Bars and boxes under a text are left where they are: without their text they say nothing.",
            "Whether a text names a person is not its to say.",
        ],
    }
    tables = {
        "detector": {"classes": list(CLASSES), "threshold": threshold, "step": 16},
        "calibration": {
            "calibrated": False,
            "method": (
                "lowest threshold that marks at most .1 % of clean validation frames, soft edges included"
            ),
        },
        "training": {
            "data": [
                "us_fetal_head, us_breast, us_ovarian (train): clean parts with synthetic overlays",
                "us_ovarian (train): coloured marks",
            ],
            **training,
            "fonts": {name: _fonts(name) for name in FAMILIES},
        },
        "metrics": {"validation": {name: round(value, 5) for name, value in scores.items()}},
    }
    made_by = "Model card of the detector of burned-in annotation: `ai-pipeline train marks`."
    return new_card(folder, ID, made_by, "mark-finder", about, tables)


def _fonts(family: str) -> list[str]:
    """The fonts of a style family, by name, weight and the start of the file's SHA-256."""
    faces = latin_faces(FAMILIES[family]) + korean_faces(FAMILIES[family])
    return [" ".join((row["name"], row["weight"], row["sha256"][:12])).strip() for row in font_list(faces)]
