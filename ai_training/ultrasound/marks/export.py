"""ONNX files and cards of the ultrasound networks."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import tomlkit
import torch
from torch import nn
from torch.export import Dim

from ai_training.networks.marks import CLASSES, OUTPUTS, MarkFinderGraph, MarkNetwork
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


def export(
    graph: nn.Module,
    examples: tuple[torch.Tensor, ...],
    shapes: dict[str, dict[int, Any]],
    outputs: tuple[str, ...],
    path: Path,
) -> None:
    """Write ``graph`` as one ONNX file that names nothing of this machine: equal networks, equal bytes."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        torch.onnx.export(
            graph,
            examples,
            str(path),
            input_names=list(shapes),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(str(path))
    inner = model.graph
    del model.metadata_props[:], inner.metadata_props[:], inner.value_info[:]
    for part in (*inner.node, *inner.input, *inner.output, *inner.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    inner.name = path.stem
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_finder_card(
    folder: Path, threshold: float, scores: Mapping[str, float], training: Mapping[str, Any]
) -> Path:
    """Write the detector's card beside its weights; test figures come by ``ai-pipeline evaluate marks``."""
    card = tomlkit.document()
    card.add(
        tomlkit.comment("Model card of the detector of burned-in annotation: `ai-pipeline train marks`.")
    )
    card["id"] = ID
    card["version"] = "1"
    card["task"] = "segmentation of burned-in annotation in ultrasound pictures, by kind of mark"
    card["architecture"] = "marks-unet"
    card["licence"] = "AGPL-3.0-or-later; trained from scratch"
    card["intended_use"] = (
        "To find text and drawn marks that are to be removed, together with a text detector and what DICOM "
        "says. Not a proof that nothing is left: that is read off the cleaned picture."
    )
    card["limits"] = [
        "Trained on synthetic overlays and on the coloured marks of one hospital's frames.",
        "Bars and boxes under a text are left where they are: without their text they say nothing.",
        "Whether a text names a person is not its to say.",
    ]
    weights = tomlkit.aot()
    weights.append(
        tomlkit.item(
            {
                "role": "mark-finder",
                "file": f"{ID}.onnx",
                "sha256": hashlib.sha256((folder / f"{ID}.onnx").read_bytes()).hexdigest(),
            }
        )
    )
    card["weights"] = weights
    card["detector"] = {"classes": list(CLASSES), "threshold": threshold, "step": 16}
    card["calibration"] = {
        "calibrated": False,
        "method": "lowest threshold that marks at most .1 % of clean validation frames, soft edges included",
    }
    card["training"] = {
        "data": ["us_fetal_head, us_breast, us_ovarian (train): clean parts with synthetic overlays",
                 "us_ovarian (train): coloured marks"],
        **training,
        "fonts": {name: _fonts(name) for name in FAMILIES},
    }  # fmt: skip
    card["metrics"] = {"validation": {name: round(value, 5) for name, value in scores.items()}}
    path = folder / f"{ID}.toml"
    path.write_text(tomlkit.dumps(card))
    return path


def _fonts(family: str) -> list[str]:
    """The fonts of a style family, by name, weight and the start of the file's SHA-256."""
    faces = latin_faces(FAMILIES[family]) + korean_faces(FAMILIES[family])
    return [" ".join((row["name"], row["weight"], row["sha256"][:12])).strip() for row in font_list(faces)]
