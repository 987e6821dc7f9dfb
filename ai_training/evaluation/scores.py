"""Scores of a classifier beside the truth, per image, and the curves of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models.registry import Label
from ai_training.base import Report, silent
from ai_training.metrics import Floats, patient_weights, probabilities, reliability_curve
from ai_training.sets.chest import label_matrix
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, SetImage


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The classifier's outputs and the truth for N images and the K labels ``names``: ``truth`` (0 or 1),
    ``logit``, calibrated probability ``chance``, all ``[N, K]``. ``columns``: the labels' positions in
    :data:`LABELS`; ``labels``: the model card's entries for them.
    """

    images: tuple[SetImage, ...]
    names: tuple[str, ...]
    columns: tuple[int, ...]
    labels: tuple[Label, ...]
    truth: Floats
    logit: Floats
    chance: Floats

    def where(self, chosen: Iterable[bool]) -> Scored:
        """Return only the images for which ``chosen`` is true."""
        rows = [row for row, yes in enumerate(chosen) if yes]
        return Scored(
            tuple(self.images[row] for row in rows),
            self.names,
            self.columns,
            self.labels,
            self.truth[rows],
            self.logit[rows],
            self.chance[rows],
        )

    @property
    def patients(self) -> list[str]:
        """The patient of each image."""
        return [image.patient for image in self.images]

    def weights(self) -> Floats:
        """The weights of bootstrap resamples by patient, as :func:`patient_weights`."""
        return patient_weights(self.patients)

    def with_positives(self, fewest: int) -> list[int]:
        """The columns of the labels that have at least ``fewest`` positives and as many negatives."""
        positives = self.truth.sum(0)
        least = np.minimum(positives, len(self.images) - positives)
        return [int(k) for k in np.flatnonzero(least >= fewest)]


def run(
    classifier: Classifier, images: Sequence[SetImage], cache: Path, report: Report = silent
) -> tuple[Floats, Floats]:
    """Run the classifier on every image as at run time: ``logits [N, labels of the model card]`` and
    ``distances [N]`` of the domain gate, which are stored in the folder ``cache`` by model and list of
    files.
    """
    names = "\n".join(str(image.path) for image in images)
    card = classifier.card
    made_by = [weights.sha256 for weights in card.weights], card.input, card.outputs, card.gate
    digest = hashlib.sha256(f"{made_by}\n{names}".encode())
    stored = cache / f"outputs-{digest.hexdigest()[:16]}.npz"
    if stored.exists():
        with np.load(stored) as arrays:
            return arrays["logits"], arrays["distances"]
    logits = np.empty((len(images), len(card.labels)), np.float32)
    distances = np.empty(len(images), np.float32)
    for index, image in enumerate(images):
        analysis = classifier.analyse(read_grey(image.path))
        logits[index], distances[index] = analysis.logits, analysis.distance
        report((index + 1) / len(images), "running the network")
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(stored, logits=logits, distances=distances)
    return logits, distances


def scored(
    images: Sequence[SetImage],
    logits: npt.NDArray[np.floating],
    labels: Sequence[Label],
    known: Sequence[str],
) -> Scored:
    """Join the images' truth with ``logits [N, labels]``, for those of the model card's ``labels`` that are
    among ``known``. Labels are matched by name, whatever their capitals, spaces and underscores.
    """
    wanted = {_plain(name): name for name in known}
    pairs = [
        (wanted[_plain(label.name)], k) for k, label in enumerate(labels) if _plain(label.name) in wanted
    ]
    pairs.sort(key=lambda pair: LABELS.index(pair[0]))
    names = tuple(name for name, _ in pairs)
    chosen = tuple(labels[k] for _, k in pairs)
    columns = tuple(LABELS.index(name) for name in names)
    logit = logits[:, [k for _, k in pairs]].astype(np.float64)
    return Scored(
        images=tuple(images),
        names=names,
        columns=columns,
        labels=chosen,
        truth=label_matrix(images)[:, list(columns)] if images else np.zeros((0, len(names)), np.float32),
        logit=logit,
        chance=probabilities(chosen, logit),
    )


def _plain(name: str) -> str:
    """Reduce a label's name to a form without differences of case and blanks."""
    return name.casefold().replace(" ", "_")


def curves(found: Scored, fewest: int) -> dict[str, Any]:
    """The curves of each label with at least ``fewest`` positives: ``roc`` and ``pr`` as two lists,
    ``reliability`` as points.

    ``roc``: false and true positive rate; ``pr``: recall and precision; ``reliability``: mean probability,
    rate, images. ``rate`` is the label's prevalence, ``operating`` the shipped thresholds as (false positive
    rate, true positive rate) of "not absent" and "present".
    """
    result: dict[str, Any] = {}
    for k in found.with_positives(fewest):
        label = found.labels[k]
        cuts = (label.absent_below, label.threshold)
        scores = found.truth[:, k], found.logit[:, k], found.chance[:, k]
        result[found.names[k]] = curves_of_label(*scores, cuts)
    return result


def curves_of_label(truth: Floats, score: Floats, chance: Floats, cuts: Sequence[float]) -> dict[str, Any]:
    """The curves of one label (:func:`curves`) from ``truth [N]``, a ``score [N]`` by which images are
    ordered, and calibrated probabilities ``chance [N]``; ``cuts``: absent below, and present from.
    """
    false, true, _ = roc_curve(truth, score)
    precision, recall, _ = precision_recall_curve(truth, score)
    return {
        "roc": _thin(false, true),
        "pr": _thin(recall, precision),
        "reliability": [[round(p, 4), round(r, 4), n] for p, r, n in reliability_curve(truth, chance)],
        "rate": round(float(truth.mean()), 4),
        "operating": [
            [round(float((chance >= cut)[part].mean()), 4) for part in (truth <= 0, truth > 0)]
            for cut in cuts
        ],
    }


def _thin(x: Floats, y: Floats) -> list[list[float]]:
    """Reduce the curve with the coordinates ``x`` and ``y`` to at most 120 points."""
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), 120)).round().astype(int))
    return [[round(float(value), 4) for value in values[places]] for values in (x, y)]
