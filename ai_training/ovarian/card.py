"""The model as it ships: predictions of the folds, gates, card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import tomlkit
import torch
from torch.export import Dim

from ai_pipeline.contract import BURNED_IN
from ai_training.backbones import card_id
from ai_training.base import ExperimentError, Report, followed, silent
from ai_training.cards import (
    changed_card,
    export,
    export_traced,
    fit_limit,
    new_card,
    store_in_half,
    weights_row,
)
from ai_training.engine import best_of, run_options
from ai_training.networks import (
    IMAGENET,
    MEAN,
    NAME,
    SCALE,
    OutlineNetwork,
    Probabilities,
    export_outline_network,
    fuse,
    licence_from,
    start_described,
)
from ai_training.ovarian.calibration import (
    MISSED,
    RIGHT,
    absence_threshold,
    answer_threshold,
    cross_fitted,
    scaled,
)
from ai_training.ovarian.frames import (
    CHAIN,
    FOLDS,
    LABELS,
    MALIGNANT,
    folds,
    ovarian_frames,
    ovarian_set,
    reduced,
)
from ai_training.ovarian.gate import (
    FRAMES,
    TRUE_POSITIVE_RATE,
    fit_gate,
    gate_limit,
    other_pictures,
    write_gate,
)
from ai_training.ovarian.network import CystEnsemble
from ai_training.ovarian.outline import OUTLINES, OutlineRecipe, OutlineRun
from ai_training.ovarian.predictions import FOLDER, GATE, HeldOut, write_predictions
from ai_training.ovarian.training import (
    ALL,
    FOLD_RUNS,
    OvarianRecipe,
    ensemble,
    frozen_outputs,
    not_trained_on,
    outputs_above,
    train,
)
from ai_training.sets.files import Grey


def train_and_ship(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    epochs: float | None,
    seeds: Sequence[int],
    threads: int,
    report: Report = silent,
) -> Path:
    """Train the classifier of ovarian frames by ``recipe`` for every fold and on all frames, once for each of
    ``seeds``, and the outline network, and export both; returns the path of the model card. Complete parts in
    ``out`` are not trained again. ``epochs``: passes over the frames (the outline network's steps change in
    the same proportion); None: those of ``recipe``. Raises DataMissing, ExperimentError, also for a run with
    a patience: a fold that stopped where its held-out frames are found best would flatter itself.
    """
    if run_options().patience:
        raise ExperimentError(
            "train ovarian cannot stop early (--patience): its folds are scored once, at their end, and the "
            "network that ships has no other frames; --epochs makes the runs shorter"
        )
    torch.set_num_threads(threads)
    outline = OutlineRecipe(threads=threads)
    if epochs:
        share = epochs / recipe.epochs
        recipe = replace(recipe, epochs=epochs)
        steps, every = (
            max(1, round(share * count)) for count in (outline.iterations, outline.validate_every)
        )
        outline = replace(outline, iterations=steps, validate_every=every)
    train(data, out, recipe, seeds, report=report)
    run = OutlineRun(data, out / "outline", outline)
    run.finish(report, resume=run.begun)
    return ship(data, out, recipe, outline, seeds, report)


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


def ship(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    outline: OutlineRecipe,
    seeds: Sequence[int],
    report: Report = silent,
) -> Path:
    """Write predictions, domain gate, networks and model card into ``out`` from the finished runs below it;
    returns the card's path. Raises DataMissing, or OSError if a run is missing.
    """
    held_out = predict(data, out, recipe, seeds, report)
    name = card_id("ovarian", recipe.architecture)
    export_classifier(ensemble(out, recipe, seeds, ALL), recipe, out / f"{name}.onnx", report)
    outliner = Probabilities(best_of(OutlineNetwork(OUTLINES), out / "outline")).eval()
    side, path = outline.size, out / f"{name}.outline.onnx"
    export_outline_network(outliner, (side, side), ("lesion",), path, "pictures")
    return write_card(out, ovarian_set(data).title, held_out, recipe, outline)


def export_classifier(
    network: CystEnsemble, recipe: OvarianRecipe, path: Path, report: Report = silent
) -> None:
    """Write ``network`` as ONNX to ``path``, its large tensors in half precision: input ``images`` with a
    free batch size, outputs ``logits``, ``features``, ``places``.
    """
    images, outputs = torch.zeros(2, 3, recipe.size, recipe.size), ("logits", "features", "places")
    if recipe.architecture == NAME:
        fuse(network)
        export(network, (images,), {"images": {0: Dim("batch")}}, outputs, path)
    else:
        export_traced(network, images, outputs, path)
    store_in_half(path)
    if said := fit_limit(path):
        report(1.0, f"{said}\n")


def predict(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int],
    report: Report = silent,
) -> HeldOut:
    """Predict each frame by the networks and domain gates of folds that have not seen it; write the
    predictions, and the released domain gate, below ``out``.
    """
    frames = ovarian_frames(data)
    pixels, fold = reduced([frame.rgb() for frame in frames]), folds(frames)
    logits = np.full((len(seeds), len(frames), len(LABELS)), np.nan)
    for number in followed(range(FOLDS), report, "held-out frames"):
        rows = np.flatnonzero(fold == number)
        networks = [ensemble(out, recipe, [seed], str(number)) for seed in seeds]
        seen = frozen_outputs(networks[0], pixels[rows], recipe.size)
        for place, network in enumerate(networks):
            logits[place, rows] = outputs_above(network, seen)[0]
    held_out = HeldOut(tuple(frames), fold, logits)
    write_predictions(held_out, out / FOLDER.name)
    _gates(data, out, recipe, seeds, held_out, pixels, report)
    return held_out


def write_card(
    folder: Path, title: str, held_out: HeldOut, recipe: OvarianRecipe, outline: OutlineRecipe
) -> Path:
    """Write the model card beside the weights in ``folder``; returns its path. ``title``: the training set;
    ``held_out``: the predictions to which thresholds are fitted. ``ai-pipeline evaluate ovarian`` adds the
    figures.
    """
    tables = _tables(round(gate_limit(folder / FOLDER.name / GATE), 4), title, held_out, recipe, outline)
    made_by = "Model card of the ovarian pipeline: `ai-pipeline train ovarian`."
    name = card_id("ovarian", recipe.architecture)
    version = VERSION if name == ID else "1"
    path = new_card(folder, name, made_by, "classifier", _about(recipe), tables, version)
    with changed_card(path) as card:
        for role, file in (("gate", f"{name}.gate.npz"), ("outline", f"{name}.outline.onnx")):
            cast(Any, card["weights"]).append(weights_row(role, folder / file))
        labels = card["labels"] = tomlkit.aot()
        for row in _label_rows(held_out):
            labels.append(tomlkit.item(row))
    return path


def _about(recipe: OvarianRecipe) -> dict[str, Any]:
    """What the model is, is for, and is not for."""
    return {
        "task": "eight classes of the ovary or its lesion in single ultrasound frames, and its outline",
        "architecture": f"{recipe.architecture} with a head for eight classes; outline: anatomy-unet",
        "licence": _licence(recipe),
        "intended_use": (
            "Research and development: to show a second diagnostic pipeline at work on ultrasound frames of "
            "the female pelvis. Not for diagnostic use, not for triage, not to exclude cancer."
        ),
        "limits": [
            "Not for diagnostic use. Not cleared by any authority.",
            "One hospital, and no patient identifiers: frames of one patient that look different may be "
            "on both sides of a split, so the figures may flatter.",
            "Trained and measured on frames in which somebody had chosen an ovary and often measured it; "
            "other frames of an examination were not there.",
            "36 frames of the malignant class in 32 groups: what it is worth is not known, and it is hidden.",
            "Every lesion that is none of the classes gets one of them, or none.",
            "The outline is of the lesion that fills most of the frame; a second one is left out.",
        ],
    }


def _start(recipe: OvarianRecipe) -> dict[str, str]:
    """Where the trunk of the classifier started from."""
    return start_described(recipe.initial, recipe.licence, recipe.architecture)


def _licence(recipe: OvarianRecipe) -> str:
    """The licence of classifier and outline, by the weights that their trunks started from."""
    if recipe.initial == IMAGENET:
        return licence_from(start_described(), "trunks")
    outline = licence_from(start_described(), "trunk of the outline").partition("; ")[2]
    return f"{licence_from(_start(recipe))}; {outline}"


def _tables(
    limit: float, title: str, held_out: HeldOut, recipe: OvarianRecipe, outline: OutlineRecipe
) -> dict[str, Mapping[str, Any]]:
    """The tables of the card: input, outputs, gate with its ``limit``, calibration, training on ``title``."""
    truth = held_out.labels
    return {
        "input": {
            "size": recipe.size,
            "channels": 3,
            "mean": MEAN,
            "scale": SCALE,
            "photometric": "MONOCHROME2",
            "chain": asdict(CHAIN),
        },
        "outputs": {"place_kind": "activation"},
        "gate": {"role": "gate", "threshold": limit, "true_positive_rate": TRUE_POSITIVE_RATE},
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
            "held_out_looks": LOOKS if recipe.architecture == NAME else 1,
            "start": _start(recipe),
            "recipe": recipe.described(),
            "outline": outline.described(),
        },
    }


def _label_rows(held_out: HeldOut) -> Iterator[dict[str, Any]]:
    """A row of the card for each class: its code, and the calibration fitted to the ``held_out``
    predictions.
    """
    truth, logits = held_out.labels, held_out.mean
    scaling = scaled(logits, truth)
    judged = cross_fitted(logits, truth, held_out.folds)
    present, absent = answer_threshold(judged, truth), absence_threshold(judged, truth)
    for label, intercept in zip(LABELS, scaling.intercepts.tolist(), strict=True):
        code = {
            "value": label.upper().replace("-", "_")[:16].strip("_"),  # VR SH
            "scheme": BURNED_IN.scheme,
            "meaning": MEANINGS[label],
            "source": "private: PS3.16 has no concept of it, and no SNOMED CT release to check one "
            "against was at hand",
        }
        yield {
            "name": label,
            "code": code,
            "site": {
                "value": "15497006",
                "scheme": "SCT",
                "meaning": "Ovary",
                "source": "PS3.16 CID 7151",
            },
            "supported": label not in MALIGNANT,
            "threshold": round(present, 4),
            "absent_below": round(absent, 4),
            "slope": round(scaling.slope, 5),
            "intercept": round(intercept, 5),
        }


def _gates(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int],
    held_out: HeldOut,
    pixels: Grey,
    report: Report,
) -> None:
    """Fit the domain gate of each run below ``out``. The gate of a fold is measured on the frames that the
    fold left out (``held_out``); the gate of all frames is released. ``pixels``: reduced frames.
    """
    names = np.array([frame.name for frame in held_out.frames])
    # The frozen part is the same in all networks: what it makes of the pictures is made once.
    below = ensemble(out, recipe, seeds[:1], ALL)
    seen = frozen_outputs(below, pixels, recipe.size)
    shown = {
        name: frozen_outputs(below, reduced(pictures), recipe.size)
        for name, pictures in other_pictures(data, "train").items()
    }
    rows: list[tuple[str, str, int, float]] = []
    for name in (*FOLD_RUNS, ALL):
        report(0.0, f"gate, {name}\n")
        network = ensemble(out, recipe, seeds[:1], name)  # features are the first network's
        features = outputs_above(network, seen)[1]
        others = {key: outputs_above(network, lower)[1] for key, lower in shown.items()}
        outside = not_trained_on(name, held_out.folds)
        made = fit_gate(features[~outside], others)
        if name == ALL:
            (out / f"{card_id('ovarian', recipe.architecture)}.gate.npz").write_bytes(made.to_bytes())
            continue
        found = zip(names[outside], made.distance(features[outside]), strict=True)
        rows += [(FRAMES, picture, int(name), distance) for picture, distance in found]
    write_gate(rows, out / FOLDER.name / GATE)
