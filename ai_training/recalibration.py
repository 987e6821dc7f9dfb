"""``ai-pipeline models calibrate``: what a chest model's logits mean on a site's images, and nothing else.

The curve from logit to probability is fitted anew (Platt scaling). The thresholds are moved along the curve,
so every film that was called is still called: figures of decisions stay true, the numbers beside them become
those of the site.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import Card, Label
from ai_training.acceptance import add_to_store, bring_weights, first_half, move_usual_chest
from ai_training.base import DataMissing, Report, silent
from ai_training.cards import changed_card
from ai_training.evaluation.scores import Scored, run, scored
from ai_training.evaluation.tables import ENOUGH
from ai_training.metrics import (
    Curve,
    Floats,
    calibration_error,
    moved,
    platt,
    prevalence,
    probabilities,
    reference,
)
from ai_training.sets.chest import adults_of, chest_set
from ai_training.sets.images import ImageSet


def recalibrate(
    card: Card,
    data: Path,
    store: Path,
    *,
    split: str,
    version: str,
    threads: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """Fit the probabilities of the model ``card`` to those adults of ``split`` in ``data`` whose films the
    node analyses, and add the model to the folder ``store`` as ``version``.

    Returns for each label its positives, and the calibration error before, and after on patients to whom the
    curve was not fitted, and how many images were left out and why (``notes``, also on the card). A label
    with fewer than 15 images with or without it keeps its curve. Raises DataMissing, CardError.
    """
    if (store / card.id / version).exists():
        raise CardError(f"{card.id}@{version} is in {store} already: name another one with --version")
    found = chest_set(data)
    images, notes = adults_of(found, split)
    with tempfile.TemporaryDirectory() as scratch:
        outputs = run(Classifier(card, threads=threads), images, Path(scratch), report)
        seen = scored(images, outputs, card.labels, found.labels)
        if refused := int((~seen.analysed).sum()):
            notes += (f"images that the node refuses, to which no curve was fitted: {refused}",)
        seen = seen.where(seen.analysed)
        curves = {
            seen.names[k]: _curve(seen.truth[:, k], seen.logit[:, k]) for k in seen.with_positives(ENOUGH)
        }
        if not curves:
            names = ", ".join(label.name for label in card.labels)
            raise DataMissing(
                f"{data}: no label of {card.name} has {ENOUGH} adults with and {ENOUGH} without it in split "
                f"{split}: its labels are {names} ({'; '.join(notes)})"
            )
        path = Path(scratch) / "model" / f"{card.id}.toml"
        path.parent.mkdir()
        far = outputs.distances > card.gate.threshold if card.gate else np.zeros(len(images), np.bool_)
        own = {seen.labels[seen.names.index(name)].name: curve for name, curve in curves.items()}
        _write_card(path, card, version, own, seen, replace(found, notes=notes), outputs.logits, far)
        made = add_to_store(path, store, f"calibrated from {card.name}")
    return {
        "model": made.name,
        "images": len(seen.images),
        "patients": len(set(seen.patients)),
        "labels": {name: _errors(seen, seen.names.index(name)) for name in curves},
        "kept": [label.name for label in card.labels if label.name not in own],
        "notes": list(notes),
    }


def _curve(truth: Floats, logit: Floats) -> Curve:
    """The curve fitted to ``truth [N]`` and ``logit [N]`` (:func:`platt`), as a card holds it."""
    slope, intercept = platt(truth, logit)
    return round(slope, 6), round(intercept, 6)


def _write_card(
    path: Path,
    card: Card,
    version: str,
    curves: Mapping[str, Curve],
    seen: Scored,
    found: ImageSet,
    logits: Floats,
    far: Any,
) -> None:
    """Write ``card`` with the new ``curves`` and its ``version`` to ``path``, its weights beside it.
    ``seen``: the images of the set ``found`` to which the curves were fitted; ``logits``: the network's of
    all labels; ``far [N]``: which of them the gate refuses.
    """
    known = {label.name: label for label in card.labels}
    with changed_card(card.path, path) as text:
        text["version"] = version
        for row in text["labels"]:
            if row["name"] not in curves:
                continue
            label, curve = known[row["name"]], curves[row["name"]]
            row.update({"slope": curve[0], "intercept": curve[1]})
            row.update({key: moved(label, curve, row[key]) for key in ("threshold", "absent_below")})
        points = (table for table in text.get("operating_points", {}).values() if isinstance(table, Mapping))
        for table in points:
            for label_name, row in table.get("labels", {}).items():
                if label_name in curves:
                    label, curve = known[label_name], curves[label_name]
                    row["threshold"] = [moved(label, curve, value) for value in row["threshold"]]
                    row["absent_below"] = moved(label, curve, row["absent_below"])
        text["calibration"]["calibrated"] = card.calibrated or len(curves) == len(card.labels)
        text["calibration"]["method"] = (
            f"Platt scaling of {', '.join(curves)} on {len(seen.images)} images of {len(set(seen.patients))} "
            f"adults of {found.name}; other labels, and all decisions, as in version {card.version}"
        )
        text["calibration"]["notes"] = list(found.notes)
        rates = text["calibration"].setdefault("prevalence", {})
        at_site = prevalence(seen.truth, [label.name for label in seen.labels])
        rates.update({label_name: at_site[label_name] for label_name in curves})
        text.get("metrics", {}).pop("calibration", None)  # that of the curves before
        move_usual_chest(text, known, curves)
        bring_weights(card, text, path.parent)
    labels = [_with(label, curves.get(label.name)) for label in card.labels]
    with changed_card(path) as text:
        names = [label.name for label in labels]
        text["reference"] = reference(found.name, names, probabilities(labels, logits), far)


def _with(label: Label, curve: Curve | None) -> Label:
    """``label`` with another ``curve``, if there is one; its thresholds are of no use then."""
    return label if curve is None else replace(label, slope=curve[0], intercept=curve[1])


def _errors(seen: Scored, k: int) -> dict[str, Any]:
    """Positives and calibration errors of the label in column ``k``. The error after is that of two halves of
    the patients, each with the curve of the other half; None if a half has one kind of image only.
    """
    truth, logit = seen.truth[:, k], seen.logit[:, k]
    first = np.array([first_half(patient) for patient in seen.patients])
    chance, after = np.empty(len(truth)), None
    if all(len(np.unique(truth[half])) == 2 for half in (first, ~first)):
        for half in (first, ~first):
            slope, intercept = platt(truth[~half], logit[~half])
            chance[half] = 1 / (1 + np.exp(-(slope * logit[half] + intercept)))
        after = round(calibration_error(truth, chance), 4)
    before = round(calibration_error(truth, seen.chance[:, k]), 4)
    return {"positives": int(truth.sum()), "error_before": before, "error_after": after}
