"""Export the runs of the folds and of all frames: networks, gate, calibration, card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
import torch
from torch.export import Dim

from ai_pipeline.contract import BURNED_IN
from ai_pipeline.networks.efficientnet import fuse
from ai_training.cards import new_card, weights_row
from ai_training.networks.outlines import AnatomyGraph
from ai_training.networks.ovarian import CystEnsemble
from ai_training.networks.start import DEFAULT_START
from ai_training.onnx_file import export, store_in_half
from ai_training.ovarian import gate, outline_fit, predictions
from ai_training.ovarian.calibration import (
    MISSED,
    RIGHT,
    absence_threshold,
    answer_threshold,
    cross_fitted,
    scaled,
)
from ai_training.ovarian.fit import ALL, FOLD_RUNS, OvarianRecipe, ensemble, lower_of, outputs_above
from ai_training.ovarian.predictions import HeldOut
from ai_training.progress import Report, silent
from ai_training.sets.ovarian import (
    CHAIN,
    FOLDS,
    LABELS,
    MALIGNANT,
    MEAN,
    SCALE,
    OvarianFrame,
    folds,
    ovarian_frames,
    ovarian_set,
    reduced,
)

ID = "ovarian-efficientnet-lite0"
VERSION, LOOKS = "3", 3
"""Of the card; how often its held-out frames have been scored by now: once for each version."""
MEANINGS = {
    "Chocolate_Cyst": "Endometriotic (chocolate) cyst of ovary",
    "Serous_Cystadenoma": "Serous cystadenoma of ovary",
    "Teratoma": "Teratoma of ovary",
    "Theca_Cell_Tumor": "Theca cell tumour of ovary",
    "Simple_Cyst": "Simple cyst of ovary",
    "Ovary_Normal": "Ovary without lesion",
    "Mucinous_Cystadenoma": "Mucinous cystadenoma of ovary",
    "High-grade_Serous_Cystadenoma": "High-grade serous tumour of ovary",
}
"""Code Meanings of the classes, which are the manifest's; the values are of our own scheme."""
SOURCE = "private: PS3.16 has no concept of it, and no SNOMED CT release to check one against was at hand"
LIMITS = (
    "Not for diagnostic use. Not cleared by any authority.",
    "One hospital, and no patient identifiers: frames of one patient that look different may be on both "
    "sides of a split, so the figures may flatter.",
    "Trained and measured on frames in which somebody had chosen an ovary and often measured it; other "
    "frames of an examination were not there.",
    "36 frames of the malignant class in 32 groups: what it is worth is not known, and it is hidden.",
    "Every lesion that is none of the classes gets one of them, or none.",
    "The outline is of the lesion that fills most of the frame; a second one is left out.",
)


def ship(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    outline: outline_fit.OutlineRecipe,
    seeds: Sequence[int],
    report: Report = silent,
) -> Path:
    """Write predictions, gate, networks and card into ``out`` from the finished runs below it; returns the
    card. Raises DataMissing, or OSError if a run is missing.
    """
    held_out = predict(data, out, recipe, seeds, out / predictions.FOLDER.name, report)
    export_classifier(ensemble(out, recipe, seeds, ALL), recipe.size, out / f"{ID}.onnx")
    outliner = outline_fit.trained_outliner(out / "outline")
    example = (torch.zeros(2, 3, outline.size, outline.size),)
    batch = {"images": {0: Dim("pictures", max=16)}}
    export(AnatomyGraph(outliner).eval(), example, batch, ("lesion",), out / f"{ID}.outline.onnx")
    return write_card(out, ovarian_set(data).title, held_out, recipe, outline)


def predict(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int],
    folder: Path,
    report: Report = silent,
    runs: Sequence[str] = (*FOLD_RUNS, ALL),
) -> HeldOut:
    """Write into ``folder`` the predictions of the networks of the folds below ``out``, and of their gates,
    for frames that they have not seen; with :data:`ALL` among ``runs``, also the gate that ships into
    ``out``.
    """
    frames = ovarian_frames(data)
    held_out = _held_out(out, recipe, seeds, frames, report)
    predictions.write(held_out, folder)
    _gates(data, out, recipe, seeds, held_out, folder, runs, report)
    return held_out


def export_classifier(network: CystEnsemble, size: int, path: Path) -> None:
    """Write the networks as one file in half precision: input ``images [N, 3, size, size]``, outputs as in
    :class:`CystEnsemble`.
    """
    fuse(network.eval())
    example = (torch.zeros(2, 3, size, size),)
    names = ("logits", "features", "places")
    batch = {"images": {0: Dim("batch")}}
    export(network, example, batch, names, path, ID)
    store_in_half(path)


def write_card(
    folder: Path, title: str, held_out: HeldOut, recipe: OvarianRecipe, outline: outline_fit.OutlineRecipe
) -> Path:
    """Write the card beside the weights in ``folder``; ``title``: the training set.

    ``ai-pipeline evaluate ovarian`` adds the figures.
    """
    limit = round(gate.threshold(folder / predictions.FOLDER.name / predictions.GATE), 4)
    truth, logits = held_out.labels, held_out.mean
    scaling = scaled(logits, truth)
    judged = cross_fitted(logits, truth, held_out.folds)
    point = answer_threshold(judged, truth), absence_threshold(judged, truth)
    about = {
        "task": "eight classes of the ovary or its lesion in single ultrasound frames, and its outline",
        "architecture": f"{recipe.architecture} with a head for eight classes; outline: anatomy-unet",
        "licence": recipe.start.licence_of(recipe.architecture, "trunks")
        + ("" if recipe.start == DEFAULT_START else "; outline from ImageNet weights (Apache-2.0)"),
        "intended_use": (
            "Research and development: to show a second diagnostic pipeline at work on ultrasound frames of "
            "the female pelvis. Not for diagnostic use, not for triage, not to exclude cancer."
        ),
        "limits": list(LIMITS),
    }
    tables: dict[str, Mapping[str, Any]] = {
        "input": {
            "size": recipe.size,
            "channels": 3,
            "mean": MEAN,
            "scale": SCALE,
            "photometric": "MONOCHROME2",
            "chain": asdict(CHAIN),
        },
        "outputs": {"place_kind": "activation"},
        "gate": {"role": "gate", "threshold": limit, "true_positive_rate": gate.TRUE_POSITIVE_RATE},
        "calibration": {
            "calibrated": True,
            "method": "softmax(slope · logit + intercept), fitted to out-of-fold predictions of all frames",
            "thresholds": (
                f"present: the likeliest class, from the probability on from which {RIGHT:.0%} of such "
                f"answers are right, but never a normal ovary; absent: {MISSED:.0%} of the frames have their "
                "own class below it; both on probabilities that were fitted to other folds"
            ),
            "prevalence": {
                label: round(float((truth == index).mean()), 4) for index, label in enumerate(LABELS)
            },
        },
        "training": {
            "data": [f"{title}, classes and masks"],
            "frames": len(truth),
            "groups": len(set(held_out.groups)),
            "seeds": len(held_out.logits),
            "views": "picture and mirror image, the mean of their logits",
            "held_out_looks": LOOKS,
            "start": recipe.start.described(recipe.architecture),
            "recipe": {name: value for name, value in asdict(recipe).items() if name != "start"},
            "outline": outline.described(),
        },
    }
    made_by = "Model card of the ovarian pipeline: `ai-pipeline train ovarian`."
    path = new_card(folder, ID, made_by, "classifier", about, tables, VERSION)
    card: Any = tomlkit.parse(path.read_text(encoding="utf-8"))
    for role, file in (("gate", f"{ID}.gate.npz"), ("outline", f"{ID}.outline.onnx")):
        card["weights"].append(weights_row(role, folder / file))
    card["labels"] = tomlkit.aot()
    for label, intercept in zip(LABELS, scaling.intercepts.tolist(), strict=True):
        card["labels"].append(tomlkit.item(_label(label, scaling.slope, intercept, *point)))
    path.write_text(tomlkit.dumps(card), encoding="utf-8")
    return path


def _label(label: str, slope: float, intercept: float, present: float, absent: float) -> dict[str, Any]:
    value = label.upper().replace("-", "_")[:16].strip("_")  # VR SH
    code = {"value": value, "scheme": BURNED_IN.scheme, "meaning": MEANINGS[label], "source": SOURCE}
    site = {"value": "15497006", "scheme": "SCT", "meaning": "Ovary", "source": "PS3.16 CID 7151"}
    return {
        "name": label,
        "code": code,
        "site": site,
        "supported": label not in MALIGNANT,
        "threshold": round(present, 4),
        "absent_below": round(absent, 4),
        "slope": round(slope, 5),
        "intercept": round(intercept, 5),
    }


def _held_out(
    out: Path, recipe: OvarianRecipe, seeds: Sequence[int], frames: Sequence[OvarianFrame], report: Report
) -> HeldOut:
    """What the networks of each fold and seed say of its frames, as what ships says it."""
    pixels, fold = reduced([frame.rgb() for frame in frames]), folds(frames)
    logits = np.full((len(seeds), len(frames), len(LABELS)), np.nan)
    for number in range(FOLDS):
        report(number / FOLDS, "held-out frames")
        rows = np.flatnonzero(fold == number)
        networks = [ensemble(out, recipe, [seed], str(number)) for seed in seeds]
        seen = lower_of(networks[0], pixels[rows], recipe.size)
        for place, network in enumerate(networks):
            logits[place, rows] = outputs_above(network, seen)[0]
    return HeldOut(tuple(frames), fold, logits)


def _gates(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int],
    held_out: HeldOut,
    folder: Path,
    runs: Sequence[str],
    report: Report,
) -> None:
    """The gate of each of ``runs``: of a fold judged on the frames that it has not seen, of all it ships."""
    frames = held_out.frames
    pixels = reduced([frame.rgb() for frame in frames])
    # The frozen part is the same in all networks: what it makes of the pictures is made once.
    below = ensemble(out, recipe, seeds[:1], runs[0])
    seen = lower_of(below, pixels, recipe.size)
    shown = {
        name: lower_of(below, reduced([one for _, one in named]), recipe.size)
        for name, named in gate.other_pictures(data, "train").items()
    }
    rows: list[tuple[str, str, int, float]] = []
    for name in runs:
        report(0.0, f"gate, {name}\n")
        network = ensemble(out, recipe, seeds[:1], name)  # features are the first network's
        features = outputs_above(network, seen)[1]
        others = {key: outputs_above(network, lower)[1] for key, lower in shown.items()}
        outside = held_out.folds == int(name) if name != ALL else np.zeros(len(frames), np.bool_)
        made = gate.fit(features[~outside], others)
        if name == ALL:
            (out / f"{ID}.gate.npz").write_bytes(made.to_bytes())
            continue
        distances = made.distance(features[outside])
        names = [frame.name for frame, there in zip(frames, outside, strict=True) if there]
        rows += [(gate.FRAMES, *row) for row in zip(names, [int(name)] * len(names), distances, strict=True)]
    gate.write(rows, folder / predictions.GATE)
