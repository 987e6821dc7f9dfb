"""Export the reader of small letters as an ONNX file with its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from ai_pipeline.burnin.find.line_network import HEIGHT, STEP, WIDEST
from ai_pipeline.burnin.find.symbols import SYMBOLS
from ai_training.cards import new_card
from ai_training.networks.reader import ReaderGraph, ReaderNetwork
from ai_training.onnx_file import export
from ai_training.ultrasound.reader.lines import PACKAGES

ID = "ultrasound-line-reader"


def export_reader(network: ReaderNetwork, path: Path) -> None:
    """Write the reader: input ``lines`` ``[1, 1, 32, columns]`` with free columns, multiples of 4."""
    columns = Dim("columns4", min=8, max=WIDEST // STEP)
    example = (torch.zeros(1, 1, HEIGHT, 128),)
    export(ReaderGraph(network).eval(), example, {"lines": {3: STEP * columns}}, ("symbols",), path)


def write_reader_card(folder: Path, scores: Mapping[str, float], training: Mapping[str, Any]) -> Path:
    """Write the reader's card beside its weights; ``ai-pipeline evaluate reader`` adds the test figures."""
    about = {
        "task": "reading of single lines of text on ultrasound pictures",
        "architecture": "line-reader: convolutions and CTC",
        "licence": "AGPL-3.0-or-later; trained from scratch",
        "intended_use": (
            "To read small letters of settings, results and places, so that these stay when names go. What "
            "it does not prove harmless, a second reader reads too. It is no proof that nothing is left."
        ),
        "limits": [
            "Trained on drawn lines; letters of other scripts than Latin are seen as letters and not read.",
            "Lines that slope or stand upside down are read by the second reader only.",
        ],
    }
    tables: dict[str, dict[str, Any]] = {
        "symbols": {"read": SYMBOLS},
        "calibration": {"calibrated": False, "method": "mean probability of the symbols"},
        "training": {
            "data": [
                "invented texts in the fonts of Debian's packages",
                "us_fetal_head, us_breast, us_ovarian (train): grounds",
            ],
            **training,
            "fonts": PACKAGES.split(),
        },
        "metrics": {"validation": {name: round(value, 5) for name, value in scores.items()}},
    }
    made_by = "Model card of the reader of small letters: `ai-pipeline train reader`."
    return new_card(folder, ID, made_by, "line-reader", about, tables)
