"""``ai-pipeline calibrate``: fit a card's probabilities and thresholds again to a site's own images.

The network does not change, only the meaning of its logits: another clinic has another prevalence and other
devices. The result is a card of another version in another folder; the shipped one is not touched.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import SHIPPED, Card, Label
from ai_training.calibrate import THRESHOLDS, calibrated, platt, prevalence, probabilities, reference
from ai_training.cards import changed_card
from ai_training.errors import DataMissing
from ai_training.evaluation.operating_points import choose_points
from ai_training.evaluation.scored import Scored, ScoredOutputs, run, scored
from ai_training.metrics import Floats, calibration_error
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_set

ENOUGH = 15  # positives and negatives that a label needs to be fitted again
FOLDS = 5
REFITTED = ("slope", "intercept", "threshold", "absent_below")


@dataclass(frozen=True, slots=True)
class Refitted:
    """One label before and after: calibration errors on the site's images, and the new card's row.

    ``after`` is measured on patients that the curve was not fitted to (five folds); None if the old curve is
    kept.
    """

    name: str
    positives: int
    before: float
    after: float | None
    label: Label


def recalibrate(
    data: Path,
    out: Path,
    card: Card,
    *,
    split: str = "val",
    version: str | None = None,
    force: bool = False,
    threads: int = 0,
    report: Report = silent,
) -> tuple[Path, list[Refitted]]:
    """Fit ``card`` to the adults of ``split`` in ``data``; returns the new card and the changes.

    A label with fewer than 15 positives or negatives keeps its old curve. ``out`` becomes a folder of models
    (card and weights). Raises ``DataMissing``, ``CardError``, or FileExistsError if ``out`` has the card and
    ``force`` is not set.
    """
    path = out / f"{card.id}.toml"
    if out.resolve() == SHIPPED.resolve() or out.resolve() == card.path.parent.resolve():
        raise CardError(f"{out} holds the card that is to be fitted: name another folder")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already: --force replaces it")
    found = chest_set(data)
    images = [image for image in found.images if image.is_in(split) and image.adult]
    if not images:
        raise DataMissing(f"{data}: no image of an adult in split {split}")
    with tempfile.TemporaryDirectory() as scratch:
        outputs = run(Classifier(card, threads=threads), images, Path(scratch), report)
    seen = scored(images, outputs.logits, card.labels, found.labels)
    rows = [refit(seen, k) for k in range(len(seen.names))]
    if all(row.after is None for row in rows):
        raise DataMissing(f"{data}: no label of {card.id} has {ENOUGH} positives and {ENOUGH} negatives")
    supported = [label.name for label in card.labels if label.supported]
    write_card(path, card, version or f"{card.version}-site", rows, seen, outputs, found.name, supported)
    return path, rows


def refit(seen: Scored, k: int) -> Refitted:
    """The label in column ``k`` fitted to the images ``seen``; unchanged if there are too few."""
    truth, logit, old = seen.truth[:, k], seen.logit[:, k], seen.labels[k]
    positives = int(truth.sum())
    before = calibration_error(truth, seen.chance[:, k])
    if min(positives, len(truth) - positives) < ENOUGH:
        return Refitted(seen.names[k], positives, before, None, old)
    point = calibrated(truth, logit)
    fitted: dict[str, Any] = {**point.rounded(), "operating_point": None}
    label = replace(old, **fitted)
    return Refitted(seen.names[k], positives, before, _held_out_error(truth, logit, seen.patients), label)


def _held_out_error(truth: Floats, logit: Floats, patients: Sequence[str]) -> float:
    """Calibration error on patients that the curve was not fitted to."""
    chance = np.empty(len(truth))
    folds = min(FOLDS, len(set(patients)))
    for known, held in GroupKFold(folds).split(logit[:, None], truth, patients):
        if truth[known].min() == truth[known].max():
            chance[held] = truth[known].mean()
            continue
        slope, intercept = platt(truth[known], logit[known])
        chance[held] = 1 / (1 + np.exp(-(slope * logit[held] + intercept)))
    return calibration_error(truth, chance)


def write_card(
    path: Path,
    card: Card,
    version: str,
    rows: Sequence[Refitted],
    seen: Scored,
    outputs: ScoredOutputs,
    name: str,
    shown: Sequence[str],
) -> None:
    """Write ``card`` with the curves of ``rows`` to ``path``, its weights beside it.

    ``seen``: the images of the set ``name`` to which the curves were fitted; ``outputs``: the network's
    outputs for them; ``shown``: the labels whose false alarms count when operating points are chosen.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fitted = {row.label.name: row.label for row in rows if row.after is not None}
    labels = [fitted.get(label.name, label) for label in card.labels]
    far = np.zeros(len(outputs.logits), bool)
    if card.gate is not None:
        far = outputs.distances > card.gate.threshold
    with changed_card(card.path, path) as text:
        text["version"] = version
        for row in text["labels"]:
            if label := fitted.get(row["name"]):
                row.update({key: getattr(label, key) for key in REFITTED})
                row.pop("operating_point", None)
        text["calibration"] = {
            # One label of an uncalibrated model left as it was makes the whole card a claim that is not true.
            "calibrated": card.calibrated or len(fitted) == len(card.labels),
            "method": (
                f"Platt scaling of {', '.join(fitted)} on {len(seen.images)} images of "
                f"{len(set(seen.patients))} adults of {name}; other labels as in version {card.version}"
            ),
            "prevalence": prevalence(seen.truth, seen.names),
            "thresholds": THRESHOLDS,
        }
        names = [label.name for label in labels]
        text["reference"] = reference(name, names, probabilities(labels, outputs.logits), far)
        for spoken in ("metrics", "operating_points"):  # the thresholds that they speak of are no more
            text.pop(spoken, None)
        refitted = scored(seen.images, outputs.logits, labels, seen.names)
        if points := choose_points(refitted, shown):
            text["operating_points"] = points
        for weights, row in zip(card.weights, text.get("weights", []), strict=True):
            if "package" not in row:
                row["file"] = weights.path.name
                shutil.copyfile(weights.path, path.parent / weights.path.name)
                row["sha256"] = hashlib.sha256(weights.path.read_bytes()).hexdigest()
